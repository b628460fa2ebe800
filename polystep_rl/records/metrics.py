"""Sinks for metrics: a CSV file, TensorBoard, and optionally Weights & Biases.

A sink is anything with the two methods of :class:`Logger`; :class:`polystep_rl.records.folder.RunDir` hands every row
to all of its sinks.
"""

from __future__ import annotations

import contextlib
import csv
import io
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from polystep_rl.files import write_atomic

Value = float | int | str | None


class LoggerError(ValueError):
    """Metrics that cannot be logged. One line saying what is wrong and what to do."""


class Logger(Protocol):
    """Where rows of metrics go."""

    def write(self, generation: int, env_steps: int, values: Mapping[str, Value]) -> None:
        """Take one row; ``None`` stands for a value that this generation does not have."""
        ...

    def close(self) -> None:
        """Write out what is buffered and release the files."""
        ...


def to_python(value: Any) -> Value:
    """A JAX, NumPy or Python scalar as a Python one, exactly (a float32 becomes the equal float)."""
    if value is None or type(value) in (bool, int, float, str):
        return int(value) if type(value) is bool else value
    array = np.asarray(value)
    if array.size != 1:
        raise LoggerError(f"a metric has shape {array.shape}; log scalars only")
    scalar = array.item()
    return scalar if isinstance(scalar, (int, float)) and type(scalar) is not bool else to_python(scalar)


class CsvLogger:
    """``metrics.csv``: one header fixed by the first row, one row a generation.

    The columns are ``generation``, ``env_steps`` and then the first row's keys in its order, so a value that comes
    only every so often must stand in the first row as ``None`` (an empty cell). Floats are written with ``repr`` and
    round-trip. A row is handed to the operating system as it is written; :meth:`sync` makes it survive a power cut.

    Args:
        path: the file; appended to if it exists.
        upto: drop the rows of later generations first, and a last line that a crash cut short.
    """

    def __init__(self, path: Path, upto: int | None = None) -> None:
        if upto is not None and path.exists():
            write_atomic(path, _rows_upto(path.read_text(encoding="utf-8"), upto).encode())
        self._file = open(path, "a+", encoding="utf-8", newline="")
        self._file.seek(0)
        header = self._file.readline()
        self._file.seek(0, os.SEEK_END)
        self._columns: list[str] | None = next(csv.reader([header])) if header else None

    def write(self, generation: int, env_steps: int, values: Mapping[str, Value]) -> None:
        """Append one row. Raises LoggerError for a key that the header lacks."""
        row: dict[str, Value] = {"generation": generation, "env_steps": env_steps, **values}
        text = ""
        if self._columns is None:
            self._columns = list(row)
            text = _line(self._columns)
        for key in row:
            if key not in self._columns:
                raise LoggerError(f"metrics.csv has no column {key!r}; give it in the first row, as None if need be")
        self._file.write(text + _line(_cell(row.get(column)) for column in self._columns))
        self._file.flush()

    def sync(self) -> None:
        """Make all rows so far durable."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _line(cells: Iterable[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(cells)
    return buffer.getvalue()


def _cell(value: Value) -> str:
    if value is None:
        return ""
    return value.replace("\n", " ").replace("\r", " ") if isinstance(value, str) else repr(value)


def _rows_upto(text: str, generation: int) -> str:
    """The header and the complete lines with a generation at or below the given one, byte for byte."""
    lines = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
    try:
        return "".join(lines[:1] + [line for line in lines[1:] if int(line.split(",", 1)[0]) <= generation])
    except ValueError as error:
        raise LoggerError("metrics.csv is damaged; restore it, or start a new run") from error


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Value]]:
    """The rows of a ``metrics.csv``: numbers as int or float, empty cells as None, other cells as they stand."""
    with open(path, encoding="utf-8", newline="") as file:
        return [{key: _parse(cell) for key, cell in row.items()} for row in csv.DictReader(file)]


def _parse(cell: str | None) -> Value:
    if not cell:
        return None
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(cell)
    return cell


@contextlib.contextmanager
def _hidden(package: str) -> Iterator[None]:
    """As if a package were not installed: tensorboardX imports PyTorch where it can, for over a second, and for tensors
    that it is never given here."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[package]


class TensorBoardLogger:
    """TensorBoard events with env steps on the horizontal axis, under the key names that stable-baselines3 uses.

    ``time/total_timesteps`` is added to every row. On resume, ``purge_step`` hides the events at and after that step.
    """

    def __init__(self, folder: Path, purge_step: int | None = None) -> None:
        with _hidden("torch"):
            from tensorboardX import SummaryWriter  # slow to import, and not needed to read a run

        # The writer names its file by the second; a resume within that second must not overwrite it.
        self._writer = SummaryWriter(str(folder), purge_step=purge_step, filename_suffix=f".{time.time_ns()}")

    def write(self, generation: int, env_steps: int, values: Mapping[str, Value]) -> None:
        """Add every number of the row as a scalar."""
        for key, value in {**values, "time/total_timesteps": env_steps}.items():
            if isinstance(value, (int, float)):
                self._writer.add_scalar(key, value, global_step=env_steps)

    def close(self) -> None:
        """Write the buffered events and close the file."""
        self._writer.close()


class WandbLogger:
    """Weights & Biases, for ``track=True``. The package is imported only here, and is an extra."""

    def __init__(self, folder: Path, config: Mapping[str, Any], project: str = "polystep-rl") -> None:
        try:
            import wandb
        except ImportError as error:
            raise LoggerError("tracking needs Weights & Biases, which is not installed; pip install wandb") from error
        name = folder.resolve().name
        self._run = wandb.init(
            project=project, name=name, id=name[-128:], dir=str(folder), config=dict(config), resume="allow"
        )

    def write(self, generation: int, env_steps: int, values: Mapping[str, Value]) -> None:
        """Log the row's numbers; those that are not finite are left out."""
        numbers = {key: value for key, value in values.items() if isinstance(value, (int, float))}
        finite = {key: value for key, value in numbers.items() if math.isfinite(value)}
        self._run.log({**finite, "generation": generation, "time/total_timesteps": env_steps}, step=env_steps)

    def close(self) -> None:
        """Finish the W&B run."""
        self._run.finish()
