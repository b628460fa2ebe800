"""Which composition of the search's parts is best per env step: the runs behind docs/search.md.

    python scripts/search_study.py scripts/search_study.yaml --out study       # resumable: finished runs are kept
    python scripts/search_study.py scripts/search_study.yaml --out study --only "HalfCheetah-v5/*" --seeds 100 101

The YAML file holds, per environment, settings that all variants share and the variants by name, each what differs from
them; presets play no part, so that what a variant means does not change with them. Runs share out the cores. A line
each is printed at any time with `--report`; `--publish docs/results/search_study` adds the results to those that are
there (.json), with a table (.md) and learning curves (.png) of all; what was published before needs no folders.
"""

from __future__ import annotations

import fnmatch
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
import yaml

from polystep_rl.analysis.results import Run, document, dump, load_document, record
from polystep_rl.analysis.stats import iqm
from polystep_rl.records.folder import RunDirError
from polystep_rl.runs.jobs import Event, Job, run_jobs
from polystep_rl.settings.run import TrainConfig, completed, from_plain, to_plain


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
    """Add the results of finished runs to this name with .json, .md and .png."""


def configurations(study: dict[str, Any], only: Sequence[str] = ("*",)) -> Iterator[tuple[str, TrainConfig]]:
    """(ENVIRONMENT/VARIANT, settings but for the seed) of every variant that one of the patterns fits."""
    for env, entry in study.items():
        for name, own in entry["variants"].items():
            label = f"{env}/{name}"
            if not any(fnmatch.fnmatch(label, pattern) for pattern in only):
                continue
            algo = own.get("algo", "polystep")
            search = {**entry["search"].get(algo, {}), **own.get("search", {})}
            yield label, from_plain(TrainConfig, {"env": env, **entry["shared"], **own, "search": search}, label)


def finished(folder: Path) -> Run | None:
    """The result in a run folder, if the run has ended."""
    try:
        return record(folder)
    except (RunDirError, OSError):
        return None


def line(label: str, runs: list[Run]) -> str:
    """One variant: the IQM of the final returns, and the mean curve at tenths of the budget."""
    points = " ".join(f"{value:8.1f}" for value in _curve(runs, np.linspace(0.1, 1, 10)))
    seconds = sum(run["wall_seconds"] for run in runs)
    return f"{label:<44} {_final(runs):>8.1f}  ({len(runs)})  {points}  {seconds:6.0f} s"


def main(args: Args) -> None:
    study = yaml.safe_load(args.study.read_text())
    chosen = list(configurations(study, args.only))
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
        publish(study, found, args.publish)


def publish(study: dict[str, Any], found: dict[str, list[Run]], name: Path) -> None:
    """Results, table and curves of what was found and of what the file holds already; the new run of a seed counts."""
    path = name.with_suffix(".json")
    for run in load_document(path)["runs"] if path.exists() else []:
        label = run["variant"]
        variant = label.partition("/")[2]
        if variant in study.get(run["env"], {}).get("variants", {}):  # it may have been taken out of the study
            runs = found.setdefault(label, [])
            if run["seed"] not in [other["seed"] for other in runs]:
                runs.append({key: value for key, value in run.items() if key != "variant"})
    everything = dict(configurations(study))
    for label, runs in found.items():
        for run in runs:
            if completed(run["config"]) != completed(to_plain(everything[label]) | {"seed": run["seed"]}):
                sys.exit(
                    f"{label} seed {run['seed']} was run with other settings than the study has; give it a new name"
                )
    order = [f"{env}/{variant}" for env, entry in study.items() for variant in entry["variants"]]
    found = {label: sorted(found[label], key=lambda run: run["seed"]) for label in order if found.get(label)}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dump(document([{**run, "variant": label} for label, runs in found.items() for run in runs])))
    name.with_suffix(".md").write_text(table(study, found))
    draw(found, name.with_suffix(".png"))


def table(study: dict[str, Any], found: dict[str, list[Run]]) -> str:
    """Markdown: per environment, every variant with what differs, best first."""
    text = ["# Compositions that were tried", "", "From `scripts/search_study.py`; the best of each environment first."]
    for env, entry in study.items():
        rows = [(label, runs) for label, runs in found.items() if label.startswith(f"{env}/")]
        if not rows:
            continue
        shared = {**entry.get("shared", {}), "polystep": entry.get("search", {}).get("polystep", {})}
        text += ["", f"## {env}", "", f"All: `{json.dumps(shared)}`", ""]
        text += ["| variant | differs | policy | env steps | at 25 % | 50 % | 75 % | return | seeds |"]
        text += ["|---|---|---|---|---|---|---|---|---|"]
        for label, runs in sorted(rows, key=lambda row: -_final(row[1])):
            name = label.partition("/")[2]
            differs = {k: v for k, v in entry["variants"][name].items() if k not in ("policy", "total_timesteps")}
            curve = " | ".join(f"{value:.0f}" for value in _curve(runs, np.array([0.25, 0.5, 0.75])))
            text.append(
                f"| {name} | `{json.dumps(differs)}` | {runs[0]['policy']} | {runs[0]['env_steps']:,} | {curve} "
                f"| **{_final(runs):.1f}** | {len(runs)} |"
            )
    return "\n".join(text) + "\n"


def _final(runs: list[Run]) -> float:
    return float(iqm(np.array([run["return"] for run in runs])))


def _curve(runs: list[Run], parts: np.ndarray) -> np.ndarray:
    """Mean evaluation return of the runs at parts of the budget."""
    at = parts * runs[0]["budget"]
    return np.mean([np.interp(at, run["curve"]["env_steps"], run["curve"]["return"]) for run in runs], axis=0)


def draw(found: dict[str, list[Run]], out: Path, most: int = 7) -> None:
    """Learning curves of the best variants of each environment, a panel each."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    envs = list(dict.fromkeys(label.partition("/")[0] for label in found))
    figure, axes = plt.subplots(1, len(envs), figsize=(5 * len(envs), 4.6), layout="constrained", squeeze=False)
    for panel, env in zip(axes[0], envs, strict=True):
        mine = {label: runs for label, runs in found.items() if label.startswith(f"{env}/")}
        for number, label in enumerate(sorted(mine, key=lambda name: -_final(mine[name]))[:most]):
            parts = np.linspace(0.04, 1, 60)
            steps = parts * mine[label][0]["budget"]
            style = ("-", "--", "-.", ":")[number % 4]
            panel.plot(steps, _curve(mine[label], parts), style, label=label.partition("/")[2], linewidth=1.6)
        panel.set(title=env, xlabel="env steps", ylabel="evaluation return of the centre")
        panel.legend(fontsize=7)
        panel.grid(alpha=0.3)
    figure.savefig(out, dpi=130)
    plt.close(figure)


def _tell(event: Event | None) -> None:
    if event is not None and event.kind != "started":
        print(json.dumps({"run": event.job.name, "kind": event.kind, "seconds": round(event.seconds)}), flush=True)
        if event.error:
            print(event.error, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(tyro.cli(Args))
