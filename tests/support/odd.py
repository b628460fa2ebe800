"""Gymnasium environments that misbehave, and some of unusual spaces; worker processes import them by this name."""

import os
import re
import signal
import sys
import time
from pathlib import Path

import gymnasium
import numpy as np
from gymnasium import spaces


class Counter(gymnasium.Env):
    """Counts to ``length``; observes (number drawn at the reset, step, last action), and is paid the drawn number."""

    observation_space = spaces.Box(-1e6, 1e6, (3,), np.float64)
    action_space = spaces.Discrete(3, start=1)

    def __init__(self, length=8):
        self.length = length

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.drawn, self.time = self.np_random.random(), 0
        return self._observe(0), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.time += 1
        return self._observe(action), self.drawn, self.time == self.length, False, {}

    def _observe(self, action):
        return np.array([self.drawn, self.time, action])


class Faulty(Counter):
    """Fails in step ``when`` of an episode, once for all (``marker`` is a path) or always."""

    def __init__(self, how="raise", when=3, marker="", length=8):
        super().__init__(length)
        self.how, self.when, self.marker = how, when, Path(marker) if marker else None

    def step(self, action):
        if self.time + 1 == self.when and (self.marker is None or self.first()):
            self.fail()
        return super().step(action)

    def first(self):
        """Whether no other environment has failed yet, in whichever process."""
        try:
            self.marker.touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def fail(self):
        if self.how == "hang":
            while True:
                time.sleep(1)
        elif self.how == "spin":  # in C code that never lets another thread run
            re.match(r"(a+)+$", "a" * 64 + "b")
        elif self.how == "sys.exit":
            sys.exit("enough")
        elif self.how == "os._exit":
            os._exit(3)
        elif self.how == "segfault":
            signal.signal(signal.SIGSEGV, signal.SIG_DFL)  # pytest's own handler would print where
            os.kill(os.getpid(), signal.SIGSEGV)
            time.sleep(10)
        raise ArithmeticError("the joint\nis broken")


class Remembers(Counter):
    """What it observes depends on the episode before."""

    before = 0.0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.drawn, self.before = self.drawn + self.before, self.drawn
        return self._observe(0), {}


def sized(size):
    """A function with an argument."""
    return Counter(size)


def walker():
    """A class of one's own that keeps its Box2D world, as its parent does."""
    from gymnasium.envs.box2d.bipedal_walker import BipedalWalker

    return type("Mine", (BipedalWalker,), {"__module__": __name__})()


class Slow(Counter):
    """Takes a while for each step, but does go on."""

    def step(self, action):
        time.sleep(0.4)
        return super().step(action)


class Inside(Counter):
    """Observes what is true of the process that it lives in."""

    def _observe(self, action):
        light = "jax" not in sys.modules
        from polystep_rl import envs

        return np.array([light, callable(envs.make), os.environ.get("OMP_NUM_THREADS") == "1"], np.float64)


class Nested(gymnasium.Env):
    """Observes a dictionary and acts in a grid of integers that start at odd numbers."""

    observation_space = spaces.Dict(
        {
            "where": spaces.Tuple((spaces.Discrete(3, start=5), spaces.Box(0, 255, (2, 2), np.uint8))),
            "speed": spaces.Box(-np.inf, np.inf, (2,), np.float64),
        }
    )
    action_space = spaces.MultiDiscrete([[2, 3]], start=[[1, 7]])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._observe(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        return self._observe(), float(np.sum(action)), False, False, {}

    def _observe(self):
        pixels = self.np_random.integers(0, 256, (2, 2)).astype(np.uint8)
        return {"speed": self.np_random.normal(size=2), "where": (np.int64(6), pixels)}


class WrongSize(Counter):
    """Returns one number where its space has three."""

    def _observe(self, action):
        return np.zeros(1)


class AddOne(gymnasium.RewardWrapper):
    """A wrapper of one's own."""

    def __init__(self, env, extra=1.0):
        super().__init__(env)
        self.extra = extra

    def reward(self, reward):
        return reward + self.extra


def limited(length=8, limit=5, render_mode=None):
    """A function that makes an environment, with a time limit inside and no spec."""
    return gymnasium.wrappers.TimeLimit(Counter(length), limit)


def needs_a_package():
    """As an environment of a package that is not installed."""
    raise gymnasium.error.DependencyNotInstalled("Foo is not installed, run `pip install foo`")


NUMBER = 3
gymnasium.register("test/Counter-v0", Counter, max_episode_steps=6)
