"""Results of training runs as one document, and the tables that are made of it."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from polystep_rl.analysis import stats
from polystep_rl.analysis.palette import algo_order, precision_order
from polystep_rl.files import finite, plain
from polystep_rl.records.folder import RunDir
from polystep_rl.records.metrics import read_metrics

FORMAT = "polystep_rl.results"
VERSION = 1

Run = dict[str, Any]
Row = dict[str, Any]


class ResultsError(ValueError):
    """Results that cannot be read. One line saying what and why."""


def record(folder: Path) -> Run:
    """The result of a finished run, from its folder.

    Returns:
        what the run was (`env`, `algo`, `policy`, `seed`, `budget`, `config`), what it used (`env_steps`: living steps
        of all candidates, `eval_env_steps` apart; `candidates`, `candidates_per_generation`, `episodes`, `generations`,
        None where there are none; `wall_seconds`, `device`, `versions`), what simulated (`simulator`, with or without
        common random numbers, `crn`; `train_simulator`, which is another for a gradient method), and what came of it:
        `return`, the mean over `test_episodes` fresh episodes of the deployed policy, with `return_std`, and `curve`,
        its evaluations.

    Raises:
        RunDirError: the folder is no run, or it is not finished.
    """
    run = RunDir.open(folder, finished_ok=True)
    summary, config = run.summary(), run.config
    system = json.loads((folder / "system_info.json").read_text(encoding="utf-8"))
    generations, candidates = summary.get("generations"), summary.get("candidates")
    curve = [row for row in read_metrics(folder / "metrics.csv") if row["eval/mean_reward"] is not None]
    devices = [device["kind"] for device in system["devices"]]
    return {
        **{name: config[name] for name in ("env", "algo", "policy", "seed")},
        "budget": config["total_timesteps"],
        "env_steps": summary["env_steps"],
        "eval_env_steps": summary["eval_env_steps"],
        "candidates": candidates,
        "candidates_per_generation": candidates // generations if candidates and generations else None,
        "episodes": summary["episodes"],
        "generations": generations,
        "updates": summary.get("updates"),
        "wall_seconds": round(summary["wall_seconds"], 3),
        "stopped_by": summary["stopped_by"],
        "simulator": summary.get("simulator"),
        "train_simulator": summary.get("train_simulator", summary.get("simulator")),
        "crn": summary.get("crn"),
        "device": ", ".join(f"{devices.count(kind)} x {kind}" for kind in dict.fromkeys(devices)),
        "platform": system["platform"],
        "versions": {"python": system["python"], **system["packages"]},
        "return": summary["eval"]["mean_return"],
        "return_std": summary["eval"]["std_return"],
        "test_episodes": summary["eval"]["episodes"],
        "reward_threshold": summary.get("reward_threshold"),
        "curve": {
            "env_steps": [row["env_steps"] for row in curve],
            "return": [row["eval/mean_reward"] for row in curve],
        },
        "config": config,
    }


def document(runs: Sequence[Run], failed: Sequence[Row] = (), **more: Any) -> dict[str, Any]:
    """Everything as one JSON-able object, runs in the order of their names."""
    ordered = sorted(runs, key=lambda run: (run["env"], run["policy"], run["algo"], run["seed"]))
    return {"format": FORMAT, "version": VERSION, **more, "runs": ordered, "failed": list(failed)}


def dump(document: Mapping[str, Any]) -> str:
    """The document as JSON text, a line for each run, so that files of hundreds of runs can be compared by line."""
    head = {key: value for key, value in document.items() if key not in ("runs", "failed")}
    lines = [f"{json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in finite(plain(head)).items()]
    for key in ("runs", "failed"):
        rows = [json.dumps(finite(plain(row)), allow_nan=False) for row in document[key]]
        lines.append(f"{json.dumps(key)}: [\n" + ",\n".join(rows) + "\n]" if rows else f"{json.dumps(key)}: []")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def load_document(path: Path) -> dict[str, Any]:
    """Read a results file. ResultsError if it is not one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ResultsError(f"{path}: cannot be read ({error.strerror or error}); check the path") from error
    except (ValueError, RecursionError) as error:
        raise ResultsError(f"{path}: damaged, or not JSON") from error
    if not isinstance(value, dict) or value.get("format") != FORMAT or not isinstance(value.get("runs"), list):
        raise ResultsError(f"{path}: not a results file of this package; expected the results.json of compare")
    if value.get("version") != VERSION:
        raise ResultsError(f"{path}: results of version {value.get('version')}; this release reads {VERSION}")
    return value


def groups(runs: Iterable[Run]) -> dict[tuple[str, str, str], list[Run]]:
    """Runs by (environment, precision, algorithm), in one order whatever theirs: by name, from wide to narrow, and as
    in the figures."""
    found: dict[tuple[str, str, str], list[Run]] = {}
    for run in sorted(runs, key=lambda run: run["seed"]):
        found.setdefault((run["env"], run["policy"], run["algo"]), []).append(run)
    policies, algos = precision_order(key[1] for key in found), algo_order(key[2] for key in found)
    order = sorted(found, key=lambda key: (key[0], policies.index(key[1]), algos.index(key[2])))
    return {key: found[key] for key in order}


def summarise(runs: Sequence[Run]) -> list[Row]:
    """A row for each environment, precision and algorithm; `None` stands for what does not exist."""
    return [_row(*key, members) for key, members in groups(runs).items()]


def _row(env: str, policy: str, algo: str, runs: list[Run]) -> Row:
    scores = np.array([run["return"] for run in runs], np.float64)
    steps = [run["env_steps"] for run in runs]
    row: Row = {"env": env, "policy": policy, "algo": algo, "seeds": len(runs), "budget": runs[0]["budget"]}
    finite = np.isfinite(scores).all()
    row["iqm"] = stats.iqm(scores) if finite else None
    low, high = stats.stratified_bootstrap(scores, stats.iqm) if finite and len(runs) > 1 else (None, None)
    mean, std = stats.mean_std(scores) if finite else (None, None)
    row |= {"iqm_low": low, "iqm_high": high, "mean": mean, "std": std}
    row |= {"worst": float(scores.min()), "best": float(scores.max())}
    areas = [_area(run) for run in runs]
    row["area_under_curve"] = None if None in areas else float(np.mean(np.array(areas, np.float64)))
    reached = [_threshold(run) for run in runs]
    solved = [value for value in reached if value is not None]
    row["reached_threshold"] = len(solved)
    row["steps_to_threshold"] = float(np.median(solved)) if len(solved) * 2 > len(runs) else None
    row |= {"env_steps": float(np.median(steps)), "most_env_steps": max(steps)}
    for name in ("candidates", "candidates_per_generation", "episodes", "generations", "wall_seconds"):
        values = [run[name] for run in runs if run.get(name) is not None]
        row[name] = float(np.median(values)) if values else None
    return row


def _curve(run: Run) -> tuple[list[int], list[float]]:
    """The evaluations of a run that gave a number."""
    pairs = zip(run["curve"]["env_steps"], run["curve"]["return"], strict=True)
    known = [(steps, value) for steps, value in pairs if value is not None and math.isfinite(value)]
    return [steps for steps, _ in known], [value for _, value in known]


def _area(run: Run) -> float | None:
    steps, returns = _curve(run)
    return stats.area_under_curve(steps, returns, run["budget"]) if steps else None


def _threshold(run: Run) -> int | None:
    threshold, (steps, returns) = run.get("reward_threshold"), _curve(run)
    return None if threshold is None or not steps else stats.steps_to_threshold(steps, returns, threshold)


def improvements(runs: Sequence[Run], algo: str = "polystep") -> list[Row]:
    """Probability that a run of `algo` returns more than one of another algorithm, per environment and precision."""
    found, rows = groups(runs), []
    for (env, policy, other), members in found.items():
        mine = found.get((env, policy, algo))
        if other == algo or mine is None:
            continue
        x, y = (np.array([run["return"] for run in some], np.float64) for some in (mine, members))
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            continue
        low, high = stats.stratified_bootstrap([x, y], stats.probability_of_improvement)
        row = {"env": env, "policy": policy, "algo": algo, "over": other}
        rows.append(row | {"probability": stats.probability_of_improvement(x, y), "low": low, "high": high})
    return rows


# --- text ------------------------------------------------------------------------------------------------------------
def _number(value: float | None, digits: int = 1) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:,.{digits}f}"


def markdown(runs: Sequence[Run], algo: str = "polystep") -> str:
    """The table of a comparison, best IQM first within each environment and precision (ties share the best mark)."""
    lines = [
        "| environment | precision | algorithm | IQM (95 % interval) | mean ± std | worst | P(polystep better) "
        "| env steps to threshold | seeds | seconds |".replace("polystep", algo),
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    better = {(row["env"], row["policy"], row["over"]): row for row in improvements(runs, algo)}
    tasks: dict[tuple[str, str], list[Row]] = {}
    for row in summarise(runs):
        tasks.setdefault((row["env"], row["policy"]), []).append(row)
    for (env, policy), rows in tasks.items():
        for row in sorted(rows, key=lambda r: -math.inf if r["iqm"] is None else r["iqm"], reverse=True):
            interval = "" if row["iqm_low"] is None else f" ({_number(row['iqm_low'])} to {_number(row['iqm_high'])})"
            chance = better.get((env, policy, row["algo"]))
            said = f"{chance['probability']:.2f} ({chance['low']:.2f} to {chance['high']:.2f})" if chance else "-"
            reached = f"{row['reached_threshold']}/{row['seeds']}"
            steps = f"{_number(row['steps_to_threshold'], 0)} ({reached})"
            lines.append(
                f"| {env} | {policy} | {row['algo']} | {_number(row['iqm'])}{interval} "
                f"| {_number(row['mean'])} ± {_number(row['std'])} | {_number(row['worst'])} | {said} | {steps} "
                f"| {row['seeds']} | {_number(row['wall_seconds'])} |"
            )
    return "\n".join(lines) + "\n"


def pivot(runs: Sequence[Run]) -> str:
    """A compact table: a line per environment and precision, a column per algorithm, each IQM with its interval."""
    rows = summarise(runs)
    algos = algo_order(row["algo"] for row in rows)
    cells = {(row["env"], row["policy"], row["algo"]): row for row in rows}
    lines = ["| | " + " | ".join(algos) + " |", "|---" * (len(algos) + 1) + "|"]
    for env, policy in dict.fromkeys((row["env"], row["policy"]) for row in rows):
        found = [cells.get((env, policy, algo)) for algo in algos]
        best = max((row["iqm"] for row in found if row and row["iqm"] is not None), default=None)
        lines.append(f"| {env} {policy} | " + " | ".join(_cell(row, best) for row in found) + " |")
    return "\n".join(lines) + "\n"


def _cell(row: Row | None, best: float | None) -> str:
    if row is None or row["iqm"] is None:
        return "-"
    value = _number(row["iqm"])
    value = f"**{value}**" if best is not None and value == _number(best) else value
    return (
        value if row["iqm_low"] is None else f"{value} ({_number(row['iqm_low'], 0)} to {_number(row['iqm_high'], 0)})"
    )


def shortfalls(runs: Sequence[Run], algo: str = "polystep") -> str:
    """A Markdown list of where `algo` has a lower IQM than another algorithm, by how much, and how surely."""
    rows = {(row["env"], row["policy"], row["algo"]): row for row in summarise(runs)}
    lines = []
    for row in improvements(runs, algo):
        env, policy, other = row["env"], row["policy"], row["over"]
        gap = rows[(env, policy, other)]["iqm"] - rows[(env, policy, algo)]["iqm"]
        if gap > 0:
            chance = f"{row['probability']:.2f}, {row['low']:.2f} to {row['high']:.2f}"
            lines.append(f"- {env} {policy}: {other} is ahead by {gap:.2f} (P({algo} better) {chance})")
    return "\n".join(lines) + "\n" if lines else ""


def csv_table(runs: Sequence[Run]) -> str:
    """Every number of `summarise` as CSV."""
    rows, out = summarise(runs), io.StringIO()
    if rows:
        writer = csv.DictWriter(out, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return out.getvalue()
