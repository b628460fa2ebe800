"""The summary of a run: what its folder keeps as summary.json, and `--json` prints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from polystep_rl.runs.judging import simulator_facts
from polystep_rl.types import Env, HostEnv


def summarised(
    env: Env | HostEnv,
    folder: Path | None,
    stopped_by: str,
    evaluation: dict[str, Any],
    counts: dict[str, Any],
    best_eval_return: float | None,
    train_simulator: str | None = None,
) -> dict[str, Any]:
    """The summary of a run, whatever its algorithm.

    Args:
        env: that it was judged in.
        folder: of the run; None in a process that has none.
        stopped_by: in the words of `training.state.Result`.
        evaluation: of the deployed policy, on episodes that training never drew from.
        counts: env_steps, candidates, episodes, generations, eval_env_steps, wall_seconds, and what else there is.
        best_eval_return: None before the first evaluation.
        train_simulator: where it is another than the one that it was judged in.
    """
    return {
        "run_dir": None if folder is None else str(folder),
        **counts,
        "stopped_by": stopped_by,
        "reward_threshold": env.spec.reward_threshold,
        **simulator_facts(env),
        **({} if train_simulator is None else {"train_simulator": train_simulator}),
        "best_eval_return": best_eval_return,
        "eval": evaluation,
    }


def told(summary: dict[str, Any]) -> str:
    """The line about a run that has ended."""
    result = summary["eval"]
    return (
        f"{summary['run_dir']}: mean return {result['mean_return']:.2f} over {result['episodes']} fresh episodes; "
        f"{summary['env_steps']:,} env steps, "
        f"{summary['wall_seconds']:.1f} s, stopped by {summary['stopped_by']}"
    )
