"""The whole step: vectors end to end, laws, descent, one compilation."""

import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from polystep_rl.search import polystep as ps
from polystep_rl.search import polytope, schedules, shaping, subspace, transport
from polystep_rl.types import Proposal, Strategy

STEPS = json.loads((Path(__file__).parents[1] / "data" / "polystep_step.json").read_text())["steps"]
PLANS = {
    "softmax": (transport.softmax(), shaping.none),
    "softmax_mean": (transport.softmax(), shaping.mean),
    "softmax_max": (transport.softmax(), shaping.max),
    "sinkhorn_mean": (transport.sinkhorn(), shaping.mean),
    "kl_0.5_mean": (transport.kl(0.5), shaping.mean),
}
POLYTOPES = [polytope.orthoplex, polytope.simplex, polytope.cube]


def _strategy(dim=2, epsilon=0.3, make=polytope.orthoplex, plan=None, **kwargs):
    radius = ps.scheduled(optax.constant_schedule(0.5))
    return ps.polystep(
        geometry=ps.Geometry(dim, make, radius, radius),
        coupling=ps.Coupling(plan or transport.softmax(), shaping.mean, optax.constant_schedule(epsilon)),
        **kwargs,
    )


@partial(jax.jit, static_argnums=(0, 3))
def _evaluate(strategy, state, key, cost):
    proposal = strategy.ask(key, state)
    return proposal, jax.vmap(cost)(strategy.decode(state, proposal.candidates))


def _search(strategy: Strategy, params, cost, generations, seed=0):
    def generation(state, key):
        proposal, costs = _evaluate(strategy, state, key, cost)
        return strategy.tell(state, proposal, costs)

    state = strategy.init(jax.random.key(seed), params)
    keys = jax.random.split(jax.random.key(seed + 1), generations)
    state, info = jax.jit(lambda s: jax.lax.scan(generation, s, keys))(state)
    return strategy.params(state), info


@pytest.mark.parametrize(("x64", "tolerance"), [(True, 1e-9), (False, 1e-4)])
@pytest.mark.parametrize(("index", "name"), list(enumerate(PLANS)))
def test_ask_decode_and_tell_equal_the_vectors(index, name, x64, tolerance):
    """x as the parameters of the full space; the rotation of the file in place of the one that ask drew."""
    step, (plan, shape) = STEPS[index], PLANS[name]
    with jax.enable_x64(x64):
        x = jnp.asarray(step["x"], jnp.float64 if x64 else jnp.float32)
        radii = [ps.scheduled(optax.constant_schedule(step[r])) for r in ("step_radius", "probe_radius")]
        make = getattr(polytope, step["polytope"])
        strategy = ps.polystep(
            geometry=ps.Geometry(x.shape[1], make, *radii, step["num_probe"]),
            coupling=ps.Coupling(plan, shape, optax.constant_schedule(step["epsilon"])),
        )
        state = strategy.init(jax.random.key(0), x)
        asked = jax.jit(strategy.ask)(jax.random.key(1), state)
        u = polytope.directions(jnp.asarray(step["rotation"], x.dtype), jnp.asarray(make(x.shape[1]), x.dtype))
        fraction = jnp.linalg.norm(asked.candidates.delta, axis=1)[:, None]  # as asked: rho k / (K + 1)
        probes = fraction * jnp.repeat(u.reshape(-1, x.shape[1]), step["num_probe"], axis=0)
        candidates = asked.candidates._replace(delta=probes)
        built = jax.jit(strategy.decode)(state, candidates)  # (n, P, d)
        moved = built[jnp.arange(built.shape[0]), candidates.particle]
        proposal = Proposal(candidates, asked.aux._replace(directions=u))
        told, info = jax.jit(strategy.tell)(state, proposal, jnp.asarray(step["raw_cost"], x.dtype).ravel())
    np.testing.assert_allclose(moved.reshape(np.shape(step["probes"])), step["probes"], rtol=0, atol=tolerance)
    others = jnp.arange(x.shape[0]) != candidates.particle[:, None]
    assert bool(((built == x).all(-1) | ~others).all())
    np.testing.assert_allclose(strategy.params(told), step["plans"][name]["x_new"], rtol=0, atol=tolerance)
    assert strategy.params(told).dtype == x.dtype
    assert 1 <= float(info["ess"]) <= u.shape[1]


def test_probes_lie_at_fractions_of_the_probe_radius():
    geometry = ps.Geometry(2, step_radius=ps.times_epsilon(0.1), probe_radius=ps.times_epsilon(1.5), num_probe=3)
    strategy = ps.polystep(geometry=geometry, coupling=ps.Coupling(epsilon=schedules.constant(0.4)))
    proposal = strategy.ask(jax.random.key(0), strategy.init(jax.random.key(0), jnp.zeros(4)))
    length = jnp.linalg.norm(proposal.candidates.delta, axis=1)
    np.testing.assert_allclose(length.reshape(-1, 3), np.broadcast_to([0.15, 0.3, 0.45], (8, 3)), rtol=1e-5)
    assert float(proposal.aux.step_radius) == pytest.approx(0.04)


@pytest.mark.parametrize("make", POLYTOPES)
def test_large_epsilon_leaves_the_particles_in_place(make):
    x = jnp.arange(6.0)
    strategy = _strategy(2, 1e9, make)
    state = strategy.init(jax.random.key(0), x)
    proposal, cost = _evaluate(strategy, state, jax.random.key(1), lambda p: jnp.sum(p**2))
    np.testing.assert_allclose(strategy.params(strategy.tell(state, proposal, cost)[0]), x, atol=1e-6)


@pytest.mark.parametrize("make", POLYTOPES)
def test_small_epsilon_goes_to_the_best_vertex(make):
    x = jnp.arange(6.0)
    strategy = _strategy(2, 1e-7, make)
    state = strategy.init(jax.random.key(0), x)
    proposal, cost = _evaluate(strategy, state, jax.random.key(1), lambda p: jnp.sum(p**2))
    told, info = strategy.tell(state, proposal, cost)
    best = proposal.aux.directions[jnp.arange(3), cost.reshape(3, -1).argmin(1)]
    np.testing.assert_allclose(strategy.params(told), x + 0.5 * best.ravel(), atol=1e-5)
    assert float(info["ess"]) == pytest.approx(1)
    assert float(info["displacement"]) == pytest.approx(1, abs=1e-5)


def test_a_constant_added_to_all_costs_changes_nothing():
    strategy = _strategy()
    state = strategy.init(jax.random.key(0), jnp.arange(6.0))
    proposal, cost = _evaluate(strategy, state, jax.random.key(1), lambda p: jnp.sum(p**2))
    one, other = (strategy.params(strategy.tell(state, proposal, c)[0]) for c in (cost, cost + 32))
    np.testing.assert_allclose(one, other, atol=1e-4)
    assert float(jnp.abs(one - jnp.arange(6.0)).max()) > 1e-2


def test_rotating_the_problem_rotates_the_step():
    """One particle: the step of cost(Q^T x) from Q x, with directions Q u, is Q times the step of cost(x)."""
    turn = polytope.haar(jax.random.key(5), 1, 4)[0]
    x, target = jnp.arange(4.0), jnp.asarray([1.0, -2, 0, 3])

    def cost(p):
        return jnp.sum(jnp.abs(p - target) ** 1.5)

    strategy = _strategy(4)
    state = strategy.init(jax.random.key(0), x)
    proposal, costs = _evaluate(strategy, state, jax.random.key(1), cost)
    step = strategy.params(strategy.tell(state, proposal, costs)[0]) - x

    state = strategy.init(jax.random.key(0), turn @ x)
    turned = proposal._replace(
        candidates=proposal.candidates._replace(delta=proposal.candidates.delta @ turn.T),
        aux=proposal.aux._replace(directions=proposal.aux.directions @ turn.T),
    )
    costs = jax.vmap(lambda p: cost(turn.T @ p))(strategy.decode(state, turned.candidates))
    rotated = strategy.params(strategy.tell(state, turned, costs)[0]) - turn @ x
    np.testing.assert_allclose(rotated, turn @ step, atol=1e-4)
    assert float(jnp.linalg.norm(rotated - step)) > 1e-2


@pytest.mark.parametrize("plan", [transport.softmax(), transport.sinkhorn()])
def test_a_particle_without_finite_costs_stays(plan):
    strategy = _strategy(plan=plan)
    x = jnp.arange(6.0)
    state = strategy.init(jax.random.key(0), x)
    proposal, cost = _evaluate(strategy, state, jax.random.key(1), lambda p: jnp.sum(p**2))
    moved = strategy.params(strategy.tell(state, proposal, cost.at[4:8].set(jnp.nan).at[9].set(jnp.inf))[0]) - x
    assert np.isfinite(np.asarray(moved)).all()
    np.testing.assert_array_equal(moved[2:4], 0)
    assert float(jnp.abs(moved[:2]).min()) > 0
    everything = strategy.params(strategy.tell(state, proposal, cost * jnp.nan)[0])
    np.testing.assert_array_equal(everything, x)


TRANSFORMS = {
    "identity": optax.identity(),
    "momentum": optax.trace(0.8),
    "warmed": ps.heavy_ball(50, 0.5, 0.8),
    "adam": optax.chain(optax.scale_by_adam(), optax.scale(0.1)),
    "adam-minimising": ps.descent(optax.adam(0.1)),
    "sgd-minimising": ps.descent(optax.sgd(1.0, momentum=0.5)),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_quadratic_in_50_dimensions_is_descended(name):
    coupling = ps.Coupling(epsilon=schedules.cosine(0.5, 0.02, 300))
    geometry = ps.Geometry(2, step_radius=ps.times_epsilon(1.0), probe_radius=ps.times_epsilon(1.0))
    strategy = ps.polystep(None, geometry, coupling, TRANSFORMS[name])
    target = jnp.linspace(-2, 2, 50)
    x, _ = _search(strategy, jnp.zeros(50), lambda p: jnp.sum((p - target) ** 2), 300)
    assert float(jnp.sum(target**2)) > 60
    assert float(jnp.sum((x - target) ** 2)) < 0.6


SPACES = {
    "full": (subspace.full(), 2),
    "projection": (subspace.projection(1), 8),
    "projection-drawn": (subspace.projection(1, store_bytes=0), 8),
    "factored": (subspace.factored(2), 8),
    "global": (subspace.global_block(16), 8),
}


@pytest.mark.parametrize("name", SPACES)
def test_a_staircase_in_50_dimensions_is_descended(name):
    """A quadratic of parameters rounded to halves: no gradient anywhere."""
    space, dim = SPACES[name]

    def cost(p):
        return sum(jnp.sum((jnp.round(2 * leaf) / 2 - 1.5) ** 2) for leaf in jax.tree.leaves(p))

    coupling = ps.Coupling(epsilon=schedules.cosine(0.3, 0.05, 400))
    geometry = ps.Geometry(dim, step_radius=ps.times_epsilon(2.0), probe_radius=ps.times_epsilon(10.0))
    params = {"w": jnp.zeros((8, 5)), "b": jnp.zeros(10)}
    x, _ = _search(ps.polystep(space, geometry, coupling), params, cost, 400)
    assert float(cost(params)) == pytest.approx(112.5)
    assert float(cost(x)) < 25


def test_identity_is_the_displacement_and_descent_feeds_its_negative():
    state, params = {}, {}
    for name, transform in {"paper": None, "sgd": ps.descent(optax.sgd(0.25)), "trace": optax.trace(0.5)}.items():
        strategy = _strategy(transform=transform)
        state[name] = strategy.init(jax.random.key(0), jnp.arange(6.0))
        proposal, cost = _evaluate(strategy, state[name], jax.random.key(1), lambda p: jnp.sum(p**2))
        params[name] = strategy.params(strategy.tell(state[name], proposal, cost)[0]) - jnp.arange(6.0)
    np.testing.assert_allclose(params["sgd"], 0.25 * params["paper"], atol=1e-6)
    np.testing.assert_allclose(params["trace"], params["paper"], atol=1e-6)


def test_redraw_happens_every_m_generations_and_resets_the_transform():
    params = {"w": jnp.ones((4, 3))}
    strategy = ps.polystep(subspace.projection(1), ps.Geometry(2), transform=optax.trace(0.9), redraw_every=3)
    state = strategy.init(jax.random.key(0), params)
    for generation in range(1, 7):
        proposal, cost = _evaluate(strategy, state, jax.random.key(generation), lambda p: jnp.sum(p["w"] ** 2))
        before, state = state, jax.jit(strategy.tell)(state, proposal, cost)[0]
        changed = bool((before.subspace.basis[0] != state.subspace.basis[0]).any())
        assert changed == (generation % 3 == 0)
        assert bool((state.transform.trace == 0).all()) == (generation % 3 == 0)


def test_the_whole_step_compiles_once_and_keeps_its_shapes():
    traces = 0

    def cost(p):
        return jnp.sum(p["w"] ** 2)

    strategy = ps.polystep(subspace.projection(2), ps.Geometry(4), ps.Coupling(transport.sinkhorn()), optax.trace(0.5))

    @jax.jit
    def generation(state, key):
        nonlocal traces
        traces += 1
        proposal, costs = _evaluate(strategy, state, key, cost)
        return strategy.tell(state, proposal, costs)

    state = strategy.init(jax.random.key(0), {"w": jnp.ones((4, 3))})
    for number in range(7):
        before = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state)
        state, _ = generation(state, jax.random.key(number))
        assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state) == before
    assert int(state.step) == 7
    assert traces == 1


def test_the_same_keys_give_the_same_search():
    strategy = ps.polystep(subspace.projection(1), ps.Geometry(2), redraw_every=2)
    keys = (0, 0, 1)
    runs = [_search(strategy, jnp.ones((4, 3)), lambda p: jnp.sum(p**2), 8, seed)[0] for seed in keys]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert bool((runs[0] != runs[2]).any())


def test_info_names_what_the_logs_need():
    _, info = _search(_strategy(), jnp.ones(6), lambda p: jnp.sum(p**2), 2)
    for name in ("ess", "displacement", "cost_best", "cost_mean", "cost_worst", "epsilon", "solver_iterations"):
        assert np.isfinite(np.asarray(info[name])).all()
    assert (info["cost_best"] <= info["cost_mean"]).all() and (info["cost_mean"] <= info["cost_worst"]).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ps.polystep(geometry=ps.Geometry(dim=0)), "particle dimension was 0"),
        (lambda: ps.polystep(geometry=ps.Geometry(num_probe=0)), "num_probe was 0, expected at least 1"),
        (lambda: ps.polystep(redraw_every=-1), "redraw_every was -1, expected 0"),
        (lambda: ps.times_epsilon(0.0), "factor was 0.0, expected a number above 0"),
        (lambda: ps.polystep().init(jax.random.key(0), [1, 2]), "dtype int32, expected floating"),
    ],
)
def test_bad_arguments_are_one_clear_line(call, message):
    with pytest.raises(ValueError, match=message):
        call()
