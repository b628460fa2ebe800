"""Observation statistics of a search: frozen within a generation, merged after it, saved as constants of the policy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from polystep_rl.envs import make
from polystep_rl.moments import input_scales
from polystep_rl.policies import frozen, make_policy, mlp_policy
from polystep_rl.rollout.calibration import random_action_moments
from polystep_rl.rollout.device import DeviceEvaluator
from polystep_rl.runs.polystep import build_strategy
from polystep_rl.search.observing import INPUT, observing
from polystep_rl.settings.algorithms import SearchConfig
from polystep_rl.training.programs import make_step
from polystep_rl.types import Moments

KEY = jax.random.key(3)


def moments(rows):
    return Moments(jnp.float32(len(rows)), jnp.asarray(rows.mean(0)), jnp.asarray(((rows - rows.mean(0)) ** 2).sum(0)))


def test_scales_are_mean_and_deviation():
    rows = np.random.default_rng(0).normal([0, 5, -300], [1, 0.1, 40], (4000, 3)).astype(np.float32)
    found = input_scales(moments(rows))
    np.testing.assert_allclose(found["scale"], rows.std(0), rtol=1e-4)
    assert (np.abs(found["offset"] - rows.mean(0)) <= rows.std(0) / 32).all()
    np.testing.assert_allclose(input_scales(moments(rows), 0.5)["scale"], rows.std(0) / 2, rtol=1e-4)


def test_a_constant_feature_has_scale_one():
    rows = np.full((100, 2), [7.0, -1234.5], np.float32)
    assert (np.asarray(input_scales(moments(rows))["scale"]) == 1).all()
    nothing = Moments(jnp.float32(0), jnp.zeros(2), jnp.zeros(2))
    assert (np.asarray(input_scales(nothing)["scale"]) == 1).all()


@pytest.mark.parametrize("precision", ["float32", "int8", "binary"])
def test_a_frozen_policy_acts_as_the_searched_one_did(precision):
    """What is searched is what is deployed: bit for bit, also for offsets far from the origin."""
    env = make("Pendulum-v1")
    policy = make_policy(env.spec, (64,), precision)
    rows = np.random.default_rng(1).normal([0.1, 50, -3000], [0.3, 2, 0.7], (500, 3)).astype(np.float32)
    params = {**policy.init(KEY), INPUT: input_scales(moments(rows))}
    spec, layers = frozen(policy.spec, params)
    other = mlp_policy(spec)
    assert INPUT not in layers and spec.obs_scale != policy.spec.obs_scale
    searched = jax.jit(jax.vmap(policy.act, in_axes=(None, 0)))(params, rows)
    deployed = jax.jit(jax.vmap(other.act, in_axes=(None, 0)))(layers, rows)
    np.testing.assert_array_equal(searched, deployed)
    assert len(np.unique(np.asarray(searched))) > 2


def test_a_generation_is_frozen_and_then_merged():
    env = make("Pendulum-v1")
    policy = make_policy(env.spec, (), "float32")
    prior = random_action_moments(env, KEY, 4)
    strategy = observing(build_strategy(SearchConfig(particle_dim=4, subspace_size=4)), prior)
    evaluate = DeviceEvaluator(env, policy, 2, collect_moments=True)
    state = strategy.init(KEY, policy.init(KEY))
    candidates = strategy.decode(state, strategy.ask(KEY, state).candidates)
    assert all((leaf == leaf[0]).all() for leaf in jax.tree.leaves(candidates[INPUT]))
    after, _, evaluation = make_step(strategy, evaluate)(KEY, KEY, state, jnp.float32(0))
    assert after.moments.weight == prior.weight + evaluation.env_steps
    parts = [prior, evaluation.obs_moments]
    mean = sum(np.asarray(m.weight * m.mean) for m in parts) / sum(float(m.weight) for m in parts)
    np.testing.assert_allclose(after.moments.mean, mean, rtol=1e-4, atol=1e-5)
    assert (strategy.params(after)[INPUT]["scale"] != strategy.params(state)[INPUT]["scale"]).any()


def test_observations_that_are_not_finite_are_not_learned_from():
    env = make("Pendulum-v1")
    prior = random_action_moments(env, KEY, 2)
    strategy = observing(build_strategy(SearchConfig()), prior)
    state = strategy.init(KEY, make_policy(env.spec, ()).init(KEY))
    mad = prior._replace(mean=prior.mean.at[1].set(jnp.nan))
    for a, b in zip(strategy.observe(state, mad).moments, state.moments, strict=True):
        np.testing.assert_array_equal(a, b)
