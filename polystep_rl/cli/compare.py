"""``polystep-rl compare``: a grid of runs on all cores, resumable, then its table, figures and report."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
import yaml
from rich.console import Console
from rich.live import Live
from rich.table import Table

from polystep_rl.analysis import results
from polystep_rl.cli.options import parse_options
from polystep_rl.errors import ConfigError
from polystep_rl.files import finite, write_atomic
from polystep_rl.machine import system_info
from polystep_rl.records.folder import RunDir, RunDirError
from polystep_rl.runs.jobs import Event, Job, run_jobs
from polystep_rl.settings.grid import Cell, Grid, cells, load_grid, narrowed
from polystep_rl.settings.run import completed, to_plain

GRID = "grid.yaml"


@dataclass(frozen=True)
class Options:
    """Where a comparison goes and how it runs."""

    out: Path | None = None
    """Its folder; what is finished there is kept. By default compare/<name of the grid file>, or compare/latest."""
    jobs: int | None = None
    """Runs side by side, which share out the cores; by default as many as there are cores."""
    figures: bool = True
    """Figures, which need the extra `play`; --no-figures leaves them out."""
    json: bool = False
    """Print one JSON object as the last line of standard output, and nothing else there."""
    show_grid: bool = False
    """Print the grid as YAML, with the number of runs, and stop."""


@dataclass(frozen=True)
class CompareArgs:
    """Compare algorithms at equal budgets: environments x algorithms x precisions x seeds.

    Give a YAML file with the fields of the grid as the first argument, flags, or both; flags win.
    """

    grid: Grid = field(default_factory=Grid)
    options: Annotated[Options, tyro.conf.FlagCreatePairsOff] = field(default_factory=Options)


def parse(argv: Sequence[str]) -> tuple[CompareArgs, str]:
    """The arguments, and the name of the comparison."""
    argv, grid, name = list(argv), Grid(), "latest"
    if argv and not argv[0].startswith("-"):
        path = Path(argv.pop(0))
        grid, name = load_grid(path), path.stem
    default = CompareArgs(dataclasses.replace(grid, settings={}), Options())  # settings are nested: in a file only
    suppressed = (tyro.conf.OmitArgPrefixes, tyro.conf.AvoidSubcommands)
    args = parse_options(CompareArgs, "compare", argv, suppressed, default)
    chosen = narrowed(dataclasses.replace(args.grid, settings=grid.settings), grid)
    args = dataclasses.replace(args, grid=chosen)
    if args.options.jobs is not None and args.options.jobs < 1:
        raise ConfigError(f"jobs was {args.options.jobs}, expected at least 1")
    return args, name


def finished(folder: Path, cell: Cell) -> bool:
    """Whether a cell is done. RunDirError if what is done there had other settings."""
    if not (folder / "DONE").exists():
        return False
    run = RunDir.open(folder, finished_ok=True)
    wanted = completed(to_plain(cell.config))
    try:
        had = completed(run.config)
    except ConfigError:
        had = dict(run.config)
    if had != wanted:
        other = [name for name in wanted if had.get(name) != wanted[name]]
        raise RunDirError(
            f"{folder}: was run with other settings ({', '.join(other)}); choose another --out, or remove that folder"
        )
    return True


class Progress:
    """The live table: a line per environment and precision, and what runs at the moment."""

    def __init__(self, todo: Sequence[Cell], done: int, console: Console) -> None:
        self.console, self.total, self.done = console, len(todo) + done, done
        self.left = Counter((c.config.env, c.config.policy, c.config.algo) for c in todo)
        self.all = Counter(self.left)
        self.running: dict[str, float] = {}
        self.failed: list[dict[str, Any]] = []
        self.began = time.perf_counter()
        self.started = done
        self.live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None

    def hear(self, event: Event | None) -> None:
        """Take an event of the pool."""
        if event is not None and event.kind == "started":
            self.running[event.job.name] = time.perf_counter()
        elif event is not None:
            self.running.pop(event.job.name, None)
            self.done += 1
            config = event.job.config
            self.left[(config["env"], config["policy"], config["algo"])] -= 1
            if event.kind == "failed":
                self.failed.append({**{n: config[n] for n in ("env", "algo", "policy", "seed")}, "error": event.error})
            said = f"failed: {event.error}" if event.kind == "failed" else f"{event.seconds:.1f} s"
            line = f"[{self.done}/{self.total}] {event.job.name}: {said}  eta {self._eta()}"
            (self.live.console if self.live else self.console).print(line, highlight=False, soft_wrap=True)
        if self.live is not None:
            self.live.update(self._table(), refresh=True)

    def _eta(self) -> str:
        ended = self.done - self.started
        left = (time.perf_counter() - self.began) / max(ended, 1) * (self.total - self.done)
        return f"{left / 60:.0f} min" if left >= 120 else f"{left:.0f} s"

    def _table(self) -> Table:
        tasks = list(dict.fromkeys((env, policy) for env, policy, _ in self.all))
        algos = list(dict.fromkeys(algo for _, _, algo in self.all))
        table = Table("", *algos, title=f"{self.done} of {self.total} runs, eta {self._eta()}")
        for env, policy in tasks:
            counts = []
            for algo in algos:
                whole, left = self.all[(env, policy, algo)], self.left[(env, policy, algo)]
                counts.append(f"{whole - left}/{whole}" if whole else "")
            table.add_row(f"{env} {policy}", *counts)
        now = time.perf_counter()
        if self.running:
            said = [f"{name} {now - since:.0f} s" for name, since in self.running.items()]
            table.caption = "running: " + ", ".join(said)
        return table


def write_results(out: Path, grid: Grid, wanted: Sequence[Cell], failed: list[dict], figures: bool) -> dict[str, Any]:
    """results.json, table.md, table.csv, report.html and figures/ from the finished cells of a comparison."""
    runs = [results.record(out / "runs" / cell.name) for cell in wanted if (out / "runs" / cell.name / "DONE").exists()]
    document = results.document(runs, failed, grid=to_plain(grid), system=system_info())
    write_atomic(out / "results.json", results.dump(document).encode())
    write_atomic(out / "table.md", results.markdown(runs).encode())
    write_atomic(out / "table.csv", results.csv_table(runs).encode())
    from polystep_rl.analysis.page import build_report

    write_atomic(out / "report.html", build_report([document], out.name).encode())
    if figures and runs:
        draw(out / "figures", runs)
    return document


def draw(folder: Path, runs: list[dict[str, Any]]) -> None:
    """The three figures, as SVG and PNG."""
    try:
        from polystep_rl.analysis import figures
    except ModuleNotFoundError as error:
        print(f"no figures: {error.name} is not installed; pip install 'polystep-rl[play]'", file=sys.stderr)
        return
    folder.mkdir(exist_ok=True)
    figures.learning_curves(runs, folder / "curves")
    figures.bars(runs, folder / "bars")
    figures.profiles(runs, folder / "profiles")


def run(argv: list[str]) -> int:
    """Entry point; returns the exit code."""
    args, name = parse(argv)
    grid, options = args.grid, args.options
    wanted = cells(grid)
    if options.show_grid:
        print(yaml.safe_dump(to_plain(grid), sort_keys=False) + f"# {len(wanted)} runs")
        return 0
    out = options.out or Path("compare") / name
    (out / "runs").mkdir(parents=True, exist_ok=True)
    write_atomic(out / GRID, yaml.safe_dump(to_plain(grid), sort_keys=False).encode())
    todo = [cell for cell in wanted if not finished(out / "runs" / cell.name, cell)]
    stream = sys.stderr if options.json else sys.stdout
    progress = Progress(todo, len(wanted) - len(todo), Console(file=stream))
    print(f"{out}: {len(wanted)} runs, {len(wanted) - len(todo)} of them finished before", file=stream, flush=True)
    jobs = [Job(cell.name, out / "runs" / cell.name, to_plain(cell.config)) for cell in todo]
    with progress.live or contextlib.nullcontext():
        run_jobs(jobs, options.jobs, out / "workers.log", progress.hear)
    document = write_results(out, grid, wanted, progress.failed, options.figures)
    for row in progress.failed:
        print(f"failed: {row['env']} {row['algo']} {row['policy']} seed {row['seed']}: {row['error']}", file=sys.stderr)
    if options.json:
        print(json.dumps(finite({"out": str(out), "runs": len(document["runs"]), "failed": document["failed"]})))
    else:
        print(results.markdown(document["runs"]) + f"{out}: " + ", ".join(sorted(p.name for p in out.iterdir())))
    return 1 if progress.failed else 0
