"""How the tests play episodes: by hand in plain Gymnasium, and on a pool in any order, beginning lost ones anew."""

import gymnasium
import numpy as np

from polystep_rl.envs.host.single import make_single


def actions_of(space, seed, steps):
    """The actions of the episode with that seed: those of a policy, so integers start at 0."""
    rng = np.random.default_rng(seed)
    if isinstance(space, gymnasium.spaces.Discrete):
        return rng.integers(space.n, size=steps).astype(np.int32)
    if isinstance(space, gymnasium.spaces.MultiDiscrete):
        return rng.integers(space.nvec, size=(steps, *space.shape)).astype(np.int32)
    return rng.uniform(space.low, space.high, (steps, *space.shape)).astype(np.float32)


def by_hand(env, seeds, own=lambda action: action):
    """Each episode in a fresh environment: seed -> [(obs, reward, terminated, truncated), ...]."""
    episodes = {}
    for seed in seeds:
        single = make_single(*env.recipe)
        space = single.observation_space
        row = lambda obs, space=space: gymnasium.spaces.flatten(space, obs).astype(np.float32)  # noqa: E731
        steps = [(row(single.reset(seed=seed)[0]), 0.0, False, False)]
        for action in actions_of(env.spec.action_space, seed, env.spec.horizon):
            obs, reward, terminated, truncated, _ = single.step(own(action))
            steps.append((row(obs), float(reward), terminated, truncated))
            if terminated or truncated:
                break
        single.close()
        episodes[seed] = steps
    return episodes


def tick(pool, group, lanes, seed=-1):
    """One tick of some lanes of a group, with action 1: a step, or a reset with a seed."""
    k = len(lanes)
    pool.send(group, np.array(lanes), np.ones(k, np.int32), np.full(k, seed))
    return pool.recv(group)


class Player:
    """Plays episodes on a pool: a random part of the lanes of every group each tick, received in a random order."""

    def __init__(self, env, pool, seeds, order=0):
        self.pool = pool
        self.rng = np.random.default_rng(order)
        self.space = env.spec.action_space
        self.actions = {seed: actions_of(self.space, seed, env.spec.horizon) for seed in seeds}
        self.waiting = list(self.rng.permutation(seeds))
        self.playing = {}  # (group, lane) -> (seed, what came back so far)
        self.done = {}
        self.lost = 0

    def play(self, before_tick=lambda: None, limit=5000):
        for _ in range(limit):
            if not (self.waiting or self.playing):
                return self.done
            before_tick()
            sent = [(group, self._send(group)) for group in self.rng.permutation(self.pool.groups).tolist()]
            for index in self.rng.permutation(len(sent)):
                group, lanes = sent[index]
                self._receive(group, lanes)
        raise AssertionError("the episodes never ended")

    def _send(self, group):
        lanes = np.sort(self.rng.permutation(self.pool.width)[: self.rng.integers(1, self.pool.width + 1)])
        lanes = np.array([lane for lane in lanes if (group, lane) in self.playing or self.waiting], int)
        actions, seeds = [], []
        for lane in lanes:
            if (group, lane) not in self.playing:
                # A lane that takes part but has been given nothing yet begins an episode.
                if not self.waiting:
                    lanes = lanes[lanes != lane]
                    continue
                self.playing[group, lane] = (int(self.waiting.pop()), [])
            seed, steps = self.playing[group, lane]
            actions.append(self.actions[seed][max(0, len(steps) - 1)])
            seeds.append(-1 if steps else seed)
        dtype = np.float32 if isinstance(self.space, gymnasium.spaces.Box) else np.int32
        batch = np.array(actions, dtype).reshape(len(lanes), *self.space.shape)
        self.pool.send(group, lanes, batch, np.array(seeds, np.int64))
        return lanes

    def _receive(self, group, lanes):
        ticks = self.pool.recv(group)
        assert ticks.obs.dtype == np.float32 and ticks.reward.dtype == np.float64
        assert ticks.terminated.dtype == ticks.truncated.dtype == ticks.lost.dtype == bool
        for lane, obs, reward, terminated, truncated, lost in zip(lanes, *ticks[:5], strict=True):
            seed, steps = self.playing[group, lane]
            if lost:
                assert not (obs.any() or reward or terminated or truncated)
                self.lost += 1
                self.waiting.append(seed)
                del self.playing[group, lane]
                continue
            steps.append((obs, float(reward), bool(terminated), bool(truncated)))
            if terminated or truncated:
                self.done[seed] = steps
                del self.playing[group, lane]


def assert_same(left, right):
    """The same episodes, bit for bit."""
    assert left.keys() == right.keys()
    for seed in left:
        assert len(left[seed]) == len(right[seed]), seed
        for (obs, *rest), (other, *others) in zip(left[seed], right[seed], strict=True):
            assert np.array_equal(obs, other) and rest == others
