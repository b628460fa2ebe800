"""Tables from results, on runs whose summary is known."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polystep_rl.analysis import results, stats
from polystep_rl.analysis.results import ResultsError

RNG = np.random.default_rng(0)


def a_run(algo: str, seed: int, value: float, **more: Any) -> dict[str, Any]:
    return {
        "env": "E", "algo": algo, "policy": "int8", "seed": seed, "budget": 100, "env_steps": 98, "eval_env_steps": 7,
        "candidates": 40, "candidates_per_generation": 8, "episodes": 80, "generations": 5, "wall_seconds": 1.5,
        "return": value, "return_std": 1.0, "test_episodes": 256, "reward_threshold": 4.0,
        "curve": {"env_steps": [50, 98], "return": [value - 1, value]}, "config": {"seed": seed}, **more,
    }  # fmt: skip


RUNS = [a_run("polystep", seed, 4.0 + seed) for seed in range(4)] + [a_run("open_es", seed, seed) for seed in range(6)]


def test_a_row_is_what_the_statistics_say() -> None:
    rows = {row["algo"]: row for row in results.summarise(RUNS)}
    row, values = rows["open_es"], np.arange(6.0)
    assert row["iqm"] == stats.iqm(values) and (row["mean"], row["std"]) == tuple(stats.mean_std(values))
    assert (row["iqm_low"], row["iqm_high"]) == tuple(stats.stratified_bootstrap(values, stats.iqm))
    assert (row["worst"], row["best"], row["seeds"], row["candidates_per_generation"]) == (0, 5, 6, 8)
    assert row["reached_threshold"] == 2 and row["steps_to_threshold"] is None  # less than half of the seeds
    row = rows["polystep"]
    assert row["reached_threshold"] == 4 and row["steps_to_threshold"] == 50.0
    area = np.mean([stats.area_under_curve([50, 98], [v - 1, v], 100) for v in (4.0, 5.0, 6.0, 7.0)])
    assert row["area_under_curve"] == pytest.approx(area)


def test_improvement_has_an_interval_and_a_direction() -> None:
    (row,) = results.improvements(RUNS)
    assert row["over"] == "open_es" and row["low"] <= row["probability"] <= row["high"]
    wins = [float(x > y) + 0.5 * float(x == y) for x in range(4, 8) for y in range(6)]
    assert row["probability"] == pytest.approx(np.mean(wins))
    (other,) = results.improvements(RUNS, "open_es")
    assert other["probability"] == pytest.approx(1 - row["probability"])


def test_the_markdown_table_is_sorted_and_complete() -> None:
    lines = results.markdown(RUNS).splitlines()
    assert len(lines) == 4 and len({line.count("|") for line in lines}) == 1
    assert "| polystep |" in lines[2] and "| open_es |" in lines[3]
    assert "5.5 (" in lines[2] and "0.92 (" in lines[3]


def test_the_order_of_runs_does_not_matter() -> None:
    other = [a_run("dqn", 0, -1.0, env="F"), a_run("polystep", 0, -1.0, env="F", policy="float32")]
    runs = [*other, *RUNS]
    for make in (results.markdown, results.pivot, results.csv_table, results.shortfalls):
        assert make(runs) == make(runs[::-1])


def test_the_compact_table_marks_the_best() -> None:
    other = [a_run("polystep", 0, -1.0, env="F"), a_run("dqn", 0, -1.0, env="F")]
    head, _, first, second = results.pivot([*RUNS, *other]).splitlines()
    assert head == "| | polystep | open_es | dqn |"
    assert first.startswith("| E int8 | **5.5** (") and " | 2.5 (" in first and first.endswith("| - |")
    assert second == "| F int8 | **-1.0** | - | **-1.0** |"


def test_shortfalls_name_every_lost_cell_and_no_other() -> None:
    assert results.shortfalls(RUNS) == ""
    text = results.shortfalls(RUNS, "open_es")
    assert text.startswith("- E int8: polystep is ahead by 3.00 (P(open_es better) 0.08, ") and text.count("\n") == 1


def test_csv_reads_back() -> None:
    rows = list(csv.DictReader(io.StringIO(results.csv_table(RUNS))))
    assert [row["algo"] for row in rows] == ["polystep", "open_es"] and float(rows[0]["iqm"]) == 5.5


def test_documents_read_back(tmp_path: Path) -> None:
    runs = [*RUNS, a_run("dqn", 0, float("nan"), candidates=None, generations=None)]
    document = results.document(runs, [{"env": "E", "algo": "x", "policy": "int8", "seed": 1, "error": "oh"}], grid={})
    file = tmp_path / "results.json"
    file.write_text(results.dump(document))
    back = results.load_document(file)
    assert len(back["runs"]) == 11 and back["failed"] == document["failed"] and back["grid"] == {}
    assert [run["return"] for run in back["runs"] if run["algo"] == "dqn"] == [None]
    assert {json.dumps(run, sort_keys=True) for run in RUNS} <= {json.dumps(r, sort_keys=True) for r in back["runs"]}
    assert file.read_text().count("\n") < 25  # a line for each run


def test_runs_without_numbers_make_a_table_too() -> None:
    runs = [a_run("polystep", 0, float("nan")), a_run("dqn", 0, 1.0, curve={"env_steps": [], "return": []})]
    text = results.markdown(runs)
    assert "nan" not in text and "| - |" in text
    assert results.improvements(runs) == []
    assert results.markdown([]).count("\n") == 2 and results.csv_table([]) == ""


@pytest.mark.parametrize("text, said", [("{", "not JSON"), ("[]", "not a results file"), ("{}", "not a results file")])
def test_what_is_no_results_file(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_text(text)
    with pytest.raises(ResultsError, match=said):
        results.load_document(file)
    with pytest.raises(ResultsError, match="cannot be read"):
        results.load_document(tmp_path / "y.json")
