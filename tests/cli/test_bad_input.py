"""Bad input is one clear line on standard error and an exit code, never a traceback."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.commands import assert_one_line

from polystep_rl.cli import main
from polystep_rl.cli.options import one_line

TRAIN = ("train", "--env", "CartPole-v1", "--generations", "1", "--quiet")


USAGE = {
    "command": (("trian",), "unknown command 'trian': did you mean 'train'?"),
    "no such command": (("xyzzy",), "expected one of train, compare"),
    "env": (("train", "--env", "CartPole-v9"), "unknown environment 'CartPole-v9': did you mean CartPole-v1"),
    "env module": (("train", "--env", "nowhere_at_all:Env"), "cannot import environment 'nowhere_at_all:Env'"),
    "env attribute": (("train", "--env", "math:Env"), "module 'math' has no 'Env'"),
    "env of another kind": (("train", "--env", "math:pi"), "'math:pi' is a float"),
    "policy": (("train", "--policy", "bianry"), "did you mean 'binary'?"),
    "preset": (("train", "--preset", "papr"), "did you mean 'paper'?"),
    "preset of another env": (
        ("train", "--preset", "paper", "--env", "Pendulum-v1"),
        "has no settings for 'Pendulum-v1'",
    ),
    "option": ((*TRAIN, "--total-timestep", "5"), "did you mean --total-timesteps?"),
    "option of eval": (("eval", ".", "--episode", "5"), "did you mean --episodes?"),
    "option of play": (("play", ".", "--gifs", "x.gif"), "did you mean --gif?"),
    "option of envs": (("envs", "--chek", "x"), "did you mean --check?"),
    "missing value": (("train", "--seed"), "--seed"),
    "missing argument": (("eval",), "Missing"),
    "no number": ((*TRAIN, "--epsilon", "abc"), "--epsilon", "'abc'"),
    "no integer": ((*TRAIN, "--seed", "1.5"), "--seed", "1.5"),
    "choice": ((*TRAIN, "--plan", "emd"), "'emd'", "sinkhorn"),
    "timesteps": ((*TRAIN, "--total-timesteps", "-5"), "total_timesteps was -5, expected at least 1"),
    "generations": (("train", "--generations", "0"), "generations was 0, expected at least 1"),
    "wall seconds": ((*TRAIN, "--wall-seconds", "-1"), "wall_seconds was -1.0, expected a number above 0"),
    "no budget": (("train", "--total-timesteps", "None"), "no budget: give --total-timesteps"),
    "hidden 0": ((*TRAIN, "--hidden", "0"), "hidden was 0, expected at least 1"),
    "hidden negative": ((*TRAIN, "--hidden", "16", "-4"), "hidden was -4, expected at least 1"),
    "hidden huge": ((*TRAIN, "--hidden", "100000000"), "100000000"),
    "particle dim": ((*TRAIN, "--particle-dim", "0"), "particle_dim was 0, expected at least 1"),
    "cube": ((*TRAIN, "--polytope", "cube", "--particle-dim", "99"), "particle_dim was 99"),
    "seed": ((*TRAIN, "--seed", "-1"), "seed was -1, expected at least 0"),
    "huge seed": ((*TRAIN, "--seed", str(2**63 + 1)), f"seed was {2**63 + 1}, expected at most 4294967295"),
    "nan": ((*TRAIN, "--epsilon", "nan"), "epsilon was nan, expected a finite number"),
    "inf": ((*TRAIN, "--step-radius", "inf"), "step_radius was inf, expected a finite number"),
    "-inf": ((*TRAIN, "--stop-reward=-inf"), "stop_reward was -inf, expected a finite number"),
    "eval episodes": ((*TRAIN, "--eval-episodes", "0"), "eval_episodes was 0, expected at least 1"),
    "test episodes": ((*TRAIN, "--test-episodes", "0"), "test_episodes was 0, expected at least 1"),
    "eval freq": ((*TRAIN, "--eval-freq", "0"), "eval_freq was 0, expected at least 1"),
    "cores": ((*TRAIN, "--cores", "0"), "cores was 0, expected at least 1"),
    "threshold": (("train", "--env", "Pendulum-v1", "--stop-at-threshold"), "Pendulum-v1 has no reward threshold"),
    "resume nothing": (("train", "--resume", "no/such/run"), "no/such/run: no such run folder"),
    "eval nothing": (("eval", "no/such/run"), "no/such/run: no such run folder or policy file"),
    "play nothing": (("play", "no/such/run"), "no/such/run: no such run folder or policy file"),
    "play ending": (("play", ".", "--gif", "film.avi"), "expected a name that ends in .gif or .mp4"),
    "play episodes": (("play", ".", "--episodes", "0"), "--episodes 0: expected at least 1"),
    "play seed": (("play", ".", "--seed", "-1"), "--seed -1: expected at least 0"),
    "envs check": (("envs", "--check", "CartPol"), "did you mean CartPole-v1"),
}


@pytest.mark.parametrize("argv, said", [(argv, said) for argv, *said in USAGE.values()], ids=USAGE)
def test_bad_usage(
    argv: tuple[str, ...], said: list[str], cli: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_one_line(cli(*argv), 2, *said)
    assert_one_line(cli(*argv, "--json"), 2, *said)
    assert not list(tmp_path.iterdir()), "nothing was written"


def test_eval_numbers(cli: Callable, trained: Path) -> None:
    assert_one_line(cli("eval", trained, "--episodes", 0), 2, "--episodes 0: expected at least 1")
    for seed in (-1, 2**32, 2**70):
        assert_one_line(cli("eval", trained, "--seed", seed), 2, f"--seed {seed}: expected 0 to 4294967295")


# --- folders -------------------------------------------------------------------------------------------------------
def test_a_run_is_never_overwritten(cli: Callable, trained: Path, tmp_path: Path) -> None:
    before = {file: file.read_bytes() for file in trained.rglob("*") if file.is_file()}
    assert_one_line(cli(*TRAIN, "--run-dir", trained), 1, "already holds a run")
    assert before == {file: file.read_bytes() for file in trained.rglob("*") if file.is_file()}
    (tmp_path / "letter.txt").write_text("dear diary")
    assert_one_line(cli(*TRAIN, "--run-dir", tmp_path), 1, "is not empty")
    assert_one_line(cli(*TRAIN, "--run-dir", tmp_path / "letter.txt"), 1, "is a file")


def test_folders_that_cannot_be_written(cli: Callable, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert_one_line(cli(*TRAIN, "--runs", tmp_path / "file"), 1, "cannot be written")
    assert_one_line(cli(*TRAIN, "--run-dir", tmp_path / "file" / "run"), 1, "cannot be written")
    if os.getuid():
        locked = tmp_path / "locked"
        locked.mkdir(mode=0o500)
        assert_one_line(cli(*TRAIN, "--run-dir", locked / "run"), 1, "cannot be written (Permission denied)")


def test_resume_keeps_its_settings(cli: Callable, trained: Path, tmp_path: Path) -> None:
    for change in (("--seed", "3"), ("--env", "Acrobot-v1"), ("--epsilon", "0.7"), ("--hidden", "3")):
        assert_one_line(cli("train", "--resume", trained, *change), 2, "cannot change", "total_timesteps")
    assert_one_line(cli("train", "--resume", trained, "--run-dir", tmp_path / "new"), 2, "exclude each other")


# --- files ---------------------------------------------------------------------------------------------------------
DAMAGE = {
    "empty": lambda data: b"",
    "truncated": lambda data: data[: len(data) // 2],
    "a flipped bit": lambda data: data[:-3] + bytes([data[-3] ^ 4]) + data[-2:],
    "foreign": lambda data: b"\x89PNG\r\n\x1a\n" + os.urandom(300),
    "a pickle": lambda data: (
        b"\x80\x04\x95\x1d\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94."
    ),
}


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "copy")


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["best_policy.json", "best_policy.safetensors", "config.yaml"])
def test_damaged_files_of_a_run(name: str, damage: str, copy: Path, cli: Callable) -> None:
    file = copy / name
    file.write_bytes(DAMAGE[damage](file.read_bytes()))
    if (name, damage) == ("config.yaml", "a flipped bit"):  # a text without a checksum
        file.write_text(file.read_text().replace("seed:", "sead:"))
    for argv in (("eval", copy), ("play", copy)):
        outcome = cli(*argv)
        assert_one_line(outcome, 1, str(copy))
    if name == "config.yaml":
        assert_one_line(cli("train", "--resume", copy), 1, str(file))


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_checkpoints(damage: str, copy: Path, cli: Callable) -> None:
    for file in (copy / "checkpoints").iterdir():
        file.write_bytes(DAMAGE[damage](file.read_bytes()))
    assert_one_line(cli("train", "--resume", copy, "--total-timesteps", "40000", "--quiet"), 1, "checkpoints")


def test_a_checkpoint_of_another_configuration(copy: Path, cli: Callable) -> None:
    text = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(text.replace("hidden:\n- 16", "hidden:\n- 8"))
    assert text != (copy / "config.yaml").read_text()
    assert_one_line(cli("train", "--resume", copy, "--total-timesteps", "40000", "--quiet"), 1, "another configuration")


def test_settings_out_of_range_in_a_run(copy: Path, cli: Callable) -> None:
    text = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(text.replace("seed: 0", "seed: -1"))
    assert_one_line(cli("train", "--resume", copy), 2, "seed was -1")


def test_folders_that_are_no_runs(copy: Path, cli: Callable, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert_one_line(cli("train", "--resume", empty), 1, "config.yaml: cannot be read")
    assert_one_line(cli("eval", empty), 1, "config.yaml: cannot be read")
    (copy / "system_info.json").unlink()
    assert_one_line(cli("train", "--resume", copy), 1, "not a run folder (it has no system_info.json)")
    for file in copy.glob("*policy.*"):
        file.unlink()
    assert_one_line(cli("eval", copy), 2, "holds no best_policy yet")


def test_damaged_metrics(copy: Path, cli: Callable) -> None:
    (copy / "metrics.csv").write_bytes(b"generation,env_steps\nabc,1\n")
    assert_one_line(cli("train", "--resume", copy, "--total-timesteps", "40000"), 1, "metrics.csv is damaged")


# --- an environment of the user's own ------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "name, source, said",
    [
        ("broken_syntax", "def reset(:\n", "SyntaxError"),
        ("broken_import", "import nowhere_at_all\n", "nowhere_at_all"),
        ("broken_module", "1 / 0\n", "ZeroDivisionError: division by zero"),
        (
            "broken_class",
            "class Env:\n    def __init__(self):\n        raise RuntimeError('no licence')\n",
            "no licence",
        ),
        ("broken_env", "class Env:\n    pass\n", "lacks spec, reset or step"),
    ],
)
def test_broken_modules(
    name: str, source: str, said: str, cli: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / f"{name}.py").write_text(source)
    assert_one_line(cli(*TRAIN, "--env", f"{name}:Env"), 2, name, said)


# --- the machinery -------------------------------------------------------------------------------------------------
def test_operating_system_errors_are_one_line(cli: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    from polystep_rl.cli import envs

    def run(argv: list[str]) -> int:
        raise OSError(28, "No space left on device", "/data/metrics.csv")

    monkeypatch.setattr(envs, "run", run)
    assert_one_line(cli("envs"), 1, "/data/metrics.csv: No space left on device")


def test_ctrl_c_outside_of_training(cli: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    from polystep_rl.cli import envs

    def run(argv: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(envs, "run", run)
    assert_one_line(cli("envs"), 130, "interrupted")


def test_bugs_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    from polystep_rl.cli import envs

    def run(argv: list[str]) -> int:
        raise KeyError("a bug")

    monkeypatch.setattr(envs, "run", run)
    with pytest.raises(KeyError):
        main(["envs"])


def test_boxes_become_a_line() -> None:
    said = (
        "Unrecognized options: --a",
        "-------",
        "Perhaps you meant:",
        "    --abc INT",
        "        What it does.",
        "-------",
        "For help",
    )
    plain = "\n".join(("Unrecognized options", "-------", *said, "-------"))
    framed = "\n".join(
        ("╭─ Title ─╮", *(f"│ {line.replace('-------', '───────'):<30} │" for line in said), "╰─────────╯")
    )
    for box in (plain, framed):
        assert one_line(box) == "Unrecognized options: --a; did you mean --abc?"
