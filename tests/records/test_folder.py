"""Run folders: named safely, never overwritten, resumed to bit-identical metrics."""

import dataclasses
import json
import struct
import subprocess
import sys
import types
from datetime import datetime
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml

from polystep_rl import machine as sysinfo
from polystep_rl.files import safe_name
from polystep_rl.records.checkpoint import CheckpointError
from polystep_rl.records.folder import RunDir, RunDirError
from polystep_rl.records.metrics import read_metrics

NOW = datetime(2026, 5, 4, 3, 2, 1)


def create(tmp_path, **options):
    names = {"env": "CartPole-v1", "algo": "polystep", "policy": "binary", "seed": 3, "now": NOW}
    return RunDir.create(**(names | {"config": {"env": "CartPole-v1"}, "root": tmp_path / "runs"} | options))


def error_of(call, *arguments, **options):
    with pytest.raises(RunDirError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def files(folder):
    return {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# --- creating ----------------------------------------------------------------------------------------------------
def test_name_and_first_files(tmp_path):
    @dataclasses.dataclass
    class Inner:
        rate: float = 1e-5

    config = {"seed": np.int64(3), "hidden": (16, 4), "inner": Inner(), "path": Path("x"), "none": None}
    run = create(tmp_path, config=config)
    assert run.path == tmp_path / "runs" / "CartPole-v1__polystep-binary__3__20260504-030201"
    assert yaml.safe_load((run.path / "config.yaml").read_text()) == run.config
    assert run.config == {"seed": 3, "hidden": [16, 4], "inner": {"rate": 1e-5}, "path": "x", "none": None}
    info = json.loads((run.path / "system_info.json").read_text())
    assert info["packages"]["jax"] == jax.__version__
    assert info["python"] == sys.version.split()[0]
    assert [d["platform"] for d in info["devices"]] == ["cpu", "cpu"]
    assert info["cpu_count"] >= 1
    assert RunDir.open(run.path).config == run.config


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ALE/Pong-v5", "ALE-Pong-v5"),
        ("../../etc/passwd", "etc-passwd"),
        ("my env: é*?", "my-env"),
        ("a__b", "a_b"),
        (" / ", "unnamed"),
        ("x" * 500, "x" * 60),
    ],
)
def test_names_are_safe(tmp_path, text, expected):
    assert safe_name(text) == expected
    path = create(tmp_path, env=text, algo=text, policy=text).path
    assert path.parent == tmp_path / "runs" and path.name.count("__") == 3


def test_two_runs_in_one_second_get_two_folders(tmp_path):
    paths = {create(tmp_path).path for _ in range(3)}
    assert len(paths) == 3


def test_an_explicit_folder_is_refused_unless_empty(tmp_path):
    (tmp_path / "empty").mkdir()
    run = create(tmp_path, run_dir=tmp_path / "empty")
    assert run.path == tmp_path / "empty"
    before = files(run.path)
    assert "already holds a run" in error_of(create, tmp_path, run_dir=run.path)
    assert files(run.path) == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / ".hidden").touch()
    assert "not empty" in error_of(create, tmp_path, run_dir=tmp_path / "other")
    assert "is a file" in error_of(create, tmp_path, run_dir=tmp_path / "other" / ".hidden")
    assert "cannot be written" in error_of(create, tmp_path, run_dir=tmp_path / "other" / ".hidden" / "x")
    assert create(tmp_path, run_dir=tmp_path / "new" / "deep").path.is_dir()


# --- opening -----------------------------------------------------------------------------------------------------
def test_open_says_what_is_wrong(tmp_path):
    assert "no such run folder" in error_of(RunDir.open, tmp_path / "missing")
    assert "it has no system_info.json" in error_of(RunDir.open, tmp_path)
    run = create(tmp_path)
    for name, content in (("system_info.json", b"{}"), ("system_info.json", b"\xff"), ("config.yaml", b"[: \n")):
        good = (run.path / name).read_bytes()
        (run.path / name).write_bytes(content)
        assert "not a run folder" in error_of(RunDir.open, run.path)
        (run.path / name).write_bytes(good)
    whole = (run.path / "config.yaml").read_bytes()
    for length in range(len(whole) - 1):  # cut off anywhere
        (run.path / "config.yaml").write_bytes(whole[:length])
        assert "not a run folder" in error_of(RunDir.open, run.path)
    (run.path / "config.yaml").write_text("!!python/object/apply:os.getcwd []\n...\n")
    assert "not a run folder" in error_of(RunDir.open, run.path)


def test_a_finished_run_is_marked_and_refused(tmp_path):
    run = create(tmp_path)
    run.start()
    assert "summary.json" in error_of(run.summary)
    run.finish({"mean_return": np.float32(0.5), "hidden": (1, 2)})
    assert run.finished and run.summary() == {"mean_return": 0.5, "hidden": [1, 2]}
    assert "finished" in error_of(RunDir.open, run.path)
    again = RunDir.open(run.path, finished_ok=True)
    assert again.finished
    again.start()
    again.close()
    assert not again.finished


# --- metrics -----------------------------------------------------------------------------------------------------
def row(generation):
    rng = np.random.default_rng(generation)
    evaluated = generation % 3 == 0
    return {
        "rollout/ep_rew_mean": jnp.float32(rng.normal()),
        "search/ess": rng.normal() * 1e-300,
        "eval/mean_reward": float(rng.normal()) if evaluated else None,
        "search/nonfinite": np.int32(generation),
        "eval/solved": False if evaluated else None,
    }


def write(run, first, last):
    for generation in range(first, last + 1):
        run.log(generation, generation * 100, row(generation))
        if generation % 4 == 0:
            run.save_checkpoint({"x": generation}, generation, {"env_steps": generation * 100})


def test_metrics_round_trip(tmp_path):
    run = create(tmp_path)
    run.start()
    values = {"a": 0.1, "b": float("nan"), "c": float("-inf"), "d": jnp.float32(0.1), "e": 2**60, "f": 'x,"y\nz'}
    run.log(1, 2, values | {"g": None})
    run.log(2, 3, {"g": 1.0, "a": -0.0})
    run.close()
    first, second = read_metrics(run.path / "metrics.csv")
    assert list(first) == ["generation", "env_steps", *values, "g"]
    assert first["d"] == float(np.float32(0.1)) and first["e"] == 2**60 and first["a"] == 0.1
    assert repr(first["b"]) == "nan" and first["c"] == float("-inf") and first["f"] == 'x,"y z' and first["g"] is None
    assert str(second["a"]) == "-0.0" and second["b"] is None and second["g"] == 1.0


def test_a_new_column_and_an_array_are_refused(tmp_path):
    run = create(tmp_path)
    assert "start()" in error_of(run.log, 1, 1, {})
    run.start()
    run.log(1, 1, {"a": 1})
    assert "no column 'b'" in error_of(run.log, 2, 2, {"b": 1})
    assert "scalars only" in error_of(run.log, 2, 2, {"a": np.zeros(2)})
    run.close()


def test_resumed_metrics_are_bit_identical(tmp_path):
    whole = create(tmp_path)
    whole.start()
    write(whole, 1, 20)
    whole.close()

    broken = create(tmp_path)
    broken.start()
    write(broken, 1, 10)
    broken.close()
    with open(broken.path / "metrics.csv", "a") as file:
        file.write("1")  # a line that a crash cut short
    (broken.path / "checkpoints" / ".c.1-1.tmp").write_bytes(b"half")

    resumed = RunDir.open(broken.path)
    tree, meta = resumed.load_checkpoint({"x": 0})
    assert (tree, meta) == ({"x": 8}, {"env_steps": 800, "generation": 8})
    resumed.start(generation=meta["generation"], env_steps=meta["env_steps"])
    write(resumed, 9, 20)
    resumed.close()
    assert (resumed.path / "metrics.csv").read_bytes() == (whole.path / "metrics.csv").read_bytes()
    assert scalars(resumed.path) == scalars(whole.path)
    assert [f.name for f in resumed.checkpoints()] == [f.name for f in whole.checkpoints()]
    assert not list(resumed.path.rglob("*.tmp"))
    assert len(read_metrics(whole.path / "metrics.csv")) == 20


def scalars(folder):
    """TensorBoard's reading of a run's scalars: events after a session start at step s replace those from s on."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    found = {}
    for file in sorted(folder.glob("events.out.tfevents.*"), key=lambda path: path.stat().st_mtime_ns):
        data, at = file.read_bytes(), 0
        while at < len(data):
            (size,) = struct.unpack("<Q", data[at : at + 8])
            event = Event.FromString(data[at + 12 : at + 12 + size])
            at += 16 + size
            if event.session_log.status == SessionLog.START:
                found = {key: value for key, value in found.items() if key[1] < event.step}
            for value in event.summary.value:
                found[value.tag, event.step] = repr(value.simple_value)
    return found


def test_tensorboard_has_the_numbers(tmp_path):
    run = create(tmp_path)
    run.start()
    write(run, 1, 4)
    run.close()
    found = scalars(run.path)
    assert found["rollout/ep_rew_mean", 200] == repr(float(row(2)["rollout/ep_rew_mean"]))
    assert found["time/total_timesteps", 300] == "300.0"
    assert ("eval/mean_reward", 300) in found and ("eval/mean_reward", 200) not in found


def test_resume_purges_the_events_after_the_checkpoint(tmp_path):
    run = create(tmp_path)
    run.start()
    write(run, 1, 10)
    run.close()
    run.start(generation=8, env_steps=800)
    write(run, 9, 9)
    run.close()
    assert {step for _, step in scalars(run.path)} == set(range(100, 1000, 100))


def test_damaged_metrics_are_named_on_resume(tmp_path):
    run = create(tmp_path)
    (run.path / "metrics.csv").write_text("generation,env_steps\nnonsense\n")
    assert "metrics.csv is damaged" in error_of(run.start)


# --- checkpoints -------------------------------------------------------------------------------------------------
def test_the_newest_two_checkpoints_stay_and_a_damaged_one_is_passed_over(tmp_path):
    run = create(tmp_path)
    assert run.latest_checkpoint() is None
    with pytest.raises(CheckpointError, match="no checkpoint yet"):
        run.load_checkpoint({})
    for generation in (5, 10, 100_000_000, 200_000_000):
        run.save_checkpoint({"x": generation}, generation, {})
    old, new = run.checkpoints()
    assert [f.name for f in (old, new)] == [f"generation_{g}.safetensors" for g in (100_000_000, 200_000_000)]
    assert run.latest_checkpoint() == new
    new.write_bytes(new.read_bytes()[:-1])
    assert run.load_checkpoint({"x": 0})[0] == {"x": 100_000_000}
    old.write_bytes(b"")
    with pytest.raises(CheckpointError, match="generation_200000000"):
        run.latest_checkpoint()


def test_start_drops_checkpoints_of_later_generations(tmp_path):
    run = create(tmp_path)
    for generation in (4, 8):
        run.save_checkpoint({"x": generation}, generation, {})
    run.start(generation=4, env_steps=400)
    run.close()
    assert [f.name for f in run.checkpoints()] == ["generation_00000004.safetensors"]


# --- sinks and system --------------------------------------------------------------------------------------------
def test_tracking_without_wandb_is_a_one_line_error(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert "pip install wandb" in error_of(create(tmp_path).start, track=True)


def test_tracking_hands_rows_to_wandb(tmp_path, monkeypatch):
    calls = []
    tracked = types.SimpleNamespace(
        log=lambda values, step: calls.append((values, step)), finish=lambda: calls.append("finish")
    )
    fake = types.ModuleType("wandb")
    fake.init = lambda **options: calls.append(options) or tracked
    monkeypatch.setitem(sys.modules, "wandb", fake)
    run = create(tmp_path)
    run.start(track=True, tensorboard=False)
    run.log(1, 100, {"a": 0.5, "b": None, "c": float("nan")})
    run.close()
    assert calls[0]["name"] == run.path.name and calls[0]["config"] == run.config
    assert calls[1:] == [({"a": 0.5, "generation": 1, "time/total_timesteps": 100}, 100), "finish"]
    assert not list(run.path.glob("events.*"))


def test_more_sinks_get_every_row(tmp_path):
    rows = []
    sink = types.SimpleNamespace(write=lambda *row: rows.append(row), close=lambda: rows.append("closed"))
    run = create(tmp_path)
    run.start(loggers=[sink])
    run.log(np.int32(1), jnp.int32(2), {"a": jnp.float32(0.5)})
    run.close()
    assert rows == [(1, 2, {"a": 0.5}), "closed"]


def test_git_commit_is_that_of_the_project_or_none(tmp_path, monkeypatch):
    def git(*arguments):
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.com"]
        done = subprocess.run(
            ["git", "-C", tmp_path, *identity, *arguments], check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    git("init", "--quiet")
    git("commit", "--quiet", "--no-verify", "--allow-empty", "-m", "x")
    assert sysinfo.git_commit(tmp_path) is None  # a repository, but not this project's
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "other"\n')
    assert sysinfo.git_commit(tmp_path) is None
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "polystep-rl"\n')
    assert sysinfo.git_commit(tmp_path) == git("rev-parse", "HEAD")
    monkeypatch.setenv("PATH", str(tmp_path))  # no git to be found
    assert sysinfo.git_commit(tmp_path) is None
    assert sysinfo.system_info()["git_commit"] is None


def test_tensorboard_does_not_bring_pytorch(tmp_path):
    """Which takes a second and more where it is installed; whoever wants it later still gets it."""
    code = """
import importlib.util, sys
from pathlib import Path
from polystep_rl.records.metrics import TensorBoardLogger
TensorBoardLogger(Path(sys.argv[1])).close()
assert "torch" not in sys.modules
assert importlib.util.find_spec("tensorboardX") and list(Path(sys.argv[1]).glob("events*"))
if importlib.util.find_spec("torch"):
    import torch
    assert torch.zeros(2).sum() == 0
"""
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
