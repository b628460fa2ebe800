"""The classic tasks against the installed Gymnasium, transition by transition."""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from polystep_rl import envs
from polystep_rl.envs.classic.acrobot import MAX_VEL_1, MAX_VEL_2, Acrobot
from polystep_rl.envs.classic.cartpole import CartPoleState
from polystep_rl.envs.classic.mountain_car import MountainCarState
from polystep_rl.envs.classic.pendulum import Pendulum
from polystep_rl.envs.classic.trig import sincos

# id -> (our state from Gymnasium's variables, bounds of what is reachable, variables of the state)
MAKE_STATE = {
    "CartPole-v1": CartPoleState,
    "Acrobot-v1": Acrobot.state,
    "MountainCar-v0": MountainCarState,
    "MountainCarContinuous-v0": MountainCarState,
    "Pendulum-v1": Pendulum.state,
}
BOUNDS = {
    "CartPole-v1": [2.5, 6.0, 0.25, 6.0],
    "Acrobot-v1": [np.pi, np.pi, MAX_VEL_1, MAX_VEL_2],
    "MountainCar-v0": [(-1.2, 0.6), 0.07],
    "MountainCarContinuous-v0": [(-1.2, 0.6), 0.07],
    "Pendulum-v1": [80.0, 8.0],  # 200 steps at full speed
}
# Corners that a uniform draw misses: both walls, the goal, thresholds, saturated speeds, the wrap of an angle.
EDGES = {
    "CartPole-v1": [[2.4, 0, 0, 0], [-2.4, -1e-3, 0, 0], [0, 0, np.radians(12), 0], [0, 0, -np.radians(12), -1e-3]],
    "Acrobot-v1": [[np.pi, np.pi, MAX_VEL_1, MAX_VEL_2], [-np.pi, -np.pi, -MAX_VEL_1, -MAX_VEL_2], [0, 0, 0, 0]],
    "MountainCar-v0": [[-1.2, 0], [-1.2, -0.07], [-1.19, -0.03], [0.499, 0.07], [0.6, 0.07], [0.5, 0], [0.5, -0.07]],
    "MountainCarContinuous-v0": [[-1.2, 0], [-1.2, -0.07], [-1.19, -0.03], [0.449, 0.07], [0.6, 0.07], [0.45, -0.07]],
    "Pendulum-v1": [[np.pi, 8], [-np.pi, -8], [np.pi - 1e-9, 0], [3 * np.pi - 1e-9, 0], [0, 0], [-np.pi + 1e-9, 8]],
}
IDS = list(MAKE_STATE)


def random_states(env_id, count=1000, seed=0):
    rng = np.random.default_rng(seed)
    bounds = [b if isinstance(b, tuple) else (-b, b) for b in BOUNDS[env_id]]
    states = rng.uniform(*np.transpose(bounds), size=(count, len(bounds)))
    start = rng.uniform(-0.1, 0.1, size=(count // 10, len(bounds)))  # more around the start
    states[: count // 10] = start if "MountainCar" not in env_id else start * [1, 0] + [-0.5, 0]
    return np.concatenate([states, EDGES[env_id]])


def every_action(space):
    if isinstance(space, gymnasium.spaces.Discrete):
        return list(range(space.n))
    high = float(space.high[0])
    return [np.array([value]) for value in (-3 * high, -high, -0.3 * high, 0.0, 0.61 * high, high, 1.7 * high)]


def step_gymnasium(env, state, action):
    env = env.unwrapped
    env.state = np.array(state)
    env.steps_beyond_terminated = None
    obs, reward, terminated, truncated, _ = env.step(action)
    assert not truncated
    return np.asarray(env.state, np.float64), np.asarray(obs), reward, terminated


def step_ours(env_id, states, action, dtype):
    columns = [jnp.asarray(column, dtype) for column in states.T]
    make_state = jax.vmap(MAKE_STATE[env_id], in_axes=-1, out_axes=-1)
    env = envs.make(env_id)
    step = jax.jit(jax.vmap(env.step, in_axes=(-1, None), out_axes=-1))(make_state(*columns), jnp.asarray(action))
    return step, np.stack(step.state[: states.shape[1]], axis=1)


@pytest.mark.parametrize("env_id", IDS)
def test_transitions_equal_gymnasium_from_everywhere(env_id):
    states = random_states(env_id)
    theirs = gymnasium.make(env_id)
    theirs.reset(seed=0)
    seen_terminated = 0
    with jax.enable_x64(True):
        for action in every_action(theirs.action_space):
            step, next_states = step_ours(env_id, states, action, jnp.float64)
            assert step.obs.dtype == jnp.float64 and step.reward.dtype == jnp.float64
            assert not step.truncated.any()
            expected = [step_gymnasium(theirs, state, action) for state in states]
            their_states, their_obs, their_rewards, their_terminated = map(np.array, zip(*expected, strict=True))
            # Observations, and the state of one task, are float32 on their side: 1e-6 of the value beside 1e-6.
            np.testing.assert_allclose(next_states, their_states, rtol=1e-6 * (env_id == IDS[3]), atol=1e-6)
            np.testing.assert_allclose(step.obs.T, their_obs, rtol=1e-6, atol=1e-6)
            np.testing.assert_allclose(step.reward, their_rewards, rtol=0, atol=1e-6)
            np.testing.assert_array_equal(step.terminated, their_terminated)
            seen_terminated += their_terminated.sum()
    assert (seen_terminated > 20) == (env_id != "Pendulum-v1")


@pytest.mark.parametrize(
    "env_id, kwargs",
    [
        ("CartPole-v1", {"sutton_barto_reward": True}),
        ("MountainCar-v0", {"goal_velocity": 0.03}),
        ("MountainCarContinuous-v0", {"goal_velocity": 0.03}),
        ("Pendulum-v1", {"g": 9.81}),
    ],
)
def test_arguments_mean_what_they_mean_in_gymnasium(env_id, kwargs):
    theirs, ours = gymnasium.make(env_id, **kwargs), envs.make(env_id, **kwargs)
    theirs.reset(seed=0)
    action = every_action(theirs.action_space)[-1]
    with jax.enable_x64(True):
        for state in random_states(env_id, count=100):
            step = ours.step(MAKE_STATE[env_id](*map(jnp.asarray, state)), jnp.asarray(action))
            _, their_obs, their_reward, their_terminated = step_gymnasium(theirs, state, action)
            np.testing.assert_allclose(step.obs, their_obs, rtol=1e-6, atol=1e-6)
            np.testing.assert_allclose(step.reward, their_reward, atol=1e-6)
            assert step.terminated == their_terminated


@pytest.mark.parametrize("env_id", IDS)
def test_float32_stays_close_to_float64(env_id):
    states = random_states(env_id)[:1000]
    action = every_action(envs.make(env_id).spec.action_space)[-1]
    single, _ = step_ours(env_id, states, action, jnp.float32)
    assert single.obs.dtype == jnp.float32 and single.reward.dtype == jnp.float32
    with jax.enable_x64(True):
        double, _ = step_ours(env_id, states, action, jnp.float64)
    # One step of the Acrobot at 28 rad/s amplifies an error hundreds of times.
    error = np.abs(np.asarray(single.obs) - np.asarray(double.obs)).max()
    assert error < (2e-3 if env_id == "Acrobot-v1" else 2e-5)
    assert np.mean(np.asarray(single.terminated) != np.asarray(double.terminated)) < 0.005


@pytest.mark.parametrize("env_id", IDS)
def test_reset_has_gymnasiums_distribution(env_id):
    theirs = gymnasium.make(env_id)
    samples = np.stack([theirs.reset(seed=seed)[0] for seed in range(2000)])
    keys = jax.random.split(jax.random.key(1), 4000)
    state, obs = jax.vmap(envs.make(env_id).reset)(keys)
    assert obs.shape == (4000, *theirs.observation_space.shape) and obs.dtype == jnp.float32
    for ours, gymnasiums in zip(np.asarray(obs).T, samples.T, strict=True):
        assert stats.ks_2samp(ours, gymnasiums).pvalue > 1e-3
    variables = MAKE_STATE[env_id](*state[: len(BOUNDS[env_id])])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), state, variables)
    independent = [column for column in np.stack(state[: len(BOUNDS[env_id])]) if column.std() > 0]
    correlation = np.corrcoef(independent) if len(independent) > 1 else np.eye(1)
    assert np.abs(correlation - np.eye(len(independent))).max() < 0.06


@pytest.mark.parametrize("env_id", IDS)
def test_spec_equals_gymnasiums(env_id):
    theirs, spec = gymnasium.make(env_id), envs.make(env_id).spec
    assert spec.id == env_id
    assert spec.observation_space == theirs.observation_space
    assert spec.action_space == theirs.action_space
    assert spec.horizon == theirs.spec.max_episode_steps
    assert spec.reward_threshold == theirs.spec.reward_threshold


@pytest.mark.parametrize("env_id", IDS)
def test_whole_episode_follows_gymnasium(env_id):
    theirs, ours = gymnasium.make(env_id), envs.make(env_id)
    rng = np.random.default_rng(3)
    with jax.enable_x64(True):
        state, _ = ours.reset(jax.random.key(5))
        theirs.reset(seed=0)
        theirs.unwrapped.state = np.array(state[: len(BOUNDS[env_id])], np.float64)
        step = jax.jit(ours.step)
        for _ in range(60):
            action = every_action(theirs.action_space)[rng.integers(len(every_action(theirs.action_space)))]
            obs, reward, terminated, _, _ = theirs.step(action)
            out = step(state, jnp.asarray(action))
            # MountainCarContinuous rounds its state to float32 at every step.
            np.testing.assert_allclose(out.obs, obs, atol=2e-5 if env_id == IDS[3] else 2e-6)
            np.testing.assert_allclose(out.reward, reward, atol=1e-5)
            assert out.terminated == terminated
            if terminated:
                break
            state = out.state


@pytest.mark.parametrize("reach", [np.pi, 30.0, 100.0])
def test_sincos_is_accurate_in_float32(reach):
    angles = np.linspace(-reach, reach, 500_001, dtype=np.float32)
    for function in (sincos, jax.jit(sincos)):
        sin, cos = function(jnp.asarray(angles))
        assert sin.dtype == cos.dtype == jnp.float32
        assert np.abs(sin - np.sin(angles.astype(np.float64))).max() < 2e-7
        assert np.abs(cos - np.cos(angles.astype(np.float64))).max() < 2e-7


def test_acrobot_is_compiled_in_linear_size():
    """Without ``outlined`` XLA recomputes every stage in each of its readers: 2,600 instructions, 30 times slower."""
    if jax.default_backend() != "cpu":
        pytest.skip("a property of XLA's CPU backend")
    env = envs.make("Acrobot-v1")
    state, _ = jax.vmap(env.reset, out_axes=-1)(jax.random.split(jax.random.key(0), 256))
    step = jax.jit(jax.vmap(env.step, in_axes=-1, out_axes=-1))
    text = step.lower(state, jnp.zeros(256, jnp.int32)).compile().as_text()
    assert text.count(" = ") < 1800
