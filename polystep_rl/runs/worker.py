"""A process that trains one cell after another on one core: ``python -m polystep_rl.runs.worker CORE``.

A line of JSON on standard input names a cell (`folder` and `config`); a line on standard output says how it ended. A
process of its own for each core keeps a crash to one cell, and keeping it for many cells spares their imports and
compilation.
"""

from __future__ import annotations

import gc
import itertools
import json
import os
import queue
import shutil
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import Any, NamedTuple

from polystep_rl.errors import ConfigError
from polystep_rl.records.lock import FolderLock
from polystep_rl.runs.failures import as_flags
from polystep_rl.runs.opening import Destination
from polystep_rl.settings.algorithms import GRADIENT
from polystep_rl.settings.run import TrainConfig, from_plain, to_plain

CLEAR_EVERY = 20  # cells: compiled programs are kept in memory until then


class _Attempt(NamedTuple):
    """Findings about an earlier attempt in the folder of a cell."""

    finished: bool = False
    unfit: str = ""  # why it cannot be continued


def _attempt(folder: Path, config: TrainConfig) -> _Attempt:
    """Only an unfinished run of these settings, by this software on this kind of machine, with a checkpoint that can be
    read, is continued."""
    from polystep_rl.machine import system_info
    from polystep_rl.records.checkpoint import CheckpointError
    from polystep_rl.records.folder import RunDir, RunDirError

    if not (folder / "config.yaml").exists():
        return _Attempt(unfit="it had hardly begun")
    try:
        run = RunDir.open(folder, finished_ok=True)
        began = json.loads((folder / "system_info.json").read_text(encoding="utf-8"))
        wanted = to_plain(config)
        derived = {"hidden"} if config.init is not None else set()  # a given policy brings its own layers
        other = sorted(name for name in wanted.keys() - derived if run.config.get(name) != wanted[name])
        if other:
            return _Attempt(run.finished, f"it had other settings ({', '.join(other)})")
        if run.finished:
            return _Attempt(finished=True)
        if config.algo in GRADIENT:
            return _Attempt(unfit=f"a run of {config.algo} cannot be continued")
        if not system_info().items() <= began.items():
            return _Attempt(unfit="it ran on another machine or with other software")
        return _Attempt(unfit="" if run.latest_checkpoint() is not None else "it has no checkpoint yet")
    except (RunDirError, CheckpointError, ValueError) as error:
        return _Attempt(unfit=" ".join(str(error).split()))


def _destination(folder: Path, config: TrainConfig) -> Destination | None:
    """Say how to train a cell: on from its checkpoint, or from the start; None where it is done already.

    A folder that cannot be continued is removed, but none that is finished, and none that another process is at.

    Raises ConfigError and OSError.
    """
    if folder.exists():
        with FolderLock(folder):
            attempt = _attempt(folder, config)
            if attempt.finished and not attempt.unfit:
                return None
            if attempt.finished:
                raise ConfigError(f"{folder}: holds a finished run; {attempt.unfit}; move it away")
            if not attempt.unfit:
                return Destination(resume=folder)
            print(f"{folder}: starts again, for {attempt.unfit}", file=sys.stderr, flush=True)
            shutil.rmtree(folder)
    return Destination(run_dir=folder)


def train_cell(request: dict[str, Any]) -> dict[str, Any]:
    """Train one cell in its folder, on from the checkpoint of an attempt that was interrupted, or from the start."""
    from polystep_rl.errors import TrainError
    from polystep_rl.rollout.host import SimulatorError
    from polystep_rl.runs.train import train

    try:
        config = from_plain(TrainConfig, request["config"])
        to = _destination(Path(request["folder"]), config)
        if to is not None:
            train(config, run_dir=to.run_dir, resume=to.resume, quiet=True, handle_interrupt=False)
    except (TrainError, SimulatorError, ValueError, OSError) as error:
        return {"ok": False, "error": as_flags(" ".join(str(error).split()))}
    except Exception as error:
        traceback.print_exc()
        return {"ok": False, "error": " ".join(f"{type(error).__name__}: {error}".split())[:300]}
    return {"ok": True}


def _read(requests: queue.Queue[dict[str, Any]]) -> None:
    """Queue what the parent asks for. When it is gone, so is this process, at once: a comparison that is started again
    must not meet the left-over of the one that was killed, still writing."""
    for line in sys.stdin:
        requests.put(json.loads(line))
    os._exit(0)


def main() -> None:
    """Serve cells, on the cores that the argument names (``0,2``), until standard input ends."""
    cores = {int(core) for core in sys.argv[1].split(",")}
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever is printed must not end up among the answers
    requests: queue.Queue[dict[str, Any]] = queue.Queue()
    threading.Thread(target=_read, args=(requests,), daemon=True).start()
    import jax

    from polystep_rl.machine import setup_jax

    setup_jax(len(cores))
    for count in itertools.count(1):
        answer = train_cell(requests.get())
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
        if count % CLEAR_EVERY == 0:
            jax.clear_caches()
            gc.collect()


if __name__ == "__main__":
    main()
