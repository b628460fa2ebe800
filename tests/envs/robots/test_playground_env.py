"""MuJoCo Playground's tasks: names and options are EnvPool's; on MJX they are functional environments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from polystep_rl.envs.robots.playground_env import config_path

CONFIG = {
    "ctrl_dt": 0.02,
    "episode_length": 1000,
    "noise_config": {"level": 1.0, "scales": {"joint_pos": 0.03}},
    "reward_config": {"scales": {"alive": 0.0, "tracking_lin_vel": 1.0}, "tracking_sigma": 0.25},
    "push_config": {"enable": True, "interval_range": [5.0, 10.0]},
    "lin_vel_x": [-1.0, 1.0],
}


@pytest.mark.parametrize(
    ("option", "path"),
    [
        ("ctrl_dt", ("ctrl_dt", None)),
        ("push_enable", ("push_config.enable", None)),
        ("push_config.enable", ("push_config.enable", None)),
        ("push_interval_max", ("push_config.interval_range", 1)),
        ("noise_level", ("noise_config.level", None)),
        ("noise_joint_pos", ("noise_config.scales.joint_pos", None)),
        ("alive_scale", ("reward_config.scales.alive", None)),
        ("tracking_lin_vel_scale", ("reward_config.scales.tracking_lin_vel", None)),
        ("tracking_sigma", ("reward_config.tracking_sigma", None)),
        ("lin_vel_x_min", ("lin_vel_x", 0)),
        ("max_episode_steps", ("episode_length", None)),
    ],
)
def test_options_have_one_name_in_both_simulators(option, path):
    assert config_path(CONFIG, option) == path


@pytest.mark.parametrize("option", ["push", "ctrl_dt_min", "alive_scale_max", "nothing"])
def test_other_options_are_refused(option):
    with pytest.raises(KeyError):
        config_path(CONFIG, option)


@pytest.mark.slow
def test_every_option_of_envpool_is_one_of_playgrounds():
    pytest.importorskip("mujoco_playground")
    envpool = pytest.importorskip("envpool")
    from mujoco_playground import registry

    from polystep_rl.envs.envpool_env import OURS

    config = registry.get_default_config("G1JoystickFlatTerrain").to_dict()
    known = envpool.make_spec("G1JoystickFlatTerrain-v1").config._asdict()
    general = {*OURS, "base_path", "task_name", "frame_stack", "max_num_players", "thread_affinity_offset"}
    general |= {"gym_reset_return_info", "max_episode_steps"}
    for name, value in known.items():
        if name in general:
            continue
        path, index = config_path(config, name)
        ours = config
        for part in path.split("."):
            ours = ours[part]
        assert (ours if index is None else ours[index]) == pytest.approx(value), name


def plain(tree):
    """A state in NumPy, random keys as integers."""
    key = jax.dtypes.prng_key
    return jax.tree.map(lambda x: np.array(jax.random.key_data(x) if jnp.issubdtype(x.dtype, key) else x), tree)


@pytest.mark.slow
def test_g1_on_mjx_is_functional():
    """It loads without a network, changes no state that it is given, and goes on after a fall."""
    pytest.importorskip("mujoco_playground")
    from polystep_rl.envs import make

    env = make("G1JoystickFlatTerrain", push_enable=False, lin_vel_x_min=0.5)
    assert env.spec.observation_space.shape == (103,) and env.spec.action_space.shape == (29,)
    state, obs = jax.jit(env.reset)(jax.random.key(0))
    before = plain(state)
    step = jax.jit(env.step)
    first, again = step(state, jnp.zeros(29)), step(state, jnp.zeros(29))
    jax.tree.map(np.testing.assert_array_equal, before, plain(state))
    np.testing.assert_array_equal(first.obs, again.obs)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), first.state) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
    np.testing.assert_allclose(first.metrics["command_x"], obs[9], rtol=1e-6)
    assert 0.5 <= float(obs[9]) <= 1 or np.all(obs[9:12] == 0)
    assert 0.6 < float(first.metrics["height"]) < 0.9
    terms = sum(float(value) for name, value in first.metrics.items() if name.startswith("reward/"))
    np.testing.assert_allclose(float(first.reward), 0.02 * terms, rtol=1e-4)
