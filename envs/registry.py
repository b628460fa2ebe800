"""Environments by name: ``make("CartPole-v1")``, ``register("My-v0", MyEnv)``, ``make("my_package.my_env:MyEnv")``.

``make`` knows the environments that are written in JAX; ``make_any`` also finds those of EnvPool and Gymnasium.
"""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
import jax

from polystep_rl.errors import did_you_mean
from polystep_rl.machine import usable_cores
from polystep_rl.types import Env, HostEnv

Factory = Callable[..., Env]
SIMULATORS = ("auto", "jax", "envpool", "gymnasium")

# id -> a factory, or the import path of one ("module:attribute"), imported when it is first needed
_FACTORIES: dict[str, Factory | str] = {
    "CartPole-v1": "polystep_rl.envs.classic.cartpole:CartPole",
    "Acrobot-v1": "polystep_rl.envs.classic.acrobot:Acrobot",
    "MountainCar-v0": "polystep_rl.envs.classic.mountain_car:MountainCar",
    "MountainCarContinuous-v0": "polystep_rl.envs.classic.mountain_car:MountainCarContinuous",
    "Pendulum-v1": "polystep_rl.envs.classic.pendulum:Pendulum",
    "probe/Bandit-v0": "polystep_rl.envs.probe:Bandit",
    "probe/ContextualBandit-v0": "polystep_rl.envs.probe:ContextualBandit",
    "probe/DelayedReward-v0": "polystep_rl.envs.probe:DelayedReward",
    "probe/Target-v0": "polystep_rl.envs.probe:Target",
    "probe/Integrator-v0": "polystep_rl.envs.probe:Integrator",
}


def registered_ids() -> list[str]:
    """Every id that ``make`` knows, in alphabetical order."""
    return sorted(_FACTORIES)


def register(env_id: str, factory: Factory | str) -> None:
    """Add an environment of your own.

    ``factory`` is a callable that returns an environment (a class will do), or its import path "module:attribute".
    Raises ValueError where the id is taken by another factory or is not usable as one.
    """
    if not env_id or ":" in env_id or any(character.isspace() for character in env_id):
        raise ValueError(f"an environment id must be non-empty, without spaces or colons, got {env_id!r}")
    if not callable(factory) and not (isinstance(factory, str) and ":" in factory):
        raise ValueError(f"factory must be a callable or an import path 'module:attribute', got {factory!r}")
    if _FACTORIES.get(env_id, factory) != factory:
        raise ValueError(f"environment id {env_id!r} is already registered; choose another id")
    _FACTORIES[env_id] = factory


def make(env_id: str, **kwargs: Any) -> Env:
    """Make the environment of an id, of an import path "module:ClassName", or of MuJoCo Playground on MJX.

    Keyword arguments go to the factory. Raises ValueError with one line that says what to do: for an unknown id it
    names the closest ones.
    """
    if env_id in _FACTORIES:
        factory = _FACTORIES[env_id]
    elif ":" in env_id:
        factory = env_id
    elif _of_playground(env_id):
        from polystep_rl.envs.robots.playground_env import PlaygroundEnv

        return PlaygroundEnv(env_id.removesuffix("-v1"), **kwargs)
    else:
        raise ValueError(_unknown(env_id))
    if isinstance(factory, str):
        factory = _load(factory)
    try:
        signature = inspect.signature(factory)
    except ValueError:  # some callables written in C have none
        signature = inspect.Signature([inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD)])
    try:
        signature.bind(**kwargs)
    except TypeError as error:
        raise ValueError(f"environment {env_id!r} cannot be made from these arguments: {error}") from None
    env = factory(**kwargs)
    if isinstance(env, gymnasium.Env):  # it has a spec, reset and step, too
        raise ValueError(f"{env_id!r} is a gymnasium.Env, not written in JAX: give `simulator` gymnasium")
    if not isinstance(env, Env):
        raise ValueError(f"{env_id!r} gave a {type(env).__name__}, which lacks spec, reset or step (types.Env)")
    return env


def make_any(
    env_id: str,
    simulator: str = "auto",
    env_kwargs: Mapping[str, Any] | None = None,
    wrappers: Sequence[str] = (),
    max_episode_steps: int | None = None,
    workers: str = "auto",
    crn: bool = True,
) -> Env | HostEnv:
    """Make an environment of any simulator: JAX, EnvPool or Gymnasium.

    Args:
        env_id: an id, or the import path "module:ClassName" of an ``Env`` or of a ``gymnasium.Env``.
        simulator: ``jax``, ``envpool`` or ``gymnasium``; ``auto`` takes the first of them that has the id and, where
            wrappers are given, can have them (only Gymnasium can). Of Playground's tasks, which EnvPool and JAX (on
            MJX) both have, it takes EnvPool's on a CPU.
        env_kwargs: keyword arguments of the environment.
        wrappers: names in ``gymnasium.wrappers``, or import paths; innermost first.
        max_episode_steps: steps after which an episode is cut; the environment's own by default.
        workers: processes that step Gymnasium's environments: ``auto`` (one per core), or a number; 0 is this one;
            or a Ray cluster's: ``ray``, ``ray:auto``, ``ray:HOST:PORT``.
        crn: common random numbers where they cost something (EnvPool); elsewhere they are always there.

    Raises:
        ValueError: one line that says what to do.
    """
    if simulator not in SIMULATORS:
        raise ValueError(f"simulator {simulator!r}: expected one of {', '.join(SIMULATORS)}")
    chosen = _choose(env_id, env_kwargs or {}, bool(wrappers)) if simulator == "auto" else simulator
    if chosen != "gymnasium" and wrappers:
        raise ValueError(f"`wrapper` needs `simulator` gymnasium: {chosen} has no wrappers")
    count = _worker_count(workers)
    if chosen == "jax":
        _no_workers(workers, chosen)
        env = make(env_id, **(env_kwargs or {}))
        return env if max_episode_steps is None else _Shortened(env, max_episode_steps)
    if chosen == "envpool":
        from polystep_rl.envs.envpool_env import EnvPoolEnv
        from polystep_rl.envs.host.single import is_known

        try:
            env_pool = EnvPoolEnv(env_id, env_kwargs, max_episode_steps, crn)
        except ValueError:
            if simulator != "auto" or not is_known(env_id):
                raise
            # Spaces or options that only Gymnasium has, or that nobody has: then it says so.
        else:
            _no_workers(workers, chosen)
            return env_pool
    from polystep_rl.envs.host.gymnasium_env import GymnasiumEnv

    return GymnasiumEnv(env_id, env_kwargs, wrappers, max_episode_steps, count)


def _no_workers(workers: str, simulator: str) -> None:
    if workers not in ("auto", "0"):
        raise ValueError(f"`workers` {workers} needs `simulator` gymnasium: {simulator} has no worker processes")


def _worker_count(workers: str) -> int | str:
    """Number of worker processes: ``auto`` is one per core, 0 on one core or on Windows; Ray's text passes."""
    cores = len(usable_cores())
    if workers == "auto":
        return cores if cores > 1 and os.name == "posix" else 0
    if workers.partition(":")[0] == "ray":
        return workers
    if not workers.isdecimal():
        raise ValueError(f"`workers` {workers}: expected auto, 0 (this process) or a number of processes, or ray")
    return int(workers)


class _Shortened:
    """A JAX environment with another horizon."""

    def __init__(self, env: Env, horizon: int) -> None:
        if horizon < 1:
            raise ValueError(f"`max_episode_steps` {horizon}: expected at least 1")
        self.spec = env.spec._replace(horizon=horizon)
        self.reset, self.step = env.reset, env.step


def _makes_gymnasium(function: Callable[..., Any], env_kwargs: Mapping[str, Any]) -> bool:
    """Whether a function returns a gymnasium.Env."""
    try:
        env = function(**env_kwargs)
    except Exception:
        return False
    found = isinstance(env, gymnasium.Env)
    if found:
        env.close()
    return found


def _choose(env_id: str, env_kwargs: Mapping[str, Any], wrapped: bool) -> str:
    """Choose the simulator for ``auto``."""
    if ":" in env_id:
        try:
            found = _load(env_id)
        except ValueError:  # "module:Id-v0", which importing the module registers: Gymnasium says so if it is none
            return "gymnasium" if env_id.partition(":")[2] in gymnasium.registry else "jax"
        own = issubclass(found, gymnasium.Env) if isinstance(found, type) else _makes_gymnasium(found, env_kwargs)
        return "gymnasium" if own or wrapped else "jax"
    if env_id in _FACTORIES and not wrapped:
        return "jax"
    if wrapped:
        return "gymnasium"
    from polystep_rl.envs.envpool_env import envpool_id, envpool_ids

    pooled = envpool_id(env_id) in envpool_ids()
    if pooled and (env_id in envpool_ids() or jax.default_backend() == "cpu"):
        return "envpool"
    return "jax" if _of_playground(env_id) else "envpool" if pooled else "gymnasium"


def _of_playground(env_id: str) -> bool:
    """Whether MuJoCo Playground is installed and has this task, with or without EnvPool's version number."""
    from polystep_rl.envs.robots.playground_env import playground_ids

    name = env_id.removesuffix("-v1")
    return name.isalnum() and name in playground_ids()  # which takes seconds where it is installed


def _unknown(env_id: str) -> str:
    otherwise = f"known ids: {', '.join(registered_ids())}"
    hint = did_you_mean(env_id, registered_ids(), otherwise, most=3, cutoff=0.4, quoted=False)
    return f"unknown environment {env_id!r}: {hint}"


def _load(path: str) -> Factory:
    """The object at "module:attribute"."""
    module_name, _, attribute = path.partition(":")
    if not module_name or not attribute:
        raise ValueError(f"import path must look like 'module:ClassName', got {path!r}")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(f"cannot import environment {path!r}: {error}") from error
    try:
        factory = getattr(module, attribute)
    except AttributeError:
        hint = did_you_mean(attribute, vars(module), before="; ", quoted=False)
        raise ValueError(f"module {module_name!r} has no {attribute!r}{hint}") from None
    if not callable(factory):
        raise ValueError(f"{path!r} is a {type(factory).__name__}, not a class or a function")
    return factory
