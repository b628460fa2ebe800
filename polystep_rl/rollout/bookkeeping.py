"""Which (candidate, episode) pairs of a generation are to do, and what those that were begun have returned."""

from __future__ import annotations

from collections import Counter, deque
from typing import Any

import numpy as np

from polystep_rl.errors import SimulatorError
from polystep_rl.moments import moments_of_sums
from polystep_rl.types import Moments

MAX_LOSSES = 5  # of one episode


class Ledger:
    """Returns of the pairs so far, and the pairs that are to do; pair p is episode p % r of candidate p // r.

    Args:
        n: candidates.
        episodes: r, of each candidate.
        offset: (o,), subtracted from observations before they are summed, which keeps the sums small.
        collect: whether observations are summed at all.
    """

    def __init__(self, n: int, episodes: int, offset: np.ndarray, collect: bool) -> None:
        pairs, obs_size = n * episodes, len(offset)
        self.returns = np.zeros(pairs)
        self.lengths = np.zeros(pairs, np.int32)
        self.sums = np.zeros((2, pairs if collect else 0, obs_size))  # of x and x * x, x = obs - offset
        self.offset, self.collect, self.episodes = offset, collect, episodes
        self.left = pairs  # that nobody has begun
        self.todo = [list(range((c + 1) * episodes - 1, c * episodes - 1, -1)) for c in range(n)]
        self.todo.append([])  # of candidate -1, which is nobody's
        self.turn = deque(range(n))  # candidates, those that nobody has begun first
        self.losses: Counter[int] = Counter()

    def begin(self, candidates: list[int]) -> list[int]:
        """A pair to do for each of some lanes (at most ``left``), given the candidates that they had (-1: none yet).

        A lane goes on with its own candidate while that has pairs to do, so that its weights stay; others take turns.
        """
        todo, turn, found = self.todo, self.turn, []
        for candidate in candidates:
            own = todo[candidate]
            if not own:
                while not todo[turn[0]]:
                    turn.popleft()
                own = todo[turn[0]]
                turn.rotate(-1)
            found.append(own.pop())
        self.left -= len(found)
        return found

    def saw(self, pair: np.ndarray, obs: np.ndarray) -> None:
        """Observations (k, o) that a policy acts on. Only where they are collected."""
        x = obs.astype(np.float64) - self.offset
        self.sums[0, pair] += x
        self.sums[1, pair] += x * x

    def again(self, pair: int, why: str) -> None:
        """Forget an episode that was lost and do it once more; SimulatorError if that happens over and over."""
        self.losses[pair] += 1
        if self.losses[pair] >= MAX_LOSSES:
            raise SimulatorError(f"an episode was lost {MAX_LOSSES} times in a row: {why}")
        self.returns[pair] = self.lengths[pair] = 0
        if self.collect:
            self.sums[:, pair] = 0
        self.left += 1
        candidate = pair // self.episodes
        self.todo[candidate].append(pair)
        self.turn.appendleft(candidate)

    def moments(self) -> Moments:
        """Summed in the order of the pairs."""
        size = self.offset.shape[0]
        if not self.collect:
            nothing: Any = (np.zeros(()), np.zeros(size), np.zeros(size))
            return Moments(*nothing)
        count = np.asarray(float(self.lengths.sum()))
        return moments_of_sums(count, self.sums.sum(axis=1), self.offset, np.maximum)
