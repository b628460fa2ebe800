"""Runs on Gymnasium in worker processes: the run of this process, whoever dies on the way."""

from __future__ import annotations

import json
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.commands import done
from support.host_runs import CALIBRATION_LANES, CARTPOLE, results, rows_without

from polystep_rl.envs.host import gymnasium_env
from polystep_rl.records.metrics import read_metrics
from polystep_rl.runs import parts as assemble


def test_workers_change_nothing(cli: Callable, assert_same_run: Callable, whole: Path, tmp_path: Path) -> None:
    spread = done(cli(*CARTPOLE, "--workers", "2", "--run-dir", tmp_path / "run"))
    assert_same_run(whole, tmp_path / "run")
    assert results(spread) == results(json.loads((whole / "summary.json").read_text()))
    assert spread["simulator"] == "gymnasium" and spread["crn"] is True
    assert {row["rollout/faults"] for row in read_metrics(whole / "metrics.csv")} == {0}


class Killer:
    """Kills workers of the training pool at random moments, spread over ``ticks`` ticks of it."""

    def __init__(self, kills: int, ticks: int, seed: int) -> None:
        self.rng = random.Random(seed)
        self.due = [int(ticks * 0.85 * (i + self.rng.random()) / kills) for i in range(kills)]
        self.ticks, self.killed = 0, 0
        self.pools: list[Any] = []
        self.now, self.over = threading.Event(), False

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        killer = self

        class Watched(gymnasium_env.WorkerLanes):
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **kwargs)
                if self.width * self.groups != CALIBRATION_LANES:
                    killer.pools.append(self)

            def send(self, *args: Any) -> None:
                super().send(*args)
                if killer.pools and self is killer.pools[0]:  # the training pool is the first, and counts its faults
                    killer.ticked()

        monkeypatch.setattr(gymnasium_env, "WorkerLanes", Watched)

    def ticked(self) -> None:
        self.ticks += 1
        late = self.late()
        if late >= 0:
            self.now.set()
            if late > 5:  # the machine is busy: the run must not end before its kills
                time.sleep(0.01)

    def late(self) -> int:
        """Ticks since the next kill was due."""
        due = [*self.due, 10**9][self.killed]
        return self.ticks - due

    def work(self) -> None:
        while not self.over:
            if self.now.wait(0.05) and self.late() >= 0:
                self.killed += self.kill()
            self.now.clear()

    def kill(self) -> bool:
        time.sleep(self.rng.uniform(0, 0.003))
        # Five failures of a worker in a row would end the run.
        workers = [w for w in self.pools[0]._workers if w.streak.faults < 2 and w.process.poll() is None]
        if not workers:
            return False
        self.rng.choice(workers).process.send_signal(signal.SIGKILL)
        return True


def test_killed_workers_change_neither_metrics_nor_policy(
    cli: Callable, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    counted = Killer(0, 1000, 0)
    with monkeypatch.context() as patch:  # how many ticks there are
        counted.install(patch)
        done(cli(*CARTPOLE, "--workers", "2", "--run-dir", tmp_path / "counted"))
    assert counted.ticks > 100
    killer = Killer(10, counted.ticks, seed)
    killer.install(monkeypatch)
    thread = threading.Thread(target=killer.work)
    thread.start()
    try:
        killed = done(cli(*CARTPOLE, "--workers", "2", "--run-dir", tmp_path / "killed"))
    finally:
        killer.over = True
        thread.join()
    assert killer.killed == 10
    faults = [row["rollout/faults"] for row in read_metrics(tmp_path / "killed" / "metrics.csv")]
    # Two kills of one worker before anyone looks are one fault.
    assert 8 <= faults[-1] <= 10 and faults == sorted(faults), faults
    assert rows_without(tmp_path / "killed", "rollout/faults") == rows_without(whole, "rollout/faults")
    for name in ("policy", "best_policy"):
        for suffix in (".json", ".safetensors"):
            assert (whole / f"{name}{suffix}").read_bytes() == (tmp_path / "killed" / f"{name}{suffix}").read_bytes()
    assert results(killed) == results(json.loads((whole / "summary.json").read_text()))


def test_a_worker_killed_during_calibration_changes_nothing(
    cli: Callable, assert_same_run: Callable, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fragile(gymnasium_env.WorkerLanes):
        ticks = 0

        def send(self, *args: Any) -> None:
            super().send(*args)
            self.ticks += 1
            if self.width * self.groups == CALIBRATION_LANES and self.ticks == 7:
                self._workers[0].process.kill()

    monkeypatch.setattr(gymnasium_env, "WorkerLanes", Fragile)
    assemble._shared_parts.cache_clear()  # or it would not calibrate anew
    done(cli(*CARTPOLE, "--workers", "2", "--run-dir", tmp_path / "run"))
    assert_same_run(whole, tmp_path / "run")
