"""``polystep-rl doctor``."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any

from polystep_rl.cli.options import parse_options, print_json
from polystep_rl.machine import setup_jax
from polystep_rl.settings.presets import preset
from polystep_rl.training.programs import initial_progress
from polystep_rl.training.state import Budget, Observer, Row

ENV_STEPS = 20_000  # enough for the probe several times over; compiling takes most of the time


@dataclass(frozen=True)
class DoctorArgs:
    """Show versions, devices and memory, and run a self-test of a few seconds."""

    json: bool = False
    """Print one JSON object as the last line of standard output, and nothing else there."""


def self_test(env_steps: int = ENV_STEPS) -> dict[str, Any]:
    """Train a binary policy on a probe whose best return is known; `ok` says whether it got there.

    Returns:
        ok, mean_return, best_return, env_steps, env_steps_per_second (of the fastest chunk), seconds.
    """
    from polystep_rl.runs.judging import evaluate_on_test
    from polystep_rl.runs.parts import make_parts
    from polystep_rl.training import loop

    env_id = "probe/ContextualBandit-v0"
    parts = make_parts(preset(env_id, "binary"))
    progress = initial_progress(parts.strategy, parts.policy.init(parts.keys.policy), parts.keys.strategy)
    rates: list[float] = []

    class Rates(Observer):
        def generations(self, rows: list[Row]) -> None:
            rates.append(rows[-1]["time/fps"])

    best = parts.env.best_return  # type: ignore[union-attr]
    settings = Budget(env_steps, eval_freq=1000, stop_reward=best - 1e-6)
    began = time.perf_counter()
    result = loop.train(
        parts.strategy, parts.evaluate, parts.evaluate_centre, parts.keys, progress, settings, Rates()
    ).progress
    reached = evaluate_on_test(parts.env, parts.policy, result.best_params, 256, 0)["mean_return"]
    return {
        "ok": bool(abs(reached - best) < 1e-3),
        "mean_return": reached,
        "best_return": best,
        "env_steps": int(result.env_steps),
        "env_steps_per_second": max(rates),
        "seconds": time.perf_counter() - began,
    }


def _gib(pages: str) -> float | None:
    """Memory by one of sysconf's names; None where the system does not tell."""
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf(pages) / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None


def run(argv: list[str]) -> int:
    """Entry point; returns the exit code."""
    args = parse_options(DoctorArgs, "doctor", argv)
    from polystep_rl.machine import system_info

    setup_jax()
    report: dict[str, Any] = {
        **system_info(),
        "memory_gib": _gib("SC_PHYS_PAGES"),
        "memory_available_gib": _gib("SC_AVPHYS_PAGES"),
        "self_test": self_test(),
    }
    ok = report["self_test"]["ok"]
    if args.json:
        print_json(report)
        return 0 if ok else 1
    for name, value in report.items():
        if isinstance(value, dict):
            print(f"{name}:")
            for key, item in value.items():
                print(f"  {key}: {item}")
        else:
            print(f"{name}: {value}")
    print("self-test passed" if ok else "self-test FAILED: the search did not reach the probe's best return")
    return 0 if ok else 1
