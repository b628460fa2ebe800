"""The task of a run: what makes its environment, in training and in what is reported."""

from __future__ import annotations

import ast
import contextlib
import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeGuard

from polystep_rl.envs import make_any
from polystep_rl.errors import ConfigError
from polystep_rl.rollout.host import SimulatorError
from polystep_rl.settings.run import TrainConfig
from polystep_rl.types import Env, HostEnv

_WORDS = {"true": True, "false": False, "none": None}


CALIBRATION_SEED = 0  # input scales belong to the environment, not to a run: all seeds then share one compiled program


@contextlib.contextmanager
def its_own_error(where: str) -> Iterator[None]:
    """Turn what an environment raises, or ends the program with, into a SimulatorError of one line."""
    try:
        yield
    except (Exception, SystemExit) as error:
        from polystep_rl.envs.host.single import described

        raise SimulatorError(f"the environment failed in {where}: {described(error)[:1000]}") from error


class Task(NamedTuple):
    """The part of the settings that makes an environment."""

    env: str
    simulator: str = "auto"
    env_kwarg: tuple[str, ...] = ()
    wrapper: tuple[str, ...] = ()
    max_episode_steps: int | None = None
    crn: bool = True

    @classmethod
    def of(cls, settings: TrainConfig | Mapping[str, Any]) -> Task:
        """The task in a configuration, or in what a policy file says about itself (whose lists become tuples)."""
        plain = settings if isinstance(settings, Mapping) else vars(settings)
        found: dict[str, Any] = {name: plain[name] for name in cls._fields if name in plain}
        found = {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}
        return cls(**found)


def keyword_arguments(given: tuple[str, ...]) -> dict[str, Any]:
    """``("push_enable=False", "scale=0.5")`` as values; true, false and none in any case, other words are text."""
    found: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise ConfigError(f"`env_kwarg` {text}: expected name=value, such as reset_noise_scale=0.1")
        try:
            found[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[name] = _WORDS.get(value.lower(), value)
    return found


def make_env(task: Task | str, workers: str = "auto") -> Env | HostEnv:
    """The environment of a task, or of an id. ConfigError, in one line, if there is none."""
    task = Task(task) if isinstance(task, str) else task
    if ":" in task.env and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # module:ClassName: as `python -m` would find it
    arguments = keyword_arguments(task.env_kwarg)
    try:
        return make_any(task.env, task.simulator, arguments, task.wrapper, task.max_episode_steps, workers, task.crn)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    except Exception as error:  # of a user's own module
        raise ConfigError(f"{task.env}: {type(error).__name__}: {error} ({_where(error)})") from error


def _where(error: BaseException) -> str:
    """The last line of code that an exception went through."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}"
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{frame.filename}, line {frame.lineno}"


def on_host(env: Env | HostEnv) -> TypeGuard[HostEnv]:
    """Whether an environment is stepped on the host."""
    return isinstance(env, HostEnv)


STAGES = 8  # of an argument that moves; the first and the last have the values that were given


def training_envs(env: Env | HostEnv, config: TrainConfig) -> list[Env | HostEnv]:
    """Make the environments of training, one for each stage of the budget.

    Raises:
        ConfigError: arguments that the environment does not have, that change what policies see or do, or that move
            where they cannot.
    """
    given = config.train_env_kwarg
    if not given:
        return [env]
    task, moving = Task.of(config), any(_ends(text) for text in given)
    if moving and not on_host(env):
        raise ConfigError(
            f"train_env_kwarg was {' '.join(given)}, expected fixed values on this simulator, which compiles them; "
            "those that move need `simulator` envpool or gymnasium"
        )
    if moving and config.total_timesteps is None:
        raise ConfigError(f"train_env_kwarg was {' '.join(given)} without total_timesteps: give both")
    found = []
    for stage in range(STAGES if moving else 1):
        arguments = tuple(_at(text, stage / (STAGES - 1)) for text in given)
        made = make_env(task._replace(env_kwarg=(*task.env_kwarg, *arguments)), config.workers)
        ours, theirs = (x.spec._replace(horizon=0, reward_threshold=None) for x in (env, made))
        if ours != theirs:
            expected = f"arguments that leave the spaces of {env.spec.id} as they are"
            raise ConfigError(f"train_env_kwarg was {' '.join(arguments)}, expected {expected}")
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
