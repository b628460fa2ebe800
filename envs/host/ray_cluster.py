"""This process's connection to a Ray cluster: joined or started for the first pool, given up with the last."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
import os
import re
import signal
import socket
import sys
import warnings
from typing import Any

from polystep_rl.machine import usable_cores

_REACH_SECONDS = 5.0  # Ray itself takes minutes to find out that nobody listens at an address
_current: Connection | None = None


def ray_address(workers: str) -> str:
    """The address in a setting such as "ray:ADDRESS"; empty for "ray".

    Raises ValueError, one line: for other text, and where Ray is not installed.
    """
    name, _, address = workers.partition(":")
    if name != "ray" or workers.endswith(":"):
        raise ValueError(f"workers {workers!r}: expected ray, ray:auto, ray:HOST:PORT or ray://HOST:PORT")
    if sys.modules.get("ray", ...) is None or importlib.util.find_spec("ray") is None:
        raise ValueError(f"`workers` {workers} needs Ray: pip install 'polystep-rl[ray]'")
    return workers if address.startswith("//") else address


def the_ray() -> Any:
    """The package, imported when it is first needed."""
    return importlib.import_module("ray")


class Connection:
    """A connection to Ray and the number of pools that use it; one that other code has made is never ended."""

    def __init__(self, address: str) -> None:
        self.pools = 0
        self.cpus_taken = 0
        self.ours = not the_ray().is_initialized()
        if self.ours:
            self._sigterm = signal.getsignal(signal.SIGTERM)  # Ray puts its own handler in the place of this one
            self._connect(address)

    @property
    def alive(self) -> bool:
        """Whether the connection still exists: other code may have shut Ray down."""
        return self is _current and the_ray().is_initialized()

    def cpus(self) -> int:
        """CPUs of the whole cluster."""
        return int(the_ray().cluster_resources().get("CPU", 0))

    def take_cpu(self) -> int:
        """CPUs that a new actor asks for: 1, or 0 where all are taken, so that it starts all the same.

        A run's pools for training and for testing take turns on the same CPUs, and the actors of a machine that is gone
        must fit on the others. What Ray calls available lags behind, so that actors of this process are counted here.
        """
        cpu = int(min(the_ray().available_resources().get("CPU", 0), self.cpus() - self.cpus_taken) >= 1)
        self.cpus_taken += cpu
        return cpu

    def leave(self) -> None:
        """Count one pool less; disconnect after the last."""
        global _current
        self.pools -= 1
        if self.alive and self.pools == 0:
            _current = None
            if self.ours:
                self._shutdown()

    def _connect(self, address: str) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        named = os.environ.get("RAY_ADDRESS", "") if address in ("", "auto") else address
        where = f"no Ray cluster at {named}" if named else "no Ray cluster on this machine"
        try:
            _reach(named)
            try:
                _init(named or "auto")
            except ConnectionError:
                if named or address:
                    raise
                where = "Ray cannot be started"
                _init("local", include_dashboard=False, num_cpus=len(usable_cores()))
        except Exception as error:
            self._shutdown()
            # Ray sends its token to an address that it is given only if it is told to.
            told = not named or type(error) is not ConnectionError or "RAY_AUTH_MODE" in os.environ
            hint = "" if told else " (if it wants a token, as clusters do by default: export RAY_AUTH_MODE=token)"
            raise ValueError(f"{where}: {one_line(error)}{hint}") from error

    def _shutdown(self) -> None:
        with contextlib.suppress(Exception):
            the_ray().shutdown()
        with contextlib.suppress(ValueError, TypeError):  # in another thread; of a handler that is not Python's
            signal.signal(signal.SIGTERM, self._sigterm)


def join(address: str) -> Connection:
    """This process's connection, for one more pool. ValueError, one line, where there is none to be had."""
    global _current
    if _current is None or not _current.alive:
        _current = Connection(address)
    _current.pools += 1
    return _current


def one_line(error: BaseException) -> str:
    """The message of an error in one line; of an actor's death only the cause."""
    text = " ".join(str(error).split())
    dead = re.search(r"The actor (?:is dead|died) because (.+?)(?: Some common causes|$)", text)
    return (f"the actor died: {dead[1]}" if dead else text)[:1000]


def _init(address: str, **options: Any) -> None:
    with warnings.catch_warnings():
        # Of JAX, which sees the fork before Ray's programs are executed; nothing of JAX runs in between.
        warnings.filterwarnings("ignore", r"os\.fork\(\) was called", RuntimeWarning)
        the_ray().init(address=address, log_to_driver=False, logging_level=logging.ERROR, **options)


def _reach(address: str) -> None:
    """Raise OSError or ValueError if nothing listens at host:port."""
    if address in ("", "local"):
        return
    host, _, port = address.removeprefix("ray://").partition("/")[0].rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError("expected HOST:PORT or ray://HOST:PORT")
    socket.create_connection((host.strip("[]"), int(port)), _REACH_SECONDS).close()
