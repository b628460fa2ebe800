"""Learning curves as points, and the env steps at which several of them are compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from polystep_rl.files import finite, plain


def curve_points(curve: Any) -> dict[str, list[float]]:
    """The points of a curve that have both numbers, in order of env steps; empty for a run without a curve.

    Of several evaluations at the same env steps the last counts.
    """
    curve = curve if isinstance(curve, Mapping) else {}
    pairs = zip(finite(plain(curve.get("env_steps"))) or [], finite(plain(curve.get("return"))) or [], strict=False)
    points = {steps: value for steps, value in pairs if steps is not None and value is not None and steps >= 0}
    return {"env_steps": sorted(points), "return": [points[steps] for steps in sorted(points)]}


def common_grid(curves: Iterable[Mapping[str, list[float]]], limit: int = 200) -> list[float]:
    """Env steps at which curves are compared: those of all their evaluations, or an even choice of that many."""
    steps = sorted({step for curve in curves for step in curve["env_steps"]})
    if len(steps) <= limit:
        return steps
    return [steps[index * (len(steps) - 1) // (limit - 1)] for index in range(limit)]
