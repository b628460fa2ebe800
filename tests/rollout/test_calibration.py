"""Observation scales."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from polystep_rl.envs import make
from polystep_rl.rollout import calibration as normalize
from polystep_rl.rollout.calibration import INPUT_RANGE, MODES, observation_scale, random_action, random_action_moments
from polystep_rl.types import Moments

KEY = jax.random.key(0)


def test_moments_are_numpys_over_living_steps() -> None:
    env = make("CartPole-v1")
    seen = []
    for key in jax.random.split(KEY, 3):
        reset_key, action_key = jax.random.split(key)
        state, obs = env.reset(reset_key)
        step = jax.jit(env.step)
        for action in jax.random.split(action_key, env.spec.horizon):
            seen.append(np.asarray(obs))
            out = step(state, random_action(env, action))
            state, obs = out.state, out.obs
            if out.terminated or out.truncated:
                break
    moments = random_action_moments(env, KEY, 3)
    assert moments.weight == len(seen)
    np.testing.assert_allclose(moments.mean, np.mean(seen, 0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(moments.m2, np.var(seen, 0) * len(seen), rtol=1e-3)


def test_modes() -> None:
    env = make("Pendulum-v1")
    offset, scale = observation_scale(env, KEY, "none")
    assert not offset.any() and (scale == 1).all()
    offset, scale = observation_scale(env, KEY, "bounds")
    np.testing.assert_allclose(offset, 0, atol=1e-6)
    np.testing.assert_allclose(scale * INPUT_RANGE, env.spec.observation_space.high, rtol=1e-6)
    moments = random_action_moments(env, KEY)
    offset, scale = observation_scale(env, KEY, "episodes")
    np.testing.assert_allclose(offset, moments.mean, rtol=1e-5)
    np.testing.assert_allclose(scale, np.sqrt(moments.m2 / moments.weight), rtol=1e-5)
    assert offset.dtype == scale.dtype == np.float32


def test_unbounded_features_fall_back_to_episodes() -> None:
    env = make("CartPole-v1")  # positions are bounded, speeds are not
    offset, scale = observation_scale(env, KEY, "bounds")
    by_episodes = observation_scale(env, KEY, "episodes")
    high = env.spec.observation_space.high
    np.testing.assert_allclose(scale[[0, 2]] * INPUT_RANGE, high[[0, 2]], rtol=1e-5)
    np.testing.assert_array_equal(scale[[1, 3]], by_episodes[1][[1, 3]])
    np.testing.assert_array_equal(offset[[1, 3]], by_episodes[0][[1, 3]])


def test_a_constant_feature_has_scale_one() -> None:
    offset, scale = observation_scale(make("probe/Bandit-v0"), KEY, "episodes")
    assert offset == [1.0] and scale == [1.0]


def test_a_feature_that_varies_by_rounding_has_scale_one(monkeypatch: pytest.MonkeyPatch) -> None:
    mean, std = np.array([1000.0, 1000.0, 0.0]), np.array([3e-5, 0.1, 3e-5])
    moments = Moments(np.float64(10), mean, 10 * std**2)
    monkeypatch.setattr(normalize, "random_action_moments", lambda *_: moments)
    _, scale = observation_scale(make("Pendulum-v1"), KEY, "episodes")
    np.testing.assert_allclose(scale, [1.0, 0.1, 3e-5], rtol=1e-5)


def test_unknown_mode() -> None:
    with pytest.raises(ValueError, match=f"expected one of {', '.join(MODES)}"):
        observation_scale(make("probe/Bandit-v0"), KEY, "running")
