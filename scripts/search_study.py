"""Which composition of the search's parts is best per env step: the runs behind docs/search.md.

    python scripts/search_study.py scripts/search_study.yaml --out study       # resumable: finished runs are kept
    python scripts/search_study.py scripts/search_study.yaml --out study --only "HalfCheetah-v5/*" --seeds 100 101

The YAML file holds, per environment, settings that all variants share and the variants by name, each what differs from
the `tuned` preset of its algorithm. Runs share out the cores, one each. `--publish FILE.json` writes their results
without the folders, and a line each is printed at any time with `--report`.
"""

from __future__ import annotations

import fnmatch
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
import yaml

from polystep_rl.cli.pool import Event, Job, run_jobs
from polystep_rl.config import TrainConfig, from_plain, preset, to_plain
from polystep_rl.results import Run, document, dump, record
from polystep_rl.rundir import RunDirError
from polystep_rl.stats import iqm


@dataclass
class Args:
    """Run a study of compositions."""

    study: Annotated[Path, tyro.conf.Positional]
    """YAML file of environments and variants."""
    out: Path = Path("study")
    """Where the run folders go; what is finished there is kept."""
    only: tuple[str, ...] = ("*",)
    """Patterns of ENVIRONMENT/VARIANT."""
    seeds: tuple[int, ...] = (100,)
    """Seeds; reported numbers elsewhere are of seeds from 0 on, so choose others here."""
    jobs: int = 2
    """Runs side by side."""
    report: bool = False
    """Only print what is there."""
    publish: Path | None = None
    """Write the results of finished runs to this JSON file."""


def configurations(study: dict[str, Any], args: Args) -> Iterator[tuple[str, TrainConfig]]:
    """(ENVIRONMENT/VARIANT, settings but for the seed) of every chosen variant."""
    for env, entry in study.items():
        for name, own in entry["variants"].items():
            label = f"{env}/{name}"
            if not any(fnmatch.fnmatch(label, pattern) for pattern in args.only):
                continue
            shared = entry.get("shared", {})
            algo, policy = own.get("algo", "polystep"), own.get("policy", shared.get("policy", "float32"))
            plain = to_plain(preset(env, policy, "tuned", algo))
            search = {**plain["search"], **entry.get("search", {}).get(algo, {}), **own.get("search", {})}
            settings = {**plain, "stop_reward": None, "deploy": "last", **shared, **own, "search": search}
            yield label, from_plain(TrainConfig, settings, label)


def finished(folder: Path) -> Run | None:
    """The result in a run folder, if the run has ended."""
    try:
        return record(folder)
    except (RunDirError, OSError):
        return None


def line(label: str, runs: list[Run]) -> str:
    """One variant: the IQM of the final returns, and the mean curve at tenths of the budget."""
    finals = np.array([run["return"] for run in runs])
    tenths = np.linspace(0.1, 1, 10) * runs[0]["budget"]
    curves = [np.interp(tenths, run["curve"]["env_steps"], run["curve"]["return"]) for run in runs]
    points = " ".join(f"{value:8.1f}" for value in np.mean(curves, axis=0))
    seconds = sum(run["wall_seconds"] for run in runs)
    return f"{label:<44} {float(iqm(finals)):>8.1f}  ({len(runs)})  {points}  {seconds:6.0f} s"


def main(args: Args) -> None:
    study = yaml.safe_load(args.study.read_text())
    chosen = list(configurations(study, args))
    folder = {
        (label, seed): args.out / f"{label.replace('/', '__')}__{seed}" for label, _ in chosen for seed in args.seeds
    }
    if not args.report:
        jobs = [
            Job(f"{label} {seed}", folder[label, seed], to_plain(config) | {"seed": seed})
            for seed in args.seeds
            for label, config in chosen
            if finished(folder[label, seed]) is None
        ]
        print(f"{len(folder)} runs, {len(folder) - len(jobs)} of them finished before", flush=True)
        args.out.mkdir(parents=True, exist_ok=True)
        run_jobs(jobs, args.jobs, args.out / "workers.log", _tell)
    found = {label: [run for seed in args.seeds if (run := finished(folder[label, seed]))] for label, _ in chosen}
    for label, runs in found.items():
        if runs:
            print(line(label, runs))
    if args.publish is not None:
        runs = [{**run, "variant": label} for label, members in found.items() for run in members]
        args.publish.parent.mkdir(parents=True, exist_ok=True)
        args.publish.write_text(dump(document(runs)))


def _tell(event: Event | None) -> None:
    if event is not None and event.kind != "started":
        print(json.dumps({"run": event.job.name, "kind": event.kind, "seconds": round(event.seconds)}), flush=True)
        if event.error:
            print(event.error, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(tyro.cli(Args))
