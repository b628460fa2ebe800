"""Recorded episodes are those of the evaluation."""

import jax
import numpy as np
import pytest

from polystep_rl.envs import make, make_any
from polystep_rl.policies import make_policy
from polystep_rl.rollout.device import DeviceEvaluator, evaluate_params
from polystep_rl.rollout.host import HostEvaluator, HostLayout
from polystep_rl.rollout.recording import record
from polystep_rl.rollout.score import Horizon


@pytest.fixture(autouse=True)
def _quiet(recwarn):
    """EnvPool imports libraries that warn."""
    yield


def policy_for(env, seed=1):
    policy = make_policy(env.spec, (), "float32")
    return policy, policy.init(jax.random.key(seed))


def same(found, evaluation):
    np.testing.assert_allclose(found.reward.sum(axis=0), np.ravel(evaluation.returns), rtol=1e-5)
    np.testing.assert_array_equal(found.alive.sum(axis=0), np.ravel(evaluation.lengths))
    assert (np.diff(found.alive.astype(int), axis=0) <= 0).all()  # nobody comes back


def test_in_jax():
    env = make("CartPole-v1")
    policy, params = policy_for(env)
    key = jax.random.key(3)
    evaluation = evaluate_params(DeviceEvaluator(env, policy, 6), key, params)
    found = record(env, policy, params, 6, key)
    same(found, evaluation)
    np.testing.assert_array_equal(found.fell, np.ravel(evaluation.lengths) < env.spec.horizon)


@pytest.mark.parametrize("simulator", ["gymnasium", "envpool"])
def test_on_the_host(simulator):
    if simulator == "envpool":
        pytest.importorskip("envpool")
    env = make_any("CartPole-v1", simulator, max_episode_steps=12, workers="0")
    policy, params = policy_for(env)
    key = jax.random.key(3)
    with HostEvaluator(env, policy, 6) as evaluate:
        evaluation = evaluate_params(evaluate, key, params)
    found = record(env, policy, params, 6, key)
    same(found, evaluation)
    assert (found.fell | (found.alive.sum(axis=0) == 12)).all()


def test_training_may_end_at_a_height():
    """The episode ends with the step after which the pelvis is below it, and goes on elsewhere."""
    pytest.importorskip("envpool")
    env = make_any("G1JoystickFlatTerrain", "envpool")
    policy, params = policy_for(env)
    key = jax.random.key(0)
    whole = record(env, policy, params, 16, key)
    with HostEvaluator(env, policy, 16, horizon=Horizon(metric="height", least=0.6)) as evaluate:
        found = evaluate_params(evaluate, key, params)
    below = whole.alive & (whole.metrics["height"] < 0.6)
    expected = np.where(below.any(axis=0), 1 + below.argmax(axis=0), whole.alive.sum(axis=0))
    np.testing.assert_array_equal(np.ravel(found.lengths), expected)
    assert (expected < whole.alive.sum(axis=0)).any()


def test_lanes_that_live_on_measure_too():
    """Without common random numbers a lane whose episode was ended goes on with a reset, while others step."""
    pytest.importorskip("envpool")
    env = make_any("G1JoystickFlatTerrain", "envpool", crn=False)
    policy, params = policy_for(env)
    with HostEvaluator(env, policy, 24, HostLayout(lanes=16), horizon=Horizon(metric="height", least=0.7)) as evaluate:
        found = evaluate_params(evaluate, jax.random.key(0), params)
    assert found.lengths.shape == (1, 24) and 1 <= found.lengths.min() < found.lengths.max() < 60


def test_an_environment_that_measures_nothing_is_refused():
    env = make_any("CartPole-v1", "gymnasium", workers="0")
    with pytest.raises(ValueError, match="CartPole-v1 on gymnasium measures nothing"):
        HostEvaluator(env, policy_for(env)[0], 2, horizon=Horizon(metric="height"))


def test_g1_measures_what_it_was_commanded():
    pytest.importorskip("envpool")
    env = make_any(
        "G1JoystickFlatTerrain", "envpool", {"lin_vel_x_min": 0.5, "lin_vel_x_max": 0.5, "push_enable": False}
    )
    policy = make_policy(env.spec, (), "float32")
    params = jax.tree.map(lambda x: 0 * x, policy.init(jax.random.key(0)))
    found = record(env, policy, params, 24, jax.random.key(0))
    forward = found.metrics["command_x"][found.alive]
    assert set(np.round(np.unique(forward), 6)) <= {0.0, 0.5} and (forward == 0.5).any()
    assert 30 < found.alive.sum(axis=0).mean() < 80 and found.fell.all()  # nothing holds it up
    height = found.metrics["height"]
    assert 0.6 < height[0].mean() < 0.85 and height[0].mean() > height[found.alive].min()
    assert (found.metrics["power"][found.alive] > 0).all()


def test_some_of_the_episodes():
    env = make("CartPole-v1")
    policy, params = policy_for(env)
    found = record(env, policy, params, 6, jax.random.key(3))
    some = found.only(np.array([4, 1]))
    for whole, part in zip(found[:2], some[:2], strict=True):
        np.testing.assert_array_equal(whole[:, [4, 1]], part)
    np.testing.assert_array_equal(found.fell[[4, 1]], some.fell)
    assert {name: values.shape for name, values in some.metrics.items()} == {
        name: (values.shape[0], 2, *values.shape[2:]) for name, values in found.metrics.items()
    }
