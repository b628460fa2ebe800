"""The checker passes good environments (test_registry.py) and names what is wrong with broken ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from polystep_rl.envs import check_env
from polystep_rl.envs.classic.cartpole import CartPole
from polystep_rl.envs.classic.pendulum import Pendulum


class Broken(CartPole):
    """CartPole with one result of reset or step replaced."""

    def __init__(self, reset=None, step=None, **spec):
        super().__init__()
        self.spec = self.spec._replace(**spec)
        self._reset = reset or (lambda state, obs: (state, obs))
        self._step = step or (lambda step: step)

    def reset(self, key):
        return self._reset(*super().reset(key))

    def step(self, state, action):
        return self._step(super().step(state, action))


class HiddenCounter(CartPole):
    """Keeps its time in the object."""

    time = 0

    def step(self, state, action):
        self.time += 1
        step = super().step(state, action)
        return step._replace(reward=step.reward * self.time)


class PythonBranch(CartPole):
    """Works eagerly only."""

    def step(self, state, action):
        step = super().step(state, action)
        return step._replace(reward=step.reward if state.x > 0 else 2 * step.reward)


NOISE = np.random.default_rng(0)

BROKEN = {
    "obs shape": (Broken(reset=lambda s, o: (s, o[:3])), r"reset: obs must have shape \(4,\) .*, got \(3,\)"),
    "obs dtype": (Broken(step=lambda s: s._replace(obs=s.obs.astype(jnp.int32))), r"dtype float32 .*, got int32"),
    "obs bounds": (Broken(step=lambda s: s._replace(obs=s.obs + 9)), r"step: obs\[0\] must be within \[-4.8"),
    "obs not an array": (Broken(step=lambda s: s._replace(obs=list(range(4)))), r"must be a JAX array, got int"),
    "reward shape": (Broken(step=lambda s: s._replace(reward=s.reward[None])), r"float\(\), got float32\(1,\)"),
    "reward dtype": (Broken(step=lambda s: s._replace(reward=jnp.int32(1))), r"reward .* float\(\), got int32\(\)"),
    "reward finite": (Broken(step=lambda s: s._replace(reward=s.reward * jnp.nan)), r"reward must be finite, got nan"),
    "terminated": (Broken(step=lambda s: s._replace(terminated=s.reward)), r"terminated .* bool\(\), got float32\(\)"),
    "truncated": (Broken(step=lambda s: s._replace(truncated=False)), r"truncated .* bool\(\), got bool"),
    "state dtype": (
        Broken(step=lambda s: s._replace(state=s.state._replace(x=jnp.int32(0)))),
        r"state must stay CartPoleState\(.x: float32.*got CartPoleState\(.x: int32",
    ),
    "state structure": (
        Broken(step=lambda s: s._replace(state=tuple(s.state))),
        r"state must stay CartPoleState.*tuple",
    ),
    "state finite": (Broken(reset=lambda s, o: (s._replace(x=s.x / 0), o)), r"reset: state.x must be finite"),
    "gym tuple": (Broken(step=lambda s: (s.obs, s.reward, s.terminated, False, {})), r"return a types.Step, got tuple"),
    "reset alone": (Broken(reset=lambda s, o: o), r"reset must return \(state, obs\)"),
    "numpy noise": (
        Broken(step=lambda s: s._replace(reward=s.reward + NOISE.normal())),
        r"step of the same state and action must give the same .reward as again",
    ),
    "hidden state": (HiddenCounter(), r"must give the same .reward as again, got 1. and 2."),
    "python branch": (PythonBranch(), r"jitted step failed, TracerBoolConversionError"),
    "horizon": (Broken(horizon=0), r"spec.horizon must be a positive int, got 0"),
    "action space": (
        Broken(action_space=spaces.MultiBinary(2)),
        r"must be Discrete, Box or MultiDiscrete, got MultiBinary",
    ),
    "unbounded": (Broken(action_space=spaces.Box(-np.inf, np.inf, (1,))), r"must be bounded on both sides"),
    "not an env": (object(), r"needs spec, reset and step"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_environment_is_named_in_one_line(name):
    env, message = BROKEN[name]
    with pytest.raises(ValueError, match=message) as error:
        check_env(env)
    assert "\n" not in str(error.value)


def test_any_key_and_float64_are_accepted():
    check_env(Pendulum(), jax.random.key(7))
    with jax.enable_x64(True):
        check_env(CartPole())


class TwoSwitches(CartPole):
    """MultiDiscrete actions; the second is not used."""

    def __init__(self):
        super().__init__()
        self.spec = self.spec._replace(action_space=spaces.MultiDiscrete([2, 3]))

    def step(self, state, action):
        return super().step(state, action[0])


def test_multidiscrete_actions_are_tried():
    check_env(TwoSwitches())
