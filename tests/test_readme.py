"""What the README shows is what works."""

import json
import re
import runpy
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from polystep_rl.analysis import results
from polystep_rl.cli import COMMANDS
from polystep_rl.cli.train import parse
from polystep_rl.envs import make
from polystep_rl.policies import make_policy, save_policy

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(marker: str, text: str | None = None) -> str:
    """The fenced block that follows a marker."""
    found = re.search(rf"<!-- {marker} -->\n```\w+\n(.*?)```", text or README, re.DOTALL)
    assert found, f"no block after the marker {marker}"
    return found.group(1)


def test_the_python_example_trains(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(block("python-example"), "README.md", "exec"), names)
    run = names["run"]
    assert run.summary["stopped_by"] == "stop_reward" and run.summary["eval"]["mean_return"] == 500
    assert names["action"] in (0, 1) and run.path.parent == Path("runs")
    assert capsys.readouterr().out.startswith("500.0 ")


def test_the_loop_that_is_built_by_hand_trains(capsys):
    names = {}
    text = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
    exec(compile(block("loop-example", text), "library.md", "exec"), names)
    assert names["result"].progress.best_return == 500
    assert names["result"].progress.env_steps <= 1_000_000
    assert capsys.readouterr().out.startswith("stop_reward 500.0")


def test_the_integers_example_reads_a_policy(tmp_path):
    policy = make_policy(make("CartPole-v1").spec, hidden=(16,), precision="binary")
    save_policy(tmp_path / "best_policy", policy.spec, policy.init(jax.random.key(0)), {})
    names = {}
    exec(compile(block("integers-example").replace("RUN", str(tmp_path)), "README.md", "exec"), names)
    assert [set(np.unique(layer["weight"])) for layer in names["numbers"]["layers"]] == [{-1, 1}, {-1, 1}]


def test_the_train_command_is_the_main_job():
    flags = shlex.split(block("train-command").split("polystep-rl train", 1)[1])
    config = parse(flags).config
    assert (config.env, config.policy, config.preset) == ("CartPole-v1", "binary", "tuned")


def test_the_two_install_commands_use_the_constraints():
    for marker in ("train-command", "test-command"):
        assert block(marker).count("pip install -c constraints.txt") == 1


def test_every_command_and_linked_file_exists():
    named = set(re.findall(r"polystep-rl (\w+)[ `]", README)) - {"trains"}
    assert named == set(COMMANDS)
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        if "://" not in link:
            assert (ROOT / link).exists(), f"README.md links to {link}"


def named_scripts():
    """Script -> the files that name it: the documentation, and comments and docstrings of the code."""
    found = {}
    folders = ("docs", "scripts", "polystep_rl", "envs", "policies", "baselines", "tests")
    for file in [*ROOT.glob("*.md"), *(file for folder in folders for file in (ROOT / folder).rglob("*.*"))]:
        if file.suffix in (".md", ".py", ".yaml"):
            for name in re.findall(r"\bscripts/[\w/]+\.(?:py|yaml)\b", file.read_text(encoding="utf-8")):
                found.setdefault(name, set()).add(str(file.relative_to(ROOT)))
    return found


def test_named_scripts_exist():
    named = named_scripts()
    assert "README.md" in named["scripts/reproduce.py"]
    assert {name: files for name, files in named.items() if not (ROOT / name).is_file()} == {}


@pytest.fixture
def script(monkeypatch):
    """A function that gives a script's names: "bench/scale" -> those of scripts/bench/scale.py."""
    monkeypatch.setattr(sys, "path", sys.path.copy())
    return lambda name: SimpleNamespace(**runpy.run_path(str(ROOT / f"scripts/{name}.py"), run_name="script"))


def test_the_results_are_those_that_were_measured(script):
    system_and_runs = json.loads((ROOT / "docs/results/classic_control.json").read_text(encoding="utf-8"))
    assert script("reproduce").table(system_and_runs["runs"]) in README
    assert all(run["ok"] for run in system_and_runs["runs"])


def test_the_comparison_is_what_was_measured():
    """The tables of comparisons, every cell that PolyStep loses, and the rules that the numbers were made by."""
    pages = {
        "fig4_equal": ("README.md", 256),
        "fig4_long": ("docs/compare.md", 256),
        "host_tasks": ("docs/search.md", 128),
        "humanoid": ("docs/search.md", 128),
    }
    for name, (where, episodes) in pages.items():
        document = results.load_document(ROOT / f"docs/results/{name}/results.json")
        runs = document["runs"]
        assert not document["failed"]
        assert all(run["env_steps"] <= 1.02 * run["budget"] and run["test_episodes"] >= episodes for run in runs)
        assert all(run["seed"] < 100 for run in runs)
        page = (ROOT / where).read_text(encoding="utf-8")
        assert results.pivot(runs) in page
        assert results.shortfalls(runs) in page
        assert results.markdown(runs) == (ROOT / f"docs/results/{name}/table.md").read_text(encoding="utf-8")


def test_the_repairs_are_those_that_were_measured(script):
    """The table, over all seeds, within the steps that it says."""
    rows = json.loads((ROOT / "docs/results/repair.json").read_text(encoding="utf-8"))["rows"]
    assert script("studies/repair").table(rows) in (ROOT / "docs/repair.md").read_text(encoding="utf-8")
    for row in rows:
        assert [run["seed"] for run in row["runs"]] == [0, 1, 2, 3, 4]
        assert all(run["env_steps"] <= 3_000_000 for run in row["runs"])


def test_the_speeds_are_those_that_were_measured(script):
    record = json.loads((ROOT / "docs/results/bench_rollout.json").read_text(encoding="utf-8"))
    cases = record["cases"]
    order = [(env, population) for env in ("CartPole-v1", "Acrobot-v1") for population in ("random", "solved")]

    def speeds(kind: str, **wanted: str) -> list[float]:
        found = [case for case in cases if all(case[name] == value for name, value in wanted.items())]
        at = {(case["env"], case["population"]): case[f"{kind}_per_second"] / 1e6 for case in found}
        return [at[key] for key in order]

    def cell(value: float) -> str:
        return f"{value:.1f}" if value > 0.1 else f"{value:.3f}"

    ours = " | ".join(cell(x) for x in speeds("living", name="polystep_rl", precision="float32"))
    assert f"| polystep-rl, living | {ours} |" in README
    binary = [cell(x) for x in speeds("living", name="polystep_rl", precision="binary")]
    assert f"{', '.join(binary[:3])} and {binary[3]}" in README
    for name in {case["name"] for case in cases} - {"polystep_rl"}:
        both = zip(speeds("lockstep", name=name), speeds("living", name=name), strict=True)
        assert " | ".join(f"{cell(a)} ({cell(b)})" for a, b in both) in README, name
    verdicts = [v for v in record["verdicts"] if v["peer"] == "evosax+gymnax"]
    page, judged = README.replace("\n", " "), {(v["env"], v["population"]): v for v in verdicts}
    times, shares = ([judged[key][what] for key in order] for what in ("ratio", "share"))
    assert "{:.0f}, {:.0f}, {:.0f} and {:.0f} times what evosax".format(*times) in page
    assert "{:.0%}, {:.0%}, {:.0%} and {:.0%} are living ones".format(*shares).replace("%", "") in page.replace(
        " %", ""
    )
    ladder = script("bench/rollout").ladder.markdown(record["ladder"])
    assert ladder in (ROOT / "docs/scale.md").read_text(encoding="utf-8")


def test_the_times_of_training_are_those_that_were_measured():
    measured = json.loads((ROOT / "docs/results/bench_training.json").read_text(encoding="utf-8"))
    training, page = measured["training"], README.replace("\n", " ")
    seconds = sorted(run["warm"] for run in training["runs"])
    assert len(seconds) == 10
    assert all(run["best_return"] >= -85 for run in training["runs"])
    assert f"{seconds[0]:.2f} to {seconds[-1]:.2f} s once the programs are compiled" in page
    assert f"compiled, {training['faster']:.0f} times less than `polystep` 1.1.0" in page
    assert f"first generation within {max(start['second'][0] for start in measured['starts']):.1f} s" in page
    assert all(devices["same_costs"] for devices in measured["devices"])
    assert f"are {min(devices['ratio'] for devices in measured['devices']):.1f} times one" in page
    ratios = {seeds["env"]: f"{seeds['ratio']:.1f}" for seeds in measured["seeds"]}
    assert all(seeds["same"] for seeds in measured["seeds"])
    said = f"{ratios['Acrobot-v1']} times less than one after the other on Acrobot, {ratios['CartPole-v1']} times less"
    assert f"take {said} on CartPole" in page


def test_the_scaling_is_what_was_measured(script):
    record = json.loads((ROOT / "docs/results/bench_scale.json").read_text(encoding="utf-8"))
    scale, page = script("bench/scale"), (ROOT / "docs/scale.md").read_text(encoding="utf-8")
    assert scale.scaling_table(record["rows"]) in page
    assert scale.prediction_table(record["rows"], record["ring"]) in page
    assert f"in {1e6 * scale.hop(record['ring']):.0f} µs" in page.replace("\n", " ")
