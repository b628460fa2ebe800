"""``train --train-env-kwarg``: the environment that candidates meet in training, which may change while it goes on."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from typing import Any

from polystep_rl.cli import UsageError
from polystep_rl.rollout.host import HostEvaluator
from polystep_rl.runs.judging import Task, make_env, on_host
from polystep_rl.settings.run import TrainConfig
from polystep_rl.types import Env, Evaluation, HostEnv, Key, Params, PyTree

STAGES = 8  # of an argument that moves; the first and the last have the values that were given


def training_envs(env: Env | HostEnv, config: TrainConfig) -> list[Env | HostEnv]:
    """What candidates are evaluated on, one environment for each stage of the budget.

    Raises:
        UsageError: arguments that the environment does not have, that change what policies see or do, or that move
            where they cannot.
    """
    given = config.train_env_kwarg
    if not given:
        return [env]
    task, moving = Task.of(config), any(_ends(text) for text in given)
    if moving and not on_host(env):
        raise UsageError(
            f"train_env_kwarg was {' '.join(given)}, expected fixed values on this simulator, which compiles them; "
            "those that move need --simulator envpool or gymnasium"
        )
    if moving and config.total_timesteps is None:
        raise UsageError(f"train_env_kwarg was {' '.join(given)} without total_timesteps: give both")
    found = []
    for stage in range(STAGES if moving else 1):
        arguments = tuple(_at(text, stage / (STAGES - 1)) for text in given)
        made = make_env(task._replace(env_kwarg=(*task.env_kwarg, *arguments)), config.workers)
        ours, theirs = (x.spec._replace(horizon=0, reward_threshold=None) for x in (env, made))
        if ours != theirs:
            expected = f"arguments that leave the spaces of {env.spec.id} as they are"
            raise UsageError(f"train_env_kwarg was {' '.join(arguments)}, expected {expected}")
        found.append(made)
    return found


def _ends(text: str) -> tuple[str, float, float] | None:
    """Name, first and last value of "push_magnitude_max=0:2"; None of an argument that stays as it is."""
    name, _, value = text.partition("=")
    first, colon, last = value.partition(":")
    try:
        ends = (ast.literal_eval(first.strip()), ast.literal_eval(last.strip())) if colon else ()
    except (ValueError, SyntaxError):
        return None
    return (name, *ends) if ends and all(type(x) in (int, float) for x in ends) else None


def _at(text: str, share: float) -> str:
    """The argument once a share in [0, 1] of the stages is over, linear between its ends; whole numbers stay so."""
    ends = _ends(text)
    if ends is None:
        return text
    name, first, last = ends
    value = first + (last - first) * share
    return f"{name}={round(value) if type(first) is type(last) is int else value}"


class Stages:
    """Evaluators that follow each other, each for an equal part of the budget of env steps.

    Args:
        parts: one a stage; only the present one holds simulators.
    """

    on_host, grows = True, True

    def __init__(self, parts: Sequence[HostEvaluator]) -> None:
        self._parts, self._stage = tuple(parts), 0

    @property
    def faults(self) -> int:
        """Simulators that died and were replaced so far."""
        return sum(part.faults for part in self._parts)

    def close(self) -> None:
        for part in self._parts:
            part.close()

    def __call__(
        self, key: Key, candidates: PyTree, decode: Callable[[PyTree], Params], share: Any = 0.0
    ) -> Evaluation:
        stage = min(int(share * len(self._parts)), len(self._parts) - 1)
        if stage != self._stage:
            self._parts[self._stage].close()
            self._stage = stage
        return self._parts[stage](key, candidates, decode, share)
