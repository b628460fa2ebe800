"""Processes of this machine: whether they are gone, and a training command as several of them on one core each."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

SECONDS = 300.0


def alive(pid: int) -> bool:
    """Whether a process runs; an orphan that nobody has reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def all_gone(pids: Iterable[int], seconds: float = 30.0) -> bool:
    """Whether they all end in so many seconds."""
    deadline = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(map(alive, pids))


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as own:
        own.bind(("localhost", 0))
        return own.getsockname()[1]


def start(commands: Sequence[Sequence[object]], folders: Sequence[Path | None] = ()) -> list[subprocess.Popen[str]]:
    """One process for each command line of `train`, each in a folder of its own where that is given."""
    port, pipe = free_port(), subprocess.PIPE
    started = []
    for index, flags in enumerate(commands):
        command = [sys.executable, "-P", "-m", "polystep_rl", "train", *map(str, flags), "--cores", "1"]
        command += ["--coordinator", f"localhost:{port}"]
        command += ["--num-processes", str(len(commands)), "--process-id", str(index)]
        folder = folders[index] if folders else None
        started.append(subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=folder))
    return started


def ended(processes: list[subprocess.Popen[str]], seconds: float = SECONDS) -> list[tuple[int, str, str]]:
    """Exit code, standard output and standard error of each."""
    try:
        said = [process.communicate(timeout=seconds) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, *texts) for process, texts in zip(processes, said, strict=True)]
