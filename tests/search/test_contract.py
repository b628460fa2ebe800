"""What every population strategy must do, PolyStep and baselines alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.cases import mostly_slow

pytest.importorskip("evosax")

from polystep_rl.baselines.evosax_es import class_names
from polystep_rl.runs.strategy import make_strategy
from polystep_rl.settings.algorithms import ALGORITHMS, GRADIENT, EvolutionConfig, settings_class
from polystep_rl.types import Array, Info, Key, Params, State, Strategy

START = {"0": {"w": jnp.ones((4, 3)), "b": jnp.ones(4)}, "1": {"w": -jnp.ones((2, 4)), "b": jnp.ones(2)}}
GOAL = 0.25
SIZE = sum(leaf.size for leaf in jax.tree.leaves(START))

NAMED = [name for name in ALGORITHMS if name not in GRADIENT]
QUICK = ("polystep", "open_es", "hill_climbing")  # one of our own, one of evosax, and one whose step may fail
# Searches that are slow by design, or whose default step is tiny, need not halve the quadratic.
SLACK = {"random_search": 0.99, "hill_climbing": 0.9, "spsa": 0.9}
# Every algorithm of evosax, with the wide slack of defaults that were made for something else. Those whose defaults do
# not get down this quadratic at all (checked by hand with evosax alone) must still be finite.
EVOSAX = [pytest.param(name, marks=pytest.mark.slow) for name in class_names()]
WANDERERS = {"DiffusionEvolution", "iAMaLGaM_Univariate"}
LIMITED = [name for name in NAMED if issubclass(settings_class(name), EvolutionConfig)]


def cost_of(params: Params) -> Array:
    """Sum of squares around the goal: leaves (n, ...) -> (n,)."""
    return sum(jnp.sum((x - GOAL) ** 2, axis=tuple(range(1, x.ndim))) for x in jax.tree.leaves(params))


def centre_cost(strategy: Strategy, state: State) -> float:
    return float(cost_of(jax.tree.map(lambda x: x[None], strategy.params(state)))[0])


def build(name: str) -> Strategy:
    settings = settings_class(name)()
    return make_strategy(name, settings if name in ALGORITHMS else dataclasses.replace(settings, sigma=0.3))


def generation(strategy: Strategy) -> Callable[[Key, State], tuple[State, Info]]:
    def step(key: Key, state: State) -> tuple[State, Info]:
        proposal = strategy.ask(key, state)
        return strategy.tell(state, proposal, cost_of(strategy.decode(state, proposal.candidates)))

    return step


def shapes(tree: Any) -> Any:
    return jax.tree.map(lambda x: (x.shape, x.dtype), tree)


def same(a: Any, b: Any, **tolerance: float) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_allclose(x, y, **tolerance)


@pytest.fixture(params=[*mostly_slow(NAMED, lambda name: name in QUICK), *EVOSAX])
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_who_has_a_weight_limit_can_be_shifted() -> None:
    """PolyStep passes its limit on with its optimizer; every other search is wrapped, and needs a shift."""
    limited = {name for name in NAMED if "weight_limit" in vars(settings_class(name)())}
    assert limited - {"polystep"} == {name for name in NAMED if ALGORITHMS[name].shift}


def test_one_generation(name: str) -> None:
    """Shapes, types and finiteness; ask is pure; decode works on any part; equal costs do no harm."""
    strategy = build(name)
    state = jax.jit(strategy.init)(jax.random.key(0), START)
    assert shapes(strategy.params(state)) == shapes(START)
    same(strategy.params(state), START, rtol=1e-6)
    before = jax.tree.map(jnp.copy, state)
    proposal, again = (strategy.ask(jax.random.key(1), state) for _ in range(2))
    same(proposal, again, rtol=0, atol=0)
    same(state, before, rtol=0, atol=0)
    candidates = strategy.decode(state, proposal.candidates)
    n = jax.tree.leaves(proposal.candidates)[0].shape[0]
    assert n > 1
    assert [x.shape for x in jax.tree.leaves(candidates)] == [(n, *x.shape) for x in jax.tree.leaves(START)]
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(candidates))
    part = strategy.decode(state, jax.tree.map(lambda x: x[1:2], proposal.candidates))
    same(part, jax.tree.map(lambda x: x[1:2], candidates), rtol=1e-5, atol=1e-6)
    cost = cost_of(candidates)
    after, info = strategy.tell(state, proposal, cost)
    assert shapes(after) == shapes(state)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(strategy.params(after)))
    assert all(np.shape(x) == () and np.isfinite(x) for x in info.values())
    flat, _ = strategy.tell(state, proposal, jnp.zeros(n))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(strategy.params(flat)))


def test_compiled_is_eager_and_compiles_once(name: str) -> None:
    strategy = build(name)
    traces = 0

    def counted(key: Key, state: State) -> tuple[State, Info]:
        nonlocal traces
        traces += 1
        return generation(strategy)(key, state)

    compiled, eager = jax.jit(counted), generation(strategy)
    state = strategy.init(jax.random.key(2), START)
    for seed in range(3):
        fast, _ = compiled(jax.random.key(seed), state)
        if seed == 0:
            slow, _ = eager(jax.random.key(seed), state)
            same(strategy.params(fast), strategy.params(slow), rtol=2e-4, atol=2e-5)
        state = fast
    assert traces == 1


def test_a_quadratic_goes_down(name: str) -> None:
    """Lower cost is better, for every one of them: the mean over seeds falls well below the start's."""
    strategy = build(name)
    step = generation(strategy)

    def run(key: Key) -> tuple[State, Info]:
        keys = jax.random.split(key, 151)
        return jax.lax.scan(lambda state, key: step(key, state), strategy.init(keys[0], START), keys[1:])

    compiled = jax.jit(run)
    costs = [centre_cost(strategy, compiled(jax.random.key(seed))[0]) for seed in range(3)]
    start = float(cost_of(jax.tree.map(lambda x: x[None], START))[0])
    assert np.isfinite(costs).all()
    if name in WANDERERS:
        return
    assert np.mean(costs) < SLACK.get(name, 0.5 if name in NAMED else 0.995) * start


@pytest.mark.parametrize("name", mostly_slow(NAMED, lambda name: name in QUICK))
def test_averaging_deploys_the_mean_of_the_centres(name: str) -> None:
    """Early on, with a decay close to 1; the search itself goes on as it would."""
    centres, means = [], []
    for decay, found in ((0.0, centres), (0.999, means)):
        settings = dataclasses.replace(settings_class(name)(), averaging=decay)
        strategy = make_strategy(name, settings)
        state, step = strategy.init(jax.random.key(0), START), jax.jit(generation(strategy))
        for number in range(4):
            state, _ = step(jax.random.key(number), state)
            found.append(jax.flatten_util.ravel_pytree(strategy.params(state))[0])
    np.testing.assert_allclose(means[-1], np.mean(centres, axis=0), atol=1e-5)
    assert not np.allclose(means[-1], centres[-1], atol=1e-3)


@pytest.mark.parametrize("name", mostly_slow(LIMITED, lambda name: name == LIMITED[0]))
def test_weights_are_kept_within_a_limit_and_nothing_else(name: str) -> None:
    """The first step is the plain one cut at the limit, where biases go on as they would; later ones stay inside."""
    centres: dict[float | None, list[Params]] = {}
    for limit in (None, 0.9, 1e6):
        settings = dataclasses.replace(settings_class(name)(), weight_limit=limit)
        strategy = make_strategy(name, settings)
        state, step = strategy.init(jax.random.key(0), START), jax.jit(generation(strategy))
        for number in range(30):
            state, _ = step(jax.random.key(number), state)
            centres.setdefault(limit, []).append(strategy.params(state))
    for layer in START:
        plain, cut, wide = (centres[limit][0][layer] for limit in (None, 0.9, 1e6))
        assert np.abs(plain["w"]).max() > 0.9
        np.testing.assert_allclose(cut["w"], np.clip(plain["w"], -0.9, 0.9), atol=1e-6)
        np.testing.assert_allclose(cut["b"], plain["b"], atol=1e-6)
        np.testing.assert_allclose(wide["w"], plain["w"], atol=1e-6)
        assert all(np.abs(centre[layer]["w"]).max() <= 0.9 + 1e-6 for centre in centres[0.9])
