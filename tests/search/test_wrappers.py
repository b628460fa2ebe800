"""Steps through an optimizer in parameter space, and averages of the centre."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from polystep_rl.search import polystep as ps
from polystep_rl.search import subspace
from polystep_rl.search.observing import observing
from polystep_rl.search.wrappers import amortise, averaged, transformed, within
from polystep_rl.types import Moments

KEY = jax.random.key(0)
START = {"w": jnp.linspace(-1.0, 1.0, 12).reshape(3, 4), "b": jnp.ones(3)}


def search(redraw_every=1):
    geometry = ps.Geometry(dim=4, step_radius=ps.times_epsilon(0.4))
    return ps.polystep(subspace.global_block(4), geometry, redraw_every=redraw_every)


def cost(params):
    return jax.vmap(lambda p: sum(jnp.sum((x - 0.3) ** 2) for x in jax.tree.leaves(p)))(params)


def run(strategy, generations=6):
    """The centres after every generation."""
    state, centres = strategy.init(KEY, START), []
    for i in range(generations):
        proposal = strategy.ask(jax.random.fold_in(KEY, i), state)
        state, info = strategy.tell(state, proposal, cost(strategy.decode(state, proposal.candidates)))
        centres.append(np.concatenate([x.ravel() for x in jax.tree.leaves(strategy.params(state))]))
    return np.array(centres), info


def test_identity_changes_nothing():
    plain, _ = run(search())
    wrapped, info = run(transformed(search(), ps.shift, optax.identity()))
    np.testing.assert_allclose(wrapped, plain, atol=1e-6)
    assert info["step_norm"] == pytest.approx(np.linalg.norm(plain[-1] - plain[-2]), rel=1e-4)


def test_momentum_outlives_a_redrawn_subspace():
    """Its first step is the search's own, and then decay times the last step is added, whatever the subspace."""
    strategy = transformed(search(), ps.shift, optax.trace(0.9))
    own, state = search(), strategy.init(KEY, START)
    last = None
    for i in range(4):
        proposal = strategy.ask(jax.random.fold_in(KEY, i), state)
        costs = cost(strategy.decode(state, proposal.candidates))
        alone, _ = own.tell(state.inner, proposal, costs)
        before = strategy.params(state)
        step = jax.tree.map(jnp.subtract, own.params(alone), before)
        if last is not None:
            step = jax.tree.map(lambda s, v: s + 0.9 * v, step, last)
        state, _ = strategy.tell(state, proposal, costs)
        found = jax.tree.map(jnp.subtract, strategy.params(state), before)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(step), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)
        last = step


def test_weights_stay_within_a_limit_and_biases_do_not():
    limited, wide = (run(transformed(search(), ps.shift, within(limit)))[0] for limit in (0.5, 100.0))
    plain, _ = run(search())
    np.testing.assert_allclose(wide, plain, atol=1e-6)
    biases, weights = np.split(limited, [3], axis=1)  # leaves in the order of their names
    assert np.abs(weights).max() <= 0.5 + 1e-6 and np.abs(plain[:, 3:]).max() > 0.6
    first = np.split(plain[0], [3])
    np.testing.assert_allclose(biases[0], first[0], atol=1e-6)
    np.testing.assert_allclose(weights[0], np.clip(first[1], -0.5, 0.5), atol=1e-6)
    assert np.abs(biases).max() > 0.5


def test_average_deploys_the_mean_and_searches_as_before():
    plain, _ = run(search())
    means, _ = run(averaged(search(), 0.999))
    start = np.concatenate([x.ravel() for x in jax.tree.leaves(START)])
    for i in range(1, len(plain) + 1):  # early on the average is that of all centres since the start
        np.testing.assert_allclose(means[i - 1], plain[:i].mean(0), atol=1e-5)
    short, _ = run(averaged(search(), 0.0))
    np.testing.assert_allclose(short, plain, atol=1e-6)
    assert not np.allclose(start, plain[0])


def test_decay_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"expected a number in \[0, 1\)"):
        averaged(search(), 1.0)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda strategy: transformed(strategy, ps.shift, optax.identity()),
        lambda strategy: averaged(strategy, 0.9),
        lambda strategy: amortise(strategy, ps.shift, 2),
    ],
)
def test_statistics_belong_outside(wrap):
    """Inside, they would stay what they were, or be averaged as if they were weights."""
    prior = Moments(np.ones(()), np.zeros(3), np.ones(3))
    assert "input" in observing(wrap(search()), prior).params(observing(wrap(search()), prior).init(KEY, START))
    with pytest.raises(ValueError, match="the strategy observes; put `observing` around this one"):
        wrap(observing(search(), prior))
