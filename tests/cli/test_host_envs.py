"""The commands on simulators of the host: Gymnasium in this process and in workers that die, EnvPool, own classes."""

from __future__ import annotations

import json
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import jax
import numpy as np
import pytest
import safetensors.numpy
import yaml
from commands import assert_one_line, done

from polystep_rl.envs.host import gymnasium_env
from polystep_rl.envs.host.single import make_single
from polystep_rl.moments import input_scales
from polystep_rl.policies import mlp_policy
from polystep_rl.policies.io import load_policy, save_policy
from polystep_rl.records.metrics import read_metrics
from polystep_rl.rollout.calibration import random_action_moments
from polystep_rl.runs import parts as assemble
from polystep_rl.runs.observer import RunObserver
from polystep_rl.runs.task import CALIBRATION_SEED, Task, keyword_arguments, make_env
from polystep_rl.types import Moments

SMALL = ("--hidden", "4", "--episodes", "2", "--eval-episodes", "4", "--test-episodes", "4", "--stop-reward", "None",
         "--quiet", "--json")  # fmt: skip
CARTPOLE = ("train", "--env", "CartPole-v1", "--simulator", "gymnasium", *SMALL, "--policy", "int8",
            "--observation-scale", "running", "--max-episode-steps", "60", "--total-timesteps", "9000",
            "--eval-freq", "2000")  # fmt: skip
CALIBRATION_LANES = 32

MINE = '''
import gymnasium
import numpy as np
from gymnasium import spaces


class Mine(gymnasium.Env):
    """Pays ``pay`` for naming the place, and as much for telling the direction; goes on for ever."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}
    observation_space = spaces.Dict({"where": spaces.Discrete(3), "speed": spaces.Box(-1, 1, (2,), np.float64)})
    action_space = spaces.MultiDiscrete([3, 2])

    def __init__(self, pay=1.0, render_mode=None):
        self.pay, self.render_mode = pay, render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.draw(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        right = int(action[0] == self.now["where"]) + int(action[1] == (self.now["speed"][0] > 0))
        return self.draw(), self.pay * right, False, False, {}

    def draw(self):
        self.now = {"where": self.np_random.integers(3), "speed": self.np_random.uniform(-1, 1, 2)}
        return self.now

    def render(self):
        return np.zeros((40, 60, 3), np.uint8)


class Slider(gymnasium.Env):
    """Pays less, the farther the action (in -2 to 6) is from 5."""

    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Box(-2, 6, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.np_random.uniform(-1, 1, 1).astype(np.float32), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        return np.ones(1, np.float32), -abs(float(action[0]) - 5), False, False, {}


class Broken(Slider):
    def __init__(self, how, render_mode=None):
        self.how, self.time = how, 0

    def reset(self, *, seed=None, options=None):
        if self.how == "reset":
            raise RuntimeError("the joint\\nis broken")
        self.time = 0
        obs, info = super().reset(seed=seed)
        return (obs * np.nan if self.how == "nan observation" else obs), info

    def step(self, action):
        self.time += 1
        if self.how == "step" and self.time == 3:
            raise RuntimeError("the joint\\nis broken")
        obs, reward, *rest = super().step(action)
        obs = obs * np.nan if self.how == "nan observation" else obs
        return obs, (np.nan if self.how == "nan reward" else reward), *rest


class Unbounded(Slider):
    action_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)


class Spaced(Slider):
    def __init__(self, most=6):
        self.action_space = spaces.Box(-2, most, (1,), np.float32)


def limited():
    return gymnasium.wrappers.TimeLimit(Slider(), 5)


gymnasium.register("mine/Mine-v0", Mine, max_episode_steps=6)
'''
OWN = ("--max-episode-steps", "5", "--workers", "0", *SMALL, "--total-timesteps", "3000", "--eval-freq", "1000")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a module in it."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "own_host_envs.py").write_text(MINE)
    return folder


@pytest.fixture
def own_module(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The module is in the current folder, where it is found without being told."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(folder))])
    return folder


def results(summary: dict[str, Any]) -> dict[str, Any]:
    """What does not depend on when and where."""
    return {name: value for name, value in summary.items() if name not in ("run_dir", "wall_seconds")}


def rows_without(run: Path, *names: str) -> list[str]:
    rows = read_metrics(run / "metrics.csv")
    return [repr({k: v for k, v in row.items() if not k.startswith("time/") and k not in names}) for row in rows]


@pytest.fixture(scope="module")
def whole(cli: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on Gymnasium in this process; look, and do not touch."""
    run = tmp_path_factory.mktemp("gymnasium") / "whole"
    done(cli(*CARTPOLE, "--workers", "0", "--run-dir", run))
    return run


def test_ppo_trains_on_spaces_that_are_flattened(cli: Callable, own_module: Path, tmp_path: Path) -> None:
    pytest.importorskip("stable_baselines3")
    flags = ("--algo", "ppo-ste", "--policy", "int8", "--hidden", "16", "--gamma", "0.5", "--learning-rate", "0.003")
    budget = ("--max-episode-steps", "5", "--total-timesteps", "12000", "--eval-freq", "6000", "--eval-episodes", "16")
    run = ("train", "--env", "own_host_envs:Mine", *flags, *budget, "--workers", "0", "--run-dir", tmp_path / "run")
    assert done(cli(*run, "--quiet", "--json"))["eval"]["mean_return"] > 8.5  # of 10; 4.2 by chance


# --- workers -------------------------------------------------------------------------------------------------------
def test_workers_change_nothing(cli: Callable, assert_same_run: Callable, whole: Path, tmp_path: Path) -> None:
    spread = done(cli(*CARTPOLE, "--workers", "2", "--run-dir", tmp_path / "run"))
    assert_same_run(whole, tmp_path / "run")
    assert results(spread) == results(json.loads((whole / "summary.json").read_text()))
    assert spread["simulator"] == "gymnasium" and spread["crn"] is True
    assert {row["rollout/faults"] for row in read_metrics(whole / "metrics.csv")} == {0}


class Killer:
    """Kills workers of the training pool at random moments, spread over ``ticks`` ticks of it."""

    def __init__(self, kills: int, ticks: int, seed: int) -> None:
        self.rng = random.Random(seed)
        self.due = [int(ticks * 0.85 * (i + self.rng.random()) / kills) for i in range(kills)]
        self.ticks, self.killed = 0, 0
        self.pools: list[Any] = []
        self.now, self.over = threading.Event(), False

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        killer = self

        class Watched(gymnasium_env.WorkerLanes):
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **kwargs)
                if self.width * self.groups != CALIBRATION_LANES:
                    killer.pools.append(self)

            def send(self, *args: Any) -> None:
                super().send(*args)
                if killer.pools and self is killer.pools[0]:  # the training pool is the first, and counts its faults
                    killer.ticked()

        monkeypatch.setattr(gymnasium_env, "WorkerLanes", Watched)

    def ticked(self) -> None:
        self.ticks += 1
        late = self.late()
        if late >= 0:
            self.now.set()
            if late > 5:  # the machine is busy: the run must not end before its kills
                time.sleep(0.01)

    def late(self) -> int:
        """Ticks since the next kill was due."""
        due = [*self.due, 10**9][self.killed]
        return self.ticks - due

    def work(self) -> None:
        while not self.over:
            if self.now.wait(0.05) and self.late() >= 0:
                self.killed += self.kill()
            self.now.clear()

    def kill(self) -> bool:
        time.sleep(self.rng.uniform(0, 0.003))
        # Five failures of a worker in a row would end the run.
        workers = [w for w in self.pools[0]._workers if w.streak.faults < 2 and w.process.poll() is None]
        if not workers:
            return False
        self.rng.choice(workers).process.send_signal(signal.SIGKILL)
        return True


def test_killed_workers_change_neither_metrics_nor_policy(
    cli: Callable, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    counted = Killer(0, 1000, 0)
    with monkeypatch.context() as patch:  # how many ticks there are
        counted.install(patch)
        done(cli(*CARTPOLE, "--workers", "2", "--run-dir", tmp_path / "counted"))
    assert counted.ticks > 100
    killer = Killer(10, counted.ticks, seed)
    killer.install(monkeypatch)
    thread = threading.Thread(target=killer.work)
    thread.start()
    try:
        killed = done(cli(*CARTPOLE, "--workers", "2", "--run-dir", tmp_path / "killed"))
    finally:
        killer.over = True
        thread.join()
    assert killer.killed == 10
    faults = [row["rollout/faults"] for row in read_metrics(tmp_path / "killed" / "metrics.csv")]
    # Two kills of one worker before anyone looks are one fault.
    assert 8 <= faults[-1] <= 10 and faults == sorted(faults), faults
    assert rows_without(tmp_path / "killed", "rollout/faults") == rows_without(whole, "rollout/faults")
    for name in ("policy", "best_policy"):
        for suffix in (".json", ".safetensors"):
            assert (whole / f"{name}{suffix}").read_bytes() == (tmp_path / "killed" / f"{name}{suffix}").read_bytes()
    assert results(killed) == results(json.loads((whole / "summary.json").read_text()))


def test_a_worker_killed_during_calibration_changes_nothing(
    cli: Callable, assert_same_run: Callable, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fragile(gymnasium_env.WorkerLanes):
        ticks = 0

        def send(self, *args: Any) -> None:
            super().send(*args)
            self.ticks += 1
            if self.width * self.groups == CALIBRATION_LANES and self.ticks == 7:
                self._workers[0].process.kill()

    monkeypatch.setattr(gymnasium_env, "WorkerLanes", Fragile)
    assemble._shared_parts.cache_clear()  # or it would not calibrate anew
    done(cli(*CARTPOLE, "--workers", "2", "--run-dir", tmp_path / "run"))
    assert_same_run(whole, tmp_path / "run")


# --- resuming ------------------------------------------------------------------------------------------------------
class Killed(BaseException):
    """What a power cut would be."""


RESUMED = [("gymnasium", "episodes"), ("gymnasium", "running"), ("envpool", "running")]


@pytest.mark.filterwarnings("ignore:.*Box .*precision lowered")  # EnvPool's own
@pytest.mark.parametrize("simulator, scale", RESUMED)
def test_killed_and_resumed(
    simulator: str,
    scale: str,
    cli: Callable,
    assert_same_run: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if simulator == "envpool":
        pytest.importorskip("envpool")
    argv = (*CARTPOLE, "--simulator", simulator, "--workers", "0", "--observation-scale", scale,
            "--train-horizon", "10", "--train-horizon-final", "60")  # fmt: skip
    full = done(cli(*argv, "--run-dir", tmp_path / "whole"))
    rows = read_metrics(tmp_path / "whole" / "metrics.csv")
    assert rows[0]["rollout/ep_len_mean"] <= 10 < rows[-1]["rollout/ep_len_mean"]
    first = next(i for i, row in enumerate(rows) if row["eval/mean_reward"] is not None)
    assert first + 2 < len(rows)
    honest = RunObserver.generations
    logged: list[Any] = []

    def generations(self: RunObserver, new: list[Any]) -> None:
        honest(self, new)
        logged.extend(new)
        if len(logged) > first + 1:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(RunObserver, "generations", generations)
        with pytest.raises(Killed):
            cli(*argv, "--run-dir", tmp_path / "cut")
    assert len(read_metrics(tmp_path / "cut" / "metrics.csv")) > first + 1
    resumed = done(cli("train", "--resume", tmp_path / "cut", "--quiet", "--json"))
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
    assert results(resumed) == results(full)
    ends = [safetensors.numpy.load_file(max((tmp_path / run / "checkpoints").iterdir())) for run in ("whole", "cut")]
    assert ends[0].keys() == ends[1].keys()
    assert all(np.array_equal(ends[0][name], ends[1][name], equal_nan=True) for name in ends[0])


# --- statistics of the observations --------------------------------------------------------------------------------
SIMULATORS = {
    "jax": ("--env", "Pendulum-v1", "--max-episode-steps", "50"),
    "gymnasium": ("--env", "CartPole-v1", "--simulator", "gymnasium", "--workers", "0"),
    "envpool": ("--env", "Pendulum-v1", "--simulator", "envpool", "--max-episode-steps", "50"),
    "envpool-no-crn": ("--env", "Pendulum-v1", "--simulator", "envpool", "--max-episode-steps", "50", "--no-crn"),
}
DEFAULT = (("jax", "int8"), ("gymnasium", "binary"), ("envpool", "float32"), ("envpool-no-crn", "int8"))
CASES = [
    pytest.param(simulator, policy, marks=() if (simulator, policy) in DEFAULT else pytest.mark.slow)
    for simulator in SIMULATORS
    for policy in ("float32", "int8", "binary")
]


@pytest.mark.parametrize("simulator", ["jax", "gymnasium"])
def test_only_training_is_cut(simulator: str, cli: Callable, tmp_path: Path) -> None:
    argv = ("train", "--env", "Pendulum-v1", "--simulator", simulator, "--workers", "0", *SMALL, "--generations", "2")
    cut = done(cli(*argv, "--train-horizon", "7", "--max-episode-steps", "20", "--run-dir", tmp_path / "run"))
    rows = read_metrics(tmp_path / "run" / "metrics.csv")
    assert [row["rollout/ep_len_mean"] for row in rows] == [7, 7]
    assert cut["eval"]["mean_length"] == 20 and cut["env_steps"] == 7 * cut["episodes"]


@pytest.mark.filterwarnings("ignore:.*Box .*precision lowered")  # EnvPool's own
@pytest.mark.parametrize("simulator, policy", CASES)
def test_statistics_are_saved_with_the_policy(simulator: str, policy: str, cli: Callable, tmp_path: Path) -> None:
    if simulator.startswith("envpool"):
        pytest.importorskip("envpool")
    run = tmp_path / "run"
    argv = ("train", *SIMULATORS[simulator], *SMALL, "--policy", policy, "--observation-scale", "running")
    summary = done(cli(*argv, "--total-timesteps", "6000", "--eval-freq", "2000", "--run-dir", run))
    assert summary["simulator"] == simulator.partition("-")[0] and summary["crn"] is ("--no-crn" not in argv)

    tensors = safetensors.numpy.load_file(max((run / "checkpoints").iterdir()))
    moments = Moments(*(_one(tensors, f".moments.{name}") for name in Moments._fields))
    scales = input_scales(moments, yaml.safe_load((run / "config.yaml").read_text())["observation_unit"])
    last = load_policy(run / "policy")
    assert last.spec.obs_offset == tuple(np.asarray(scales["offset"]).tolist())
    assert last.spec.obs_scale == tuple(np.asarray(scales["scale"]).tolist())
    assert set(last.params) == {"0", "1"}, "constants, no parameters"

    env = make_env(load_task(run), "0")
    prior = random_action_moments(env, jax.random.key(CALIBRATION_SEED))
    assert float(moments.weight) == float(prior.weight) + summary["env_steps"], "living steps, and only those"

    again = done(cli("eval", run, "--episodes", 4, "--json"))
    assert again == summary["eval"]
    assert done(cli("eval", run / "best_policy.json", "--episodes", 4, "--json")) == summary["eval"]
    best, final = load_policy(run / "best_policy"), np.float32(final_evaluation(run))
    assert best.spec.obs_offset != last.spec.obs_offset or summary["best_eval_return"] == final


def _one(tensors: dict[str, np.ndarray], ending: str) -> np.ndarray:
    found = [value for name, value in tensors.items() if name.endswith(ending)]
    assert len(found) == 1, sorted(tensors)
    return found[0]


def final_evaluation(run: Path) -> float:
    return [row["eval/mean_reward"] for row in read_metrics(run / "metrics.csv") if row["eval/mean_reward"]][-1]


def load_task(run: Path) -> Task:
    return Task.of(load_policy(run / "policy").meta)


def test_a_binary_policy_in_gymnasium_needs_no_other_normaliser(cli: Callable, tmp_path: Path) -> None:
    """What is in the file acts on the raw observations of Gymnasium's own loop, to the return that play reports."""
    run = tmp_path / "run"
    done(cli(*CARTPOLE, "--policy", "binary", "--workers", "0", "--observation-scale", "running", "--run-dir", run))
    saved, env = load_policy(run / "best_policy"), gymnasium.make("CartPole-v1", 60)
    act = jax.jit(mlp_policy(saved.spec).act)
    obs, _ = env.reset(seed=5)
    total, over = 0.0, False
    while not over:
        obs, reward, terminated, truncated, _ = env.step(int(act(saved.params, np.float32(obs))))
        total, over = total + float(reward), terminated or truncated
    assert done(cli("play", run, "--seed", 5, "--json"))["returns"] == [total]


# --- an environment of the user's own ------------------------------------------------------------------------------
def test_an_own_class_with_parts_and_groups(cli: Callable, own_module: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    argv = ("train", "--env", "own_host_envs:Mine", "--env-kwarg", "pay=0.5", *OWN, "--policy", "int8")
    summary = done(cli(*argv, "--total-timesteps", "12000", "--eval-episodes", "32", "--run-dir", run))
    saved = load_policy(run / "best_policy")
    assert saved.spec.obs_size == 5 and saved.spec.groups == (3, 2) and saved.spec.head == "multidiscrete"
    # 5 steps of 0.5 for each part: guessing pays 5 * 0.5 * (1/3 + 1/2) = 2.1, knowing both 5.
    assert summary["best_eval_return"] > 3 and summary["eval"]["mean_length"] == 5
    assert done(cli("eval", run, "--episodes", 4, "--json")) == summary["eval"]
    pytest.importorskip("PIL.Image")
    played = done(cli("play", run, "--episodes", 2, "--seed", 3, "--gif", tmp_path / "film.gif", "--json"))
    assert played["lengths"] == [5, 5] and (tmp_path / "film.gif").stat().st_size > 0
    single = make_single("own_host_envs:Mine", {"pay": 0.5}, (), 5)
    act = jax.jit(mlp_policy(saved.spec).act)
    for seed, played_return in zip((3, 4), played["returns"], strict=True):
        obs, total, over = single.reset(seed=seed)[0], 0.0, False
        while not over:
            row = gymnasium.spaces.flatten(single.observation_space, obs).astype(np.float32)
            obs, reward, _, over, _ = single.step(np.asarray(act(saved.params, row)))
            total += float(reward)
        assert total == played_return


def test_wrappers_and_limits_reach_every_command(cli: Callable, own_module: Path, tmp_path: Path) -> None:
    wrapper = "RescaleAction(min_action=-1, max_action=3)"
    run = tmp_path / "run"
    argv = ("train", "--env", "own_host_envs:Slider", "--wrapper", wrapper, *OWN, "--policy", "int8")
    summary = done(cli(*argv, "--max-episode-steps", "7", "--run-dir", run))
    saved = load_policy(run / "best_policy")
    assert saved.spec.action_low == (-1,) and saved.spec.action_high == (3,)
    assert saved.meta["wrapper"] == [wrapper] and saved.meta["max_episode_steps"] == 7
    assert summary["eval"]["mean_length"] == 7
    assert done(cli("eval", run, "--episodes", 4, "--json")) == summary["eval"]
    assert done(cli("play", run, "--json"))["lengths"] == [7]
    # The search finds the target, which is at 5 of -2 to 6, hence at 2.5 of -1 to 3.
    assert summary["best_eval_return"] > 7 * -2.0


def test_environment_arguments_one_by_one(cli: Callable) -> None:
    shown = cli("train", "--env-kwarg", "a=1", "--env-kwarg", "b=x", "--show-config", "--json")
    assert done(shown)["env_kwarg"] == ["a=1", "b=x"]


def test_environment_arguments_are_values() -> None:
    """Above all, "false" is no text: a text is true."""
    given = ("a=false", "b=True", "c=NONE", "d=0.5", "e='false'", "f=hard", "g=x=y")
    expected = {"a": False, "b": True, "c": None, "d": 0.5, "e": "false", "f": "hard", "g": "x=y"}
    assert keyword_arguments(given) == expected


def test_check(cli: Callable, own_module: Path) -> None:
    mine = ("envs", "--check", "own_host_envs:Mine")
    assert_one_line(cli(*mine), (2,), "no time limit", "--max-episode-steps")
    assert done(cli(*mine, "--max-episode-steps", "5", "--env-kwarg", "pay=2", "--json"))["ok"] is True
    assert_one_line(cli(*mine, "--max-episode-steps", "5", "--env-kwarg", "play=2"), (2,), "play")
    slider = ("envs", "--check", "own_host_envs:Slider", "--max-episode-steps", "5", "--wrapper")
    assert done(cli(*slider, "RescaleAction(min_action=-1, max_action=1)", "--json"))["ok"] is True
    broken = ("envs", "--check", "own_host_envs:Broken", "--max-episode-steps", "5", "--env-kwarg")
    assert_one_line(cli(*broken, "how=nan observation"), (1,), "finite")
    assert_one_line(cli(*broken, "how=nan reward"), (1,), "the reward must be finite")


@pytest.mark.parametrize("how", ["reset", "step"])
def test_check_finds_what_raises(how: str, cli: Callable, own_module: Path) -> None:
    argv = ("envs", "--check", "own_host_envs:Broken", "--max-episode-steps", "5", "--env-kwarg", f"how={how}")
    assert_one_line(cli(*argv), (1,), "the joint is broken")


@pytest.mark.parametrize("env", ["own_host_envs:mine/Mine-v0", "own_host_envs:limited"])
def test_ids_and_functions_of_a_module(env: str, cli: Callable, own_module: Path, tmp_path: Path) -> None:
    argv = ("train", "--env", env, "--workers", "0", *SMALL, "--generations", "1", "--runs", tmp_path)
    assert done(cli(*argv))["simulator"] == "gymnasium"


@pytest.mark.parametrize("env", ["own_host_envs:mine/Mine-v0", "own_host_envs:limited"])
def test_ids_and_functions_of_a_module_when_gymnasium_is_named(
    env: str, cli: Callable, own_module: Path, tmp_path: Path
) -> None:
    argv = ("train", "--env", env, "--simulator", "gymnasium", "--workers", "0", *SMALL, "--generations", "1")
    assert done(cli(*argv, "--runs", tmp_path))["simulator"] == "gymnasium"


# --- bad input -----------------------------------------------------------------------------------------------------
SLIDER = ("--env", "own_host_envs:Slider", "--max-episode-steps", "5")
USAGE = {
    "env": (("--env", "CartPol-v1", "--simulator", "gymnasium"), "unknown environment 'CartPol-v1'", "CartPole-v1"),
    "env of nobody": (("--env", "Xyzzy-v1"), "unknown environment 'Xyzzy-v1'"),
    "simulator": (("--simulator", "gymnaisum"), "'gymnaisum'", "gymnasium"),
    "not in JAX": (("--env", "Hopper-v5", "--simulator", "jax"), "unknown environment 'Hopper-v5'"),
    "no value": ((*SLIDER, "--env-kwarg", "size"), "--env-kwarg size: expected name=value"),
    "no name": ((*SLIDER, "--env-kwarg", "=3"), "--env-kwarg =3: expected name=value"),
    "keyword": ((*SLIDER, "--env-kwarg", "size=3"), "'own_host_envs:Slider' cannot be made from these arguments"),
    "keyword of JAX": (("--env-kwarg", "size=3"), "'CartPole-v1' cannot be made from these arguments", "size"),
    "keyword missing": (("--env", "own_host_envs:Broken", *SLIDER[2:]), "cannot be made from these arguments", "how"),
    "no plain value": ((*SLIDER, "--env-kwarg", "size={1, 2}"), "must be plain values"),
    "wrapper": ((*SLIDER, "--wrapper", "RescaleActoin"), "unknown wrapper 'RescaleActoin': did you mean RescaleAction"),
    "wrapper syntax": ((*SLIDER, "--wrapper", "RescaleAction(1"), "must look like 'Name'"),
    "wrapper arguments": ((*SLIDER, "--wrapper", "RescaleAction(size=3)"), "cannot be put on", "size"),
    "wrapper of JAX": (
        ("--simulator", "jax", "--wrapper", "ClipAction"),
        "--wrapper needs --simulator gymnasium: jax has no wrappers",
    ),
    "own wrapper": ((*SLIDER, "--wrapper", "nowhere_at_all:W"), "cannot import wrapper 'nowhere_at_all:W'"),
    "no limit": (SLIDER[:2], "'own_host_envs:Slider' has no time limit of its own", "--max-episode-steps"),
    "limit 0": ((*SLIDER[:2], "--max-episode-steps", "0"), "max_episode_steps was 0, expected at least 1"),
    "unbounded": (("--env", "own_host_envs:Unbounded", *SLIDER[2:]), "is not bounded", "--wrapper"),
    "keyword of training": ((*SLIDER, "--train-env-kwarg", "size=3"), "cannot be made from these arguments"),
    "other spaces in training": (
        ("--env", "own_host_envs:Spaced", *SLIDER[2:], "--train-env-kwarg", "most=3"),
        "train_env_kwarg was most=3, expected arguments that leave the spaces of own_host_envs:Spaced as they are",
    ),
    "moving on a device": (
        ("--env", "CartPole-v1", "--simulator", "jax", "--train-env-kwarg", "size=1:2"),
        "train_env_kwarg was size=1:2, expected fixed values on this simulator",
        "--simulator envpool or gymnasium",
    ),
    "copies of bytes": (
        (*SLIDER, "--policy", "int8", "--weight-copies", "2"),
        "weight_copies was 2 with precision int8, expected at most 16 of a binary policy",
    ),
    "moving for ever": (
        (*SLIDER, "--train-env-kwarg", "size=1:2", "--total-timesteps", "None"),
        "train_env_kwarg was size=1:2 without total_timesteps: give both",
    ),
    "workers": ((*SLIDER, "--workers", "many"), "--workers many: expected auto, 0 (this process)"),
    "workers below": ((*SLIDER, "--workers", "-1"), "--workers -1: expected auto"),
    "workers half": ((*SLIDER, "--workers", "1.5"), "--workers 1.5: expected auto"),
    "workers of JAX": (
        ("--simulator", "jax", "--workers", "2"),
        "--workers 2 needs --simulator gymnasium: jax has no worker processes",
    ),
    "workers of nobody": (("--simulator", "jax", "--workers", "many"), "--workers many: expected auto"),
    "horizon": ((*SLIDER, "--train-horizon", "0"), "train_horizon was 0, expected at least 1"),
    "widen nothing": ((*SLIDER, "--init-widen", "2"), "init_widen was 2 without init"),
    "too long to grow": (
        (*SLIDER, "--train-horizon", "5", "--train-horizon-final", "9", "--total-timesteps", "3000000000"),
        "expected at most 2147483647 with train_horizon_final",
    ),
    "horizon to nowhere": ((*SLIDER, "--train-horizon-final", "9"), "train_horizon_final was 9 without train_horizon"),
    "penalty": ((*SLIDER, "--step-penalty", "nan"), "step_penalty was nan, expected a finite number"),
    "nan observations": (
        ("--env", "own_host_envs:Broken", *SLIDER[2:], "--workers", "0", "--env-kwarg", "how=nan observation"),
        "not one finite observation",
    ),
}


@pytest.mark.parametrize("argv, said", [(argv, said) for argv, *said in USAGE.values()], ids=USAGE)
def test_bad_usage(argv: tuple[str, ...], said: list[str], cli: Callable, own_module: Path) -> None:
    assert_one_line(cli("train", "--generations", "1", *argv), (2,), *said)
    assert {path.name for path in own_module.iterdir()} <= {"own_host_envs.py", "__pycache__"}, "nothing was written"


BROKEN = ("train", "--env", "own_host_envs:Broken", "--max-episode-steps", "5", *SMALL, "--generations", "3")


@pytest.mark.parametrize(
    "workers, how, scale",
    [
        ("0", "reset", "none"),
        ("0", "step", "none"),
        ("2", "reset", "none"),
        ("2", "step", "none"),
        ("2", "step", "episodes"),
        ("0", "reset", "episodes"),
        ("0", "step", "episodes"),
        ("2", "reset", "episodes"),
    ],
)
def test_a_crashing_environment(
    workers: str, how: str, scale: str, cli: Callable, own_module: Path, tmp_path: Path
) -> None:
    argv = (*BROKEN, "--env-kwarg", f"how={how}", "--workers", workers, "--observation-scale", scale)
    outcome = cli(*argv, "--runs", tmp_path)
    assert_one_line(outcome, (1, 2), "own_host_envs:Broken", f"failed in {how}: RuntimeError: the joint is broken")
    assert ("5 times in a row" in outcome.err) == (workers == "2")


def test_a_crashing_environment_under_ppo(cli: Callable, own_module: Path, tmp_path: Path) -> None:
    pytest.importorskip("stable_baselines3")
    argv = ("train", "--env", "own_host_envs:Broken", "--max-episode-steps", "5", "--algo", "ppo", "--quiet", "--json")
    flags = ("--env-kwarg", "how=step", "--observation-scale", "none", "--workers", "0", "--total-timesteps", "3000")
    assert_one_line(cli(*argv, *flags, "--runs", tmp_path), (1,), "failed in step: RuntimeError: the joint is broken")


def test_rewards_that_are_no_numbers(cli: Callable, own_module: Path, tmp_path: Path) -> None:
    argv = (*BROKEN, "--env-kwarg", "how=nan reward", "--workers", "0", "--runs", tmp_path)
    assert_one_line(cli(*argv), (1,), "more than half of the returns were NaN", "polystep-rl envs --check")


def test_an_environment_that_crashes_in_play(cli: Callable, own_module: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done(cli(*BROKEN, "--env-kwarg", "how=well", "--workers", "0", "--generations", "1", "--run-dir", run))
    saved = load_policy(run / "policy")
    for how in ("reset", "step"):
        save_policy(tmp_path / how, saved.spec, saved.params, {**saved.meta, "env_kwarg": [f"how={how}"]})
        assert_one_line(cli("play", tmp_path / f"{how}.json"), (1,), f"in {how}: RuntimeError: the joint is broken")


# --- shaping -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("simulator", ["jax", "gymnasium"])
def test_a_step_penalty_is_never_reported(simulator: str, cli: Callable, tmp_path: Path) -> None:
    """CartPole pays 1 a step: returns stay lengths, and a penalty of 1 leaves the search nothing to go by."""
    argv = ("train", "--env", "CartPole-v1", "--simulator", simulator, "--workers", "0", *SMALL, "--policy", "float32",
            "--generations", "3", "--eval-freq", "1", "--shaping", "none")  # fmt: skip
    runs = {penalty: tmp_path / f"run{penalty}" for penalty in ("0", "1", "2")}
    found = {p: done(cli(*argv, "--step-penalty", p, "--run-dir", run)) for p, run in runs.items()}
    for penalty, run in runs.items():
        summary = found[penalty]
        assert summary["eval"]["mean_return"] == summary["eval"]["mean_length"] > 0
        for row in read_metrics(run / "metrics.csv"):
            assert row["rollout/ep_rew_mean"] == row["rollout/ep_len_mean"] > 0
            assert row["eval/mean_reward"] == row["eval/mean_ep_length"] > 0
            assert penalty != "1" or row["search/displacement"] < 1e-6
        assert done(cli("eval", run, "--episodes", 4, "--json")) == summary["eval"]
    first = [read_metrics(run / "metrics.csv")[0] for run in runs.values()]
    assert len({row["rollout/ep_rew_mean"] for row in first}) == 1, "the first generation is the same"
    weights = [safetensors.numpy.load_file(run / "policy.safetensors") for run in runs.values()]
    assert any(not np.array_equal(weights[0][name], weights[2][name]) for name in weights[0])


@pytest.mark.parametrize("pay", ["1.0", "1:8", "3:3"])
def test_training_has_arguments_of_its_own(pay: str, cli: Callable, own_module: Path, tmp_path: Path) -> None:
    """Paid more in training, from stage to stage, candidates rank as before: the same policies, the same reports."""
    argv = ("train", "--env", "own_host_envs:Mine", "--env-kwarg", "pay=0.5", *OWN, "--policy", "float32")
    found, rows, weights = [], [], []
    for name, more in (("plain", ()), ("paid", ("--train-env-kwarg", f"pay={pay}"))):
        run = tmp_path / name
        found.append(results(done(cli(*argv, *more, "--run-dir", run))))
        rows.append(read_metrics(run / "metrics.csv"))
        weights.append(safetensors.numpy.load_file(run / "policy.safetensors"))
        assert load_policy(run / "policy").meta["env_kwarg"] == ["pay=0.5"]
    assert found[0] == found[1] and 0 < found[0]["eval"]["mean_return"] <= 5
    assert all(np.array_equal(weights[0][name], weights[1][name]) for name in weights[0])
    before, paid, (first, _, last) = 0, set(), pay.partition(":")
    for plain, more in zip(*rows, strict=True):
        stage = min(8 * before // 3000, 7)
        now = float(first) if not last else round(float(first) + (float(last) - float(first)) * stage / 7)
        assert more["rollout/ep_rew_mean"] == pytest.approx(now / 0.5 * plain["rollout/ep_rew_mean"])
        before, paid = int(plain["env_steps"]), {*paid, now}
    assert len(paid) == (8 if pay == "1:8" else 1), "every stage had its turn"
