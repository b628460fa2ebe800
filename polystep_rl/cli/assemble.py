"""From settings and files to the parts of a run; shared by the commands."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import json
import os
import sys
import traceback
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import numpy as np

from polystep_rl.build import build_strategy
from polystep_rl.cli import UsageError
from polystep_rl.config import MAX_SEED, TrainConfig, check_ranges, load_yaml
from polystep_rl.envs import make
from polystep_rl.evaluate import device_evaluator, evaluate_params, use_all_cores
from polystep_rl.normalize import observation_scale
from polystep_rl.policies import make_policy, mlp_policy
from polystep_rl.policies.io import SavedPolicy, load_policy
from polystep_rl.rundir import finite
from polystep_rl.settings import SETTINGS, SearchConfig
from polystep_rl.train import Streams, streams
from polystep_rl.types import Env, Evaluation, Evaluator, Key, Params, Policy, Strategy

POLICY, BEST_POLICY = "policy", "best_policy"
CALIBRATION_SEED = 0  # input scales belong to the environment, not to a run: all seeds then share one compiled program
CACHE_VARIABLE = "POLYSTEP_RL_CACHE"  # a folder, or "off"


def setup_jax(cores: int | None = None) -> None:
    """One CPU device per core, and a persistent compilation cache in the user's cache folder."""
    with contextlib.suppress(RuntimeError):  # JAX runs already, in a program that calls `main`: its devices stay
        use_all_cores(cores)
    folder = os.environ.get(CACHE_VARIABLE) or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "polystep-rl", "jax"
    )
    if folder != "off":
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


class Parts(NamedTuple):
    """What training needs, made from a configuration."""

    env: Env
    policy: Policy
    strategy: Strategy
    evaluate: Evaluator  # candidates, on training episodes
    evaluate_centre: Evaluator  # the point to deploy, on held-out episodes
    keys: Streams


def make_env(env_id: str) -> Env:
    """The environment of an id; UsageError names the closest ids if there is none."""
    if ":" in env_id and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # module:ClassName: as `python -m` would find it
    try:
        return make(env_id)
    except ValueError as error:
        raise UsageError(str(error)) from None
    except Exception as error:  # of a user's own module
        raise UsageError(f"{env_id}: {type(error).__name__}: {error} ({_where(error)})") from error


def _where(error: BaseException) -> str:
    """The last line of code that an exception went through."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}"
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{frame.filename}, line {frame.lineno}"


def make_parts(config: TrainConfig) -> Parts:
    """Build everything that a configuration describes. UsageError for settings that do not fit together."""
    return _shared_parts(dataclasses.replace(config, seed=0))._replace(keys=streams(config.seed))


@functools.lru_cache(maxsize=2)
def _shared_parts(config: TrainConfig) -> Parts:
    """The same functions for every seed, so that they are compiled once."""
    env = make_env(config.env)
    try:
        check_ranges(config)
        policy = make_scaled_policy(env, config)
        strategy = make_algorithm(config)
        evaluate = device_evaluator(env, policy, episodes_per_candidate(config))
        evaluate_centre = device_evaluator(env, policy, config.eval_episodes)
    except ValueError as error:
        raise UsageError(str(error)) from None
    return Parts(env, policy, strategy, evaluate, evaluate_centre, streams(config.seed))


def make_scaled_policy(env: Env, config: TrainConfig) -> Policy:
    """The policy that a configuration describes, its input scales measured. ValueError where the spaces do not fit."""
    make_policy(env.spec, config.hidden, config.policy)  # says so before anything is measured
    calibration = jax.random.key(CALIBRATION_SEED)
    offset, scale = observation_scale(env, calibration, config.observation_scale, config.observation_unit)
    return make_policy(env.spec, config.hidden, config.policy, offset, scale)


def make_algorithm(config: TrainConfig) -> Strategy:
    """The population search that a configuration names. UsageError or ValueError where there is none such."""
    if isinstance(config.search, SearchConfig):
        return build_strategy(config.search)
    try:
        from polystep_rl.baselines.evosax_es import REFUSED, class_names
        from polystep_rl.baselines.registry import make_strategy

        if config.algo not in SETTINGS and config.algo not in REFUSED:
            known = [*SETTINGS, *class_names()]
            if config.algo not in known:
                close = difflib.get_close_matches(config.algo, known, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(SETTINGS)}"
                raise UsageError(f"unknown algorithm {config.algo!r}: {hint} (or the class name of one of evosax's)")
        return make_strategy(config.algo, dataclasses.asdict(config.search))
    except ModuleNotFoundError as error:
        raise UsageError(f"--algo {config.algo} needs {error.name}: pip install 'polystep-rl[baselines]'") from None


def episodes_per_candidate(config: TrainConfig) -> int:
    """Episodes that a population search gives to each candidate."""
    return getattr(config.search, "episodes")  # noqa: B009


def summarise(evaluation: Evaluation) -> dict[str, Any]:
    """The `eval` object of --json."""
    returns = np.asarray(evaluation.returns, np.float64)
    return {
        "mean_return": float(returns.mean()),
        "std_return": float(returns.std()),
        "mean_length": float(np.mean(evaluation.lengths)),
        "episodes": int(returns.size),
    }


def evaluate_on_test(env: Env, policy: Policy, params: Params, episodes: int, seed: int) -> dict[str, Any]:
    """Evaluate on episodes of the test stream of a seed, which training never draws from."""
    if episodes < 1:
        raise UsageError(f"--episodes {episodes}: expected at least 1")
    if not 0 <= seed <= MAX_SEED:
        raise UsageError(f"--seed {seed}: expected 0 to {MAX_SEED}")
    evaluate = _centre_evaluator(cast(Hashable, env), policy, episodes)
    return summarise(jax.device_get(evaluate(streams(seed).test, params)))


@functools.lru_cache(maxsize=4)
def _centre_evaluator(env: Any, policy: Policy, episodes: int) -> Callable[[Key, Params], Evaluation]:
    return jax.jit(functools.partial(evaluate_params, device_evaluator(env, policy, episodes)))


class LoadedRun(NamedTuple):
    """A policy from a run folder, or from a policy file of its own."""

    path: Path
    env_id: str
    env: Env
    policy: Policy
    params: Params
    seed: int
    meta: dict[str, Any]


def load_run(path: Path, which: str = "best") -> LoadedRun:
    """Load the best or the last policy of a run folder, or the policy in a `.json`/`.safetensors` pair.

    Raises:
        UsageError: nothing of that name.
        ValueError: damaged or foreign files.
    """
    if not path.exists():
        raise UsageError(f"{path}: no such run folder or policy file; check the path")
    seed = 0
    if path.is_dir():
        seed = load_yaml(path / "config.yaml").seed
        names = (BEST_POLICY, POLICY) if which == "best" else (POLICY,)
        stems = [path / name for name in names if (path / f"{name}.json").exists()]
        if not stems:
            raise UsageError(f"{path}: holds no {names[0]} yet; let the run reach its first evaluation")
        path = stems[0]
    saved: SavedPolicy = load_policy(path)
    env_id = saved.meta.get("env")
    if not isinstance(env_id, str):
        raise ValueError(f"{path}: does not say for which environment it is")
    return LoadedRun(path, env_id, make_env(env_id), mlp_policy(saved.spec), saved.params, seed, saved.meta)


def print_json(value: dict[str, Any]) -> None:
    """One JSON object as the last line of standard output."""
    sys.stdout.write(json.dumps(finite(value)) + "\n")
    sys.stdout.flush()
