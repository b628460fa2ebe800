"""Several comparisons as one: their runs in one results.json, one table and one figure of learning curves.

    python scripts/figures/merge_results.py compare/float compare/int8 --into docs/results/host_tasks

A cell (environment, precision, algorithm) is taken as a whole and from the last folder that has it, what is in --into
already coming first; with `--add` it keeps the seeds that it had. A cell with fewer than `--seeds` runs is left out,
which is said.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from polystep_rl.analysis import figures, results
from polystep_rl.settings.run import completed


@dataclass
class Args:
    """Merge the results of comparisons."""

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders that `polystep-rl compare` wrote, or that this script did."""
    into: Path
    """Where results.json, table.md and curves.png go."""
    seeds: int = 5
    """Runs that a cell must have."""
    add: bool = False
    """Other seeds of a cell are added to it, and do not replace it."""


def main(args: Args) -> None:
    there = [args.into] if (args.into / "results.json").exists() else []
    cells: dict[tuple[str, str, str], list[results.Run]] = {}
    for folder in (*there, *args.folders):
        for cell, runs in results.groups(runs_of(folder)).items():
            if len(runs) < args.seeds:
                print(f"{folder}: {' '.join(cell)} has {len(runs)} of {args.seeds} runs: left out", file=sys.stderr)
            else:
                new = {run["seed"] for run in runs}
                kept = [run for run in cells.get(cell, []) if run["seed"] not in new] if args.add else []
                if any(settings_of(run) != settings_of(runs[0]) for run in kept):
                    sys.exit(f"{folder}: {' '.join(cell)} was run with other settings before; merge it without --add")
                cells[cell] = [*kept, *runs]
    document = results.document([run for cell in cells.values() for run in cell])
    runs = document["runs"]
    args.into.mkdir(parents=True, exist_ok=True)
    (args.into / "results.json").write_text(results.dump(document), encoding="utf-8")
    (args.into / "table.md").write_text(results.markdown(runs), encoding="utf-8")
    drawn, _ = figures.learning_curves(runs, args.into / "curves")
    drawn.unlink()  # thousands of lines for what the page shows as PNG
    print(results.pivot(runs) + "\n" + results.shortfalls(runs), end="")


def settings_of(run: results.Run) -> dict[str, Any]:
    """The configuration of a run but for its seed."""
    return completed(run["config"] | {"seed": 0})


def runs_of(folder: Path) -> list[results.Run]:
    """What a folder has: the finished runs in it, or else those of its results.json."""
    if (folder / "runs").is_dir():
        return [results.record(done.parent) for done in sorted(folder.glob("runs/*/DONE"))]
    return results.load_document(folder / "results.json")["runs"]


if __name__ == "__main__":
    main(tyro.cli(Args))
