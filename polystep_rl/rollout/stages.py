"""Evaluators that follow each other while the budget is spent, such as those of a task that becomes harder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from polystep_rl.rollout.host import HostEvaluator
from polystep_rl.types import Evaluation, Key, Params, PyTree


class Stages:
    """Evaluators that follow each other, each for an equal part of the budget of env steps.

    Args:
        parts: one a stage; only the present one holds simulators.
    """

    on_host, grows = True, True
    structured = False

    def __init__(self, parts: Sequence[HostEvaluator]) -> None:
        self._parts, self._stage = tuple(parts), 0

    @property
    def faults(self) -> int:
        """Simulators that died and were replaced so far."""
        return sum(part.faults for part in self._parts)

    def close(self) -> None:
        for part in self._parts:
            part.close()

    def __call__(
        self, key: Key, candidates: PyTree, decode: Callable[[PyTree], Params], spent: Any = 0.0
    ) -> Evaluation:
        stage = min(int(spent * len(self._parts)), len(self._parts) - 1)
        if stage != self._stage:
            self._parts[self._stage].close()
            self._stage = stage
        return self._parts[stage](key, candidates, decode, spent)
