"""An observer of a search that keeps what it hears."""

from __future__ import annotations

from polystep_rl.training.state import Observer, Progress, Row


class Record(Observer):
    """Keeps what it hears of; interrupts after some generations."""

    def __init__(self, interrupt_after: int | None = None) -> None:
        self.rows: list[Row] = []
        self.chunks: list[int] = []
        self.saved: list[Progress] = []
        self.interrupt_after = interrupt_after

    def generations(self, rows: list[Row]) -> None:
        self.rows += rows
        self.chunks.append(len(rows))

    def checkpoint(self, progress: Progress) -> None:
        self.saved.append(progress)

    def interrupted(self) -> bool:
        return self.interrupt_after is not None and len(self.rows) >= self.interrupt_after

    def table(self) -> list[str]:
        """Its rows without times, each as a text, in which NaN equals NaN."""
        return [repr({k: v for k, v in row.items() if not k.startswith("time/")}) for row in self.rows]
