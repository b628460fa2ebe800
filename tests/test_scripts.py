"""Scripts answer --help, and those that take minutes run in their quick versions."""

from __future__ import annotations

import ast
import importlib
import json
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest

from polystep_rl.analysis import results
from polystep_rl.xla import outlined

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "scripts"
COMMANDS = sorted(path for path in SCRIPTS.rglob("*.py") if 'if __name__ == "__main__"' in path.read_text("utf-8"))
OPTIONAL = {"matplotlib", "optuna", "rliable"}


class Ended(NamedTuple):
    """How a script ended."""

    code: int | str | None  # what it was given to exit with; a text is an error
    out: str
    err: str


Start = Callable[..., Ended]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Start:
    """A function that runs a script in this process, whose imports are paid already: its path, its arguments."""
    monkeypatch.setattr(sys, "path", sys.path.copy())

    def run(script: Path | str, *arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", [str(script), *map(str, arguments)])
        capsys.readouterr()
        code: int | str | None = 0
        try:
            runpy.run_path(str(SCRIPTS / script), run_name="__main__")
        except SystemExit as error:
            code = error.code
        return Ended(code, *capsys.readouterr())

    return run


@pytest.mark.parametrize("script", COMMANDS, ids=lambda path: str(path.relative_to(SCRIPTS)))
def test_a_script_says_what_it_does(script: Path, start: Start) -> None:
    """So it can be imported, where what it needs is installed."""
    try:
        ended = start(script, "--help")
    except ModuleNotFoundError as error:
        if error.name not in OPTIONAL:
            raise
        pytest.skip(f"needs {error.name}")
    assert ended.code == 0 and ended.err == ""
    assert ended.out.startswith("usage: ") and "--help" in ended.out


def test_what_scripts_import_of_the_library_is_there() -> None:
    """Scripts that need what is not installed here are read, too."""
    for path in SCRIPTS.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("polystep_rl"):
                module = importlib.import_module(node.module or "")
                for name in (alias.name for alias in node.names if not hasattr(module, alias.name)):
                    importlib.import_module(f"{node.module}.{name}")


def test_scripts_lie_in_folders_and_use_the_library() -> None:
    """None reaches into the command line, and the only folder that one puts on the path is that of all scripts."""
    folders = {path.relative_to(SCRIPTS).parts[0] for path in COMMANDS}
    assert folders == {"bench", "checks", "figures", "humanoid", "studies", "reproduce.py"}
    for path in SCRIPTS.rglob("*.py"):
        source = path.read_text("utf-8")
        assert "polystep_rl.cli" not in source, f"{path}: scripts use the library, or the command as a process"
        assert re.findall(r"sys\.path\.\w+\(.*\)", source) in (
            [],
            ["sys.path.insert(0, str(Path(__file__).resolve().parents[1]))"],
            ["sys.path.insert(0, str(Path(__file__).resolve().parent))"] * (path.parent == SCRIPTS),
        )


@pytest.mark.slow
def test_figure_4_quickly(tmp_path: Path) -> None:
    """Every cell of figure 4 runs within its budget, and the tables and figures are made."""
    for package in ("stable_baselines3", "evosax", "matplotlib"):
        pytest.importorskip(package)
    script = SCRIPTS / "figures" / "classic_control.py"
    out, published = tmp_path / "compare", tmp_path / "docs"
    command = [sys.executable, str(script), "--quick", "--out", str(out), "--publish", str(published)]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    for name, count in (("equal", 2 * (6 + 8 + 8)), ("long", 2 * 4)):
        document = results.load_document(published / f"fig4_{name}" / "results.json")
        assert len(document["runs"]) == count and not document["failed"]
        for run in document["runs"]:
            assert run["env_steps"] <= 1.02 * run["budget"] and run["test_episodes"] >= 256
        files = {path.name for path in (published / f"fig4_{name}").iterdir()}
        assert {"table.md", "table.csv", "curves.png", "bars.svg", "profiles.svg"} <= files
    assert (out / "precisions-quick" / "cartpole.png").stat().st_size > 10_000


def test_merged_results_are_those_of_the_last_folder_that_has_all_seeds(tmp_path: Path, start: Start) -> None:
    """Of two comparisons, cell by cell; merging what is merged changes nothing."""
    pytest.importorskip("matplotlib")
    runs = results.load_document(ROOT / "docs/results/host_tasks/results.json")["runs"]
    runs = [run for run in runs if (run["env"], run["algo"]) == ("Swimmer-v5", "polystep")]
    first = [run for run in runs if run["policy"] in ("float32", "int8")]
    assert len(first) == 10
    again = [{**run, "return": 0.0} for run in first if run["policy"] == "int8"]
    fewer = [{**run, "return": 1.0} for run in first if run["policy"] == "float32" and run["seed"] % 5 < 4]
    for name, members in (("one", first), ("two", again + fewer)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(results.dump(results.document(members)), encoding="utf-8")
    folders = [str(tmp_path / name) for name in ("one", "two")]
    said, merged = _merge(start, folders, tmp_path / "into")
    assert "has 4 of 5 runs" in said
    wanted = {(run["policy"], run["seed"]): 0.0 if run["policy"] == "int8" else run["return"] for run in first}
    found = results.load_document(tmp_path / "into" / "results.json")["runs"]
    assert {(run["policy"], run["seed"]): run["return"] for run in found} == wanted
    assert _merge(start, [], tmp_path / "into")[1] == merged


def test_seeds_are_added_to_a_cell_of_the_same_settings(tmp_path: Path, start: Start) -> None:
    """Halves of a cell make the whole; a run that both have comes from the later; other settings are refused."""
    pytest.importorskip("matplotlib")
    runs = results.load_document(ROOT / "docs/results/host_tasks/results.json")["runs"]
    runs = [r for r in runs if (r["env"], r["algo"], r["policy"]) == ("HalfCheetah-v5", "polystep", "int8")]
    assert len(runs) == 10
    other = [{**run, "config": {**run["config"], "total_timesteps": 1}} for run in runs[:5]]
    parts = {"one": runs[:5], "two": [*runs[5:], {**runs[4], "return": 0.0}], "other": other}
    for name, members in parts.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(results.dump(results.document(members)), encoding="utf-8")
    _merge(start, [str(tmp_path / "one")], tmp_path / "into")
    _, merged = _merge(start, [str(tmp_path / "two"), "--add"], tmp_path / "into")
    found = results.load_document(tmp_path / "into" / "results.json")["runs"]
    wanted = {run["seed"]: run["return"] for run in runs} | {runs[4]["seed"]: 0.0}
    assert len(found) == 10 and {run["seed"]: run["return"] for run in found} == wanted
    refused = start("figures/merge_results.py", tmp_path / "other", "--add", "--into", tmp_path / "into")
    assert "was run with other settings before" in str(refused.code)
    assert (tmp_path / "into" / "results.json").read_bytes() == merged[0]


def _merge(start: Start, arguments: list[str], into: Path) -> tuple[str, tuple[bytes, bytes]]:
    ended = start("figures/merge_results.py", *arguments, "--into", into)
    assert ended.code == 0, ended.err[-2000:]
    return ended.err, ((into / "results.json").read_bytes(), (into / "table.md").read_bytes())


def test_probes_tell_signal_from_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """A linear return is nothing but signal at any length of the probes, an unrelated one nothing but noise."""
    monkeypatch.setattr(sys, "path", sys.path.copy())
    probe_noise = runpy.run_path(str(SCRIPTS / "studies" / "probe_noise.py"))
    size, rng = 300, np.random.default_rng(0)
    slope, centre = rng.normal(size=size), rng.normal(size=size)

    def linear(key: jax.Array, probes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return probes @ slope, np.ones(len(probes))

    def unrelated(key: jax.Array, probes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return rng.normal(size=len(probes)), np.ones(len(probes))

    for radius in (0.1, 10.0):
        found = probe_noise["measure"](linear, centre, radius, 1024, 0.0, jax.random.key(0))
        assert abs(found.signal - 1) < 0.15
        found = probe_noise["measure"](unrelated, centre, radius, 1024, 0.0, jax.random.key(1))
        assert abs(found.signal) < 5 * found.error
    with pytest.raises(ValueError, match="pairs was 100, expected a multiple of 64"):
        probe_noise["measure"](linear, centre, 1.0, 100, 0.0, jax.random.key(0))


def test_the_study_says_what_its_published_runs_were(tmp_path: Path, start: Start) -> None:
    """Publishing nothing new changes nothing, and no variant's settings can change under its results."""
    pytest.importorskip("matplotlib")
    published, study = ROOT / "docs/results/search_study", SCRIPTS / "studies/search_study.yaml"
    (tmp_path / "study.json").write_bytes(published.with_suffix(".json").read_bytes())
    assert _publish(start, study, tmp_path).code == 0
    assert {path.name for path in tmp_path.iterdir()} == {"study.json", "study.md", "study.png"}
    for kind in (".json", ".md"):
        assert (tmp_path / f"study{kind}").read_text() == published.with_suffix(kind).read_text()
    (tmp_path / "other.yaml").write_text(study.read_text().replace("train_horizon: 250", "train_horizon: 251", 1))
    refused = _publish(start, tmp_path / "other.yaml", tmp_path)
    assert "was run with other settings than the study has" in str(refused.code)
    assert (tmp_path / "study.json").read_bytes() == published.with_suffix(".json").read_bytes()


def _publish(start: Start, study: Path, folder: Path) -> Ended:
    return start("studies/search_study.py", study, "--report", "--out", folder, "--publish", folder / "study")


def test_the_walkers_figure_is_that_of_its_results(tmp_path: Path, start: Start) -> None:
    """Drawing again what was judged changes no table."""
    pytest.importorskip("matplotlib")
    published = ROOT / "docs/results/g1"
    (tmp_path / "results.json").write_bytes((published / "results.json").read_bytes())
    assert start("humanoid/walking_results.py", "--into", tmp_path).code == 0
    assert (tmp_path / "table.md").read_bytes() == (published / "table.md").read_bytes()
    assert (tmp_path / "curves.svg").read_text("utf-8").startswith("<?xml")


def test_a_broken_law_of_devices_is_found() -> None:
    """Costs that depend on the number of lanes, other actions of an integer policy, and a step that is not the same."""
    parity = runpy.run_path(str(SCRIPTS / "bench" / "measuring" / "parity.py"))
    actions, returns = np.zeros((4, 5), np.int32), np.ones((4, 2), np.float32)
    costs = np.arange(4, dtype=np.float32)
    same = parity["Found"](
        "binary", (actions, actions), 1e-6, (returns, 2 * returns), (returns, returns), {64: costs, 640: costs}
    )
    assert parity["broken"](same) == [], "other episodes break no law"
    other = costs.copy()
    other[2] = np.nextafter(other[2], 3)
    flipped = actions.copy()
    flipped[0, 0] = 1
    for change, said in (
        ({"lane_costs": {64: costs, 640: other}}, "1 of 4 costs differ on 64 and 640 lanes"),
        ({"actions": (actions, flipped)}, "1 of 20 actions differ on the same observations"),
        ({"step_deviation": 0.01}, "a step deviates by 1.00e-02, more than 0.001"),
        ({"step_deviation": float("nan")}, "a step deviates by nan, more than 0.001"),
    ):
        assert parity["broken"](same._replace(**change)) == [said]
        assert parity["summary"](same._replace(**change))["broken"] == [said]
    assert not parity["broken"](same._replace(precision="float32", actions=(actions, flipped)))


@pytest.mark.slow
def test_the_gpu_suite_is_tried_on_a_cpu(tmp_path: Path) -> None:
    """Every section has its figures, a reason or an error; a later call adds to the file."""
    script, record = SCRIPTS / "bench" / "gpu_suite.py", tmp_path / "suite.json"
    for sections, minutes in ((("rollout", "parity", "g1"), "10"), (("memory",), "0")):
        command = [sys.executable, str(script), "--quick", "--json", str(record), "--minutes", minutes]
        done = subprocess.run([*command, "--sections", *sections], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    found = json.loads(record.read_text(encoding="utf-8"))
    assert found["hardware"]["jax_default_matmul_precision"] == "highest" and found["hardware"]["kind"]
    assert found["broken"] == []
    sections = found["sections"]
    assert set(sections) == {"rollout", "parity", "memory", "g1"}
    assert len(sections["rollout"]["tasks"]) == 3
    for task in sections["rollout"]["tasks"].values():
        assert task["limit"] > 1e9 and all(0 < row["of_limit"] < 1 for row in task["rows"])
    assert len(sections["parity"]["rows"]) == 6
    for row in sections["parity"]["rows"]:
        assert row["same_actions"] == 1 or not sections["parity"]["trivial"]
        assert len(row["lanes"]) > 1
    assert sections["memory"]["error"] == "cut after 1 s"
    assert "rates" in sections["g1"] or "skipped" in sections["g1"]


def test_operations_are_counted_by_hand() -> None:
    """A linear policy on two observations: what it multiplies and adds, once per lane."""
    operations = runpy.run_path(str(SCRIPTS / "bench" / "measuring" / "operations.py"))
    count = operations["count_all"]
    w, x = jax.ShapeDtypeStruct((3, 2), np.float32), jax.ShapeDtypeStruct((2, 5), np.float32)
    assert count(jax.make_jaxpr(lambda w, x: w @ x)(w, x).jaxpr) == 2 * 3 * 2 * 5
    assert count(jax.make_jaxpr(lambda x: (x.T * 2).sum())(x).jaxpr) == 10 + 10
    looped = jax.make_jaxpr(lambda x: jax.lax.fori_loop(0, 7, lambda i, y: y * x, x))(x).jaxpr
    assert 70 <= count(looped) <= 70 + 4 * 7, "and the loop's counter"
    words = jax.ShapeDtypeStruct((4,), np.uint32)
    assert count(jax.make_jaxpr(lambda a, b: jax.lax.population_count(a ^ b))(words, words).jaxpr) == 8
    same = outlined(lambda a, b: (jax.lax.population_count(a ^ b), a))
    assert count(jax.make_jaxpr(same)(words, words).jaxpr) == 8
    with pytest.raises(ValueError, match="not known"):
        count(jax.make_jaxpr(lambda x: jax.lax.while_loop(lambda y: y.sum() > 0, lambda y: y - 1, x))(x).jaxpr)
