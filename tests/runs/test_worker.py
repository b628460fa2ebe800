"""Cells of a comparison: interrupted, finished, in use, and a pool whose processes cannot be started."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from polystep_rl.records import lock
from polystep_rl.records.folder import RunDir
from polystep_rl.records.lock import FolderLock
from polystep_rl.records.metrics import read_metrics
from polystep_rl.runs import jobs as pool
from polystep_rl.runs.jobs import Event, Job, run_jobs
from polystep_rl.runs.worker import train_cell
from polystep_rl.settings.presets import preset
from polystep_rl.settings.run import TrainConfig, to_plain

CONFIG = dataclasses.replace(
    preset("CartPole-v1", "int8", "compare"), total_timesteps=60_000, eval_freq=10_000, test_episodes=8
)


def cell(folder: Path, config: TrainConfig = CONFIG) -> dict[str, Any]:
    return {"folder": str(folder), "config": to_plain(config)}


def costs(folder: Path) -> list[Any]:
    return [row["search/cost_mean"] for row in read_metrics(folder / "metrics.csv")]


def born(folder: Path) -> int:
    return (folder / "system_info.json").stat().st_mtime_ns


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cell that ran through; look, and do not touch."""
    folder = tmp_path_factory.mktemp("cells") / "whole"
    assert train_cell(cell(folder)) == {"ok": True}
    return folder


class Killed(BaseException):
    """Stands for a signal that nothing survives."""


def interrupted(folder: Path, config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cell that was killed right after its first checkpoint."""
    save = RunDir.save_checkpoint

    def save_and_die(run: RunDir, *args: Any) -> None:
        save(run, *args)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(RunDir, "save_checkpoint", save_and_die)
        pytest.raises(Killed, train_cell, cell(folder, config))
    return folder


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    "spoil, why",
    [
        (lambda run: None, ""),
        (lambda run: [file.write_bytes(b"") for file in run.glob("checkpoints/*")], "checkpoint"),
        (lambda run: [file.unlink() for file in run.glob("checkpoints/*")], "it has no checkpoint yet"),
        (lambda run: edit(run / "system_info.json", '"numpy": "', '"numpy": "0.'), "other software"),
        (lambda run: edit(run / "config.yaml", "eval_freq: ", "eval_freq: 1"), "it had other settings (eval_freq)"),
        (lambda run: (run / "config.yaml").unlink(), "it had hardly begun"),
    ],
    ids=["whole", "damaged checkpoints", "no checkpoint", "other software", "other settings", "no settings"],
)
def test_an_interrupted_cell_goes_on(
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Path], object],
    why: str,
) -> None:
    """From its checkpoint, where one fits; either way it ends as the cell that ran through."""
    run = interrupted(tmp_path / "run", CONFIG, monkeypatch)
    spoil(run)
    before = born(run)
    assert train_cell(cell(run)) == {"ok": True}
    assert (born(run) == before) is (not why)
    said = capsys.readouterr().err
    assert (f"{run}: starts again, for " in said) is bool(why) and why in said
    assert costs(run) == costs(whole) and len(costs(run)) > 3


def test_an_interrupted_repair_goes_on(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The layers are those of the policy that it was given, whatever the settings say."""
    config = dataclasses.replace(CONFIG, hidden=(8,), init=str(whole))
    run = interrupted(tmp_path / "run", config, monkeypatch)
    before = born(run)
    assert train_cell(cell(run, config)) == {"ok": True} and born(run) == before


def test_nothing_finished_and_nothing_in_use_is_removed(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = born(whole)
    assert train_cell(cell(whole)) == {"ok": True} and born(whole) == before  # somebody else has done it meanwhile
    refused = train_cell(cell(whole, dataclasses.replace(CONFIG, seed=1)))
    assert "holds a finished run; it had other settings (seed); move it away" in refused["error"]
    run = interrupted(tmp_path / "run", CONFIG, monkeypatch)
    monkeypatch.setattr(lock, "WAIT_SECONDS", 0.1)
    with FolderLock(run):
        assert "another process is writing there" in train_cell(cell(run))["error"]
    assert born(whole) == before and list(run.glob("checkpoints/*"))


def test_a_cell_that_cannot_be_started_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(worker: Any) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(pool._Worker, "_start", start)
    heard: list[Event] = []
    jobs = [Job(name, tmp_path / name, {}) for name in ("a", "b", "c")]
    run_jobs(jobs, 2, tmp_path / "log", lambda event: heard.append(event) if event else None)
    failed = sorted(event.job.name for event in heard if event.kind == "failed")
    assert failed == ["a", "b", "c"]
    assert all("Resource temporarily unavailable" in event.error for event in heard if event.kind == "failed")
