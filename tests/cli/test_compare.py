"""`polystep-rl compare` and `report`: budgets, crashes, and being killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

pytest.importorskip("evosax")

from polystep_rl.analysis import results
from polystep_rl.records.metrics import read_metrics
from polystep_rl.runs.jobs import share_out
from polystep_rl.settings.grid import Grid, cells

FLAGS = "--algos polystep hill_climbing cma_es --policies int8 --seeds 2 --budget 100000 --no-figures".split()
BUDGET = 100_000
# A module with an environment that ends the whole process when it is first traced.
CRASHING = """
import os
from polystep_rl.envs.probe import *
from polystep_rl.envs import make

class Crash:
    def __init__(self):
        self.inner = make("CartPole-v1")
        self.spec = self.inner.spec._replace(id="crash:Crash")
    def reset(self, key):
        os._exit(7)
    def step(self, state, action):
        return self.inner.step(state, action)
"""


def table(out: Path) -> list[dict]:
    """What a comparison found, without what depends on the clock."""
    rows = results.summarise(results.load_document(out / "results.json")["runs"])
    return [{key: value for key, value in row.items() if key != "wall_seconds"} for row in rows]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, cli: Callable) -> Path:
    """A comparison that ran through."""
    out = tmp_path_factory.mktemp("compare") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONSAFEPATH", raising=False)  # workers must not take the folder of our name in a clone for us
        outcome = cli("compare", *FLAGS, "--out", out, "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json == {"out": str(out), "runs": 6, "failed": []}
    return out


def test_every_method_spends_the_budget_and_no_more(whole: Path) -> None:
    """No row, and no group, is more than 2 % over; and none stopped early, which would be no comparison either."""
    document = results.load_document(whole / "results.json")
    assert len(document["runs"]) == 6
    for run in document["runs"]:
        assert run["env_steps"] <= 1.02 * run["budget"] == 1.02 * BUDGET
        assert run["stopped_by"] == "total_timesteps" and run["test_episodes"] == 256
        steps = [row["env_steps"] for row in run_metrics(whole, run)]
        assert steps[-1] == run["env_steps"] and steps == sorted(steps)
        most = run["candidates_per_generation"] * run["config"]["search"]["episodes"] * 500
        assert run["env_steps"] + most > run["budget"]  # there was no room for another generation
    spent = {}
    for run in document["runs"]:
        spent[run["algo"]] = spent.get(run["algo"], 0) + run["env_steps"]
    assert max(spent.values()) <= 1.02 * 2 * BUDGET, spent


def run_metrics(out: Path, run: dict) -> list[dict]:
    return read_metrics(out / "runs" / f"{run['env']}__{run['algo']}-{run['policy']}__{run['seed']}" / "metrics.csv")


def test_a_row_accounts_for_every_query(whole: Path) -> None:
    for run in results.load_document(whole / "results.json")["runs"]:
        assert run["candidates"] == run["generations"] * run["candidates_per_generation"]
        assert run["episodes"] == run["candidates"] * run["config"]["search"]["episodes"]
        assert run["wall_seconds"] > 0 and run["device"] and run["versions"]["jax"]
        assert len(run["curve"]["env_steps"]) == len(run["curve"]["return"]) >= 3
        assert run["config"]["deploy"] == "last"


def test_finished_cells_are_skipped(whole: Path, cli: Callable) -> None:
    before = {file: file.stat().st_mtime_ns for file in whole.glob("runs/*/DONE")}
    expected = table(whole)
    outcome = cli("compare", *FLAGS, "--out", whole)
    assert outcome.code == 0 and "6 runs, 6 of them finished before" in outcome.out
    assert before == {file: file.stat().st_mtime_ns for file in whole.glob("runs/*/DONE")}
    assert table(whole) == expected


def test_finished_cells_of_other_settings_are_not_mixed_in(whole: Path, cli: Callable) -> None:
    outcome = cli("compare", *FLAGS, "--out", whole, "--budget", 2 * BUDGET)
    assert outcome.code == 1 and "was run with other settings (total_timesteps" in outcome.err
    assert outcome.err.count("\n") == 1


def test_finished_cells_of_an_older_version_are_kept(whole: Path, tmp_path: Path, cli: Callable) -> None:
    """A setting that is newer than a run had its default there."""
    shutil.copytree(whole, tmp_path / "older")
    for file in tmp_path.glob("older/runs/*/config.yaml"):
        values = yaml.safe_load(file.read_text())
        values["search"].pop("averaging")
        values.pop("step_penalty")
        file.write_text(yaml.safe_dump(values) + "...\n")
    outcome = cli("compare", *FLAGS, "--out", tmp_path / "older")
    assert outcome.code == 0 and "6 runs, 6 of them finished before" in outcome.out


def test_killed_at_any_moment_it_goes_on(whole: Path, tmp_path: Path) -> None:
    """kill -9 some time after the first cell is done; the second start keeps it and ends with the same table."""
    out = tmp_path / "killed"
    command = [sys.executable, "-P", "-m", "polystep_rl", "compare", *FLAGS, "--out", str(out)]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while not list(out.glob("runs/*/DONE")) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(int.from_bytes(os.urandom(1), "big") / 256)
    first.send_signal(signal.SIGKILL)
    first.wait()
    done = {file: file.stat().st_mtime_ns for file in out.glob("runs/*/DONE")}
    assert done, "no cell was done in time"
    assert subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL).returncode == 0
    assert done.items() <= {file: file.stat().st_mtime_ns for file in out.glob("runs/*/DONE")}.items()
    assert table(out) == table(whole)


@pytest.mark.parametrize("cores, workers", [(1, 1), (2, 1), (5, 2), (16, 3), (2, 5)])
def test_workers_share_out_the_cores(cores: int, workers: int) -> None:
    shares = share_out([10 + core for core in range(cores)], workers)
    sizes = [len(share) for share in shares]
    assert len(shares) == workers and min(sizes) >= 1 and max(sizes) - min(sizes) <= 1
    assert {core for share in shares for core in share} == {10 + core for core in range(cores)}
    assert sum(sizes) == max(cores, workers)


def test_runs_that_share_the_cores_differently_are_the_same(whole: Path, cli: Callable, tmp_path: Path) -> None:
    """All cores for one run after the other. CMA-ES is left out: threads round its eigenvectors differently."""
    flags = [flag for flag in FLAGS if flag != "cma_es"]
    assert cli("compare", *flags, "--out", tmp_path, "--jobs", 1).code == 0
    assert table(tmp_path) == [row for row in table(whole) if row["algo"] != "cma_es"]


def test_a_crashed_cell_is_reported_and_the_rest_goes_on(
    tmp_path: Path, cli: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that dies, and an algorithm that refuses its settings."""
    (tmp_path / "crash.py").write_text(CRASHING)
    monkeypatch.chdir(tmp_path)
    grid = {"envs": ["crash:Crash", "CartPole-v1"], "algos": ["polystep", "Open_ES"], "seeds": 1, "budget": 5000}
    Path("g.yaml").write_text(json.dumps(grid | {"settings": {"Open_ES": {"population": 7}}}))
    outcome = cli("compare", "g.yaml", "--out", "x", "--no-figures", "--json")
    assert outcome.code == 1 and outcome.json["runs"] == 1
    errors = {(row["env"], row["algo"]): row["error"] for row in outcome.json["failed"]}
    assert errors[("crash:Crash", "polystep")] == "the worker process died (exit code 7)"
    assert "even" in errors[("CartPole-v1", "Open_ES")]
    assert "failed: crash:Crash polystep binary seed 0: the worker process died" in outcome.err
    assert outcome.err.count("\nfailed: ") == len(errors) == 3


@pytest.mark.parametrize(
    "argv, said",
    [
        (("--algos", "polystep", "--jobs", "0"), "jobs was 0"),
        (("nowhere.yaml",), "nowhere.yaml: cannot be read"),
        (("--budget", "0"), "budget was 0, expected at least 1"),
        (("--policies", "int4"), "int4"),
        (("--settings", "x"), "--settings"),
        (("--budgets", "5"), "did you mean --budget"),
    ],
)
def test_bad_usage(argv: tuple[str, ...], said: str, cli: Callable, tmp_path: Path) -> None:
    outcome = cli("compare", *argv, "--out", tmp_path / "x")
    assert outcome.code == 2 and said in outcome.err and outcome.err.count("\n") == 1, outcome.err
    assert not (tmp_path / "x" / "runs").exists()


def test_the_grid_is_shown(cli: Callable) -> None:
    outcome = cli("compare", *FLAGS[:-1], "--show-grid")
    assert outcome.code == 0 and "budget: 100000" in outcome.out and "# 6 runs" in outcome.out


def test_reports(whole: Path, cli: Callable, tmp_path: Path) -> None:
    """From a comparison, its file, a folder of runs, one run: all show the same runs."""
    run = next(iter(sorted((whole / "runs").iterdir())))
    for source, count in ((whole, 6), (whole / "results.json", 6), (whole / "runs", 6), (run, 1)):
        page = tmp_path / f"{count}.html"
        outcome = cli("report", source, "--out", page)
        assert outcome.code == 0 and f"{count} runs" in outcome.out
        assert run.name.split("__")[1].split("-")[0] in page.read_text()
    for path, said in ((tmp_path / "no", "no such file"), (tmp_path, "holds no run")):
        outcome = cli("report", path)
        assert outcome.code == 2 and said in outcome.err and outcome.err.count("\n") == 1


def test_runs_and_results_agree(whole: Path) -> None:
    grid = Grid(algos=("polystep", "hill_climbing", "cma_es"), policies=("int8",), seeds=2, budget=BUDGET)
    for cell in cells(grid):
        found = results.record(whole / "runs" / cell.name)
        summary = json.loads((whole / "runs" / cell.name / "summary.json").read_text())
        assert found["return"] == summary["eval"]["mean_return"] and found["env_steps"] == summary["env_steps"]
