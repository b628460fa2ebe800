"""A pool of Ray actors that step environments, on one machine or many, with the results of the pool of workers.py.

Each actor holds its share of the lanes of every group. A tick is one remote call per actor that has lanes in it, with
its lanes, actions and seeds; observations, rewards and flags come back. An actor that dies, whose environment raises,
or that shows no sign of life is killed and replaced, and what it was doing is reported as lost.
"""

from __future__ import annotations

import contextlib
import os
import sys
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np

from polystep_rl.envs.host.ray_cluster import Connection, join, one_line, the_ray
from polystep_rl.envs.host.single import LOST, TERMINATED, TRUNCATED, Recipe
from polystep_rl.envs.host.workers import _GRACE, _ONE_THREAD, _START_SECONDS, FAULTS_IN_A_ROW, Streak, _plan
from polystep_rl.types import EnvSpec, Ticks

_PULSE_SECONDS = 10.0  # in which an actor that is at work says so

Answer = tuple[np.ndarray, np.ndarray, np.ndarray, int]  # obs, rewards, flags, lanes stepped or reset so far


def _simulators() -> type:
    """The class of the actors. Ray sends a class that is local to a function by value, so that an actor need not import
    this module, and with it JAX. Environments run in a thread beside the main one, which keeps answering."""

    class Simulators:
        def __init__(self, path: list[str], env: dict[str, str], recipe: list[Any], obs_size: int) -> None:
            import os
            import sys
            import warnings

            self.obs_size = obs_size
            self.broken: str | None = None
            try:
                os.environ.update(env)  # before NumPy is imported
                warnings.simplefilter("ignore")  # make_single has warned on the driver
                sys.path.extend(entry for entry in path if entry not in sys.path)
                import numpy as np

                from polystep_rl.envs.host.single import EnvSet, Recipe

                self.envs = EnvSet(Recipe(*recipe))

                self.beat = np.zeros((), np.int64)
            except BaseException as error:
                self.broken = self.why(error)

        @staticmethod
        def why(error: BaseException) -> str:
            text = str(error) if type(error).__name__ == "EnvFailure" else repr(error)
            return " ".join(text.split())[:2000]

        def ready(self) -> str | None:
            return self.broken

        def beats(self) -> int:
            return int(self.beat)

        def tick(self, group: int, lanes: Any, actions: Any, seeds: Any) -> Any:
            import numpy as np

            rows = range(len(lanes))
            obs = np.zeros((len(lanes), self.obs_size), np.float32)
            out = obs, np.zeros(len(lanes)), np.zeros(len(lanes), np.uint8), self.beat
            jobs = list(zip(rows, [(group, lane) for lane in lanes.tolist()], seeds.tolist(), strict=True))
            try:
                self.envs.tick(jobs, actions, out)
            except BaseException as error:  # an environment may also call sys.exit
                return self.why(error)
            return *out[:3], int(self.beat)

        def close(self) -> None:
            self.envs.close()

    return Simulators


class _Actor:
    """One actor, and the ticks that it still has to answer."""

    def __init__(self, make: Any, arguments: tuple[Any, ...], connection: Connection) -> None:
        self.streak = Streak()
        self.pending: dict[int, Any] = {}  # group -> the answer to come
        self._make, self._arguments, self._connection = make, arguments, connection
        self.handle: Any = None
        self.start()

    def start(self) -> None:
        self.beats = 0
        self._cpus = self._connection.take_cpu()
        self.handle = self._make.options(num_cpus=self._cpus).remote(*self._arguments)
        self.starting: Any = self.handle.ready.remote()  # None once the actor has said that it is

    def moved(self) -> bool:
        """Whether lanes have been stepped since the last call."""
        ray = the_ray()
        try:
            beats = ray.get(self.handle.beats.options(concurrency_group="pulse").remote(), timeout=_PULSE_SECONDS)
        except ray.exceptions.RayError:
            return False
        before, self.beats = self.beats, beats
        return beats != before

    def end(self) -> None:
        """Kill the actor."""
        if self.handle is not None:
            with contextlib.suppress(Exception):  # of a Ray that is itself about to end
                the_ray().kill(self.handle)
            self._connection.cpus_taken -= self._cpus
        self.handle = None


class RayLanes:
    """A pool over Ray actors, a ``types.Lanes``: lane i of every group lives in actor i modulo ``actors``.

    Args:
        recipe: what the environments are made from.
        spec: of the environment.
        width: lanes per group.
        groups: number of groups.
        address: of a Ray cluster: host:port, ray://host:port or "auto"; "" joins the one that this machine belongs to
            (or that RAY_ADDRESS names), or else starts Ray here until the last pool of this process is closed. Where
            this process is connected to a cluster already, it is that one.
        actors: number of actors, at most ``width``, a CPU each while there are any; None is one per CPU of the cluster.
        hang_seconds: an actor that has stepped no lane for so long is replaced.

    ``last_fault`` is the message of the actor that was replaced last. Raises ValueError, one line, where there is no
    such cluster, and RuntimeError, one line, from ``recv`` where one actor has failed five times and no episode of its
    lanes has ended in between, or where the cluster itself is gone.
    """

    together = False

    def __init__(
        self,
        recipe: Recipe,
        spec: EnvSpec,
        width: int,
        groups: int,
        address: str = "",
        actors: int | None = None,
        hang_seconds: float = 60.0,
    ) -> None:
        if actors is not None and actors < 1:
            raise ValueError(f"actors must be at least 1, got {actors}")
        self.groups = groups
        self.width = width
        self.faults = 0
        self.last_fault = ""
        self._id = recipe.env_id
        self._size = spec.observation_space.shape[0]
        self._hang_seconds = hang_seconds
        # group -> see workers._plan, and the lanes and seeds in that order
        self._sent: dict[int, tuple[np.ndarray, list[tuple[int, int]], np.ndarray, np.ndarray]] = {}
        self._actors: list[_Actor] = []
        connection = join(address)
        self._finalizer = weakref.finalize(self, _end_all, self._actors, connection)
        with self._cluster() as ray:
            cls = ray.remote(max_restarts=0, scheduling_strategy="SPREAD", concurrency_groups={"pulse": 1})
            make = cls(_simulators())
            path = [entry or os.getcwd() for entry in sys.path]
            arguments = path, _ONE_THREAD, list(recipe), self._size
            for _ in range(min(width, actors or max(1, connection.cpus()))):
                self._actors.append(_Actor(make, arguments, connection))

    def send(self, group: int, lanes: np.ndarray, actions: np.ndarray, seeds: np.ndarray) -> None:
        """See types.Lanes."""
        if not self._finalizer.alive:
            raise ValueError("the pool is closed")
        if group in self._sent:
            raise ValueError(f"group {group} was sent twice without being received")
        order, rows = _plan(np.asarray(lanes, np.int64).tobytes(), len(self._actors))
        lanes, actions, seeds = lanes[order], actions[order], seeds[order]
        self._sent[group] = order, rows, lanes, seeds
        with self._cluster():
            for actor, (start, stop) in zip(self._actors, rows, strict=True):
                if start < stop:
                    mine = slice(start, stop)
                    actor.pending[group] = actor.handle.tick.remote(group, lanes[mine], actions[mine], seeds[mine])

    def recv(self, group: int) -> Ticks:
        """See types.Lanes. Raises RuntimeError, one line, where an actor keeps failing."""
        if group not in self._sent:
            raise ValueError(f"group {group} was not sent")
        order, rows, lanes, seeds = self._sent[group]
        k = len(order)
        obs, reward = np.zeros((k, self._size), np.float32), np.zeros(k)
        flags = np.full(k, LOST, np.uint8)  # unless an answer comes
        for actor, (start, stop) in zip(self._actors, rows, strict=True):
            answer = self._wait(actor, group) if group in actor.pending else None
            if answer is not None:
                mine = order[start:stop]
                obs[mine], reward[mine], flags[mine] = answer[:3]
                actor.streak.saw(group, lanes[start:stop], seeds[start:stop], answer[2])
        del self._sent[group]
        return Ticks(obs, reward, flags & TERMINATED > 0, flags & TRUNCATED > 0, flags & LOST > 0)

    def close(self) -> None:
        """Kill the actors, and end Ray if it was started for pools of which this is the last; twice is no error."""
        self._sent.clear()
        self._finalizer()

    def _wait(self, actor: _Actor, group: int) -> Answer | None:
        """Wait for an actor's answer; None if the actor had to be replaced."""
        with self._cluster() as ray:
            while True:
                starting = actor.starting is not None
                limit = max(self._hang_seconds, _START_SECONDS) if starting else self._hang_seconds
                try:
                    result = ray.get(actor.starting if starting else actor.pending[group], timeout=limit)
                except ray.exceptions.GetTimeoutError:
                    if not starting and actor.moved():
                        continue  # slow, but at work: a lane has been stepped since
                    result = f"no answer within {limit:g} s"
                except ray.exceptions.RayError as error:
                    result = one_line(error)
                if isinstance(result, str):  # why there is no answer
                    self._replace(actor, result)
                    return None
                if not starting:
                    del actor.pending[group]
                    actor.beats = result[3]
                    return result
                actor.starting = None

    def _replace(self, actor: _Actor, reason: str) -> None:
        self.faults += 1
        self.last_fault = reason
        actor.end()
        if actor.streak.fault():
            self.close()
            raise RuntimeError(
                f"environment {self._id}: an actor failed {FAULTS_IN_A_ROW} times in a row, at last: {reason}"
            )
        actor.pending.clear()
        actor.start()

    @contextlib.contextmanager
    def _cluster(self) -> Iterator[Any]:
        """Context in which failures of Ray as a whole become a RuntimeError of one line; yields Ray."""
        ray = the_ray()
        try:
            yield ray
        except (ray.exceptions.RayError, ConnectionError) as error:
            self.close()
            raise RuntimeError(f"environment {self._id}: the Ray cluster is gone: {one_line(error)}") from error


def _end_all(actors: list[_Actor], connection: Connection) -> None:
    """Let every actor close its environments, and kill them."""
    if connection.alive:
        with contextlib.suppress(Exception):
            closing = [actor.handle.close.remote() for actor in actors if actor.handle and actor.starting is None]
            if closing:
                the_ray().wait(closing, num_returns=len(closing), timeout=_GRACE)
        for actor in actors:
            actor.end()
    connection.leave()
