"""Made-up results of a comparison, as figures and report read them."""

import itertools

import numpy as np
import pytest

ALGOS = ("polystep", "open_es", "cma_es", "eggroll", "ppo", "ppo-ste", "ppo-ptq", "random_search")
PRECISIONS = ("float32", "int8", "binary")
RANGES = {"CartPole-v1": (20.0, 500.0), "Acrobot-v1": (-500.0, -80.0)}


def make_run(env, algo, policy, seed, points=40, budget=500_000):
    """One run with a curve that rises and levels off, at a speed of its own."""
    rng = np.random.default_rng([*map(ord, env + algo + policy), seed])
    low, high = RANGES[env]
    speed = 1.5 + (sum(map(ord, algo)) % 7) - 1.2 * PRECISIONS.index(policy) + rng.normal(scale=0.4)
    best = 0.25 if algo == "random_search" else min(1.0, 0.55 + 0.09 * speed)
    steps = np.linspace(0, budget, points + 1)[1:] + (rng.integers(0, 4000, points) if algo != "polystep" else 0)
    share = best / (1 + np.exp(-(0.8 + max(speed, 0.3)) * (steps / budget * 4 - 1.2))) + rng.normal(
        scale=0.03, size=points
    )
    returns = low + (high - low) * np.clip(share, 0, 1)
    gradient = algo.startswith("ppo")
    return {
        "env": env, "algo": algo, "policy": policy, "seed": seed, "budget": budget, "env_steps": int(steps[-1]),
        "candidates": None if gradient else 2400, "episodes": 4800, "generations": None if gradient else 100,
        "eval_env_steps": 12_345, "wall_seconds": float(np.round(rng.uniform(1, 9), 3)), "device": "cpu x2",
        "versions": {"jax": "0.10.2", "polystep-rl": "0.1.0"}, "return": float(returns[-1]),
        "return_std": float(rng.uniform(0, 20)), "test_episodes": 256, "stopped_by": "total_timesteps",
        "curve": {"env_steps": [int(s) for s in steps], "return": [float(r) for r in returns]},
        "config": {"algo": algo, "optimiser": {"name": "adam", "rate": 3e-4}, "hidden": [64, 64], "note": None},
    }  # fmt: skip


def make_results(envs=tuple(RANGES), algos=ALGOS, policies=PRECISIONS, seeds=10):
    """A results document over all combinations, with one failed cell."""
    cells = itertools.product(envs, algos, policies, range(seeds))
    return {
        "format": "polystep_rl.results", "version": 1,
        "system": {"packages": {"jax": "0.10.2", "numpy": "2.4.6"}, "python": "3.11.9", "devices": [], "cpu_count": 2},
        "runs": [make_run(*cell) for cell in cells],
        "failed": [{"env": "CartPole-v1", "algo": "dqn", "policy": "binary", "seed": 0, "error": "dqn: no binary"}],
    }  # fmt: skip


@pytest.fixture(scope="session")
def results_factory():
    """``make_results``, for documents of other sizes."""
    return make_results


@pytest.fixture(scope="session")
def results():
    """Eight algorithms, two environments, three precisions, ten seeds. Not to be changed."""
    return make_results()
