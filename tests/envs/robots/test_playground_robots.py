"""Playground's other tasks go by the same adapters: robots on EnvPool and on MJX, and its dm_control suite on MJX."""

import jax
import numpy as np
import pytest

from polystep_rl.envs import make_any
from polystep_rl.policies import make_policy
from polystep_rl.rollout.device import DeviceEvaluator
from polystep_rl.rollout.host import HostEvaluator
from polystep_rl.rollout.score import Horizon


@pytest.fixture(autouse=True)
def _quiet(recwarn):
    """The simulators import libraries that warn."""
    yield


def evaluated(make, env, steps):
    """Two candidates in episodes of at most so many steps."""
    policy = make_policy(env.spec, (), "binary")
    candidates = jax.vmap(policy.init)(jax.random.split(jax.random.key(0), 2))
    evaluator = make(env, policy, 2, horizon=Horizon(steps))
    evaluate = evaluator if make is HostEvaluator else jax.jit(evaluator)  # over two devices, as the tests have them
    found = evaluate(jax.random.key(1), candidates, jax.tree_util.Partial(_same))
    lengths, returns = np.asarray(found.lengths), np.asarray(found.returns)
    assert lengths.shape == (2, 2) and (lengths >= 1).all() and (lengths <= steps).all() and lengths.max() > 1
    assert np.isfinite(returns).all() and not found.nonfinite
    return returns


def _same(candidates):
    return candidates


@pytest.mark.parametrize("robot", ["Go1JoystickFlatTerrain", "T1JoystickFlatTerrain", "H1JoystickGaitTracking"])
def test_robots_on_envpool(robot):
    pytest.importorskip("envpool")
    env = make_any(robot, "envpool")
    assert evaluated(HostEvaluator, env, 8).any()
    assert env.measuring().spec == env.spec  # nothing more is measured, and nothing breaks


@pytest.mark.slow
@pytest.mark.parametrize("task", ["CartpoleBalance", "Go1JoystickFlatTerrain"])
def test_tasks_on_mjx(task):
    pytest.importorskip("mujoco_playground")
    env = make_any(task, "jax")
    assert evaluated(DeviceEvaluator, env, 5).any()
