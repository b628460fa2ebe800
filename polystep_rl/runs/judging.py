"""Environments and evaluators for whatever simulates them; shared by the commands."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from typing import Any, cast

import jax
import numpy as np

from polystep_rl.errors import UsageError
from polystep_rl.processes import jitted
from polystep_rl.rollout.device import device_evaluator, evaluate_params
from polystep_rl.rollout.host import host_evaluator
from polystep_rl.rollout.score import Horizon, Penalty
from polystep_rl.runs.task import on_host
from polystep_rl.settings.checks import MAX_SEED
from polystep_rl.training.state import streams
from polystep_rl.types import Env, Evaluation, Evaluator, HostEnv, Key, Params, Policy


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
