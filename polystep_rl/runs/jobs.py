"""Worker processes that share out the cells of a comparison."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple


class Job(NamedTuple):
    """A cell to train."""

    name: str
    folder: Path
    config: dict[str, Any]


class Event(NamedTuple):
    """A cell that began, or how it ended."""

    job: Job
    kind: str  # started | done | failed
    error: str = ""
    seconds: float = 0.0


class _Worker:
    """One process, pinned to some cores, and the thread that feeds it."""

    def __init__(self, cores: Sequence[int], jobs: deque[Job], events: queue.Queue[Event | None], log: IO[str]) -> None:
        self.cores, self.jobs, self.events, self.log = cores, jobs, events, log
        self.process: subprocess.Popen[str] | None = None
        self.closing = False
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "polystep_rl.runs.worker", ",".join(map(str, self.cores))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )

    def _serve(self) -> None:
        try:
            while not self.closing:
                try:
                    job = self.jobs.popleft()
                except IndexError:
                    break
                began = time.perf_counter()
                self.events.put(Event(job, "started"))
                try:
                    error = self._train(job)
                except Exception as trouble:  # no process can be started, or its answer is broken off
                    self.stop_process()
                    error = f"the worker process failed ({type(trouble).__name__}: {trouble})"
                if not self.closing:
                    kind = "failed" if error else "done"
                    self.events.put(Event(job, kind, error or "", time.perf_counter() - began))
        finally:
            self.stop()
            self._close()
            self.events.put(None)

    def _train(self, job: Job) -> str | None:
        """None, or why the cell failed."""
        if self.process is None or self.process.poll() is not None:
            self.process = self._start()
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps({"folder": str(job.folder), "config": job.config}) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except OSError:
            line = ""
        if not line:
            code = self.process.wait()
            self._close()
            died = f"signal {-code}" if code < 0 else f"exit code {code}"
            return f"the worker process died ({died})"
        answer = json.loads(line)
        return None if answer["ok"] else answer["error"]

    def stop(self) -> None:
        """End the process, whatever it is doing, and take no more jobs."""
        self.closing = True
        self.stop_process()

    def stop_process(self) -> None:
        """End the process, whatever it is doing."""
        process = self.process
        if process is not None and process.poll() is None:
            process.kill()
            process.wait()

    def _close(self) -> None:
        """Let go of a process that has ended."""
        if self.process is not None:
            for pipe in (self.process.stdin, self.process.stdout):
                with contextlib.suppress(OSError):
                    if pipe is not None:
                        pipe.close()
        self.process = None


def share_out(cores: Sequence[int], workers: int) -> list[Sequence[int]]:
    """The cores of every worker: as even as can be, and one each, some twice, where workers are more than cores."""
    return [cores[i::workers] or [cores[i % len(cores)]] for i in range(workers)]


def run_jobs(jobs: Sequence[Job], workers: int | None, log_path: Path, hear: Callable[[Event | None], None]) -> None:
    """Train all jobs on so many processes, which share out the cores; returns when all have ended.

    Args:
        jobs: in the order in which they are taken.
        workers: processes; None is one per core.
        log_path: where the workers' own output goes.
        hear: is told of every event, in the caller's thread, and with None about four times a second in between.
            Whatever it raises ends the workers at once.
    """
    from polystep_rl.machine import usable_cores

    cores = usable_cores()
    waiting, events = deque(jobs), queue.Queue[Event | None]()
    with open(log_path, "a", encoding="utf-8") as log:
        active = min(workers or len(cores), len(jobs))
        pool = [_Worker(share, waiting, events, log) for share in share_out(cores, active)]
        try:
            while active:
                try:
                    event = events.get(timeout=0.25)
                except queue.Empty:
                    hear(None)
                    continue
                if event is None:
                    active -= 1
                else:
                    hear(event)
        finally:
            for worker in pool:
                worker.stop()
            for worker in pool:
                worker.thread.join(timeout=10)
