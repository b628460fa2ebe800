"""Evaluators for whatever simulates an environment, and the evaluation of what is deployed."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np

from polystep_rl.errors import ConfigError
from polystep_rl.processes import jitted
from polystep_rl.rollout.device import DeviceEvaluator, evaluate_params
from polystep_rl.rollout.host import HostEvaluator
from polystep_rl.rollout.score import Horizon, Penalty
from polystep_rl.runs.load import load_run
from polystep_rl.runs.task import on_host
from polystep_rl.training.state import streams
from polystep_rl.types import MAX_RESET_SEED, MAX_SEED, Env, Evaluation, Evaluator, HostEnv, Key, Params, Policy


def stream_seed(key: Key) -> int:
    """A seed for simulators that have a stream of their own."""
    return int(jax.random.randint(key, (), 0, MAX_RESET_SEED))


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
        return HostEvaluator(
            env,
            policy,
            episodes,
            collect_moments=collect_moments,
            seed=stream_seed(key),
            penalty=penalty,
            horizon=horizon,
        )
    return DeviceEvaluator(
        cast(Env, env),
        policy,
        episodes,
        collect_moments=collect_moments,
        penalty=penalty,
        horizon=horizon,
    )


@contextlib.contextmanager
def centre_evaluator(
    env: Env | HostEnv, policy: Policy, episodes: int, key: Key
) -> Iterator[Callable[[Key, Params], Evaluation]]:
    """(key, params) -> Evaluation of one parameter set, for the length of a `with` block; compiled where it can be."""
    if not on_host(env):
        yield _device_centre(cast(Hashable, env), policy, episodes)
        return
    with contextlib.closing(make_evaluator(env, policy, episodes, key)) as evaluate:
        yield functools.partial(evaluate_params, evaluate)


@functools.lru_cache(maxsize=4)
def _device_centre(env: Any, policy: Policy, episodes: int) -> Callable[[Key, Params], Evaluation]:
    return jitted(functools.partial(evaluate_params, DeviceEvaluator(env, policy, episodes)))


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
    """Raise ConfigError where there are no such test episodes."""
    if episodes < 1:
        raise ConfigError(f"`episodes` {episodes}: expected at least 1")
    if not 0 <= seed <= MAX_SEED:
        raise ConfigError(f"`seed` {seed}: expected 0 to {MAX_SEED}")


def evaluate_on_test(env: Env | HostEnv, policy: Policy, params: Params, episodes: int, seed: int) -> dict[str, Any]:
    """Evaluate on episodes of the test stream of a seed, which training never draws from."""
    check_test(episodes, seed)
    key = streams(seed).test
    with centre_evaluator(env, policy, episodes, key) as evaluate:
        found = summarise(jax.device_get(evaluate(key, params)))
    return {**found, **simulator_facts(env)}


def evaluate(
    run: str | os.PathLike[str], episodes: int = 256, seed: int | None = None, which: str | None = None
) -> dict[str, Any]:
    """Evaluate a trained policy on fresh episodes, in the environment that it was trained for.

    Args:
        run: a run folder (`Run.path`), or a policy file.
        episodes: to average over, at least 1.
        seed: of the test episodes; the run's own by default. Training never draws from this stream.
        which: "best" by held-out evaluation during training, or "last"; by default the one that the run deploys.

    Returns:
        mean_return, std_return, mean_length, episodes, simulator, crn.

    Raises:
        ConfigError: nothing of that name, or episodes or a seed out of range.
        ValueError: damaged or foreign files.
    """
    loaded = load_run(Path(run), which)
    own = loaded.seed if seed is None else seed
    return evaluate_on_test(loaded.env, loaded.policy, loaded.params, episodes, own)


def simulator_facts(env: Env | HostEnv) -> dict[str, Any]:
    """The simulator, and whether all candidates of a generation met the same episodes."""
    return {"simulator": env.simulator, "crn": bool(env.crn)} if on_host(env) else {"simulator": "jax", "crn": True}
