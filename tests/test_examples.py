"""The examples build, run and balance, and hold what the exporter writes today."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from polystep_rl.cli import main
from polystep_rl.deploy.trained import Reference, read, rolled

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
BOARD = EXAMPLES.parent / "policies" / "export" / "board"


def made(target: str, tmp_path: Path) -> str:
    command = ["make", "-C", str(EXAMPLES / "cartpole_c"), target, f"BUILD={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.skipif(shutil.which("make") is None or shutil.which("cc") is None, reason="needs make and a C compiler")
def test_the_simulator_in_c_balances_for_ten_whole_episodes(tmp_path: Path) -> None:
    said = made("run", tmp_path)
    assert re.findall(r"episode \d+: (\d+) steps", said) == ["500"] * 10 and "mean: 500.0 steps" in said


@pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in ("make", "arm-none-eabi-gcc", "qemu-system-arm")),
    reason="needs make, arm-none-eabi-gcc and qemu-system-arm",
)
def test_the_same_on_an_emulated_board(tmp_path: Path) -> None:
    said = made("emulate", tmp_path)
    assert re.findall(r"episode \d+: (\d+) steps", said) == ["500"] * 10 and "mean: 500.0 steps" in said


def test_the_c_of_the_example_is_what_is_exported(tmp_path: Path) -> None:
    """But for the embedded observations, which the simulator's last bits decide."""
    policy = EXAMPLES / "policies" / "cartpole"
    assert main(["export", str(policy), "--to", "c", "--name", "cartpole", "--out", str(tmp_path), "--json"]) == 0
    for name in ("cartpole.h", "cartpole.c"):
        now, then = ((folder / name).read_text() for folder in (tmp_path, EXAMPLES / "cartpole_c"))
        head, _, _ = now.partition("#ifndef CARTPOLE_NO_SELFTEST\nstatic")
        assert len(head) > 1000 and then.startswith(head)


def test_the_page_of_the_example_is_what_is_exported(tmp_path: Path) -> None:
    policy = EXAMPLES / "policies" / "cartpole"
    assert main(["export", str(policy), "--to", "web", "--out", str(tmp_path), "--json"]) == 0
    assert (tmp_path / "policy.html").read_text() == (EXAMPLES / "web" / "cartpole.html").read_text()


@pytest.mark.parametrize("name, most, least", [("cartpole", 64, 500.0), ("acrobot", 256, -90.0)])
def test_small_binary_policies_are_small_and_good(name: str, most: int, least: float, tmp_path: Path) -> None:
    """A thousand fresh episodes; the bytes are all constants in C, input scales included."""
    import json

    import polystep_rl.rollout.episodes as closed_loop
    from polystep_rl.deploy import write as deployment

    given = read(EXAMPLES / "policies" / name)
    assert given.spec.precision == "binary"
    assert deployment.write_c(given, tmp_path, name)["parameter_bytes"] <= most
    played = rolled(given, Reference(given.spec, given.params).act, 1000, part=99)
    assert isinstance(played, closed_loop.Played) and played.returns.mean() >= least
    assert json.loads((EXAMPLES / "policies" / f"{name}.json").read_text())["meta"]["env"] == given.env_id
