"""One run by several processes: how they meet, agree on the settings, and end together.

JAX brings the processes together and finds its way in clusters that it knows. Its coordination service has a store of
texts, which all processes read and write here: the leader's settings, and why the run has ended where one has failed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import yaml

from polystep_rl.errors import ConfigError
from polystep_rl.machine import package_versions
from polystep_rl.runs.failures import as_flags, failure
from polystep_rl.settings.algorithms import GRADIENT
from polystep_rl.settings.run import TrainConfig, from_plain, to_plain

JOIN_SECONDS = 300  # for all processes to come together
GONE_SECONDS = 20  # without a sign of life, after which a process counts as gone
ANSWER_SECONDS = 2.0  # for those that live to say so
AUTO = "auto"
SETTINGS, ENDED, HERE = "polystep_rl/settings", "polystep_rl/ended", "polystep_rl/here/"
_left = threading.Event()  # this process has left in order
_ADDRESS = re.compile(r"(?P<host>[^\s:]+|\[[0-9a-fA-F:]+\]):(?P<port>\d{1,5})")


class Meeting(NamedTuple):
    """How the processes of a run meet."""

    coordinator: str | None = None  # host:port where process 0 listens, or `AUTO`; None: a run by one process
    num_processes: int | None = None
    process_id: int | None = None  # from 0, the process that writes the run folder


def check(meeting: Meeting, algo: str, seeds: str | None = None) -> None:
    """Raise ConfigError for a meeting whose parts do not fit together, or do not fit the algorithm."""
    address, count, index = meeting
    if address is None:
        for name, value in (("num_processes", count), ("process_id", index)):
            if value is not None:
                raise ConfigError(
                    f"`{name}` {value} without `coordinator`: give it the address of process 0, such as 10.0.0.1:4567"
                )
        return
    if seeds is not None:
        raise ConfigError(f"`seeds` {seeds} with `coordinator`: several processes do one run; give `seed`")
    if algo in GRADIENT:
        raise ConfigError(f"`coordinator` with {algo}, which trains in one process: leave it out")
    if address != AUTO:
        if not _ADDRESS.fullmatch(address) or not 0 < int(address.rpartition(":")[2]) < 2**16:
            raise ConfigError(
                f"`coordinator` {address}: expected host:port of process 0, such as 10.0.0.1:4567, or {AUTO}"
            )
        if count is None or index is None:
            raise ConfigError(
                "`coordinator` also needs `num_processes` and `process_id` (0 for the process that writes)"
            )
    if count is not None and count < 1:
        raise ConfigError(f"`num_processes` {count}: expected at least 1")
    if index is not None and not 0 <= index < (count or 2**31):
        raise ConfigError(f"`process_id` {index}: expected 0 to {(count or 2**31) - 1}, each once")


@contextlib.contextmanager
def joined(meeting: Meeting) -> Iterator[None]:
    """Join the other processes of the run for the length of a `with` block; alone, do nothing.

    Whatever ends the block early ends all processes, each with one line that says which of them failed, and why.
    """
    if meeting.coordinator is None:
        yield
        return
    _redirect()
    try:
        _join(meeting)
        watch = threading.Thread(target=_watch, daemon=True)
        watch.start()
        yield
    except BaseException as error:  # SystemExit, too
        _fail(error)
    else:
        _left.set()
        jax.distributed.shutdown()  # waits for the others


def agreed_settings(config: TrainConfig, complete: bool) -> TrainConfig:
    """Return the leader's settings. ConfigError where this process was given others, or runs other versions.

    ``complete`` is whether it knows its settings: a run that is resumed may have its folder on the leader's machine.
    """
    versions = package_versions(("polystep-rl", "jax", "jaxlib", "numpy"))
    if _state().process_id == 0:
        text = yaml.safe_dump({"settings": to_plain(config), "versions": versions}, sort_keys=False)
        _client().key_value_set(SETTINGS, text)
        return config
    leading = yaml.safe_load(_client().blocking_key_value_get(SETTINGS, JOIN_SECONDS * 1000))
    given = {"versions": versions} | ({"settings": to_plain(config)} if complete else {})
    for part, own in given.items():
        for name in sorted(own.keys() | leading[part].keys()):
            one, other = own.get(name), leading[part].get(name)
            if one != other:
                raise ConfigError(f"{name} is {one} here and {other} in process 0: {_SAME[part]}")
    return from_plain(TrainConfig, leading["settings"])


_SAME = {"versions": "install the same versions everywhere", "settings": "give every process the same settings"}


def _state() -> Any:
    """JAX's own record of the processes: its public functions would wait until all devices are found."""
    from jax._src import distributed

    return distributed.global_state


def _client() -> Any:
    return _state().client  # the store of texts has no public name


def _join(meeting: Meeting) -> None:
    """Bring the processes together. ConfigError, in one line, where they do not meet."""
    jax.config.update("jax_enable_preemption_service", False)
    given: dict[str, Any] = {}
    where, address = "as the cluster has it", meeting.coordinator or AUTO
    if address != AUTO:
        given["coordinator_address"] = where = address
        try:
            socket.getaddrinfo(address.rpartition(":")[0].strip("[]"), None)
        except OSError as error:
            raise ConfigError(f"`coordinator` {where}: no such host ({error.strerror or error})") from None
    late = threading.Timer(JOIN_SECONDS, _not_met, [where])
    late.daemon = True
    late.start()
    try:
        jax.distributed.initialize(
            **given,
            num_processes=meeting.num_processes,
            process_id=meeting.process_id,
            initialization_timeout=JOIN_SECONDS + 60,  # then JAX would abort the process
            heartbeat_timeout_seconds=GONE_SECONDS,
        )
    except ValueError as error:
        raise ConfigError(
            f"`coordinator` {meeting.coordinator}: no cluster found that JAX knows, such as Slurm or Open MPI: give "
            f"host:port, `num_processes` and `process_id` ({error})"
        ) from None
    except RuntimeError as error:
        raise ConfigError(f"`coordinator` {where}: {error}; is the port free?") from None
    finally:
        late.cancel()


def _not_met(where: str) -> None:
    said = f"the processes of the run did not meet within {JOIN_SECONDS} s at {where}: start all, with this address"
    os.write(2, f"polystep-rl: error: {said}\n".encode())
    os._exit(1)


def _redirect() -> None:
    """Send what libraries print to standard error, and that through `relay`; our own standard output stays."""
    sys.stdout.flush()
    sys.stderr.flush()
    encoding, errors = sys.stdout.encoding, sys.stdout.errors
    sys.stdout = os.fdopen(os.dup(1), "w", encoding=encoding, errors=errors, buffering=1)
    relay = Path(__file__).with_name("relay.py")
    command = [sys.executable, "-I", "-S", str(relay)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=2)  # its standard output is our standard error
    assert process.stdin is not None
    os.dup2(process.stdin.fileno(), 2)
    os.dup2(2, 1)
    process.stdin.close()


def _watch() -> None:
    """Wait until the run has ended; where another process has failed, or has gone, end this one."""
    client = _client()
    while True:
        try:
            found = json.loads(client.blocking_key_value_get(ENDED, 3600_000))
            break
        except Exception as error:
            if _left.is_set():
                return
            if "DEADLINE_EXCEEDED" not in str(error):  # the service has gone, and will not be asked
                _say_and_exit(_gone("0"))
    if found["reason"] is None:
        _say_and_exit(_roll_call())
    if found["process"] != _state().process_id:
        _say_and_exit(found["reason"])


def _gone(which: str) -> str:
    said = f"process {which} of {_state().num_processes} has gone: it was killed, or its machine or the network failed"
    return f"{said}; what was checkpointed goes on with `resume`"


def _roll_call() -> str:
    """Which processes have gone: those that do not answer."""
    client, count = _client(), _state().num_processes
    client.key_value_set(f"{HERE}{_state().process_id}", "")
    time.sleep(ANSWER_SECONDS)
    here = {int(key.rpartition("/")[2]) for key, _ in client.key_value_dir_get(HERE)}
    gone = ", ".join(str(index) for index in range(count) if index not in here) or "another"
    return _gone(gone)


def _fail(error: BaseException) -> None:
    """Tell the others why, and end; a collective operation that failed says that another process has gone."""
    said, code = failure(error)
    if said is None:
        traceback.print_exception(error)
        said = f"{type(error).__name__}: {error}"
    if jax.distributed.is_initialized():
        reason = None if _is_broken_off(error) else f"process {_state().process_id} failed: {' '.join(said.split())}"
        with contextlib.suppress(Exception):  # another one was first, or there is nobody to tell
            _client().key_value_set(ENDED, json.dumps({"process": _state().process_id, "reason": reason}))
        if reason is None:
            time.sleep(5 * ANSWER_SECONDS)  # `_watch` ends this process when it knows who has gone
    _say_and_exit(said, code)


def _is_broken_off(error: BaseException) -> bool:
    """Whether a collective operation failed, for another process has gone."""
    text = str(error)
    return "Gloo" in text or "NCCL" in text or "coordination service" in text


def _say_and_exit(text: str, code: int = 1) -> None:
    """End this process at once, whatever its threads are at: files are written atomically, nothing is left to do."""
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    os.write(2, f"polystep-rl: error: {as_flags(' '.join(text.split()))}\n".encode())
    if jax.distributed.is_initialized() and _state().process_id == 0:
        time.sleep(ANSWER_SECONDS / 2)  # the others read why from the service, which ends with this process
    os._exit(code)
