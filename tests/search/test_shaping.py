"""Cost shaping: definitions, non-finite entries, blindness to constants."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import rankdata

from polystep_rl.search import shaping

SHAPINGS = [shaping.none, shaping.mean, shaping.max, shaping.standardised, shaping.centred_ranks]
COST = jnp.asarray(np.random.default_rng(0).normal(3, 5, (4, 6)), jnp.float32)


def test_definitions():
    cost = np.asarray(COST)
    low = cost - cost.min()
    np.testing.assert_allclose(shaping.none(COST), low, rtol=1e-5)
    np.testing.assert_allclose(shaping.mean(COST), low / low.mean(), rtol=1e-5)
    np.testing.assert_allclose(shaping.max(COST), low / low.max(), rtol=1e-5)
    np.testing.assert_allclose(shaping.standardised(COST), (cost - cost.mean()) / cost.std(), atol=1e-5)


def test_ranks_share_ties():
    cost = jnp.asarray([[3.0, 1.0, 3.0], [7.0, 3.0, 1.0]])
    expected = (rankdata(cost) - 1).reshape(2, 3) / 5 - 0.5
    np.testing.assert_allclose(shaping.centred_ranks(cost), expected, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPINGS)
def test_a_constant_changes_nothing(shape):
    np.testing.assert_allclose(shape(COST + 64.0), shape(COST), atol=1e-4)


@pytest.mark.parametrize("shape", SHAPINGS)
def test_equal_costs_stay_equal_and_finite(shape):
    shaped = np.asarray(shape(jnp.full((3, 4), 500.0)))
    assert np.isfinite(shaped).all()
    assert np.ptp(shaped) == 0


@pytest.mark.parametrize("shape", SHAPINGS)
def test_order_is_kept_and_non_finite_is_worst(shape):
    cost = COST.at[1, 2].set(jnp.nan).at[3, 3].set(-jnp.inf).at[0, 0].set(jnp.inf)
    shaped = np.asarray(shape(cost)).ravel()
    bad = ~np.isfinite(np.asarray(cost).ravel())
    assert np.isfinite(shaped).all()
    assert shaped[bad].min() > shaped[~bad].max()
    order = np.argsort(np.asarray(cost).ravel()[~bad])
    assert (np.diff(shaped[~bad][order]) > 0).all()


def test_non_finite_becomes_twice_the_largest_plus_one():
    made = shaping.finite(jnp.asarray([[1.0, -4.0], [jnp.nan, 2.0]]))
    np.testing.assert_array_equal(made, [[1, -4], [9, 2]])
    np.testing.assert_array_equal(shaping.finite(jnp.full((1, 2), jnp.nan)), [[1, 1]])


def test_per_row_gives_every_particle_its_own_scale():
    scales = jnp.asarray([[1.0], [10.0], [100.0], [1e3]])
    shaped = np.asarray(jax.jit(shaping.per_row(shaping.standardised))(COST[:1] * scales))
    np.testing.assert_allclose(shaped, np.broadcast_to(shaped[0], shaped.shape), atol=1e-4)
    assert not np.allclose(shaping.standardised(COST[:1] * scales)[0], shaped[0], atol=0.1)
