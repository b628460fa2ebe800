"""Which composition of the search's parts is best per env step: the runs behind docs/search.md.

    python scripts/studies/search_study.py --out study       # resumable: finished runs are kept
    python scripts/studies/search_study.py --out study --only "HalfCheetah-v5/*" --seeds 100 101

A YAML file (search_study.yaml, beside this script, or another) holds, per environment, settings that all variants
share and the variants by name, each what differs from them; presets play no part, so that what a variant means does not
change with them. Runs share out the cores. A line each is printed at any time with `--report`; `--publish
docs/results/search_study` adds the results to those that are there (.json), with a table (.md) and learning curves
(.png) of all; what was published before needs no folders.
"""

from __future__ import annotations

import fnmatch
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from _common import finished, run_configs

from polystep_rl.analysis import palette
from polystep_rl.analysis.results import Run, document, dump, load_document, record
from polystep_rl.analysis.stats import iqm
from polystep_rl.settings.run import TrainConfig, completed, from_plain, to_plain

COLORS = (palette.BLUE, palette.ORANGE, palette.GREEN, palette.VERMILLION, palette.PURPLE, palette.SKY, palette.BLACK)
DASHES = 2 * (palette.SOLID, palette.DASHED, palette.DASHDOT, palette.DOTTED)
# A look for each line of a panel: as many of the best variants are drawn.
LOOKS = [palette.Style(color, dash, "", "") for color, dash in zip(COLORS, DASHES, strict=False)]


@dataclass
class Args:
    """Run a study of compositions."""

    study: Annotated[Path, tyro.conf.Positional] = Path(__file__).with_suffix(".yaml")
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
        own = {folder[label, seed]: replace(config, seed=seed) for seed in args.seeds for label, config in chosen}
        run_configs(own, args.jobs, args.out)
    found = {
        label: [run for seed in args.seeds if (run := finished(folder[label, seed], record))] for label, _ in chosen
    }
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
    picture(found, name)


def table(study: dict[str, Any], found: dict[str, list[Run]]) -> str:
    """Markdown: per environment, every variant with what differs, best first."""
    text = ["# Compositions that were tried", ""]
    text += ["From `scripts/studies/search_study.py`; the best of each environment first."]
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


def picture(found: dict[str, list[Run]], stem: Path) -> None:
    """Learning curves of the best variants of each environment, a panel each."""
    from _curves import draw, panels  # matplotlib, which only publishing needs

    envs = list(dict.fromkeys(label.partition("/")[0] for label in found))
    y_label = "evaluation return of the centre"
    with panels(envs, stem, "env steps", y_label, (5 * len(envs), 4.6), legend=7) as row:
        for axes, env in zip(row, envs, strict=True):
            mine = {label: runs for label, runs in found.items() if label.startswith(f"{env}/")}
            best = sorted(mine, key=lambda name: -_final(mine[name]))
            for label, look in zip(best, LOOKS, strict=False):
                parts = np.linspace(0.04, 1, 60)
                curve = parts * mine[label][0]["budget"], _curve(mine[label], parts)
                draw(axes, label.partition("/")[2], look, curve)
    stem.with_suffix(".svg").unlink()  # large, and shown as PNG


if __name__ == "__main__":
    main(tyro.cli(Args))
