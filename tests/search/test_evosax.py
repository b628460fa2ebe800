"""PolyStep where evosax's own algorithms stand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from polystep_rl.search import polystep as ps
from polystep_rl.search import schedules
from polystep_rl.search.evosax import EvosaxAdapter


def _strategy():
    geometry = ps.Geometry(2, step_radius=ps.times_epsilon(1.0), probe_radius=ps.times_epsilon(1.0))
    return ps.polystep(None, geometry, ps.Coupling(epsilon=schedules.cosine(1.0, 0.02, 150)))


def _loop(algorithm, problem, generations):
    """evosax's loop as its examples write it: nothing here knows which algorithm it runs."""
    key = jax.random.key(0)
    key, key_sample, key_init, key_problem = jax.random.split(key, 4)
    params = algorithm.default_params
    state = algorithm.init(key_init, problem.sample(key_sample), params)
    problem_state = problem.init(key_problem)

    def step(carry, key):
        state, problem_state = carry
        key_ask, key_eval, key_tell = jax.random.split(key, 3)
        population, state = algorithm.ask(key_ask, state, params)
        fitness, problem_state, _ = problem.eval(key_eval, population, problem_state)
        state, metrics = algorithm.tell(key_tell, population, fitness, state, params)
        return (state, problem_state), metrics

    (state, _), metrics = jax.lax.scan(step, (state, problem_state), jax.random.split(key, generations))
    return state, metrics


def test_it_solves_an_evosax_problem_in_evosax_own_loop():
    bbob = pytest.importorskip("evosax.problems.bbob.bbob")
    open_es = pytest.importorskip("evosax.algorithms.distribution_based.open_es")
    problem = bbob.BBOBProblem("sphere", num_dims=10, f_opt=0.0)
    solution = problem.sample(jax.random.key(0))
    algorithm = EvosaxAdapter(_strategy(), solution)
    assert (algorithm.population_size, algorithm.num_dims) == (20, 10)

    state, metrics = _loop(algorithm, problem, 150)
    start = float(jnp.sum((solution - problem.x_opt) ** 2))
    assert float(jnp.sum((algorithm.get_mean(state) - problem.x_opt) ** 2)) < 1e-2 < start
    assert float(metrics["best_fitness"][-1]) < 1e-2
    assert (np.diff(metrics["best_fitness"]) <= 0).all()
    assert int(state.generation_counter) == 150

    theirs, their_metrics = _loop(open_es.Open_ES(20, solution), problem, 2)  # the loop is evosax's indeed
    shared = ("generation_counter", "best_fitness_in_generation", "best_fitness", "best_solution", "mean")
    assert all(metrics[name].shape[1:] == their_metrics[name].shape[1:] for name in shared)
    assert all(hasattr(state, name) for name in ("best_solution", "best_fitness", "generation_counter", "replace"))


def test_population_is_a_pytree_of_stacked_candidates_and_nan_never_wins():
    solution = {"w": jnp.ones((3, 2)), "b": jnp.zeros(3)}
    algorithm = EvosaxAdapter(_strategy(), solution)
    key, params = jax.random.key(0), algorithm.default_params
    state = algorithm.init(key, solution, params)
    population, state = algorithm.ask(key, state, params)
    assert population["w"].shape == (algorithm.population_size, 3, 2)
    fitness = jnp.arange(1.0, algorithm.population_size + 1).at[0].set(jnp.nan)
    state, metrics = algorithm.tell(key, population, fitness, state, params)
    assert float(state.best_fitness) == 2
    np.testing.assert_array_equal(state.best_solution["w"], population["w"][1])
    assert np.isfinite(np.asarray(algorithm.get_mean(state)["w"])).all()
    assert float(state.replace(best_fitness=jnp.asarray(7.0)).best_fitness) == 7
