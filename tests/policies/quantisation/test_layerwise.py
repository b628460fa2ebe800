"""Layer-wise post-training quantisation: int8 policies act like their float ones."""

import jax
import numpy as np
import pytest

from polystep_rl.policies import mlp_policy, precision
from polystep_rl.policies.quantisation.layerwise import layerwise
from polystep_rl.types import PolicySpec

BOX = ((-2.0, -1.0), (2.0, 3.0))


def make_spec(name, head="discrete", hidden=(16,), obs_size=4, activation="tanh"):
    low, high = BOX if head == "box" else ((), ())
    size = 2 if head == "box" else 3
    return PolicySpec(
        obs_size, hidden, name, head, size, low, high, (0.2,) * obs_size, (0.5,) * obs_size, (), activation
    )


def trained_like(spec, seed):
    """A float policy with weights beyond those of the start, and correlated observations as an episode gives them."""
    rng = np.random.default_rng(seed)
    params = {
        str(i): {"w": 1.5 * rng.normal(size=(m, k)), "b": 0.3 * rng.normal(size=m)}
        for i, (k, m) in enumerate(precision.layer_sizes(spec))
    }
    mixing = rng.normal(size=(spec.obs_size, spec.obs_size)) / np.sqrt(spec.obs_size)
    obs = (0.2 + 0.5 * rng.normal(size=(6000, spec.obs_size)) @ mixing).astype(np.float32)
    return jax.tree.map(np.float32, params), obs


def quantise(params, spec, obs):
    return layerwise(spec._replace(precision="float32"), params, spec, obs)


def actions(spec, params, obs):
    return np.asarray(jax.vmap(mlp_policy(spec).act, in_axes=(None, 0))(params, obs))


@pytest.mark.parametrize("hidden", [(), (16,), (16, 16)], ids=str)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_int8_agrees_with_the_float_policy_on_unseen_observations(hidden, seed):
    spec = make_spec("int8", hidden=hidden)
    float_spec = spec._replace(precision="float32")
    params, obs = trained_like(float_spec, seed)
    latents = quantise(params, spec, obs[:3000])
    wanted, got = actions(float_spec, params, obs[3000:]), actions(spec, latents, obs[3000:])
    assert np.bincount(wanted, minlength=3).max() < 2900  # not a policy of one action
    assert np.mean(wanted == got) > (0.93 if len(hidden) > 1 else 0.95)  # errors of layers add up
    naive = np.mean(wanted == actions(spec, params, obs[3000:]))
    assert np.mean(wanted == got) >= naive  # the same latents, taken as they are


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_small_last_layers_do_not_round_to_nothing(seed):
    spec = make_spec("int8")
    float_spec = spec._replace(precision="float32")
    params, obs = trained_like(float_spec, seed)
    params["1"] = jax.tree.map(lambda v: v * np.float32(0.003), params["1"])
    latents = quantise(params, spec, obs)
    agreement = np.mean(actions(float_spec, params, obs) == actions(spec, latents, obs))
    assert agreement > 0.95
    assert np.mean(actions(float_spec, params, obs) == actions(spec, params, obs)) < agreement


def test_int8_box_actions_are_near_the_float_ones():
    spec = make_spec("int8", "box")
    float_spec = spec._replace(precision="float32")
    params, obs = trained_like(float_spec, 0)
    latents = quantise(params, spec, obs)
    error = actions(spec, latents, obs) - actions(float_spec, params, obs)
    assert np.sqrt(np.mean(error**2, axis=0)).max() < 0.2  # of a reach of 2


@pytest.mark.parametrize(("name", "least"), [("binary", 0.4), ("binary-act", 0.75), ("int8-act", 0.98)])
def test_the_other_precisions_are_better_than_chance(name, least):
    spec = make_spec(name)
    float_spec = spec._replace(precision="float32")
    for seed in range(3):
        params, obs = trained_like(float_spec, seed)
        latents = quantise(params, spec, obs)
        assert np.mean(actions(float_spec, params, obs) == actions(spec, latents, obs)) > least


def test_odd_observations():
    spec = make_spec("int8")
    params, obs = trained_like(spec, 0)
    odd = np.concatenate([obs[:500], np.full((3, 4), np.nan, np.float32), np.full((2, 4), np.inf, np.float32)])
    jax.tree.map(
        np.testing.assert_array_equal,
        quantise(params, spec, odd),
        quantise(params, spec, obs[:500]),
    )
    one = quantise(params, spec, np.tile(obs[:1], (5, 1)))  # nothing varies
    assert all(np.all(np.isfinite(leaf)) and leaf.dtype == np.float32 for leaf in jax.tree.leaves(one))
    with pytest.raises(ValueError, match="at least one finite observation"):
        quantise(params, spec, odd[500:])


@pytest.mark.parametrize(("name", "least"), [("int8", 0.97), ("int8-act", 0.98)])
def test_relu_units_keep_their_range(name, least):
    spec = make_spec(name, activation="relu")
    float_spec = spec._replace(precision="float32")
    for seed in range(3):
        params, obs = trained_like(float_spec, seed)
        wanted = actions(float_spec, params, obs)
        agreement = np.mean(wanted == actions(spec, quantise(params, spec, obs), obs))
        assert agreement > least and agreement > np.mean(wanted == actions(spec, params, obs))
