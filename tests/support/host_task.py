"""A host environment in NumPy: a point on a line, whose episodes depend on the seed of the reset and on the actions."""

import numpy as np
from gymnasium import spaces

from polystep_rl.types import EnvSpec, Ticks


class PointLanes:
    """Lanes of PointEnv; `lose` says which ticks of which lanes are lost."""

    together = False
    last_fault = ""

    def __init__(self, env, width, groups, lose):
        self.env, self.width, self.groups, self.lose = env, width, groups, lose
        self.faults, self.ticks, self.closed = 0, 0, False
        self.position = np.zeros((groups, width))
        self.left = np.zeros((groups, width), int)
        self.sent = {}

    def send(self, group, lanes, actions, seeds):
        assert group not in self.sent, "a group is sent once before it is received"
        assert (np.diff(lanes) > 0).all()
        assert len(lanes) == len(actions) == len(seeds)
        self.sent[group] = (lanes, np.asarray(actions, np.float64), seeds)

    def recv(self, group):
        lanes, actions, seeds = self.sent.pop(group)
        self.ticks += 1
        lost = np.array([self.lose(self.ticks, lane) for lane in lanes], bool)
        self.faults += int(lost.any())
        obs, reward = np.zeros((len(lanes), 2), np.float32), np.zeros(len(lanes))
        terminated = np.zeros(len(lanes), bool)
        for i, lane in enumerate(lanes):
            if lost[i]:
                self.left[group, lane] = -99
                continue
            if seeds[i] >= 0:
                rng = np.random.default_rng(seeds[i])
                self.position[group, lane] = rng.normal()
                self.left[group, lane] = rng.integers(1, self.env.longest + 1)
            else:
                assert self.left[group, lane] > 0, "a lane is stepped only while its episode lives"
                self.position[group, lane] += actions[i, 0]
                self.left[group, lane] -= 1
                reward[i] = -(self.position[group, lane] ** 2)
                terminated[i] = self.left[group, lane] == 0
            obs[i] = self.position[group, lane], self.left[group, lane]
        if self.env.mad is not None:
            reward[lanes == self.env.mad] = np.nan
        return Ticks(obs, reward, terminated, np.zeros(len(lanes), bool), lost)

    def close(self):
        self.closed = True


class PointEnv:
    simulator, crn, measures = "gymnasium", True, False

    def __init__(self, longest=7, horizon=50, lose=lambda tick, lane: False, mad=None):
        box = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.spec = EnvSpec("Point-v0", box, spaces.Box(-1, 1, (1,), np.float32), horizon, None)
        self.longest, self.lose, self.mad, self.pools = longest, lose, mad, []

    def lanes(self, width, groups, seed):
        self.pools.append(PointLanes(self, width, groups, self.lose))
        return self.pools[-1]

    def measuring(self):
        return self
