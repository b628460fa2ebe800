"""Statistics for comparing algorithms over few runs: robust aggregates, bootstrap intervals, learning curves.

Aggregates, stratified bootstrap, probability of improvement and performance profiles are those of Agarwal et al. 2021,
"Deep reinforcement learning at the edge of the statistical precipice", arXiv:2108.13264, and give the numbers of its
library `rliable`. `scores` are (runs, environments), or (runs,) for one environment, in one unit: over several
environments they are normalised first. All of it computes in float64, and raises a ValueError of one line for what is
empty, not finite or of the wrong shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

# Resamples of a bootstrap. At 5,000 the share beyond each end of a 95 % interval, 2.5 % by construction, has a
# standard error of 0.2 %. rliable takes 50,000 for aggregates and 2,000 for profiles.
REPS = 5000
BLOCK = 2**21  # array elements that are resampled at the same time: bounds memory, changes no result
Curve = tuple[ArrayLike, ArrayLike]  # env steps and returns of a run's evaluations, (k,) each


class MeanStd(NamedTuple):
    """A mean and a standard deviation, in the unit of the scores."""

    mean: float
    std: float


class Interval(NamedTuple):
    """The ends of a confidence interval, in the unit of the statistic."""

    low: float
    high: float


class Band(NamedTuple):
    """Values, and the ends of a confidence interval at each point by itself, (points,) each."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


def _array(name: str, given: ArrayLike, *shapes: str) -> np.ndarray:
    """Float64 array that is not empty, finite, and has as many axes as one of the shapes names."""
    expected = " or ".join(shapes)
    try:
        array = np.asarray(given, np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name} that is no array of numbers: expected {expected}") from None
    if array.ndim not in [len(shape.strip("(,)").split(",")) for shape in shapes] or array.size == 0:
        raise ValueError(f"{name} of shape {array.shape}: expected {expected}, not empty")
    if bad := np.count_nonzero(~np.isfinite(array)):
        raise ValueError(f"{name} with {bad} of {array.size} entries NaN or infinite: expected finite numbers")
    return array


def _scores(given: ArrayLike, name: str = "scores") -> np.ndarray:
    """Checked scores, (runs, environments)."""
    array = _array(name, given, "(runs,)", "(runs, environments)")
    return array[:, None] if array.ndim == 1 else array


def _same_environments(arrays: Sequence[np.ndarray]) -> None:
    if len({array.shape[1] for array in arrays}) != 1:
        shapes = " and ".join(str(array.shape) for array in arrays) or "none"
        raise ValueError(f"scores of shapes {shapes}: expected arrays with the same number of environments, axis 1")


# The statistics as (..., runs, environments) -> (...), so that a bootstrap takes its resamples in one call.
def _mean(scores: np.ndarray) -> np.ndarray:
    return scores.mean(-2).mean(-1)


def _median(scores: np.ndarray) -> np.ndarray:
    return np.median(scores.mean(-2), axis=-1)


def _iqm(scores: np.ndarray) -> np.ndarray:
    pooled = scores.reshape(*scores.shape[:-2], -1)
    cut = pooled.shape[-1] // 4  # rounded down, as in scipy.stats.trim_mean
    end = pooled.shape[-1] - cut
    return np.partition(pooled, (cut, end - 1), axis=-1)[..., cut:end].mean(-1)


def _optimality_gap(scores: np.ndarray, gamma: float = 1.0) -> np.ndarray:
    return gamma - np.minimum(scores, gamma).mean((-2, -1))


def _improvement(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = x[..., :, None, :], y[..., None, :, :]  # every run of x against every run of y
    return 0.5 * ((x > y).mean((-3, -2)) + (x >= y).mean((-3, -2))).mean(-1)


def mean(scores: ArrayLike) -> float:
    """Mean over runs and environments (rliable's `aggregate_mean`)."""
    return float(_mean(_scores(scores)))


def mean_std(scores: ArrayLike) -> MeanStd:
    """Mean, and standard deviation (n - 1) of the runs: over environments, its root mean square; of one run, NaN."""
    array = _scores(scores)
    std = math.sqrt(array.var(0, ddof=1).mean()) if len(array) > 1 else math.nan
    return MeanStd(float(_mean(array)), std)


def median(scores: ArrayLike) -> float:
    """Median over environments of the mean over runs (rliable's `aggregate_median`): of one environment, the mean."""
    return float(_median(_scores(scores)))


def iqm(scores: ArrayLike) -> float:
    """Interquartile mean: of all n scores pooled, without the floor(n / 4) lowest and as many highest.

    arXiv:2108.13264, sec. 4.3; rliable's `aggregate_iqm`, scipy's `trim_mean(scores, 0.25, axis=None)`.
    """
    return float(_iqm(_scores(scores)))


def optimality_gap(scores: ArrayLike, gamma: float = 1.0) -> float:
    """gamma - mean(min(score, gamma)): the mean shortfall from a score `gamma` that is good enough.

    arXiv:2108.13264, sec. 4.3; rliable's `aggregate_optimality_gap`.
    """
    return float(_optimality_gap(_scores(scores), gamma))


def probability_of_improvement(x: ArrayLike, y: ArrayLike) -> float:
    """P(X > Y) + P(X = Y) / 2 for a run of each, averaged over environments; the numbers of runs may differ.

    arXiv:2108.13264, sec. 4.3, the Mann-Whitney U statistic over the number of pairs; rliable's function of this name.
    Its interval is ``stratified_bootstrap([x, y], probability_of_improvement)``.
    """
    arrays = [_scores(x, "x"), _scores(y, "y")]
    _same_environments(arrays)
    return float(_improvement(*arrays))


_BATCHED: dict[Callable[..., Any], Callable[..., np.ndarray]] = {
    mean: _mean,
    median: _median,
    iqm: _iqm,
    optimality_gap: _optimality_gap,
    probability_of_improvement: _improvement,
}


def replicates(
    scores: Sequence[np.ndarray], indices: Sequence[np.ndarray], statistic: Callable[..., np.ndarray]
) -> np.ndarray:
    """A statistic of every resample: a pure function of which runs each takes.

    Args:
        scores: arrays (runs, environments); the numbers of runs may differ.
        indices: for each of them integers below its runs, (reps, runs, environments), or (reps, runs, 1) to take the
            same runs in every environment.
        statistic: of arrays (b, runs, environments), one for each of `scores`, to (b, ...).

    Returns:
        (reps, ...).
    """
    block = max(1, BLOCK // math.prod(array.size for array in scores))
    found = []
    for start in range(0, len(indices[0]), block):
        taken = [index[start : start + block] for index in indices]
        resamples = [array[rows, np.arange(array.shape[1])] for array, rows in zip(scores, taken, strict=True)]
        found.append(statistic(*resamples))
    return np.concatenate(found)


def percentile_interval(values: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the central share `level` of replicates, linear between order statistics. (reps, ...) -> two of (...)."""
    if not 0 < level < 1:
        raise ValueError(f"level {level!r}: expected a share between 0 and 1, such as 0.95")
    tail = (1.0 - level) / 2
    low, high = np.percentile(values, [100 * tail, 100 * (1.0 - tail)], axis=0)
    return low, high


def _draw(arrays: Sequence[np.ndarray], reps: int, seed: int) -> list[np.ndarray]:
    """Run indices for `replicates`, independent in every environment."""
    if reps < 1:
        raise ValueError(f"reps {reps!r}: expected at least 1 resample")
    rng = np.random.default_rng(seed)
    return [rng.integers(len(array), size=(reps, *array.shape)) for array in arrays]


def stratified_bootstrap(
    scores: ArrayLike | Sequence[ArrayLike],
    statistic: Callable[..., float],
    *,
    reps: int = REPS,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Percentile bootstrap interval, resampling as many runs with replacement in every environment by itself.

    arXiv:2108.13264, sec. 4.1. Below about ten runs such intervals are too narrow.

    Args:
        scores: an array; or a list or tuple of arrays, separate arguments of the statistic, resampled independently.
        statistic: of arrays (runs, environments) to a number. This module's take all resamples at once, any other is
            called for each.
        reps: resamples.
        seed: of the resampling.
        level: confidence, the share of resamples inside.
    """
    several: Sequence[Any] = scores if isinstance(scores, (list, tuple)) else [scores]
    arrays = [_scores(one) for one in several]
    _same_environments(arrays)

    def each(*resamples: np.ndarray) -> np.ndarray:
        return np.array([statistic(*one) for one in zip(*resamples, strict=True)])

    values = replicates(arrays, _draw(arrays, reps, seed), _BATCHED.get(statistic, each))
    if values.ndim != 1:
        raise ValueError(f"a statistic that returns shape {values.shape[1:]}: expected one number")
    low, high = percentile_interval(values, level)
    return Interval(float(low), float(high))


def mean_interval(returns: np.ndarray, draws: int = 2_000, seed: int = 0) -> Interval:
    """Percentile bootstrap interval, 95 %, of the mean return of one policy over its episodes (n,)."""
    rng = np.random.default_rng(seed)
    means = rng.choice(returns, (draws, len(returns))).mean(axis=1)
    return Interval(float(np.percentile(means, 2.5)), float(np.percentile(means, 97.5)))


def performance_profile(
    scores: ArrayLike, thresholds: ArrayLike, *, reps: int = REPS, seed: int = 0, level: float = 0.95
) -> Band:
    """Share of all scores above each threshold, (t,), and its bootstrap band as in `stratified_bootstrap`.

    arXiv:2108.13264, sec. 4.2, run-score distribution; rliable's `create_performance_profile`.
    """
    array, taus = _scores(scores), _array("thresholds", thresholds, "(t,)")

    def shares(scores: np.ndarray) -> np.ndarray:
        return np.stack([(scores > tau).mean((-2, -1)) for tau in taus], axis=-1)

    values = replicates([array], _draw([array], reps, seed), shares)
    return Band(shares(array), *percentile_interval(values, level))


def _curve(env_steps: ArrayLike, returns: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    steps, values = _array("env_steps", env_steps, "(k,)"), _array("returns", returns, "(k,)")
    if steps.shape != values.shape:
        raise ValueError(f"{len(steps)} env_steps and {len(values)} returns: expected as many of both")
    if steps[0] < 0 or (np.diff(steps) <= 0).any():
        raise ValueError("env_steps that are negative or do not increase: expected those of successive evaluations")
    return steps, values


def on_grid(env_steps: ArrayLike, returns: ArrayLike, grid: ArrayLike, kind: str = "linear") -> np.ndarray:
    """A learning curve (k,), (k,) at the env steps of a grid (g,), so that seeds can be averaged. -> (g,).

    Between evaluations it is linear, or with kind ``step`` the last evaluation so far; the first return holds before
    the first evaluation and the last after the last.
    """
    steps, values = _curve(env_steps, returns)
    points = _array("grid", grid, "(g,)")
    if kind == "linear":
        return np.interp(points, steps, values)
    if kind == "step":
        return values[np.maximum(np.searchsorted(steps, points, side="right") - 1, 0)]
    raise ValueError(f"kind {kind!r}: expected linear or step")


def area_under_curve(env_steps: ArrayLike, returns: ArrayLike, budget: float) -> float:
    """Mean return over [0, budget] env steps, of the linear curve of `on_grid`: trapezoids between evaluations."""
    steps, values = _curve(env_steps, returns)
    if not 0 < budget < math.inf:
        raise ValueError(f"budget {budget!r}: expected env steps above 0")
    ends = np.concatenate([[0.0], steps[(steps > 0) & (steps < budget)], [budget]])
    return float(np.trapezoid(np.interp(ends, steps, values), ends) / budget)


def steps_to_threshold(env_steps: ArrayLike, returns: ArrayLike, threshold: float) -> int | None:
    """Env steps of the first evaluation with a return of at least the threshold; None if there is none."""
    steps, values = _curve(env_steps, returns)
    if math.isnan(threshold):
        raise ValueError("a threshold that is NaN: expected a return")
    reached = np.flatnonzero(values >= threshold)
    return int(steps[reached[0]]) if len(reached) else None


def curve_band(
    curves: Sequence[Curve], grid: ArrayLike, *, reps: int = REPS, seed: int = 0, level: float = 0.95
) -> Band:
    """IQM over the runs of one environment, at each of (g,) env steps, and its bootstrap band; resamples whole curves.

    Between evaluations a curve is linear, and a run that stopped keeps its last return (`on_grid`).
    """
    if len(curves) == 0:
        raise ValueError("no curves: expected (env_steps, returns) of at least one run")
    runs = np.stack([on_grid(steps, returns, grid) for steps, returns in curves])  # (runs, g)

    def each_point(runs: np.ndarray) -> np.ndarray:
        return _iqm(np.swapaxes(runs, -1, -2)[..., None])

    values = replicates([runs], _draw([runs[:, :1]], reps, seed), each_point)
    return Band(each_point(runs), *percentile_interval(values, level))
