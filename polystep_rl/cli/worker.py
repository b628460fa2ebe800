"""A process that trains one cell after another on one core: ``python -m polystep_rl.cli.worker CORE``.

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
from typing import Any

from polystep_rl.cli import UsageError
from polystep_rl.cli.train import Output
from polystep_rl.config import TrainConfig, from_plain, to_plain
from polystep_rl.settings import GRADIENT

CLEAR_EVERY = 20  # cells: compiled programs are kept in memory until then


def _continues(folder: Path, config: TrainConfig) -> bool:
    """Whether the folder holds an unfinished run of these settings, this software and this kind of machine that has a
    checkpoint to go on from."""
    from polystep_rl.checkpoint import CheckpointError
    from polystep_rl.rundir import RunDir, RunDirError
    from polystep_rl.sysinfo import system_info

    if config.algo in GRADIENT:
        return False
    try:
        run = RunDir.open(folder)
        began = json.loads((folder / "system_info.json").read_text(encoding="utf-8"))
        same = run.config == to_plain(config) and system_info().items() <= began.items()
        return same and run.latest_checkpoint() is not None
    except (RunDirError, CheckpointError):
        return False


def train_cell(request: dict[str, Any]) -> dict[str, Any]:
    """Train one cell in its folder, on from the checkpoint of an attempt that was interrupted, or from the start."""
    from polystep_rl.cli.runner import run_any
    from polystep_rl.host import SimulatorError
    from polystep_rl.train import TrainError

    folder = Path(request["folder"])
    try:
        config = from_plain(TrainConfig, request["config"])
        output = Output(resume=folder, quiet=True)
        if not _continues(folder, config):
            if folder.exists():
                shutil.rmtree(folder)
            output = Output(run_dir=folder, quiet=True)
        run_any(config, output, sys.stderr, install_handler=False)
    except (UsageError, TrainError, SimulatorError, ValueError, OSError) as error:
        return {"ok": False, "error": " ".join(str(error).split())}
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

    from polystep_rl.cli.assemble import setup_jax

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
