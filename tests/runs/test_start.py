"""``train --init``: the search starts at a given policy, quantised where another precision is wanted."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import safetensors.numpy
import yaml
from support.cases import mostly_slow
from support.commands import assert_one_line, done

from polystep_rl.policies import SavedPolicy, frozen, mlp_policy, read_policy
from polystep_rl.records.metrics import read_metrics
from polystep_rl.runs.judging import centre_evaluator
from polystep_rl.runs.observer import RunObserver
from polystep_rl.runs.task import make_env
from polystep_rl.training.state import streams

ENV = ("--env", "CartPole-v1")
SMALL = ("train", *ENV, "--episodes", "1", "--eval-episodes", "16", "--test-episodes", "8", "--eval-freq", "1",
         "--stop-reward", "None", "--quiet", "--json")  # fmt: skip
STILL = ("--generations", "1", "--step-radius", "1e-6", "--step-radius-final", "1e-6")
BALANCE = np.array([0.05, 0.15, 1.0, 0.8])  # push to where position, speed, angle and turning point together


def write_foreign(folder: Path, name: str = "expert", hidden: int = 4, gain: float = 1.0) -> Path:
    """A network of somebody else's that balances the pole for 500 steps; returns its stem."""
    signs = np.where(np.arange(hidden) % 2, -1.0, 1.0)
    tensors = {
        "layers.0.weight": gain * np.outer(signs, BALANCE),
        "layers.0.bias": 0.01 * signs,
        "layers.1.weight": np.stack([-signs, signs]),
        "layers.1.bias": np.zeros(2),
    }
    tensors = {key: value.astype(np.float32) for key, value in tensors.items()}
    safetensors.numpy.save_file(tensors, folder / f"{name}.safetensors")
    (folder / f"{name}.json").write_text(json.dumps({"activation": "tanh"}))
    return folder / name


@pytest.fixture(scope="module")
def expert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_foreign(tmp_path_factory.mktemp("foreign"))


@pytest.fixture(scope="module")
def given(cli: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose policy is given; its input scales are running statistics."""
    run = tmp_path_factory.mktemp("given") / "run"
    argv = (*SMALL, "--policy", "float32", "--hidden", "4", "--generations", "3", "--observation-scale", "running")
    done(cli(*argv, "--run-dir", run))
    return run


def mean_return(cli: Callable, policy: Path, seed: int = 0, episodes: int = 8) -> float:
    return done(cli("eval", policy, "--episodes", episodes, "--seed", seed, "--json"))["mean_return"]


def on_the_evaluation_stream(saved: SavedPolicy, seed: int = 0, episodes: int = 16, env: str = "CartPole-v1") -> float:
    """What training measures of the policy that it starts at."""
    keys = streams(seed)
    with centre_evaluator(make_env(env), mlp_policy(saved.spec), episodes, keys.evaluation) as evaluate:
        return float(np.mean(evaluate(keys.evaluation, saved.params).returns))


def same_policy(one: Any, other: Any, tolerance: float = 0.0) -> None:
    (spec, params), (other_spec, other_params) = (frozen(p.spec, p.params) for p in (one, other))
    assert spec == other_spec
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(other_params), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


# --- the same precision --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "name",
    mostly_slow(
        ["", "best_policy", "best_policy.json", "policy.safetensors"], lambda case: case in ("", "policy.safetensors")
    ),
)
def test_the_search_starts_exactly_there(name: str, given: Path, cli: Callable, tmp_path: Path) -> None:
    run, path = tmp_path / "run", given / name
    summary = done(cli(*SMALL, *STILL, "--policy", "float32", "--init", path, "--seed", "3", "--run-dir", run))
    stem = given / (name.partition(".")[0] or "best_policy")
    there = read_policy(stem)
    same_policy(read_policy(run / "init_policy"), there)
    same_policy(read_policy(run / "policy"), there, 1e-4)
    report = summary["init"]
    assert report["start_return"] == report["given_return"] == mean_return(cli, stem.with_suffix(".json"), seed=3)
    assert report["policy"] == str(path) and report["given_precision"] == "float32"
    assert json.loads((run / "summary.json").read_text())["init"] == report
    assert mean_return(cli, run / "init_policy.json", seed=3) == report["start_return"]
    assert summary["best_eval_return"] >= np.float32(on_the_evaluation_stream(there, seed=3))
    assert yaml.safe_load((run / "config.yaml").read_text())["hidden"] == [4], "that of the given policy"


def test_a_given_policy_keeps_its_input_scales(given: Path, cli: Callable, tmp_path: Path) -> None:
    run = tmp_path / "run"
    argv = ("--policy", "float32", "--observation-scale", "running", "--generations", "2", "--hidden", "9")
    done(cli(*SMALL, *argv, "--init", given, "--run-dir", run))
    saved, start = read_policy(run / "policy"), read_policy(given / "best_policy")
    assert saved.spec == start.spec
    assert any(np.any(saved.params[layer]["w"] != start.params[layer]["w"]) for layer in saved.params), "it moved"


@pytest.mark.parametrize("algo", mostly_slow(["open_es", "cma_es"], lambda case: case == "open_es"))
def test_other_searches_start_there_too(algo: str, given: Path, cli: Callable, tmp_path: Path) -> None:
    pytest.importorskip("evosax")
    run = tmp_path / "run"
    still = ("--generations", "1", "--sigma", "1e-5", *(("--learning-rate", "1e-5") if algo == "open_es" else ()))
    argv = (*SMALL, *still, "--algo", algo, "--policy", "float32", "--init", given, "--run-dir", run)
    summary = done(cli(*argv))
    same_policy(read_policy(run / "policy"), read_policy(given / "best_policy"), 1e-3)
    assert summary["init"]["start_return"] == mean_return(cli, given)


def test_on_gymnasium(given: Path, cli: Callable, tmp_path: Path) -> None:
    run = tmp_path / "run"
    argv = ("--simulator", "gymnasium", "--workers", "0", *STILL, "--policy", "int8", "--init", given, "--run-dir", run)
    summary = done(cli(*SMALL, *argv))
    assert summary["simulator"] == "gymnasium"
    assert summary["init"]["start_return"] == mean_return(cli, run / "init_policy.json")
    again = done(cli("eval", run, "--episodes", 8, "--json"))
    assert again == summary["eval"]


# --- quantised -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("policy", ["int8", "binary"])
def test_a_foreign_network_is_quantised_and_repaired(policy: str, expert: Path, cli: Callable, tmp_path: Path) -> None:
    run = tmp_path / "run"
    path = expert.with_suffix(".safetensors" if policy == "int8" else ".json")
    summary = done(cli(*SMALL, "--generations", "3", "--policy", policy, "--init", path, "--run-dir", run))
    report, start = summary["init"], read_policy(run / "init_policy")
    assert report["given_precision"] == "float32" and report["given_return"] == 500
    assert report["start_return"] == mean_return(cli, run / "init_policy.json")
    assert report["chosen"] in report["measured"] and report["observations"] > 1000
    assert start.spec.precision == policy and start.spec.hidden == (4,)
    assert report["start_return"] > 300, "it lost little"
    saved = read_policy(run / "best_policy")
    assert saved.spec == start.spec
    there = np.float32(on_the_evaluation_stream(start))
    assert saved.meta["eval_return"] == summary["best_eval_return"] >= there
    assert read_policy(run / "policy").meta["eval_return"] is None, "what the last policy would return is not known"


def test_the_best_policy_is_the_start_until_something_is_better(expert: Path, cli: Callable, tmp_path: Path) -> None:
    """Steps so large that they only do harm."""
    run = tmp_path / "run"
    wild = ("--generations", "3", "--step-radius", "500", "--step-radius-final", "500", "--probe-radius", "500")
    summary = done(cli(*SMALL, *wild, "--policy", "float32", "--init", expert, "--run-dir", run))
    rows = read_metrics(run / "metrics.csv")
    assert max(row["eval/mean_reward"] for row in rows) < 500 == summary["best_eval_return"]
    same_policy(read_policy(run / "best_policy"), read_policy(run / "init_policy"))
    assert summary["eval"]["mean_return"] == summary["init"]["start_return"] == 500


def test_wider(expert: Path, cli: Callable, tmp_path: Path) -> None:
    run = tmp_path / "run"
    argv = (*SMALL, "--init", expert, "--init-widen", "2", "--run-dir", run)
    done(cli(*argv, "--policy", "binary", "--generations", "1"))
    assert read_policy(run / "policy").spec.hidden == read_policy(run / "init_policy").spec.hidden == (8,)
    assert yaml.safe_load((run / "config.yaml").read_text())["hidden"] == [8]
    more = done(cli("train", "--resume", run, "--generations", "2", "--quiet", "--json"))
    assert more["generations"] == 2 and read_policy(run / "policy").spec.hidden == (8,)


# --- from stable-baselines3 ----------------------------------------------------------------------------------------
def test_from_stable_baselines3(cli: Callable, tmp_path: Path) -> None:
    sb3 = pytest.importorskip("stable_baselines3")
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = sb3.PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8, device="cpu", seed=0)
        for parameter in model.policy.parameters():
            with torch.no_grad():
                parameter.add_(0.1 * torch.randn_like(parameter))
        model.save(tmp_path / "model.zip")
    run = tmp_path / "run"
    argv = (*SMALL, "--simulator", "gymnasium", "--workers", "0", *STILL, "--policy", "float32")
    summary = done(cli(*argv, "--init", tmp_path / "model.zip", "--run-dir", run))
    saved = read_policy(run / "init_policy")
    assert saved.spec.hidden == (64, 64) and saved.spec.activation == "tanh"
    env = make_env("CartPole-v1")
    low, high = np.array([-2, -2, -0.2, -2]), np.array([2, 2, 0.2, 2])
    obs = np.random.default_rng(0).uniform(low, high, (500, env.spec.observation_space.shape[0])).astype(np.float32)
    act = jax.vmap(mlp_policy(saved.spec).act, (None, 0))
    assert (np.asarray(act(saved.params, obs)) == model.predict(obs, deterministic=True)[0]).mean() > 0.99
    assert summary["init"]["start_return"] == summary["init"]["given_return"]
    (tmp_path / "letter.zip").write_text("dear diary")
    assert_one_line(cli(*SMALL, "--init", tmp_path / "letter.zip"), (1, 2), "letter.zip: not a zip file")


# --- resuming ------------------------------------------------------------------------------------------------------
class Killed(BaseException):
    """Raised where a power cut would be."""


@pytest.mark.parametrize("moment", ["after a checkpoint", "before the first checkpoint"])
@pytest.mark.parametrize("policy", mostly_slow(["float32", "int8"], lambda case: case == "int8"))
def test_resumed_without_the_file_it_started_from(
    policy: str,
    moment: str,
    cli: Callable,
    assert_same_run: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stem = write_foreign(tmp_path)
    argv = (*SMALL, "--policy", policy, "--generations", "5", "--init", stem)
    full = done(cli(*argv, "--run-dir", tmp_path / "whole"))
    honest, calls = RunObserver.generations, []

    def generations(self: RunObserver, new: list[Any]) -> None:
        honest(self, new)
        calls.extend(new)
        if len(calls) >= (3 if moment == "after a checkpoint" else 1):
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(RunObserver, "generations", generations)
        with pytest.raises(Killed):
            cli(*argv, "--run-dir", tmp_path / "cut")
    assert bool(list((tmp_path / "cut" / "checkpoints").iterdir())) == (moment == "after a checkpoint")
    for file in tmp_path.glob("expert.*"):
        file.unlink()
    resumed = done(cli("train", "--resume", tmp_path / "cut", "--quiet", "--json"))
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
    for key in ("env_steps", "candidates", "generations", "eval_env_steps", "best_eval_return", "eval", "init"):
        assert resumed[key] == full[key], key


# --- what does not fit ---------------------------------------------------------------------------------------------
def test_misfits(given: Path, expert: Path, cli: Callable, tmp_path: Path) -> None:
    def refused(*argv: object, codes: tuple[int, ...] = (1, 2), said: tuple[str, ...] = ()) -> None:
        before = sorted(tmp_path.iterdir())
        assert_one_line(cli(*SMALL, "--generations", "1", "--runs", tmp_path / "runs", *argv), codes, *said)
        assert sorted(tmp_path.iterdir()) == before, "nothing was written"

    refused("--env", "Pendulum-v1", "--init", given, said=("obs_size is 4, Pendulum-v1 needs 3",))
    refused("--env", "MountainCar-v0", "--init", expert, said=("obs_size is 4, MountainCar-v0 needs 2",))
    refused("--init", "no/such/run", codes=(2,), said=("no/such/run: no such run folder or policy file",))
    (tmp_path / "empty").mkdir()
    refused("--init", tmp_path / "empty", said=(str(tmp_path / "empty"),))
    refused("--init", given, "--policy", "int8", "--init-widen", "2", said=("only for binary",))
    refused("--init", given, "--policy", "float32", "--init-widen", "2", codes=(2,), said=("is float32 already",))
    refused("--init", given, "--init-widen", "2", "--weight-copies", "4", said=("give one of them",))
    refused("--init", given, "--init-widen", "0", codes=(2,), said=("init_widen was 0, expected at least 1",))
    for name, change in (("unknown", {"activation": "tanh", "hats": 3}), ("odd", {"activation": "gelu"}), ("no", {})):
        write_foreign(tmp_path, name)
        (tmp_path / f"{name}.json").write_text(json.dumps(change))
        refused("--init", tmp_path / f"{name}.json", said=(f"{name}.json",))
    copy = shutil.copytree(given, tmp_path / "copy")
    for file in copy.glob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:-5])
    refused("--init", copy, said=(str(copy),))


def test_only_float_policies_are_quantised(given: Path, cli: Callable, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done(cli(*SMALL, *STILL, "--policy", "int8", "--init", given, "--run-dir", run))
    for wanted in ("binary", "float32"):
        outcome = cli(*SMALL, "--generations", "1", "--policy", wanted, "--init", run, "--runs", tmp_path / "runs")
        assert_one_line(outcome, (2,), "it is int8; only a float32 policy")
    summary = done(cli(*SMALL, *STILL, "--policy", "int8", "--init", run, "--run-dir", tmp_path / "again"))
    assert summary["init"]["start_return"] == mean_return(cli, run) and summary["init"]["given_precision"] == "int8"


def test_actions_with_other_bounds(cli: Callable, tmp_path: Path) -> None:
    tensors = {"layers.0.weight": np.zeros((1, 3), np.float32), "layers.0.bias": np.zeros(1, np.float32)}
    safetensors.numpy.save_file(tensors, tmp_path / "box.safetensors")
    described = {"activation": "tanh", "squash": "tanh", "action_low": [-1.0], "action_high": [1.0]}
    (tmp_path / "box.json").write_text(json.dumps(described))
    argv = (*SMALL, "--env", "Pendulum-v1", "--init", tmp_path / "box.json", "--generations", "1", "--policy", "int8")
    assert_one_line(cli(*argv, "--runs", tmp_path / "runs"), (2,), "its actions have other bounds than those of")
