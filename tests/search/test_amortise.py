"""Amortised steps: exactly what is added, and that it still descends."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from polystep_rl.search import polystep as ps
from polystep_rl.search import schedules, subspace
from polystep_rl.search.wrappers import amortise


def _inner():
    geometry = ps.Geometry(2, step_radius=ps.times_epsilon(0.5), probe_radius=ps.times_epsilon(1.0))
    return ps.polystep(subspace.full(), geometry, ps.Coupling(epsilon=schedules.constant(0.3)))


def _generation(strategy, state, key):
    proposal = strategy.ask(key, state)
    cost = jax.vmap(lambda p: jnp.sum((p - 3) ** 2))(strategy.decode(state, proposal.candidates))
    return strategy.tell(state, proposal, cost)


def test_free_steps_add_the_decaying_average():
    inner, wrapped = _inner(), amortise(_inner(), ps.shift, every=3, decay=0.7)
    key, x = jax.random.key(0), jnp.zeros(6)
    state, average = wrapped.init(key, x), jnp.zeros(6)
    for number in range(3):
        start = wrapped.params(state)
        plain, _ = _generation(inner, state.inner, jax.random.key(number))
        moved = inner.params(plain) - start
        average = 0.7 * average + 0.3 * moved
        state, info = jax.jit(_generation, static_argnums=0)(wrapped, state, jax.random.key(number))
        expected = start + moved + (1 - 1 / 3) * average + (1 - 2 / 3) * average
        np.testing.assert_allclose(wrapped.params(state), expected, atol=1e-5)
        assert float(info["reused"]) == pytest.approx(float(jnp.linalg.norm(average)), rel=1e-4)
        assert float(info["reused"]) > 0


def test_one_is_the_wrapped_strategy():
    inner, wrapped = _inner(), amortise(_inner(), ps.shift, every=1)
    key, x = jax.random.key(0), jnp.zeros(6)
    one, _ = _generation(inner, inner.init(key, x), key)
    other, _ = _generation(wrapped, wrapped.init(key, x), key)
    np.testing.assert_array_equal(inner.params(one), wrapped.params(other))


def test_it_gets_further_on_the_same_evaluations():
    def distance(strategy):
        state = strategy.init(jax.random.key(0), jnp.zeros(50))
        keys = jax.random.split(jax.random.key(1), 30)
        state, _ = jax.jit(lambda s: jax.lax.scan(lambda a, k: _generation(strategy, a, k), s, keys))(state)
        return float(jnp.linalg.norm(strategy.params(state) - 3))

    assert distance(amortise(_inner(), ps.shift, every=3)) < 0.8 * distance(_inner())


@pytest.mark.parametrize(("every", "decay", "message"), [(0, 0.7, "every was 0"), (2, 1.0, "decay was 1.0")])
def test_bad_arguments_are_one_clear_line(every, decay, message):
    with pytest.raises(ValueError, match=message):
        amortise(_inner(), ps.shift, every, decay)
