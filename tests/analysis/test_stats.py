"""Statistics: rliable's stored numbers (scripts/checks/make_rliable_data.py), scipy's, and laws."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats

from polystep_rl.analysis import stats
from polystep_rl.analysis.stats import (
    area_under_curve,
    curve_band,
    iqm,
    mean,
    mean_std,
    median,
    on_grid,
    optimality_gap,
    percentile_interval,
    performance_profile,
    probability_of_improvement,
    replicates,
    steps_to_threshold,
    stratified_bootstrap,
)

REFERENCE = json.loads((Path(__file__).parents[1] / "data" / "rliable.json").read_text(encoding="utf-8"))
SCORES = {name: np.array(scores) for name, scores in REFERENCE["scores"].items()}
AGGREGATES: dict[str, Callable[..., float]] = {
    "mean": mean,
    "median": median,
    "iqm": iqm,
    "optimality_gap": optimality_gap,
}
same = partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-12)
RNG = np.random.default_rng


def name(case: dict[str, Any]) -> str:
    return ", ".join([*case["scores"], case["statistic"]])


@pytest.mark.parametrize("scores", SCORES)
def test_aggregates_are_rliables(scores: str) -> None:
    for statistic, value in REFERENCE["aggregates"][scores].items():
        same(AGGREGATES[statistic](SCORES[scores]), value, err_msg=statistic)


def test_optimality_gap_is_rliables() -> None:
    for case in REFERENCE["optimality_gaps"]:
        same(optimality_gap(SCORES[case["scores"]], case["gamma"]), case["value"])


def test_probability_of_improvement_is_rliables() -> None:
    assert len(REFERENCE["improvement"]) >= 16
    for case in REFERENCE["improvement"]:
        same(probability_of_improvement(SCORES[case["x"]], SCORES[case["y"]]), case["value"], err_msg=str(case))


@pytest.mark.parametrize("one_by_one", [False, True])
@pytest.mark.parametrize("case", REFERENCE["intervals"], ids=name)
def test_same_resamples_give_rliables_interval(case: dict[str, Any], one_by_one: bool, monkeypatch: Any) -> None:
    # The public call, with rliable's indices in place of ours; without _BATCHED it takes the way of any statistic.
    monkeypatch.setattr(stats, "_draw", lambda *_: [np.array(index) for index in case["indices"]])
    if one_by_one:
        monkeypatch.setattr(stats, "_BATCHED", {})
    statistic = {**AGGREGATES, "probability_of_improvement": probability_of_improvement}[case["statistic"]]
    found = stratified_bootstrap([SCORES[one] for one in case["scores"]], statistic, level=REFERENCE["level"])
    same([found.low, found.high], [case["low"][0], case["high"][0]])
    assert found.low < case["value"][0] < found.high


@pytest.mark.parametrize("case", REFERENCE["profiles"], ids=lambda case: case["scores"])
def test_profiles_are_rliables(case: dict[str, Any], monkeypatch: Any) -> None:
    monkeypatch.setattr(stats, "_draw", lambda *_: [np.array(index) for index in case["indices"]])
    found = performance_profile(SCORES[case["scores"]], case["thresholds"], level=REFERENCE["level"])
    for key in ("value", "low", "high"):
        same(getattr(found, key), case[key], err_msg=key)


@pytest.mark.parametrize("shape", [(n,) for n in range(1, 13)] + [(10, 1), (5, 3), (6, 7)])
def test_iqm_is_scipys_trimmed_mean(shape: tuple[int, ...]) -> None:
    scores = RNG(0).normal(size=shape)
    same(iqm(scores), scipy.stats.trim_mean(scores, 0.25, axis=None), rtol=1e-14)


def test_mean_std() -> None:
    scores = RNG(0).normal(size=(6, 3))
    same(mean_std(scores[:, 0]), [np.mean(scores[:, 0]), np.std(scores[:, 0], ddof=1)])
    assert np.isnan(mean_std([3.0]).std) and mean_std([3.0]).mean == 3.0
    # how far environments are apart is no spread of the runs
    same(mean_std(scores + [0, 100, -5]).std, mean_std(scores).std)
    same(mean_std(scores).std ** 2, np.mean([mean_std(column).std ** 2 for column in scores.T]))


@pytest.mark.parametrize("statistic", AGGREGATES.values(), ids=AGGREGATES)
def test_the_order_of_runs_is_of_no_matter(statistic: Callable[..., float]) -> None:
    scores = RNG(0).normal(size=(9, 4))
    same(statistic(RNG(1).permuted(scores, axis=0)), statistic(scores))
    same(mean_std(RNG(1).permuted(scores, axis=0)), mean_std(scores))


def test_units() -> None:
    scores = RNG(0).normal(size=(10, 3))
    for statistic in (mean, median, iqm):
        same(statistic(3.0 * scores - 7.0), 3.0 * statistic(scores) - 7.0)
        same(statistic(-scores), -statistic(scores))
        same(
            stratified_bootstrap(3.0 * scores - 7.0, statistic),
            3.0 * np.array(stratified_bootstrap(scores, statistic)) - 7,
        )
    same(optimality_gap(3.0 * scores, gamma=1.5), 3.0 * optimality_gap(scores, gamma=0.5))
    assert iqm([0, 1, 1, 1e9]) == 1.0  # what it is for


def test_probability_of_improvement_laws() -> None:
    x, y = RNG(0).integers(0, 4, (5, 3)), RNG(1).integers(0, 4, (8, 3))
    forth, back = probability_of_improvement(x, y), probability_of_improvement(y, x)
    assert 0 < forth != 0.5 and forth < 1
    same(forth + back, 1.0)
    same(probability_of_improvement(np.exp(x), np.exp(y)), forth)  # order is all that counts
    assert probability_of_improvement(x, x) == 0.5
    assert probability_of_improvement([2.0, 3.0], [1.0, 0.0, -1.0]) == 1.0
    assert probability_of_improvement([1.0], [1.0, 0.0, 2.0, 1.0]) == 0.5


def test_both_algorithms_are_resampled_by_themselves() -> None:
    x = RNG(0).normal(size=(6, 1))
    low, high = stratified_bootstrap([x, x], probability_of_improvement)
    assert low < 0.3 and high > 0.7  # were they resampled alike, it would be 0.5
    low, high = stratified_bootstrap([x, [[0.0]]], probability_of_improvement)
    assert low < high
    low, high = stratified_bootstrap([[0.0], x], lambda x, y: float(x.mean() - y.mean()))
    same([low, high], -np.array(stratified_bootstrap(x, mean)[::-1]), atol=0.05)


def test_environments_are_resampled_by_themselves() -> None:
    runs = np.arange(5.0)
    together = stratified_bootstrap(np.column_stack([runs, -runs]), mean)
    assert together.low < -0.5 and together.high > 0.5  # were whole rows resampled, it would be 0
    low, high = stratified_bootstrap(np.broadcast_to([0.0, 10.0, 20.0], (4, 3)), iqm)
    assert low == high == 10.0  # runs never leave their environment


def test_intervals_contain_the_statistic_and_shrink() -> None:
    widths = []
    for runs in (5, 20, 80, 320):
        half = RNG(runs).normal(size=(runs, 2))
        scores = np.concatenate([half, -half]) + 3.0
        low, high = stratified_bootstrap(scores, iqm)
        assert low < iqm(scores) < high
        same(iqm(scores), 3.0)
        widths.append(high - low)
    ratios = np.divide(widths[:-1], widths[1:])
    assert (ratios > 1.3).all() and (ratios < 3.2).all()  # about 2: the square root of the runs


def test_level_seed_and_reps() -> None:
    scores = RNG(0).normal(size=(10, 2))
    assert stratified_bootstrap(scores, iqm) == stratified_bootstrap(scores, iqm)
    assert stratified_bootstrap(scores, iqm) != stratified_bootstrap(scores, iqm, seed=1)
    wide, narrow = stratified_bootstrap(scores, iqm, level=0.99), stratified_bootstrap(scores, iqm, level=0.5)
    assert wide.low < narrow.low < narrow.high < wide.high
    low, high = stratified_bootstrap(scores, iqm, reps=1)
    assert low == high
    same(stratified_bootstrap(scores, iqm), stratified_bootstrap(scores, lambda scores: iqm(scores)))
    same(stratified_bootstrap(scores[:, 0], iqm), stratified_bootstrap(scores[:, :1], iqm))


def test_coverage() -> None:
    inside = 0
    for seed in range(300):
        low, high = stratified_bootstrap(RNG(seed).normal(size=20), iqm, reps=300, seed=seed)
        inside += low <= 0 <= high
    assert 0.88 <= inside / 300 <= 0.98  # percentile intervals at 20 runs: somewhat below the 0.95


def test_bootstrap_of_the_mean_has_its_standard_error() -> None:
    scores = RNG(0).normal(size=400)
    low, high = stratified_bootstrap(scores, mean)
    same(high - low, 2 * 1.96 * mean_std(scores).std / 20, rtol=0.05)


def test_blocks_change_nothing(monkeypatch: Any) -> None:
    x, y = RNG(0).normal(size=(6, 2)), RNG(1).normal(size=(4, 2))
    whole = stratified_bootstrap([x, y], probability_of_improvement, reps=101)
    monkeypatch.setattr(stats, "BLOCK", 1000)  # 10 resamples at the same time, one in the last block
    assert stratified_bootstrap([x, y], probability_of_improvement, reps=101) == whole


def test_replicates_take_the_same_runs_everywhere_when_told() -> None:
    scores = RNG(0).normal(size=(4, 3))
    rows = RNG(1).integers(4, size=(7, 4, 1))
    found = replicates([scores], [rows], lambda resamples: resamples.mean(1))
    same(found, [scores[row[:, 0]].mean(0) for row in rows])
    same(percentile_interval(found, 0.5), [np.quantile(found, 0.25, axis=0), np.quantile(found, 0.75, axis=0)])


def test_profile_laws() -> None:
    scores = RNG(0).normal(size=(6, 4))
    thresholds = np.linspace(-4, 4, 33)
    profile = performance_profile(scores, thresholds)
    for ends in profile:
        assert ends.shape == thresholds.shape
        assert (np.diff(ends) <= 0).all() and ends[0] == 1 and ends[-1] == 0
    assert (profile.low <= profile.value).all() and (profile.value <= profile.high).all()
    assert (profile.low < profile.high).any()
    # the area under it is the mean, as for any distribution
    fine = np.linspace(-4, 4, 8001)
    same(performance_profile(scores, fine, reps=1).value.mean() * 8 - 4, mean(scores), atol=2e-3)
    assert performance_profile([1.0, 2.0], [1.0]).value == 0.5  # above, not at


def test_area_under_curve() -> None:
    steps = [100, 300, 400]
    same(area_under_curve(steps, [5.0, 5.0, 5.0], 1000), 5.0)
    same(area_under_curve([100], [5.0], 7), 5.0)
    # 1 until 100, a line to 3 at 300, to 0 at 400, 0 until 500
    same(area_under_curve(steps, [1.0, 3.0, 0.0], 500), (100 + 400 + 150 + 0) / 500)
    same(area_under_curve(steps, [1.0, 3.0, 0.0], 200), (100 + 150) / 200)
    same(area_under_curve([0, 10], [0.0, 1.0], 10), 0.5)
    # it is the mean of the curve that on_grid draws
    returns = RNG(0).normal(size=3)
    fine = np.linspace(0, 700, 700_001)
    same(area_under_curve(steps, returns, 700), on_grid(steps, returns, fine).mean(), atol=1e-5)


def test_steps_to_threshold() -> None:
    steps, returns = np.array([10, 20, 30, 40]), [0.0, 5.0, 4.0, 9.0]
    assert steps_to_threshold(steps, returns, 5.0) == 20
    assert steps_to_threshold(steps, returns, 5.1) == 40
    assert steps_to_threshold(steps, returns, -1.0) == 10
    assert steps_to_threshold(steps, returns, 9.1) is None
    assert type(steps_to_threshold(steps, returns, 5.0)) is int


def test_on_grid() -> None:
    steps, returns, grid = [10, 20, 40], [1.0, 3.0, 2.0], [0, 10, 15, 20, 30, 39, 40, 99]
    same(on_grid(steps, returns, grid), [1, 1, 2, 3, 2.5, 2.05, 2, 2])
    same(on_grid(steps, returns, grid, "step"), [1, 1, 1, 3, 3, 3, 2, 2])
    for kind in ("linear", "step"):
        same(on_grid(steps, returns, steps, kind), returns)


def test_curve_band() -> None:
    grid = np.linspace(0, 100, 11)
    offsets = RNG(0).normal(size=8)
    curves = [(np.arange(5 + i, 95, 7), offset + np.arange(5 + i, 95, 7) ** 0.5) for i, offset in enumerate(offsets)]
    band = curve_band(curves, grid)
    table = np.stack([on_grid(*curve, grid) for curve in curves])
    same(band.value, [iqm(column) for column in table.T])
    assert (band.low < band.value).all() and (band.value < band.high).all()
    # at one point it is the interval of the scores there, and so at any point for the same resamples
    for at in (0, 7):
        same([band.low[at], band.high[at]], stratified_bootstrap(table[:, at], iqm))
    alone = curve_band(curves[:1], grid)
    same(alone.low, alone.value)
    same(alone.high, alone.value)
    # whole curves are resampled: of curves that are apart by a constant, the band is as wide everywhere
    lines = curve_band([([0, 100], [offset, offset + 9]) for offset in offsets], grid)
    same(lines.high - lines.low, lines.high[0] - lines.low[0])


STEPS = [1, 2, 3]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: iqm([]), r"scores of shape \(0,\): expected \(runs,\) or \(runs, environments\), not empty"),
        (lambda: mean(np.zeros((2, 0))), r"shape \(2, 0\)"),
        (lambda: median(1.0), r"shape \(\): expected \(runs,\)"),
        (lambda: mean_std(np.zeros((2, 2, 2))), r"shape \(2, 2, 2\): expected"),
        (lambda: iqm([1.0, np.nan, np.inf]), "2 of 3 entries NaN or infinite: expected finite"),
        (lambda: optimality_gap([1.0, None]), "1 of 2 entries NaN"),
        (lambda: iqm([[1.0], [1.0, 2.0]]), r"scores that is no array of numbers: expected \(runs,\) or"),
        (lambda: iqm(["a"]), "no array of numbers"),
        (lambda: probability_of_improvement([1.0], [np.nan]), "^y with 1 of 1 entries NaN"),
        (
            lambda: probability_of_improvement(np.ones((3, 2)), np.ones((3, 1))),
            r"\(3, 2\) and \(3, 1\): .* same number",
        ),
        (lambda: stratified_bootstrap([np.ones((3, 2)), np.ones(3)], mean), r"\(3, 2\) and \(3, 1\): .* same number"),
        (lambda: stratified_bootstrap([], mean), "shapes none"),
        (lambda: stratified_bootstrap([1.0, 2.0], mean), r"shape \(\): expected \(runs,\)"),
        (lambda: stratified_bootstrap(np.ones(3), iqm, reps=0), "reps 0: expected at least 1"),
        (lambda: stratified_bootstrap(np.ones(3), iqm, level=95), "level 95: expected a share between 0 and 1"),
        (
            lambda: stratified_bootstrap(np.ones(3), lambda x: x[0], reps=9),
            r"returns shape \(1,\): expected one number",
        ),
        (lambda: performance_profile(np.ones(3), []), r"thresholds of shape \(0,\): expected \(t,\), not empty"),
        (lambda: performance_profile(np.ones(3), 0.5), r"thresholds of shape \(\)"),
        (lambda: area_under_curve(STEPS, [1.0, 2.0], 3), "3 env_steps and 2 returns: expected as many"),
        (lambda: area_under_curve(STEPS, STEPS, 0), "budget 0: expected env steps above 0"),
        (lambda: area_under_curve(STEPS, STEPS, np.nan), "budget nan"),
        (lambda: area_under_curve([1, 2, 2], STEPS, 3), "env_steps that are negative or do not increase"),
        (lambda: area_under_curve([-1, 2, 3], STEPS, 3), "env_steps that are negative"),
        (lambda: steps_to_threshold(STEPS, [1.0, np.nan, 2.0], 3), "returns with 1 of 3 entries NaN"),
        (lambda: steps_to_threshold(STEPS, STEPS, np.nan), "threshold that is NaN"),
        (lambda: on_grid([STEPS], [STEPS], [1]), r"env_steps of shape \(1, 3\): expected \(k,\)"),
        (lambda: on_grid(STEPS, STEPS, [[1]]), r"grid of shape \(1, 1\): expected \(g,\)"),
        (lambda: on_grid(STEPS, STEPS, [1], "cubic"), "kind 'cubic': expected linear or step"),
        (lambda: curve_band([], [1]), "no curves: expected"),
    ],
)
def test_errors_are_one_line(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
