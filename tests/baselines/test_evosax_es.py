"""evosax behind a Strategy is evosax."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

pytest.importorskip("evosax")

from evosax.algorithms import CMA_ES, PSO, SNES, Open_ES, Sep_CMA_ES

from polystep_rl.baselines import evosax_es
from polystep_rl.baselines.evosax_es import class_names, evosax_strategy
from polystep_rl.runs.strategy import make_strategy
from polystep_rl.settings.algorithms import settings_class
from polystep_rl.types import Array, Params

START = {"0": {"w": jnp.arange(6.0).reshape(2, 3) / 6, "b": jnp.zeros(2)}}
POPULATION = 12


def named(name, **settings):
    """A strategy by name, with these settings and otherwise the defaults."""
    return make_strategy(name, settings_class(name)(**settings))


def cost_of(params: Params) -> Array:
    return sum(jnp.sum(jnp.abs(x - 0.5), axis=tuple(range(1, x.ndim))) for x in jax.tree.leaves(params))


def by_hand(algorithm: Any, params: Any, init_key: Any, keys: Any) -> Any:
    """The documented keys: init gets the first half of its key, ask and tell the halves of theirs."""
    state = algorithm.init(jax.random.split(init_key)[0], START, params)
    for key in keys:
        ask_key, tell_key = jax.random.split(key)
        population, state = algorithm.ask(ask_key, state, params)
        state, _ = algorithm.tell(tell_key, population, cost_of(population), state, params)
    return algorithm.get_mean(state)


@pytest.mark.parametrize("cls", [CMA_ES, Sep_CMA_ES, SNES, Open_ES], ids=lambda cls: cls.__name__)
def test_same_keys_and_costs_give_the_mean_of_evosax_itself(cls: type) -> None:
    keys = jax.random.split(jax.random.key(1), 6)
    sigma = 0.3
    if cls is Open_ES:
        rate = optax.adam(0.05)
        algorithm = cls(POPULATION, START, optimizer=rate, std_schedule=optax.constant_schedule(sigma))
        strategy = evosax_strategy("Open_ES", POPULATION, sigma, rate)
        params = algorithm.default_params
    else:
        algorithm, strategy = cls(POPULATION, START), evosax_strategy(cls.__name__, POPULATION, sigma)
        params = algorithm.default_params.replace(std_init=jnp.asarray(sigma))
    state = strategy.init(jax.random.key(0), START)
    for key in keys:
        proposal = strategy.ask(key, state)
        state, _ = strategy.tell(state, proposal, cost_of(strategy.decode(state, proposal.candidates)))
    mine, theirs = strategy.params(state), by_hand(algorithm, params, jax.random.key(0), keys)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), mine, theirs)


def test_an_algorithm_without_a_mean_begins_with_an_evaluated_population() -> None:
    """PSO by hand: evosax wants the first population together with its fitness."""
    strategy = evosax_strategy("PSO", POPULATION, 0.3)
    state = strategy.init(jax.random.key(0), START)
    first = strategy.ask(jax.random.key(1), state)
    state, _ = strategy.tell(state, first, cost_of(first.candidates))
    algorithm = PSO(POPULATION, START)
    params = algorithm.default_params
    theirs = algorithm.init(jax.random.key(9), first.candidates, cost_of(first.candidates), params)
    key = jax.random.key(2)
    second = strategy.ask(key, state)
    expected, theirs = algorithm.ask(jax.random.split(key)[0], theirs, params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), second.candidates, expected)
    best = jnp.argmin(cost_of(first.candidates))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b[best]), strategy.params(state), first.candidates)


def test_random_search_draws_around_the_start_and_keeps_the_best() -> None:
    strategy = named("random_search", population=4096, sigma=0.5)
    state = strategy.init(jax.random.key(0), START)
    proposal = strategy.ask(jax.random.key(1), state)
    errors = jax.tree.map(lambda x, start: (x - start) / 0.5, proposal.candidates, START)
    for error in jax.tree.leaves(errors):
        np.testing.assert_allclose(error.mean(0), 0, atol=5 / 64)  # 5 standard errors
        np.testing.assert_allclose(error.std(0), 1, atol=5 / 64)
    cost = cost_of(proposal.candidates)
    state, _ = strategy.tell(state, proposal, cost)
    best = jax.tree.map(lambda x: x[jnp.argmin(cost)], proposal.candidates)
    jax.tree.map(np.testing.assert_allclose, strategy.params(state), best)
    worse = strategy.ask(jax.random.key(2), state)
    state, _ = strategy.tell(state, worse, jnp.full(4096, 1e6))
    jax.tree.map(np.testing.assert_allclose, strategy.params(state), best)


def test_schedules_reach_evosax() -> None:
    settings = {"population": 8, "sigma": 0.4, "sigma_final": 0.1, "learning_rate": 0.1, "learning_rate_final": None}
    strategy = named("open_es", **settings, schedule_generations=4)
    state = strategy.init(jax.random.key(0), START)
    seen = []
    for seed in range(7):
        proposal = strategy.ask(jax.random.key(seed), state)
        seen.append(float(state.inner.std))
        state, _ = strategy.tell(state, proposal, cost_of(proposal.candidates))
    assert seen[0] == pytest.approx(0.4) and seen[-1] == pytest.approx(0.1)
    assert all(a >= b for a, b in zip(seen, seen[1:], strict=False))


@pytest.mark.parametrize(
    "name, settings, said",
    [
        ("CMA", {}, "unknown algorithm 'CMA': did you mean 'CMA_ES'?"),
        ("SV_CMA_ES", {}, "keeps several populations"),
        ("CMA_ES", {"population": 1}, "population was 1, expected at least 2"),
        ("Open_ES", {"population": 7}, "even"),
        ("CMA_ES", {"learning_rate": 0.1}, "CMA_ES has no optimizer to set"),
        ("PGPE", {"options": ("std_lrr=0.2",)}, "PGPE has no option 'std_lrr'; its options:"),
        ("PGPE", {"options": ("std_lr",)}, "option 'std_lr': expected name=number"),
        ("spsa", {"population": 7}, "expected an even number"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(name: str, settings: dict, said: str) -> None:
    more = {"sigma": 0.1, "learning_rate": 0.1, "distribution": "gaussian"} if name == "spsa" else {}
    with pytest.raises(ValueError) as error:
        strategy = named(name, **{"population": 8, **more, **settings})
        strategy.init(jax.random.key(0), START)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_options_reach_the_algorithm() -> None:
    slow, fast = (named("PGPE", population=8, sigma=0.3, options=(f"std_lr={rate}",)) for rate in (0.0, 0.5))
    widths = []
    for strategy in (slow, fast):
        state = strategy.init(jax.random.key(0), START)
        for seed in range(3):
            proposal = strategy.ask(jax.random.key(seed), state)
            state, _ = strategy.tell(state, proposal, cost_of(proposal.candidates))
        widths.append(np.asarray(state.inner.std))
    np.testing.assert_allclose(widths[0], 0.3)
    assert np.abs(widths[1] - 0.3).max() > 1e-3


def test_all_of_evosax_is_there() -> None:
    from evosax import algorithms

    assert set(class_names()) | set(evosax_es.REFUSED) <= set(dir(algorithms))
    assert len(class_names()) >= 30


def test_ars_is_the_published_step() -> None:
    """theta - alpha / (b sigma) sum over the b best directions of (C+ - C-) delta (arXiv:1803.07055, algorithm 2)."""
    like = {"x": jnp.arange(5.0)}
    settings = {"population": 16, "sigma": 0.2, "learning_rate": 0.3, "elite_ratio": 0.25, "schedule_generations": 1}
    strategy = named("ars", **settings)
    state = strategy.init(jax.random.key(0), like)
    proposal = strategy.ask(jax.random.key(1), state)
    x = np.asarray(strategy.decode(state, proposal.candidates)["x"])
    cost = ((x - 1) ** 2).sum(1) + np.sin(9 * x[:, 0])
    plus, minus, delta = cost[:8], cost[8:], (x[:8] - np.arange(5.0)) / 0.2
    best = np.argsort(np.minimum(plus, minus))[:2]
    deviation = np.concatenate([plus[best], minus[best]]).std()
    step = ((plus - minus)[best, None] * delta[best]).sum(0) / (2 * deviation)
    after, _ = strategy.tell(state, proposal, jnp.asarray(cost))
    np.testing.assert_allclose(strategy.params(after)["x"], np.arange(5.0) - 0.3 * step, rtol=1e-4, atol=1e-5)
