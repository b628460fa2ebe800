"""One Gymnasium environment, made from plain values, and a set of such environments stepped one after another.

Both the pool in this process and the worker processes are made of it, so it imports no JAX.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.envs.registration import find_highest_version, parse_env_id, registry

from polystep_rl.envs.host.spaces import flat_observations, policy_actions
from polystep_rl.errors import did_you_mean

TERMINATED, TRUNCATED, LOST = 1, 2, 4  # bits of a flag
_WRAPPER = re.compile(r"([\w.]+(?::\w+)?)\s*(?:\((.*)\))?", re.DOTALL)
# Their statistics outlive an episode, so that a reset would not give the same episode again.
_STATEFUL = ("NormalizeObservation", "NormalizeReward")
# These keep their Box2D world, and with it the contact solver's memory, across reset(seed): the same seed and actions
# then give another episode. A fresh object costs 0.1 ms. (LunarLander makes a new world at every reset.)
_REMEMBERING = ("gymnasium.envs.box2d.bipedal_walker",)


def described(error: BaseException) -> str:
    """An exception in one line, as `Type: message`."""
    return " ".join(f"{type(error).__name__}: {error}".split())


class Recipe(NamedTuple):
    """Plain values from which an environment is made, so that they can be sent to a worker process."""

    env_id: str  # a Gymnasium id, "module:Id-v0", or "module:attribute" that makes a gymnasium.Env
    env_kwargs: Mapping[str, Any] | None = None
    wrappers: Sequence[str] = ()  # "Name" of gymnasium.wrappers or "module:Class", then optionally "(key=value, ...)"
    max_episode_steps: int | None = None


def make_single(
    env_id: str,
    env_kwargs: Mapping[str, Any] | None = None,
    wrappers: Sequence[str] = (),
    max_episode_steps: int | None = None,
    render_mode: str | None = None,
) -> gymnasium.Env[Any, Any]:
    """One wrapped environment with its own spaces (see Recipe for the arguments), truncated at ``max_episode_steps``.

    Raises ValueError with one line that says what to do: unknown ids and wrappers, packages that are not installed,
    arguments that do not fit.
    """
    kwargs = dict(env_kwargs or {})
    if render_mode is not None:
        kwargs["render_mode"] = render_mode
    factory = None
    if ":" in env_id:
        env_id, factory = _resolve(env_id)
    if factory is None:
        _check_known(env_id)
    with _one_line(env_id):
        if factory is None:
            # The passive checker only warns, and costs time in every step.
            env = gymnasium.make(env_id, max_episode_steps, disable_env_checker=True, **kwargs)
        else:
            env = factory(**kwargs)
    if not isinstance(env, gymnasium.Env):
        raise ValueError(f"environment {env_id!r} is a {type(env).__name__}, not a gymnasium.Env")
    if factory is not None and max_episode_steps is not None:
        env = gymnasium.wrappers.TimeLimit(env, max_episode_steps)
    for text in wrappers:
        env = _wrap(env, text)
    return env


def horizon_of(env: gymnasium.Env[Any, Any]) -> int | None:
    """Steps after which an environment truncates its episodes; None if it does not say."""
    if env.spec is not None and env.spec.max_episode_steps is not None:
        return env.spec.max_episode_steps
    while isinstance(env, gymnasium.Wrapper):  # without a spec, a time limit can still be among the wrappers
        if isinstance(env, gymnasium.wrappers.TimeLimit):
            return env._max_episode_steps
        env = env.env
    return None


class EnvFailure(RuntimeError):
    """An environment raised an exception; one line."""


class EnvSet:
    """Environments of one recipe by lane, each made at its first reset; results go into rows of arrays."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self._envs: dict[Any, gymnasium.Env[Any, Any]] = {}
        self._flatten: Callable[[Any], np.ndarray]
        self._convert: Callable[[np.ndarray], Any]

    def tick(self, jobs: Sequence[tuple[int, Any, int]], actions: np.ndarray, out: tuple[np.ndarray, ...]) -> None:
        """Reset or step some lanes, one after another.

        Args:
            jobs: (row, lane, seed) of each; a seed of -1 steps. A step before the first reset is flagged LOST.
            actions: the policy's, one a job.
            out: obs (rows, o), reward (rows,), flags (rows,) uint8 and one counter () that grows with every lane.

        Raises EnvFailure.
        """
        obs, rewards, flags, counter = out
        own: Any = None
        where = "reset"
        try:
            for job, (row, lane, seed) in enumerate(jobs):
                env = self._envs.get(lane)
                reward, flag = 0.0, 0
                if seed >= 0:
                    where = "reset"
                    if env is None or any(base.__module__ in _REMEMBERING for base in type(env.unwrapped).__mro__):
                        env = self._make(lane)
                    observation = env.reset(seed=seed)[0]
                elif env is None:
                    obs[row], rewards[row], flags[row] = 0.0, 0.0, LOST
                    continue
                else:
                    where = "step"
                    if own is None:
                        own = self._convert(actions)  # of all jobs at once, as soon as there is an environment
                    observation, paid, terminated, truncated, _ = env.step(own[job])
                    reward = float(paid)
                    flag = TERMINATED * bool(terminated) + TRUNCATED * bool(truncated)
                obs[row], rewards[row], flags[row] = self._flatten(observation), reward, flag
                counter += 1
        except (Exception, SystemExit) as error:
            text = described(error)[:1000]
            raise EnvFailure(f"environment {self.recipe.env_id} failed in {where}: {text}") from error

    def _make(self, lane: Any) -> gymnasium.Env[Any, Any]:
        if lane in self._envs:
            self._envs.pop(lane).close()
        env = make_single(*self.recipe)
        _quiet_mujoco()
        self._flatten = flat_observations(env.observation_space)[1]
        self._convert = policy_actions(env.action_space)[1]
        self._envs[lane] = env
        return env

    def close(self) -> None:
        """Close all environments."""
        while self._envs:
            self._envs.popitem()[1].close()


def _quiet_mujoco() -> None:
    """Stop MuJoCo from writing every warning of every lane to the terminal and to MUJOCO_LOG.TXT."""
    mujoco: Any = sys.modules.get("mujoco")
    if hasattr(mujoco, "get_mju_user_warning") and mujoco.get_mju_user_warning() is None:
        mujoco.set_mju_user_warning(_ignore)


def _ignore(*message: Any) -> None:
    pass


# --- names -------------------------------------------------------------------------------------------------------
def _resolve(path: str) -> tuple[str, Callable[..., Any] | None]:
    """Resolve "module:name" to the attribute of that module, or else to an id that importing the module registers."""
    module_name, _, name = path.partition(":")
    if not module_name or not name:
        raise ValueError(f"import path must look like 'module:ClassName', got {path!r}")
    module = _import(path, module_name, "environment")
    if hasattr(module, name):
        factory = getattr(module, name)
        if not callable(factory):
            raise ValueError(f"{path!r} is a {type(factory).__name__}, not a class or a function")
        return path, factory
    if name in registry:
        return name, None
    hint = did_you_mean(name, [*vars(module), *registry], before="; ", quoted=False)
    raise ValueError(f"module {module_name!r} has no {name!r} and registers no environment of that name{hint}")


def _import(path: str, module_name: str, what: str) -> Any:
    try:
        return importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(f"cannot import {what} {path!r}: {' '.join(str(error).split())}") from error


def is_known(env_id: str) -> bool:
    """Whether Gymnasium has an id; for an id without a version it takes the latest one, and says so."""
    if env_id in registry:
        return True
    with contextlib.suppress(gymnasium.error.Error):
        namespace, name, version = parse_env_id(env_id)
        return version is None and find_highest_version(namespace, name) is not None
    return False


def _check_known(env_id: str) -> None:
    if is_known(env_id):
        return
    hint = did_you_mean(env_id, registry, "Gymnasium has no id like it", most=3, quoted=False)
    raise ValueError(
        f"unknown environment {env_id!r}: {hint} (an id that another package registers is 'module:Id-v0', a class or"
        " function of your own 'module:ClassName')"
    )


@contextlib.contextmanager
def _one_line(env_id: str) -> Iterator[None]:
    """Context in which any failure to make an environment becomes a ValueError of one line."""
    try:
        yield
    except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
        entry = getattr(registry.get(env_id), "entry_point", None)
        extra = next((name for name in ("mujoco", "box2d") if f".{name}." in str(entry)), None)
        hint = f"; pip install 'polystep-rl[{extra}]'" if extra else ""
        text = " ".join(str(error).split())
        raise ValueError(f"environment {env_id!r} needs a package that is not installed: {text}{hint}") from error
    except TypeError as error:
        text = " ".join(str(error).split())
        raise ValueError(f"environment {env_id!r} cannot be made from these arguments: {text}") from error
    except Exception as error:
        text = described(error)
        raise ValueError(f"environment {env_id!r} cannot be made: {text}") from error


# --- wrappers ----------------------------------------------------------------------------------------------------
def _wrap(env: gymnasium.Env[Any, Any], text: str) -> gymnasium.Env[Any, Any]:
    """Wrap an environment as a text such as "RescaleAction(min_action=-1, max_action=1)" says."""
    name, kwargs = _parse(text)
    if name.rpartition(":")[2] in _STATEFUL:
        raise ValueError(
            f"wrapper {name!r} keeps statistics across episodes, so that episodes would depend on what ran before;"
            " leave it out: training normalises observations itself"
        )
    module_name, _, attribute = name.rpartition(":")
    module = _import(name, module_name, "wrapper") if module_name else gymnasium.wrappers
    try:
        wrapper = getattr(module, attribute)
    except AttributeError:
        known = dir(module) if module_name else gymnasium.wrappers.__all__
        otherwise = "give one of gymnasium.wrappers or 'module:Class'"
        hint = did_you_mean(attribute, known, otherwise, most=3, cutoff=0.5, quoted=False)
        raise ValueError(f"unknown wrapper {name!r}: {hint}") from None
    try:
        wrapped = wrapper(env, **kwargs)
    except Exception as error:
        why = described(error)
        raise ValueError(f"wrapper {text!r} cannot be put on: {why}") from error
    if not isinstance(wrapped, gymnasium.Env):
        raise ValueError(f"wrapper {text!r} gave a {type(wrapped).__name__}, not a gymnasium.Env")
    return wrapped


def _parse(text: str) -> tuple[str, dict[str, Any]]:
    """Split "Name" or "Name(key=value, ...)" into name and keyword arguments; values are Python literals."""
    match = _WRAPPER.fullmatch(text.strip())
    expected = f"wrapper {text!r} must look like 'Name' or 'Name(key=value, ...)' with literal values"
    if match is None:
        raise ValueError(expected)
    try:
        call = ast.parse(f"f({match[2] or ''})", mode="eval").body
        assert isinstance(call, ast.Call)
        if call.args or any(keyword.arg is None for keyword in call.keywords):
            raise ValueError(expected)
        return match[1], {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (SyntaxError, ValueError):
        raise ValueError(expected) from None
