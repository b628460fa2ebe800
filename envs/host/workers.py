"""A pool of worker processes that step environments: each holds its share of the lanes of every group.

A worker is a fresh Python that runs worker_main.py, which imports no JAX: nothing is forked from a process with
threads, and starting one takes a quarter of a second. What a tick needs lies in shared memory that has no name, so
nothing is left behind however the processes end; twelve bytes through a pipe start it and one byte answers.

A worker that crashes, whose environment raises, or that shows no sign of life is killed and replaced, and what it was
doing is reported as lost. The caller begins those episodes anew.
"""

from __future__ import annotations

import contextlib
import functools
import json
import mmap
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections import deque
from pathlib import Path

import numpy as np
from gymnasium import spaces

from polystep_rl.envs.host.single import LOST, TERMINATED, TRUNCATED, Recipe
from polystep_rl.envs.host.worker_main import CLOSE, COMMAND, DONE, LENGTH, Layout, layout
from polystep_rl.types import EnvSpec, Ticks

FAULTS_IN_A_ROW = 5
_START_SECONDS = 120.0  # in which a worker must have imported what it needs; a loaded machine takes a while
_STARTING = -1  # stands for a group among the ticks that a worker has not yet answered
_GRACE = 2.0  # seconds in which a worker may close its environments
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class Streak:
    """The faults of one worker while none of its episodes ends: after some the environment itself must be broken.

    Ticks that succeed in between prove nothing, for an environment that fails in its tenth step resets and steps well
    until there. An episode has ended where the environment says so, or where a lane that was stepped is reset: the
    caller may cut episodes.
    """

    def __init__(self) -> None:
        self.faults = 0
        self._stepped: set[tuple[int, int]] = set()  # group and lane, since the last fault

    def fault(self) -> bool:
        """Count one fault; returns whether there have been too many."""
        self.faults += 1
        self._stepped.clear()
        return self.faults >= FAULTS_IN_A_ROW

    def saw(self, group: int, lanes: np.ndarray, seeds: np.ndarray, flags: np.ndarray) -> None:
        """Take in a worker's answer for its lanes (k,): their flags, having been reset (seeds >= 0) or stepped."""
        if not self.faults:
            return
        alive, reset = flags & LOST == 0, seeds >= 0
        again = self._stepped.intersection((group, lane) for lane in lanes[alive & reset].tolist())
        if again or (flags & (TERMINATED | TRUNCATED)).any():
            self.faults = 0
        self._stepped.update((group, lane) for lane in lanes[alive & ~reset].tolist())


class _Worker:
    """One process, its two pipes, and the ticks that it still has to answer."""

    def __init__(self, config: bytes, inherited: tuple[int, int]) -> None:
        self.streak = Streak()
        self.pending: deque[int] = deque()  # groups, in the order in which they are worked off
        self._config = config
        self._inherited = inherited  # the memory, and the lifeline's end to read
        self.start()

    def start(self) -> None:
        their_commands, self._commands = os.pipe()
        self._answers, their_answers = os.pipe()
        script = str(Path(__file__).with_name("worker_main.py"))
        theirs = (their_commands, their_answers, *self._inherited)
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-W", "ignore", script, *map(str, theirs)],  # make_single has warned here
                stdin=subprocess.DEVNULL,
                stdout=2,  # what an environment prints must not end up in what the parent prints
                pass_fds=theirs,
                process_group=0,  # out of reach of Ctrl-C, and killed together with what it has started
                env={**os.environ, **_ONE_THREAD},
            )
        finally:
            os.close(their_commands)
            os.close(their_answers)
        self._poll = select.poll()
        self._poll.register(self._answers, select.POLLIN)
        self.pending.append(_STARTING)
        self.write(LENGTH.pack(len(self._config)) + self._config)

    def write(self, data: bytes) -> None:
        """Send a command, also to a dead worker: its death is handled where the answer is missing."""
        with contextlib.suppress(BrokenPipeError):
            while data:
                data = data[os.write(self._commands, data) :]

    def answer(self, seconds: float) -> bytes:
        """The next part of an answer; empty where the process has died. Raises TimeoutError."""
        if not self._poll.poll(max(0.0, seconds) * 1000):
            raise TimeoutError
        return os.read(self._answers, 1)

    def last_words(self) -> str:
        """Why the process has ended, or is about to."""
        text = b""
        with contextlib.suppress(TimeoutError):
            while not text.endswith(b"\n") and (part := self.answer(_GRACE)):
                text += part
        if text:
            return text.decode(errors="replace").strip()
        try:
            code = self.process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            return "closed its pipe"
        if code < 0:
            return f"killed by signal {-code} ({signal.Signals(-code).name})"
        return f"exited with status {code}"

    def end(self) -> None:
        """Kill the process and whatever it has started, and close the pipes."""
        if self._commands < 0:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self._commands)
        os.close(self._answers)
        self._commands = self._answers = -1


class WorkerLanes:
    """A pool over worker processes, a ``types.Lanes``: lane i of every group lives in worker i modulo ``workers``.

    ``last_fault`` is the message of the worker that was replaced last. Raises RuntimeError, one line, from ``recv``
    where one worker has failed five times and no episode of its lanes has ended in between.
    """

    together = False

    def __init__(
        self, recipe: Recipe, spec: EnvSpec, width: int, groups: int, workers: int, hang_seconds: float = 60.0
    ) -> None:
        if os.name != "posix":
            raise ValueError("worker processes need Linux or macOS: give `workers` 0")
        self.groups = groups
        self.width = width
        self.faults = 0
        self.last_fault = ""
        self._id = recipe.env_id
        self._hang_seconds = hang_seconds
        workers = min(workers, width)
        sizes = _sizes(spec, width, groups, workers)
        size = layout(sizes, None)[0]
        memory = _anonymous_memory(size)
        lifeline, parents_end = os.pipe()  # workers see it close when this process ends, however it does
        self._arrays = layout(sizes, mmap.mmap(memory, size))[1]
        # group -> the order of its rows in memory, by worker, and the rows of each worker
        self._sent: dict[int, tuple[np.ndarray, list[tuple[int, int]]]] = {}
        self._lost: list[set[int]] = [set() for _ in range(groups)]  # workers that died before they answered a group
        self._workers: list[_Worker] = []
        self._finalizer = weakref.finalize(self, _end_all, self._workers, (memory, lifeline, parents_end))
        path = [entry or os.getcwd() for entry in sys.path]
        for index in range(workers):
            config = {"path": path, "sizes": sizes, "index": index, "recipe": recipe}
            self._workers.append(_Worker(json.dumps(config).encode(), (memory, lifeline)))

    def send(self, group: int, lanes: np.ndarray, actions: np.ndarray, seeds: np.ndarray) -> None:
        """See types.Lanes."""
        if not self._finalizer.alive:
            raise ValueError("the pool is closed")
        if group in self._sent:
            raise ValueError(f"group {group} was sent twice without being received")
        order, rows = _plan(np.asarray(lanes, np.int64).tobytes(), len(self._workers))
        for name, values in (("lanes", lanes), ("actions", actions), ("seeds", seeds)):
            self._arrays[name][group, : len(order)] = values[order]
        self._sent[group] = order, rows
        for worker, (start, stop) in zip(self._workers, rows, strict=True):
            if start < stop:
                worker.write(COMMAND.pack(group, start, stop))
                worker.pending.append(group)

    def recv(self, group: int) -> Ticks:
        """See types.Lanes. Raises RuntimeError, one line, where a worker keeps failing."""
        if group not in self._sent:
            raise ValueError(f"group {group} was not sent")
        for index, worker in enumerate(self._workers):
            while group in worker.pending:
                self._wait(index, worker)
        order, rows = self._sent.pop(group)
        fields = [self._arrays[name][group, : len(order)] for name in ("obs", "rewards", "flags")]
        for index in self._lost[group]:
            for field, value in zip(fields, (0.0, 0.0, LOST), strict=True):
                field[slice(*rows[index])] = value
        self._lost[group].clear()
        lanes, seeds = (self._arrays[name][group, : len(order)] for name in ("lanes", "seeds"))
        for worker, row in zip(self._workers, rows, strict=True):
            mine = slice(*row)
            worker.streak.saw(group, lanes[mine], seeds[mine], fields[2][mine])
        obs, reward, flags = (np.empty_like(field) for field in fields)
        obs[order], reward[order], flags[order] = fields
        return Ticks(obs, reward, flags & TERMINATED > 0, flags & TRUNCATED > 0, flags & LOST > 0)

    def close(self) -> None:
        """End the processes and give back the memory; closing twice is no error."""
        self._sent.clear()
        self._finalizer()
        self._arrays = {}  # the last to hold the memory

    def _wait(self, index: int, worker: _Worker) -> None:
        """Wait for one answer of a worker, and replace the worker where none comes."""
        beats = self._arrays["beats"]
        limit = max(self._hang_seconds, _START_SECONDS) if worker.pending[0] == _STARTING else self._hang_seconds
        while True:
            seen = int(beats[index, 0])
            try:
                answer = worker.answer(limit)
            except TimeoutError:
                if int(beats[index, 0]) != seen:
                    continue  # slow, but at work: a lane has been stepped since
                reason = f"no answer within {limit:g} s"
            else:
                if answer == DONE:
                    worker.pending.popleft()
                    return
                reason = worker.last_words()
            break
        self._replace(index, worker, reason)

    def _replace(self, index: int, worker: _Worker, reason: str) -> None:
        self.faults += 1
        self.last_fault = reason
        worker.end()
        if worker.streak.fault():
            self.close()
            raise RuntimeError(
                f"environment {self._id}: a worker failed {FAULTS_IN_A_ROW} times in a row, at last: {reason}"
            )
        for group in worker.pending:
            if group != _STARTING:
                self._lost[group].add(index)
        worker.pending.clear()
        worker.start()


@functools.lru_cache(maxsize=16)  # most ticks are sent to the same lanes as the one before
def _plan(lanes: bytes, workers: int) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """The order in which a tick's lanes (int64) lie in memory, by worker, and the rows of each worker (start, stop)."""
    owner = np.frombuffer(lanes, np.int64) % workers
    stops = np.bincount(owner, minlength=workers).cumsum().tolist()
    return np.argsort(owner, kind="stable"), list(zip([0, *stops], stops, strict=False))


def _sizes(spec: EnvSpec, width: int, groups: int, workers: int) -> Layout:
    action = spec.action_space
    shape = () if isinstance(action, spaces.Discrete) else action.shape
    dtype = "float32" if isinstance(action, spaces.Box) else "int32"
    return Layout(groups, width, workers, spec.observation_space.shape[0], shape, dtype)


def _anonymous_memory(size: int) -> int:
    """A file descriptor of zeroed memory that has no name and ends with the last process that holds it."""
    if sys.platform == "linux":
        memory = os.memfd_create("polystep_rl")
    else:
        with tempfile.TemporaryFile() as file:
            memory = os.dup(file.fileno())
    os.ftruncate(memory, size)
    return memory


def _end_all(workers: list[_Worker], descriptors: tuple[int, ...]) -> None:
    """Let every worker close its environments, and kill those that do not."""
    for worker in workers:
        if worker.process.poll() is None:
            worker.write(COMMAND.pack(CLOSE, 0, 0))
    deadline = time.monotonic() + _GRACE
    for worker in workers:
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.process.wait(max(0.0, deadline - time.monotonic()))
        worker.end()
    for descriptor in descriptors:
        os.close(descriptor)
