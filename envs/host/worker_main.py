"""The main loop of a worker process: started as a script by workers.py, it steps its share of the lanes.

It must start fast and small, so it imports no JAX.
Commands come through one pipe and answers go through another, a few bytes each; observations, actions and the rest lie
in shared memory, laid out by ``layout``, which the parent uses too.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import signal
import struct
import sys
import threading
from typing import Any, NamedTuple

COMMAND = struct.Struct("=iii")  # group, first row, row behind the last; group CLOSE ends the worker
CLOSE = -1
LENGTH = struct.Struct("=i")  # goes before the configuration
DONE = b"k"
FAILED = b"e"  # followed by one line that says why

Shape = tuple[int, ...]


class Layout(NamedTuple):
    """Sizes of the arrays that parent and workers share."""

    groups: int
    width: int
    workers: int
    obs_size: int
    action_shape: Shape  # of one action
    action_dtype: str


def layout(sizes: Layout, memory: mmap.mmap | None) -> tuple[int, dict[str, Any]]:
    """The bytes needed, and the arrays in a memory of that size (none without one).

    The rows of a tick lie together by worker, so that each has a slice. ``beats`` grows with every lane that a worker
    has stepped: a sign of life.
    """
    import numpy as np

    rows = (sizes.groups, sizes.width)
    fields: dict[str, tuple[Shape, str]] = {
        "lanes": (rows, "int64"),
        "seeds": (rows, "int64"),
        "actions": (rows + tuple(sizes.action_shape), sizes.action_dtype),
        "obs": (rows + (sizes.obs_size,), "float32"),
        "rewards": (rows, "float64"),
        "flags": (rows, "uint8"),
        "beats": ((sizes.workers, 8), "int64"),  # a cache line each
    }
    offset, arrays = 0, {}
    for name, (shape, dtype) in fields.items():
        count = int(np.prod(shape))
        if memory is not None:
            arrays[name] = np.frombuffer(memory, dtype, count, offset).reshape(shape)
        offset += -(-count * np.dtype(dtype).itemsize // 64) * 64
    return offset, arrays


def _die_with_parent(lifeline: int) -> None:
    """End this process when the parent's end of a pipe is closed, whatever the environment does.

    Nothing is written to that pipe. The command pipe would do, but each command would wake this thread too.
    """
    os.read(lifeline, 1)
    os._exit(0)


def _killed_with_parent(lifeline: int) -> None:
    """Do the same by the kernel (Linux), for an environment that hangs in C code and never lets a Python thread run.

    The end of the pipe raises SIGIO, whose default is the end of this process and of whatever it has started.
    """
    import fcntl

    signal.signal(signal.SIGIO, signal.SIG_DFL)
    own = os.open(f"/proc/self/fd/{lifeline}", os.O_RDONLY)  # who is told belongs to the open file, which all inherit
    fcntl.fcntl(own, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(own, fcntl.F_SETFL, fcntl.fcntl(own, fcntl.F_GETFL) | os.O_ASYNC)


def _read(commands: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = os.read(commands, size - len(data))
        if not part:
            os._exit(0)
        data += part
    return data


def serve(commands: int, answers: int, memory_fd: int, lifeline: int) -> None:
    """Execute the commands in order until one says to close."""
    config = json.loads(_read(commands, LENGTH.unpack(_read(commands, LENGTH.size))[0]))
    threading.Thread(target=_die_with_parent, args=(lifeline,), daemon=True).start()
    if sys.platform == "linux":
        _killed_with_parent(lifeline)
    sys.path[:] = config["path"]
    sizes, index = Layout(*config["sizes"]), config["index"]
    memory = mmap.mmap(memory_fd, layout(sizes, None)[0])
    arrays = layout(sizes, memory)[1]
    beat = arrays["beats"][index, :1].reshape(())
    from polystep_rl.envs.host.single import EnvSet, Recipe  # found on the parent's path

    envs = EnvSet(Recipe(*config["recipe"]))
    os.write(answers, DONE)  # started
    while True:
        group, start, stop = COMMAND.unpack(_read(commands, COMMAND.size))
        if group == CLOSE:
            envs.close()
            return
        lanes, seeds = arrays["lanes"][group, start:stop].tolist(), arrays["seeds"][group, start:stop].tolist()
        jobs = list(zip(range(start, stop), [(group, lane) for lane in lanes], seeds, strict=True))
        out = arrays["obs"][group], arrays["rewards"][group], arrays["flags"][group], beat
        envs.tick(jobs, arrays["actions"][group, start:stop], out)
        os.write(answers, DONE)


def main() -> None:
    """``worker_main.py COMMANDS ANSWERS MEMORY LIFELINE``: four inherited file descriptors."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to act on
    commands, answers, memory_fd, lifeline = map(int, sys.argv[1:5])
    for descriptor in (commands, answers, memory_fd, lifeline):
        os.set_inheritable(descriptor, False)  # what an environment starts must not keep them open
    try:
        serve(commands, answers, memory_fd, lifeline)
    except BaseException as error:  # an environment may also call sys.exit
        text = " ".join((str(error) if type(error).__name__ == "EnvFailure" else repr(error)).split())
        with contextlib.suppress(OSError):  # the parent may be gone
            os.write(answers, FAILED + text.encode(errors="replace")[:2000] + b"\n")
        os._exit(1)


if __name__ == "__main__":
    main()
