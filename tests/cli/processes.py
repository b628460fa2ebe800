"""A training command as several processes of this machine, on one core each."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

SECONDS = 300.0


def free_port() -> int:
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
