"""Observations that exports are tested on, and the actions that they must give."""

from __future__ import annotations

import numpy as np

from polystep_rl.policies.runtime import Network
from polystep_rl.types import INPUT_UNIT, INTEGER_PRECISIONS, Params, PolicySpec

ODD = (np.nan, np.inf, -np.inf, 3.4e38, -3.4e38, 0.0, -0.0, 6e5, -6e5)
TOLERANCE = 1e-5  # of float policies: of the half-width of a box; of the size of the outputs that are compared


def random_observations(spec: PolicySpec, count: int, rng: np.random.Generator) -> np.ndarray:
    """(count, o) float32 around the input scales of a policy.

    For integer policies also 100 times as wide and as narrow, on the ties of the quantiser, infinite, and no numbers.
    """
    shape = (count, spec.obs_size)
    scale, offset = np.asarray(spec.obs_scale), np.asarray(spec.obs_offset)
    obs = offset + scale * rng.normal(size=shape)
    if spec.precision not in INTEGER_PRECISIONS:
        return obs.astype(np.float32)
    obs = offset + (obs - offset) * 10.0 ** rng.uniform(-2, 2, size=(count, 1))
    ties = (rng.integers(-300, 300, size=shape) + 0.5) * scale / INPUT_UNIT
    obs = np.where(rng.random(shape) < 0.1, ties, obs)
    with np.errstate(over="ignore"):
        return np.where(rng.random(shape) < 0.02, rng.choice(np.array(ODD), size=shape), obs).astype(np.float32)


class Comparer:
    """Whether actions (n, entries) are those of a policy: the same bits of integer ones, to `TOLERANCE` of others."""

    def __init__(self, spec: PolicySpec, params: Params) -> None:
        self.spec = spec
        self.exact = spec.precision in INTEGER_PRECISIONS
        self._network = Network(spec, params)

    def wrong(self, obs: np.ndarray, wanted: np.ndarray, found: np.ndarray) -> np.ndarray:
        """(n,) bool. Choices of float policies may differ where the outputs are as good as equal."""
        if self.exact:
            return (wanted != found).any(axis=1)
        if self.spec.head == "box":
            half = (np.asarray(self.spec.action_high) - np.asarray(self.spec.action_low)) / 2
            return (~(np.abs(wanted.astype(np.float64) - found) <= TOLERANCE * half)).any(axis=1)
        bad = (wanted != found).any(axis=1)
        starts = np.cumsum((0, *self.spec.groups[:-1])) if self.spec.groups else np.zeros(1, int)
        for row in np.flatnonzero(bad):
            y = self._network.outputs(obs[row : row + 1])[0]
            gap = np.abs(y[starts + wanted[row]] - y[starts + found[row]])
            bad[row] = np.any(gap > TOLERANCE * (1 + np.abs(y).max()))
        return bad

    def settled(self, obs: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """(n,) bool: the observations on which NumPy's arithmetic agrees with what is wanted, to be embedded."""
        found = self._network.actions(obs)
        if self.exact or self.spec.head == "box":
            return ~self.wrong(obs, wanted, found)
        return (wanted == found).all(axis=1)
