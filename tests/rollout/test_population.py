"""Rollouts against a plain Python loop; the layout of the loop changes nothing."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from support.cases import mostly_slow

from polystep_rl.envs import make
from polystep_rl.policies import make_policy
from polystep_rl.rollout.population import RolloutConfig, rollout
from polystep_rl.types import Array, Env, EnvSpec, Key, Policy, Step

CASES = {
    "CartPole-v1": "binary",
    "Pendulum-v1": "float32",
    "probe/DelayedReward-v0": "float32",
}
N, R = 5, 3


class Case(NamedTuple):
    """A population, its rollout, and the same episodes one step at a time."""

    env: Env
    policy: Policy
    deployed: Any
    keys: Key
    returns: np.ndarray  # (n, r)
    lengths: np.ndarray  # (n, r)
    seen: np.ndarray  # (steps, o) observations acted upon


def python_loop(env: Env, policy: Policy, params: Any, keys: Key) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns, lengths and observations, by calling reset, act and step and nothing else."""
    reset, step, act = jax.jit(env.reset), jax.jit(env.step), jax.jit(policy.act)
    returns, lengths, seen = np.zeros((N, R)), np.zeros((N, R), int), []
    for i in range(N):
        one = jax.tree.map(lambda x, i=i: x[i], params)
        for j in range(R):
            state, obs = reset(keys[j])
            while True:
                seen.append(np.asarray(obs))
                out = step(state, act(one, obs))
                state, obs = out.state, out.obs
                returns[i, j] += float(out.reward)
                lengths[i, j] += 1
                if bool(out.terminated) or bool(out.truncated) or lengths[i, j] == env.spec.horizon:
                    break
    return returns, lengths, np.stack(seen)


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    env = make(request.param)
    policy = make_policy(env.spec, (8,), CASES[request.param], 0.1, 0.3)
    params = jax.vmap(policy.init)(jax.random.split(jax.random.key(3), N))
    keys = jax.random.split(jax.random.key(4), R)
    deployed = jax.jit(jax.vmap(policy.deploy))(params)
    return Case(env, policy, deployed, keys, *python_loop(env, policy, params, keys))


def run(case: Case, config: RolloutConfig = RolloutConfig(), **kwargs: Any) -> Any:
    jitted = jax.jit(lambda d, k: rollout(case.env, case.policy, d, k, config, **kwargs))
    return jax.device_get(jitted(case.deployed, case.keys))


def test_every_episode_is_that_of_a_python_loop(case: Case) -> None:
    out = run(case, collect_moments=True)
    np.testing.assert_array_equal(out.lengths, case.lengths)
    if case.env.spec.id == "Pendulum-v1":
        np.testing.assert_allclose(out.returns, case.returns, rtol=1e-4)
    else:
        np.testing.assert_array_equal(out.returns, case.returns)
    moments = out.obs_moments
    assert moments.weight == len(case.seen) == case.lengths.sum()
    np.testing.assert_allclose(moments.mean, case.seen.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(moments.m2, case.seen.var(0) * len(case.seen), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "config", [RolloutConfig(2, 0.0), RolloutConfig(1000, 0.9), RolloutConfig(1000, tail=0)], ids=str
)
def test_layout_changes_no_bit(case: Case, config: RolloutConfig) -> None:
    expected, given = run(case), run(case, config)
    np.testing.assert_array_equal(given.returns, expected.returns)
    np.testing.assert_array_equal(given.lengths, expected.lengths)


@pytest.mark.parametrize(
    "env_id, precision",
    mostly_slow([("CartPole-v1", "binary"), ("Acrobot-v1", "float32")], lambda case: case[1] == "binary"),
)
def test_a_population_returns_the_same_on_any_number_of_lanes(env_id: str, precision: str) -> None:
    env = make(env_id)
    # Moments are summed around the policy's offset, which lies near the mean, as it does in training.
    offset = (1.0, 0.0, 1.0, 0.0, 0.0, 0.0) if env_id == "Acrobot-v1" else 0.0
    policy = make_policy(env.spec, (8,), precision, offset)
    params = jax.vmap(policy.init)(jax.random.split(jax.random.key(0), 300))
    keys = jax.random.split(jax.random.key(1), 3)
    deployed = jax.vmap(policy.deploy)(params)

    def go(config: RolloutConfig) -> Any:
        return jax.device_get(jax.jit(lambda d: rollout(env, policy, d, keys, config, True))(deployed))

    expected = go(RolloutConfig(tail=0))
    for config in (RolloutConfig(1), RolloutConfig(64), RolloutConfig(4096), RolloutConfig(640, 0.0, 48)):
        given = go(config)
        np.testing.assert_array_equal(given.returns, expected.returns)
        np.testing.assert_array_equal(given.lengths, expected.lengths)
        assert given.obs_moments.weight == expected.obs_moments.weight == expected.lengths.sum()
        # float32 sums of up to 25,000 steps a lane, in another order
        np.testing.assert_allclose(given.obs_moments.mean, expected.obs_moments.mean, atol=2e-4)
        np.testing.assert_allclose(given.obs_moments.m2, expected.obs_moments.m2, rtol=1e-3)
        assert given.lane_steps >= given.lengths.sum()
    assert go(RolloutConfig(16, 0.0)).lane_steps < go(RolloutConfig(4096, tail=0)).lane_steps


def test_only_the_first_candidates_are_rolled_out() -> None:
    env = make("CartPole-v1")
    policy = make_policy(env.spec, (4,), "float32")
    params = jax.vmap(policy.init)(jax.random.split(jax.random.key(0), 4))
    keys = jax.random.split(jax.random.key(1), 3)

    @jax.jit
    def go(count: Array) -> Any:
        return rollout(env, policy, jax.vmap(policy.deploy)(params), keys, RolloutConfig(5), True, count)

    all_four = go(jnp.int32(4))
    for count in (0, 1, 3):
        out = go(jnp.int32(count))
        np.testing.assert_array_equal(out.returns[:count], all_four.returns[:count])
        assert not out.returns[count:].any() and not out.lengths[count:].any()
        assert out.obs_moments.weight == out.lengths.sum()
        assert np.isfinite(out.obs_moments.mean).all()


@pytest.mark.parametrize("config", [RolloutConfig(), RolloutConfig(1), RolloutConfig(32, tail=16)], ids=str)
@pytest.mark.parametrize(
    "env_id, precision",
    mostly_slow([("CartPole-v1", "binary"), ("Pendulum-v1", "float32")], lambda case: case[1] == "binary"),
)
def test_groups_return_what_each_would_by_itself(env_id: str, precision: str, config: RolloutConfig) -> None:
    """And groups that have ended, and padding candidates, are not simulated."""
    env, groups, n, r = make(env_id), 3, 5, 4
    policy = make_policy(env.spec, (8,), precision, 0.1, 0.3)
    params = jax.vmap(policy.init)(jax.random.split(jax.random.key(0), groups * n))
    keys = jax.random.split(jax.random.key(1), (groups, r))
    deployed = jax.jit(jax.vmap(policy.deploy))(params)
    alone = jax.jit(lambda d, k, real: rollout(env, policy, d, k, config, False, real))
    together = jax.jit(lambda real, going: rollout(env, policy, deployed, keys, config, False, real, groups=going))
    for real, going in ((n, groups), (3, groups), (n, 2), (4, 1), (n, 0), (0, groups)):
        out = together(jnp.int32(real), jnp.int32(going))
        assert out.returns.shape == out.lengths.shape == (groups, n, r)
        for g in range(groups):
            own = jax.tree.map(lambda x, g=g: x[g * n : (g + 1) * n], deployed)
            expected = alone(own, keys[g], jnp.int32(real if g < going else 0))
            np.testing.assert_array_equal(out.returns[g], expected.returns)
            np.testing.assert_array_equal(out.lengths[g], expected.lengths)
            assert bool(out.lengths[g].any()) == (g < going and real > 0)
        if config.lanes == 1:  # so that idle lanes are few
            assert out.lane_steps <= out.lengths.sum() + 16 * env.spec.horizon


class ClockState(NamedTuple):
    time: Array
    ends: Array
    cut: Array  # whether it ends by truncation
    nothing: Array  # (0,), as simulators have them


class Clock:
    """Pays 1 a step, ends after 1 to 9 steps one way or the other, and pays NaN to whoever goes on after the end."""

    def __init__(self) -> None:
        self.spec = EnvSpec("clock", spaces.Box(-1, 1, (1,), np.float32), spaces.Discrete(2), 7, None)

    def reset(self, key: Key) -> tuple[ClockState, Array]:
        ends = jax.random.randint(key, (), 1, 10)
        return ClockState(
            jnp.int32(0), ends, jax.random.bernoulli(jax.random.fold_in(key, 1)), jnp.zeros(0)
        ), jnp.zeros(1)

    def step(self, state: ClockState, action: Array) -> Step:
        late = state.time >= jnp.minimum(state.ends, self.spec.horizon)
        new = state._replace(time=state.time + 1)
        over = new.time >= state.ends
        obs = jnp.where(late, jnp.nan, 0.5)[None]
        return Step(new, obs, jnp.where(late, jnp.nan, 1.0), over & ~state.cut, over & state.cut, {})


def test_first_episode_only_and_nothing_after_its_end() -> None:
    env = Clock()
    policy = make_policy(env.spec, (), "float32")
    params = jax.vmap(policy.init)(jax.random.split(jax.random.key(0), 3))
    keys = jax.random.split(jax.random.key(1), 40)
    states = jax.vmap(env.reset)(keys)[0]
    assert set(np.asarray(states.cut)) == {False, True}, "both endings are tried"
    expected = np.minimum(states.ends, env.spec.horizon)
    assert (np.asarray(states.ends) > env.spec.horizon).any(), "and the horizon"
    for config in (RolloutConfig(), RolloutConfig(lanes=4, idle=0.5)):
        out = jax.jit(
            lambda p, c=config: rollout(env, policy, jax.vmap(policy.deploy)(p), keys, c, collect_moments=True)
        )(params)
        np.testing.assert_array_equal(out.lengths, np.broadcast_to(expected, (3, 40)))
        np.testing.assert_array_equal(out.returns, out.lengths)
        assert out.obs_moments.weight == 3 * expected.sum()
        assert np.isfinite(out.obs_moments.m2).all()


class MixedState(NamedTuple):
    key: Key
    half: Array  # float16
    byte: Array  # uint8
    flag: Array  # bool


class Mixed:
    """Ends at random, by a key in its state; its reward tells whether the rest of the state is as it was."""

    def __init__(self) -> None:
        self.spec = EnvSpec("mixed", spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(2), 50, None)

    def reset(self, key: Key) -> tuple[MixedState, Array]:
        return MixedState(key, jnp.float16(0.5), jnp.uint8(250), jnp.bool_(True)), jax.random.normal(key, (2,))

    def step(self, state: MixedState, action: Array) -> Step:
        key, now = jax.random.split(state.key)
        over = jax.random.bernoulli(now, 0.1)
        same = (state.half == 0.5) & (state.byte == 250) & state.flag
        new = state._replace(key=key)
        return Step(new, jax.random.normal(now, (2,)), jnp.where(same, 1.0, -99.0), over, jnp.zeros_like(over), {})


def test_a_state_may_have_any_types() -> None:
    env, keys = Mixed(), jax.random.split(jax.random.key(1), 3)
    policy = make_policy(env.spec, (4,), "binary")
    deployed = jax.vmap(policy.deploy)(jax.vmap(policy.init)(jax.random.split(jax.random.key(0), 60)))
    few, many = (
        jax.jit(lambda d, c=config: rollout(env, policy, d, keys, c))(deployed)
        for config in (RolloutConfig(32), RolloutConfig(180, tail=0))
    )
    np.testing.assert_array_equal(few.lengths, many.lengths)
    assert len(np.unique(few.lengths)) == 3 and (few.lengths == few.lengths[0]).all(), "one of each key"
    np.testing.assert_array_equal(few.returns, few.lengths)
