"""Shared by the scripts: the record of a measurement, and many runs side by side.

A script puts this folder, and no other, on its path before it imports from here or from another folder of scripts.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from polystep_rl.machine import system_info
from polystep_rl.records.folder import RunDir, RunDirError
from polystep_rl.runs.jobs import Event, Job, run_jobs
from polystep_rl.settings.run import TrainConfig, to_plain

ROOT = Path(__file__).resolve().parents[1]  # of the repository
COMMAND = (sys.executable, "-P", "-m", "polystep_rl")  # a process of its own, of the same package
Found = TypeVar("Found")


def record_text(record: Mapping[str, Any], **system: Any) -> str:
    """A record as JSON: under ``system`` the hardware and versions, and what else is known of them; then its own."""
    return json.dumps({"system": {**system_info(), **system}, **record}, indent=1) + "\n"


def write_record(path: Path | None, record: Mapping[str, Any], **system: Any) -> None:
    """Write :func:`record_text` to a file, where one is wanted."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(record_text(record, **system), encoding="utf-8")


def options(args: Any) -> dict[str, Any]:
    """A script's arguments for its record; paths, which say nothing elsewhere, are None."""
    return {name: None if isinstance(x, Path) else x for name, x in dataclasses.asdict(args).items()}


def summary(folder: Path) -> dict[str, Any]:
    """The summary of a finished run; RunDirError for any other folder."""
    return RunDir.open(folder, finished_ok=True).summary()


def finished(folder: Path, read: Callable[[Path], Found]) -> Found | None:
    """The answer of ``read`` about a run folder, if the run has ended."""
    try:
        return read(folder)
    except (RunDirError, OSError):
        return None


def run_configs(configs: Mapping[Path, TrainConfig], jobs: int | None, out: Path) -> None:
    """Train what is not finished yet, each configuration in its folder and so many at a time (None: one per core).

    The processes share out the cores; their own output goes to ``out/workers.log``. A line as each run ends goes to
    standard error.
    """
    todo = [Job(f.name, f, to_plain(config)) for f, config in configs.items() if finished(f, summary) is None]
    print(f"{len(configs)} runs, {len(configs) - len(todo)} of them finished before", file=sys.stderr, flush=True)
    out.mkdir(parents=True, exist_ok=True)
    run_jobs(todo, jobs, out / "workers.log", _tell)


def _tell(event: Event | None) -> None:
    if event is not None and event.kind != "started":
        print(f"{event.job.name}: {event.kind} after {event.seconds:.0f} s {event.error}", file=sys.stderr, flush=True)
