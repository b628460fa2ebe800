"""A folder has one writer, and a writer that dies leaves nothing locked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from polystep_rl.records import lock
from polystep_rl.records.folder import RunDir, RunDirError
from polystep_rl.records.lock import FolderInUse, FolderLock

pytest.importorskip("fcntl")
HOLD = """
import sys
from polystep_rl.records.lock import FolderLock
held = FolderLock(sys.argv[1])
print("held", flush=True)
sys.stdin.read()
"""


def test_one_process_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "WAIT_SECONDS", 0.1)
    command = [sys.executable, "-P", "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(FolderInUse, match="another process is writing there"):
            FolderLock(tmp_path)
        other.kill()
        other.wait()
    with FolderLock(tmp_path):
        pass
    FolderLock(tmp_path).release()


def test_a_run_that_is_being_written_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a second process that would resume it; after it is closed, resuming is fine."""
    monkeypatch.setattr(lock, "WAIT_SECONDS", 0.1)
    run = RunDir.create(env="E", algo="a", policy="p", seed=0, config={}, run_dir=tmp_path / "run")
    run.start(tensorboard=False)
    run.log(1, 10, {"x": 1.0})
    with pytest.raises(RunDirError, match="another process is writing there; wait for it"):
        RunDir.open(run.path).start(tensorboard=False)
    run.close()
    again = RunDir.open(run.path)
    again.start(generation=1, env_steps=10, tensorboard=False)
    again.close()
    assert (run.path / "metrics.csv").read_text().count("\n") == 2
