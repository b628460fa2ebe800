"""``polystep-rl report``: one HTML page from any set of runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from polystep_rl.analysis import results
from polystep_rl.analysis.page import build_report
from polystep_rl.cli.options import parse_options
from polystep_rl.errors import ConfigError
from polystep_rl.files import write_atomic


@dataclass(frozen=True)
class ReportArgs:
    """One self-contained HTML page, to be opened without a network: filters, learning curves, table, configurations."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run folders, folders that hold some, folders of comparisons, or results.json files."""
    out: Path = Path("report.html")
    """The page; one that is there is replaced."""
    title: str | None = None
    """Its title."""
    json: bool = False
    """Print one JSON object as the last line of standard output, and nothing else there."""


def collect(paths: Sequence[Path]) -> dict[str, Any]:
    """All results under the paths as one document; ConfigError where there is nothing."""
    runs, failed = [], []
    for path in paths:
        if not path.exists():
            raise ConfigError(f"{path}: no such file or folder; check the path")
        if path.is_file() or (path / "results.json").exists():
            document = results.load_document(path if path.is_file() else path / "results.json")
            runs += document["runs"]
            failed += document["failed"]
            continue
        folders = [path] if (path / "config.yaml").exists() else sorted(p.parent for p in path.glob("*/config.yaml"))
        if not folders:
            raise ConfigError(f"{path}: holds no run, no comparison and no results.json")
        for folder in folders:
            if (folder / "DONE").exists():
                runs.append(results.record(folder))
            else:
                print(f"{folder}: left out, it is not finished", file=sys.stderr)
    return results.document(runs, failed)


def run(argv: list[str]) -> int:
    """Entry point; returns the exit code."""
    args = parse_options(ReportArgs, "report", argv)
    if not args.runs:
        raise ConfigError("no runs given: expected run folders, or the folder of a comparison")
    document = collect(args.runs)
    title = args.title or ", ".join(path.name for path in args.runs[:3])
    write_atomic(args.out, build_report([document], title).encode())
    count = len(document["runs"])
    print(json.dumps({"out": str(args.out), "runs": count}) if args.json else f"{args.out}: {count} runs")
    return 0
