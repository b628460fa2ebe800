"""What every command prints and returns when it is used as meant."""

from __future__ import annotations

import io
import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import pytest
import yaml

from polystep_rl import __version__
from polystep_rl.cli import COMMANDS
from polystep_rl.envs import registered_ids
from polystep_rl.records.metrics import read_metrics
from polystep_rl.runs.display import Lines
from polystep_rl.runs.observer import RunObserver
from polystep_rl.settings.presets import preset
from polystep_rl.settings.run import TrainConfig, from_plain

EVAL_KEYS = {"simulator", "crn", "mean_return", "std_return", "mean_length", "episodes"}


def test_train_prints_its_summary_and_fills_the_folder(trained: Path) -> None:
    printed = json.loads((trained.parent / "printed.json").read_text())
    wanted = {"run_dir", "env_steps", "candidates", "generations", "wall_seconds", "stopped_by", "eval"}
    assert wanted <= set(printed) and set(printed["eval"]) == EVAL_KEYS
    assert printed["run_dir"] == str(trained) and printed["stopped_by"] == "total_timesteps"
    assert 0 < printed["env_steps"] <= 30_000 and printed["generations"] > 3
    assert json.loads((trained / "summary.json").read_text()) == printed
    rows = read_metrics(trained / "metrics.csv")
    assert rows[-1]["env_steps"] == printed["env_steps"] and len(rows) == printed["generations"]
    assert sum(row["eval/mean_reward"] is not None for row in rows) >= 2
    for name in ("config.yaml", "system_info.json", "DONE", "policy.json", "best_policy.safetensors"):
        assert (trained / name).exists()
    assert list(trained.glob("events.*")) and list((trained / "checkpoints").iterdir())
    assert not list(trained.rglob("*.tmp")) and not list(trained.rglob("*.pkl"))


def test_eval(cli: Callable, trained: Path) -> None:
    first, again = (cli("eval", trained, "--episodes", 20, "--json") for _ in range(2))
    assert first.code == 0 and set(first.json) == EVAL_KEYS and first.json["episodes"] == 20
    assert first.json == again.json
    assert cli("eval", trained, "--episodes", 20, "--seed", 9, "--json").json != first.json
    of_file = cli("eval", trained / "best_policy.json", "--episodes", 20, "--json")
    assert cli("eval", trained / "best_policy", "--episodes", 20, "--json").out == of_file.out
    assert of_file.json == first.json
    text = cli("eval", trained, "--episodes", 20, "--which", "last")
    assert text.code == 0 and text.out.startswith("CartPole-v1 binary: mean return")


def test_the_summary_is_the_evaluation_of_the_best_policy(cli: Callable, trained: Path) -> None:
    printed = json.loads((trained / "summary.json").read_text())["eval"]
    assert cli("eval", trained, "--episodes", printed["episodes"], "--json").json == printed


def test_play_writes_a_gif(cli: Callable, trained: Path, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    pytest.importorskip("pygame")
    film = tmp_path / "new" / "film.gif"
    outcome = cli("play", trained, "--gif", film, "--max-steps", 20, "--every", 5, "--width", 100, "--json")
    assert outcome.code == 0 and outcome.json["file"] == str(film)
    assert outcome.json["env"] == "CartPole-v1" and len(outcome.json["returns"]) == 1
    with image.open(film) as picture:
        assert picture.format == "GIF" and picture.width == 100 and picture.n_frames >= 2
    without = cli("play", trained, "--episodes", 2, "--json")
    assert len(without.json["lengths"]) == 2 and without.json["file"] is None
    assert without.json["returns"][0] == outcome.json["returns"][0]


def test_play_follows_gymnasium(cli: Callable, trained: Path) -> None:
    """The same policy, observation by observation, in Gymnasium's own loop."""
    import gymnasium
    import numpy as np

    from polystep_rl.policies import mlp_policy
    from polystep_rl.policies.io import read_policy

    saved, env = read_policy(trained / "best_policy"), gymnasium.make("CartPole-v1")
    act = jax.jit(mlp_policy(saved.spec).act)
    obs, _ = env.reset(seed=5)
    total, over = 0.0, False
    while not over:
        obs, reward, terminated, truncated, _ = env.step(int(act(saved.params, np.float32(obs))))
        total, over = total + reward, terminated or truncated
    assert cli("play", trained, "--seed", 5, "--json").json["returns"] == [total]


def test_envs(cli: Callable) -> None:
    listed = cli("envs", "--json")
    assert listed.code == 0 and [row["id"] for row in listed.json["envs"]] == registered_ids()
    table = cli("envs").out.splitlines()
    assert len(table) == 1 + len(registered_ids()) and "CartPole-v1" in "".join(table)
    assert cli("envs", "--check", "probe/Bandit-v0", "--json").json == {"id": "probe/Bandit-v0", "ok": True}


def test_show_config_reads_back(cli: Callable) -> None:
    argv = (
        "train",
        "--env",
        "Pendulum-v1",
        "--policy",
        "float32",
        "--hidden",
        5,
        6,
        "--epsilon",
        0.25,
        "--show-config",
    )
    shown = cli(*argv)
    assert shown.code == 0
    config = from_plain(TrainConfig, yaml.safe_load(shown.out))
    base = preset("Pendulum-v1", "float32")
    assert config.hidden == (5, 6) and config.search.epsilon == 0.25
    assert config.search.step_radius == base.search.step_radius and config.eval_freq == base.eval_freq
    assert from_plain(TrainConfig, cli(*argv, "--json").json) == config


def test_every_default_can_be_overridden(cli: Callable) -> None:
    helped = cli("train", "--help").out

    def names(plain: dict[str, Any]) -> list[str]:
        return [x for key, value in plain.items() for x in (names(value) if isinstance(value, dict) else [key])]

    from polystep_rl.settings.run import to_plain

    assert "--no-shape-per-particle" in helped and "--no-json" not in helped
    for name in names(to_plain(TrainConfig())):
        assert f"--{name.replace('_', '-')}" in helped, name


def test_overviews(cli: Callable) -> None:
    overview = cli("--help")
    assert overview.code == 0 and all(name in overview.out for name in COMMANDS) and not overview.err
    assert cli().code == 2 and cli().err.startswith("usage:")
    assert cli("--version").out == f"{__version__}\n"
    for name in COMMANDS:
        helped = cli(name, "--help")
        assert helped.code == 0 and f"usage: polystep-rl {name}" in helped.out and "--json" in helped.out


def test_new_runs_get_folders_of_their_own(cli: Callable, tmp_path: Path) -> None:
    argv = ("train", "--env", "probe/Bandit-v0", "--generations", 1, "--runs", tmp_path, "--json", "--test-episodes", 4)
    folders = {cli(*argv).json["run_dir"] for _ in range(2)}
    assert len(folders) == 2
    for folder in folders:
        assert Path(folder).name.startswith("probe-Bandit-v0__polystep-binary__0__")


def progress_lines(times: list[float], rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the observer prints when chunk i ends at times[i] with rows[i] as its last generation."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    stream = io.StringIO()
    run: Any = SimpleNamespace(log=lambda *args: None)
    parts: Any = None
    observer = RunObserver(run, parts, TrainConfig(total_timesteps=100_000), Lines(stream))
    for moment, row in zip(times, rows, strict=True):
        now[0] = moment
        observer.generations([row])
    return stream.getvalue().splitlines()


def row(generation: int, steps: int, evaluated: float | None) -> dict[str, Any]:
    return {
        "generation": generation,
        "env_steps": steps,
        "eval/mean_reward": evaluated,
        "rollout/ep_rew_mean": 12.3,
        "search/ess": 3.21,
        "time/fps": 54_321.0,
    }


def test_progress_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first chunk and the first evaluation compile, a minute each; after them it is 10,000 steps a second."""
    rows = [row(1, 1000, None), row(2, 2000, 20.0), row(3, 12_000, None), row(4, 22_000, 31.5)]
    lines = progress_lines([60.0, 120.0, 121.0, 122.0], rows, monkeypatch)
    assert len(lines) == 4
    for part in ("gen     4", "steps     22,000", "54,321/s", "eval    31.5", "ess  3.21"):
        assert part in lines[3], lines[3]
    assert lines[0].endswith("eta -") and lines[1].endswith("eta -")
    assert lines[2].endswith("eta 0:00:09") and lines[3].endswith("eta 0:00:08")


def test_json_has_no_nan(cli: Callable, capsys: pytest.CaptureFixture) -> None:
    from polystep_rl.cli.options import print_json

    print_json({"a": math.nan, "b": [math.inf, 1.0], "c": {"d": -math.inf}})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [None, 1.0], "c": {"d": None}}


# --- other processes -----------------------------------------------------------------------------------------------
SCRIPT = [str(Path(sys.executable).with_name("polystep-rl"))]
# A process that is started in a shell's background ignores Ctrl-C, and so would its children.
HEED_CTRL_C = [
    sys.executable,
    "-c",
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])",
]
MODULE = [sys.executable, "-m", "polystep_rl"]

OWN_ENVIRONMENT = '''
import jax, jax.numpy as jnp, numpy as np
from gymnasium import spaces
from polystep_rl.types import EnvSpec, Step

class Mine:
    """Action 1 pays where the observation is positive, action 0 where it is not."""
    def __init__(self):
        self.spec = EnvSpec("mine", spaces.Box(-1, 1, (1,), np.float32), spaces.Discrete(2), 1, None)
    def reset(self, key):
        x = jax.random.uniform(key, (), minval=-1.0, maxval=1.0)
        return x, x[None]
    def step(self, state, action):
        paid = jnp.where((action == 1) == (state > 0), 1.0, 0.0)
        return Step(state, state[None], paid, jnp.bool_(True), jnp.bool_(False), {})
'''


@pytest.mark.parametrize("command", [SCRIPT, MODULE], ids=["script", "module"])
def test_an_environment_of_the_users_own(command: list[str], tmp_path: Path) -> None:
    """In the current folder, which the console script does not look into by itself."""
    (tmp_path / "my_env.py").write_text(OWN_ENVIRONMENT)
    argv = [
        "train",
        "--env",
        "my_env:Mine",
        "--total-timesteps",
        "6000",
        "--eval-freq",
        "1000",
        "--json",
        "--cores",
        "2",
    ]
    done = subprocess.run([*command, *argv], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert done.stdout.count("\n") == 1 and printed["eval"]["mean_return"] > 0.8
    assert Path(tmp_path, printed["run_dir"]).name.startswith("my_env-Mine__")
    assert "gen " in done.stderr


def test_a_system_that_does_not_say_which_cores(tmp_path: Path) -> None:
    """As on macOS, with simulators in JAX and in worker processes."""
    unknown = "del os.sched_getaffinity, os.sched_setaffinity"
    script = f"import os, sys; {unknown}; from polystep_rl.cli import main; sys.exit(main())"
    few = ["--test-episodes", "4", "--quiet"]
    for argv in (
        ["train", "--env", "CartPole-v1", "--generations", "1", "--run-dir", "jax", *few],
        ["train", "--env", "Acrobot-v1", "--simulator", "gymnasium", "--generations", "1", "--run-dir", "own", *few],
    ):
        done = subprocess.run(
            [sys.executable, "-c", script, *argv],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        assert (tmp_path / argv[argv.index("--run-dir") + 1] / "DONE").exists()


@pytest.mark.parametrize("seconds", [0.3, 0.6])
def test_ctrl_c_before_training(seconds: float, tmp_path: Path) -> None:
    """While modules are imported, or JAX starts."""
    argv = [
        *HEED_CTRL_C,
        *SCRIPT,
        "train",
        "--run-dir",
        str(tmp_path / "run"),
        "--total-timesteps",
        "1000000000",
        "--json",
    ]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130 and "interrupted" in err and "Traceback" not in err, err


def test_ctrl_c_saves_and_can_be_resumed(cli: Callable, tmp_path: Path) -> None:
    run = tmp_path / "run"
    flags = "--total-timesteps 1000000000 --stop-reward None --eval-freq 20000 --eval-episodes 8 --test-episodes 8"
    argv = ["train", "--env", "CartPole-v1", *flags.split(), "--run-dir", str(run), "--json", "--cores", "2"]
    process = subprocess.Popen(
        [*HEED_CTRL_C, *SCRIPT, *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 240
    while not list((run / "checkpoints").glob("*.safetensors")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "Traceback" not in err and f"polystep-rl train --resume {run}" in err
    printed = json.loads(out)
    assert printed["stopped_by"] == "interrupt" and printed["env_steps"] > 0 and not (run / "DONE").exists()
    last = read_metrics(run / "metrics.csv")[-1]
    assert last["env_steps"] == printed["env_steps"]
    budget = printed["env_steps"] + 40_000
    resumed = cli("train", "--resume", run, "--total-timesteps", budget, "--json", "--quiet")
    assert resumed.code == 0, resumed.err
    assert printed["env_steps"] < resumed.json["env_steps"] <= budget
    assert resumed.json["wall_seconds"] > read_metrics(run / "metrics.csv")[-1]["time/seconds"] > last["time/seconds"]
