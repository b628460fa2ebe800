"""Environments and evaluators for whatever simulates them; shared by the commands."""

from __future__ import annotations

import ast
import contextlib
import functools
import os
import sys
import traceback
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any, NamedTuple, cast

import jax
import numpy as np

from polystep_rl.cli import UsageError
from polystep_rl.settings.run import TrainConfig
from polystep_rl.processes import jitted
from polystep_rl.envs import make_any
from polystep_rl.rollout.device import Horizon, Penalty, device_evaluator, evaluate_params
from polystep_rl.rollout.host import SimulatorError, host_evaluator
from polystep_rl.settings.checks import MAX_SEED
from polystep_rl.training.loop import streams
from polystep_rl.types import Env, Evaluation, Evaluator, HostEnv, Key, Params, Policy

_WORDS = {"true": True, "false": False, "none": None}
CALIBRATION_SEED = 0  # input scales belong to the environment, not to a run: all seeds then share one compiled program


@contextlib.contextmanager
def its_own_error(where: str) -> Iterator[None]:
    """What an environment raises, or ends the program with, becomes a SimulatorError of one line."""
    try:
        yield
    except (Exception, SystemExit) as error:
        from polystep_rl.envs.host.single import described

        raise SimulatorError(f"the environment failed in {where}: {described(error)[:1000]}") from error


class Task(NamedTuple):
    """What makes an environment: the part of the settings that says so."""

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
            raise UsageError(f"--env-kwarg {text}: expected name=value, such as reset_noise_scale=0.1")
        try:
            found[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[name] = _WORDS.get(value.lower(), value)
    return found


def make_env(task: Task | str, workers: str = "auto") -> Env | HostEnv:
    """The environment of a task, or of an id. UsageError, in one line, if there is none."""
    task = Task(task) if isinstance(task, str) else task
    if ":" in task.env and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # module:ClassName: as `python -m` would find it
    arguments = keyword_arguments(task.env_kwarg)
    try:
        return make_any(task.env, task.simulator, arguments, task.wrapper, task.max_episode_steps, workers, task.crn)
    except ValueError as error:
        raise UsageError(str(error)) from None
    except Exception as error:  # of a user's own module
        raise UsageError(f"{task.env}: {type(error).__name__}: {error} ({_where(error)})") from error


def _where(error: BaseException) -> str:
    """The last line of code that an exception went through."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}"
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{frame.filename}, line {frame.lineno}"


def on_host(env: Env | HostEnv) -> bool:
    """Whether an environment is stepped on the host."""
    return hasattr(env, "lanes")


def stream_seed(key: Key) -> int:
    """A seed for simulators that have a stream of their own."""
    return int(jax.random.randint(key, (), 0, 2**31 - 1))


def make_evaluator(
    env: Env | HostEnv,
    policy: Policy,
    episodes: int,
    key: Key,
    collect_moments: bool = False,
    penalty: Penalty = Penalty(),
    horizon: Horizon = Horizon(),
) -> Evaluator:
    """An evaluator for an environment; ``key`` is the stream of simulators that have one of their own."""
    if on_host(env):
        return host_evaluator(
            cast(HostEnv, env),
            policy,
            episodes,
            collect_moments=collect_moments,
            seed=stream_seed(key),
            penalty=penalty,
            horizon=horizon,
        )
    return device_evaluator(
        cast(Env, env),
        policy,
        episodes,
        collect_moments=collect_moments,
        penalty=penalty,
        horizon=horizon,
    )


def close(*evaluators: Any) -> None:
    """Give back the simulators of evaluators that have any."""
    for evaluate in evaluators:
        if hasattr(evaluate, "close"):
            evaluate.close()


def centre_function(env: Env | HostEnv, policy: Policy, episodes: int, key: Key) -> Callable[[Key, Params], Evaluation]:
    """(key, params) -> Evaluation of one parameter set; compiled where it can be."""
    if on_host(env):
        return functools.partial(evaluate_params, make_evaluator(env, policy, episodes, key))
    return _device_centre(cast(Hashable, env), policy, episodes)


@functools.lru_cache(maxsize=4)
def _device_centre(env: Any, policy: Policy, episodes: int) -> Callable[[Key, Params], Evaluation]:
    return jitted(functools.partial(evaluate_params, device_evaluator(env, policy, episodes)))


def summarise(evaluation: Evaluation) -> dict[str, Any]:
    """The `eval` object of --json."""
    returns = np.asarray(evaluation.returns, np.float64)
    return {
        "mean_return": float(returns.mean()),
        "std_return": float(returns.std()),
        "mean_length": float(np.mean(evaluation.lengths)),
        "episodes": int(returns.size),
    }


def check_test(episodes: int, seed: int) -> None:
    """UsageError where there are no such test episodes."""
    if episodes < 1:
        raise UsageError(f"--episodes {episodes}: expected at least 1")
    if not 0 <= seed <= MAX_SEED:
        raise UsageError(f"--seed {seed}: expected 0 to {MAX_SEED}")


def evaluate_on_test(env: Env | HostEnv, policy: Policy, params: Params, episodes: int, seed: int) -> dict[str, Any]:
    """Evaluate on episodes of the test stream of a seed, which training never draws from."""
    check_test(episodes, seed)
    key = streams(seed).test
    evaluate = centre_function(env, policy, episodes, key)
    try:
        found = summarise(jax.device_get(evaluate(key, params)))
    finally:
        close(getattr(evaluate, "args", (None,))[0])
    return {**found, **simulator_facts(env)}


def simulator_facts(env: Env | HostEnv) -> dict[str, Any]:
    """What simulated, and whether all candidates of a generation met the same episodes."""
    return {"simulator": getattr(env, "simulator", "jax"), "crn": bool(getattr(env, "crn", True))}
