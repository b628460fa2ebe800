"""Write what rliable computes for a few score matrices, the reference of tests/polystep_rl/test_stats.py.

    python3.11 -m venv rliable-env
    rliable-env/bin/pip install rliable "pandas<3"
    rliable-env/bin/python scripts/checks/make_rliable_data.py tests/data/rliable.json

An environment of its own, because rliable depends on plotting and bootstrap packages that nothing here needs; pandas 2,
because arch, under rliable, predates 3. The package of this repository need not be installed.

rliable's resamples come from NumPy's global generator: it takes a `random_state` and ignores it. The run indices of
every resample are therefore stored with the interval that they give.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rliable import library, metrics

SEED = 0
REPS = 40  # enough that the percentiles fall between order statistics, few enough to store
LEVEL = 0.9
GAMMAS = (0.2, 1.0)
PACKAGES = ("rliable", "arch", "numpy", "scipy")
AGGREGATES = {
    "mean": metrics.aggregate_mean,
    "median": metrics.aggregate_median,
    "iqm": metrics.aggregate_iqm,
    "optimality_gap": metrics.aggregate_optimality_gap,
}


def score_matrices() -> dict[str, np.ndarray]:
    """Scores by name, (runs, environments)."""
    rng = np.random.default_rng(SEED)
    normal = rng.normal(size=(7, 5)).round(3)
    return {
        "one run": np.array([[0.3, -1.2]]),
        "three runs": np.array([[0.1], [0.7], [0.4]]),
        "ten runs": rng.normal(0.5, 0.3, (10, 1)).round(3),
        "ten better runs": rng.normal(0.7, 0.3, (10, 1)).round(3),
        "six tied runs": np.array([[1.0], [0.5], [0.5], [1.0], [0.0], [0.5]]),
        "three environments": rng.normal([0.2, 0.8, 1.5], [0.1, 0.4, 0.2], (5, 3)).round(3),
        "three environments, ties": rng.integers(0, 4, (8, 3)) / 2,
        "five environments": normal,
        "five environments, one the same": np.column_stack([normal[:, 0], rng.normal(size=(7, 4)).round(3)]),
    }


class Recorder:
    """Keeps the run indices that rliable's bootstraps draw while it is entered: (reps, arrays, runs, environments)."""

    def __init__(self) -> None:
        self.indices: list[list[list[list[int]]]] = []

    def __enter__(self) -> Recorder:
        self._restore = []
        for bootstrap in (library.StratifiedBootstrap, library.StratifiedIndependentBootstrap):
            draw = bootstrap.update_indices
            self._restore.append((bootstrap, draw))
            bootstrap.update_indices = self._recorded(draw)
        return self

    def __exit__(self, *error: object) -> None:
        for bootstrap, draw in self._restore:
            bootstrap.update_indices = draw

    def _recorded(self, draw: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def update_indices(bootstrap: Any) -> Any:
            drawn = draw(bootstrap)
            # One array: (its run indices, environment indices). Several: a list of such, and what was passed by name.
            arrays = drawn[0] if isinstance(drawn[0], list) else [drawn]
            self.indices.append([runs.tolist() for runs, *_ in arrays])
            return drawn

        return update_indices


def recorded(call: Callable[[], tuple[dict, dict]]) -> dict[str, Any]:
    """Value and interval of a call to rliable for the name "x", and the indices of each array: (reps, runs, envs)."""
    np.random.seed(SEED)  # noqa: NPY002 - the generator that rliable draws from
    with Recorder() as recorder:
        values, intervals = call()
    low, high = np.asarray(intervals["x"]).tolist()
    return {
        "value": np.asarray(values["x"]).tolist(),
        "low": low,
        "high": high,
        "indices": [list(array) for array in zip(*recorder.indices, strict=True)],
    }


def interval(scores: Any, statistic: Callable[..., float]) -> dict[str, Any]:
    """rliable's interval of a statistic, of an array or of a list of them."""
    return recorded(
        lambda: library.get_interval_estimates(
            {"x": scores},
            lambda *arrays: np.array([statistic(*arrays)]),
            reps=REPS,
            confidence_interval_size=LEVEL,
        )
    )


def profile(scores: np.ndarray, thresholds: np.ndarray) -> dict[str, Any]:
    """rliable's performance profile with its band."""
    found = recorded(
        lambda: library.create_performance_profile({"x": scores}, thresholds, reps=REPS, confidence_interval_size=LEVEL)
    )
    return {"thresholds": thresholds.tolist(), **found}


def main(out: Path) -> None:
    """Compute and write."""
    scores = score_matrices()
    pairs = [
        (x, y) for x in scores for y in scores if x != y and scores[x].shape[1] == scores[y].shape[1]
    ]  # ordered: both directions
    improvement = metrics.probability_of_improvement
    several = ("ten runs", "three environments, ties", "five environments")
    data = {
        "source": ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES),
        "scores": {name: array.tolist() for name, array in scores.items()},
        "aggregates": {
            name: {key: float(function(array)) for key, function in AGGREGATES.items()}
            for name, array in scores.items()
        },
        "optimality_gaps": [
            {"scores": name, "gamma": gamma, "value": float(metrics.aggregate_optimality_gap(array, gamma))}
            for name, array in scores.items()
            for gamma in GAMMAS
        ],
        "improvement": [{"x": x, "y": y, "value": float(improvement(scores[x], scores[y]))} for x, y in pairs],
        "level": LEVEL,
        "intervals": [
            {"scores": [name], "statistic": key, **interval(scores[name], function)}
            for name in several
            for key, function in AGGREGATES.items()
        ]
        + [
            {
                "scores": [x, y],
                "statistic": "probability_of_improvement",
                **interval([scores[x], scores[y]], improvement),
            }
            for x, y in (("six tied runs", "ten runs"), ("three environments", "three environments, ties"))
        ],
        "profiles": [
            # thresholds that equal scores too: the comparison is strict
            {"scores": name, **profile(scores[name], np.append(np.linspace(-1, 2, 7), scores[name][0, 0]))}
            for name in several
        ],
    }
    out.write_text(json.dumps(data, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the file to write")
    main(parser.parse_args().out)
