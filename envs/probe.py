"""Probe environments: tasks so small that the best return is known in closed form, to test a learner against.

Each has ``best_return``: the mean return over the reset distribution of the best policy of the observation.
Idea: the probe environments of rejax and of Andy Jones, "Debugging reinforcement learning systems", 2021.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from polystep_rl.types import Array, EnvSpec, Key, Step


class BanditState(NamedTuple):
    """The context, a scalar array ()."""

    context: Array


class Bandit:
    """One step, a constant observation (1,) of 1, two arms: arm 1 pays 1, arm 0 pays nothing. Best return 1."""

    best_return = 1.0

    def __init__(self) -> None:
        self.spec = EnvSpec("probe/Bandit-v0", _unit_box(1), spaces.Discrete(2), 1, self.best_return)

    def reset(self, key: Key) -> tuple[BanditState, Array]:
        """Always the same start."""
        context = jnp.ones(())
        return BanditState(context), context[None]

    def step(self, state: BanditState, action: Array) -> Step:
        """Pull an arm; terminates."""
        reward = jnp.where(action == 1, 1.0, 0.0).astype(state.context.dtype)
        return _step(state, state.context[None], reward, True)


class ContextualBandit:
    """One step, observation (1,) is -1 or 1 with equal chance: action 0 suits -1, action 1 suits 1.

    The suited action pays 1 and the other -1. Best return 1; a policy blind to the observation has mean 0.
    """

    best_return = 1.0

    def __init__(self) -> None:
        self.spec = EnvSpec("probe/ContextualBandit-v0", _unit_box(1), spaces.Discrete(2), 1, self.best_return)

    def reset(self, key: Key) -> tuple[BanditState, Array]:
        """Draw the context."""
        context = jax.random.rademacher(key, (), dtype=jnp.result_type(float))
        return BanditState(context), context[None]

    def step(self, state: BanditState, action: Array) -> Step:
        """Pull an arm; terminates."""
        reward = jnp.where(action == 1, state.context, -state.context)
        return _step(state, state.context[None], reward, True)


class DelayedState(NamedTuple):
    """Every field is a scalar array ()."""

    cue: Array  # -1 or 1
    correct: Array  # 1 if the first action answered the cue
    time: Array  # int32, steps taken


class DelayedReward:
    """Observation (2,): a cue of ±1 that is seen at the first step only (0 afterwards), and the time as a fraction.

    The first action decides (action 1 answers the cue 1, action 0 the cue -1); the reward, 1 or 0, comes with the
    last of ``delay`` steps. Best return 1; a policy blind to the cue has mean 0.5.
    """

    best_return = 1.0

    def __init__(self, delay: int = 5):
        if delay < 1:
            raise ValueError(f"delay must be at least 1 step, got {delay}")
        self.delay = delay
        self.spec = EnvSpec("probe/DelayedReward-v0", _unit_box(2), spaces.Discrete(2), delay, self.best_return)

    def reset(self, key: Key) -> tuple[DelayedState, Array]:
        """Draw the cue."""
        cue = jax.random.rademacher(key, (), dtype=jnp.result_type(float))
        state = DelayedState(cue, jnp.zeros_like(cue), jnp.zeros((), jnp.int32))
        return state, jnp.stack([cue, jnp.zeros_like(cue)])

    def step(self, state: DelayedState, action: Array) -> Step:
        """Advance the clock; terminates after ``delay`` steps."""
        answer = jnp.where((action == 1) == (state.cue > 0), 1.0, 0.0).astype(state.cue.dtype)
        correct = jnp.where(state.time == 0, answer, state.correct)
        new = DelayedState(state.cue, correct, state.time + 1)
        obs = jnp.stack([jnp.zeros_like(state.cue), new.time.astype(state.cue.dtype) / self.delay])
        last = new.time >= self.delay
        return _step(new, obs, jnp.where(last, correct, 0), last)


class TargetState(NamedTuple):
    """Every field is a scalar array ()."""

    x: Array
    y: Array


class Target:
    """One step, continuous: observation (2,) = (x, y) uniform in ±1, action (2,) clipped to ±1.

    Reward minus the squared distance of the action to (-y/2, x/2). Best return 0; the best constant action, zero,
    has mean -1/6.
    """

    best_return = 0.0

    def __init__(self) -> None:
        self.spec = EnvSpec("probe/Target-v0", _unit_box(2), _unit_box(2), 1, -0.01)

    def reset(self, key: Key) -> tuple[TargetState, Array]:
        """Draw the observation."""
        obs = jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0)
        return TargetState(obs[0], obs[1]), obs

    def step(self, state: TargetState, action: Array) -> Step:
        """Score the action; terminates."""
        aim = jnp.clip(action.astype(state.x.dtype), -1.0, 1.0)
        reward = -((aim[0] + state.y / 2) ** 2) - (aim[1] - state.x / 2) ** 2
        return _step(state, jnp.stack(state), reward, True)


class IntegratorState(NamedTuple):
    """The position, a scalar array ()."""

    x: Array


class Integrator:
    """Continuous, four steps: observation (1,) = x, uniform in ±1 at first; action (1,), clipped to ±1, is added to x.

    Reward -x^2 of the position before the step. The best policy, action = -x, pays only for the start: best return
    -1/3. Doing nothing has mean -4/3. Ends by its horizon only, never terminates.
    """

    best_return = -1 / 3

    def __init__(self) -> None:
        wide = spaces.Box(-5.0, 5.0, (1,), np.float32)
        self.spec = EnvSpec("probe/Integrator-v0", wide, _unit_box(1), 4, None)

    def reset(self, key: Key) -> tuple[IntegratorState, Array]:
        """Draw the position."""
        x = jax.random.uniform(key, (), minval=-1.0, maxval=1.0)
        return IntegratorState(x), x[None]

    def step(self, state: IntegratorState, action: Array) -> Step:
        """Move by the action."""
        x = jnp.clip(state.x + jnp.clip(action[0].astype(state.x.dtype), -1.0, 1.0), -5.0, 5.0)
        return _step(IntegratorState(x), x[None], -state.x * state.x, False)


def _unit_box(size: int) -> spaces.Box:
    return spaces.Box(-1.0, 1.0, (size,), np.float32)


def _step(state: NamedTuple, obs: Array, reward: Array, terminated: Array | bool) -> Step:
    return Step(state, obs, reward, jnp.asarray(terminated), jnp.zeros((), bool), {})
