"""A user's own Gymnasium environments, as the tests put them into the current folder."""

import gymnasium
import numpy as np
from gymnasium import spaces


class Mine(gymnasium.Env):
    """Pays ``pay`` for naming the place, and as much for telling the direction; goes on for ever."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}
    observation_space = spaces.Dict({"where": spaces.Discrete(3), "speed": spaces.Box(-1, 1, (2,), np.float64)})
    action_space = spaces.MultiDiscrete([3, 2])

    def __init__(self, pay=1.0, render_mode=None):
        self.pay, self.render_mode = pay, render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.draw(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        right = int(action[0] == self.now["where"]) + int(action[1] == (self.now["speed"][0] > 0))
        return self.draw(), self.pay * right, False, False, {}

    def draw(self):
        self.now = {"where": self.np_random.integers(3), "speed": self.np_random.uniform(-1, 1, 2)}
        return self.now

    def render(self):
        return np.zeros((40, 60, 3), np.uint8)


class Slider(gymnasium.Env):
    """Pays less, the farther the action (in -2 to 6) is from 5."""

    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Box(-2, 6, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.np_random.uniform(-1, 1, 1).astype(np.float32), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        return np.ones(1, np.float32), -abs(float(action[0]) - 5), False, False, {}


class Broken(Slider):
    def __init__(self, how, render_mode=None):
        self.how, self.time = how, 0

    def reset(self, *, seed=None, options=None):
        if self.how == "reset":
            raise RuntimeError("the joint\nis broken")
        self.time = 0
        obs, info = super().reset(seed=seed)
        return (obs * np.nan if self.how == "nan observation" else obs), info

    def step(self, action):
        self.time += 1
        if self.how == "step" and self.time == 3:
            raise RuntimeError("the joint\nis broken")
        obs, reward, *rest = super().step(action)
        obs = obs * np.nan if self.how == "nan observation" else obs
        return obs, (np.nan if self.how == "nan reward" else reward), *rest


class Unbounded(Slider):
    action_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)


class Spaced(Slider):
    def __init__(self, most=6):
        self.action_space = spaces.Box(-2, most, (1,), np.float32)


def limited():
    return gymnasium.wrappers.TimeLimit(Slider(), 5)


gymnasium.register("mine/Mine-v0", Mine, max_episode_steps=6)
