"""What is measured: an evaluator on a population, in turns with others."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Case:
    """One evaluator on one population."""

    name: str
    precision: str
    env: str
    population: str
    candidates: int
    episodes: int
    lockstep: int  # steps
    living: int  # steps
    run: Callable[[], dict[str, float]] = field(repr=False)
    turns: int
    share: float | None = None  # of the lane steps, useful
    times: list[dict[str, float]] = field(default_factory=list)

    @property
    def best(self) -> dict[str, float]:
        return min(self.times, key=lambda t: t["wall"])

    def rate(self, kind: str) -> float:
        """Million steps per second; kind is lockstep or living."""
        return getattr(self, kind) / self.best["wall"] / 1e6

    def as_json(self) -> dict[str, Any]:
        plain = {key: value for key, value in vars(self).items() if key != "run"}
        return {
            **plain,
            "lockstep_per_second": 1e6 * self.rate("lockstep"),
            "living_per_second": 1e6 * self.rate("living"),
        }


def measure(cases: list[Case]) -> None:
    """In turns, so that a busy moment of the machine meets one measurement of each and not all of one."""
    for turn in range(max(case.turns for case in cases)):
        for case in cases:
            if turn < case.turns:
                case.times.append(case.run())


def cpu_model() -> str:
    """As Linux names it; what Python knows elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
