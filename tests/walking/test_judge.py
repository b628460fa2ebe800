"""Training and judging a walking robot, from the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.commands import assert_one_line, done

from polystep_rl.policies.io import read_policy, save_policy

G1 = ("train", "--env", "G1JoystickFlatTerrain", "--max-episode-steps", "40", "--episodes", "1", "--eval-episodes", "4",
      "--test-episodes", "4", "--total-timesteps", "1500", "--eval-freq", "1000", "--quiet", "--json")  # fmt: skip

PPO = ("--env", "G1JoystickFlatTerrain", "--algo", "ppo", "--policy", "float32")


@pytest.fixture(autouse=True)
def _envpool(recwarn):
    """EnvPool imports libraries that warn."""
    pytest.importorskip("envpool")
    yield


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("float32", "binary")]


@pytest.mark.parametrize("precision", ["int8", *SLOW])
def test_both_legs_share_a_network_and_the_policy_is_judged(precision: str, cli: Callable, tmp_path: Path) -> None:
    run = tmp_path / precision
    printed = done(cli(*G1, "--policy", precision, "--structure", "gait", "--hidden", "8", "--run-dir", run))
    assert printed["simulator"] == "envpool" and printed["crn"] is True
    saved = read_policy(run / "policy")
    assert saved.params["0"]["w"].shape == (8, 32) and saved.params["1"]["w"].shape == (9, 8)
    found = done(cli("eval", run, "--episodes", "6", "--json"))
    assert found["episodes"] == 6 and 0 < found["mean_length"] <= 40 and 0 <= found["fall_rate"] <= 1
    low, high = found["mean_length_interval"]
    assert low <= found["mean_length"] <= high
    seconds = sum(direction["seconds"] for direction in found["directions"].values())
    assert seconds == pytest.approx(0.02 * 6 * found["mean_length"])
    assert set(found["standing"]) == {"mean_length", "fall_rate", "long_rate"} and found["power"] > 0
    again = done(cli("eval", run, "--episodes", "6", "--json"))
    assert again == found
    assert sum(found["reward_terms"].values()) == pytest.approx(found["mean_return"], rel=1e-4)
    drawn = done(cli("eval", run, "--episodes", "6", "--figure", tmp_path / "tracking.png", "--json"))["figure"]
    assert [Path(path).name for path in drawn] == ["tracking.svg", "tracking.png"] and Path(drawn[0]).stat().st_size
    played = done(cli("play", run, "--json"))
    assert set(played["commands"]) == {"stand", "forward", "backward", "left", "turn left"} and played["file"] is None
    assert set(played["commands"]["stand"]) == {"episodes", "mean_return", "mean_length", "fall_rate", "long_rate"}
    assert played["commands"]["stand"]["episodes"] == 64 > played["commands"]["forward"]["episodes"] > 40
    text = cli("eval", run, "--episodes", "6")
    assert text.code == 0 and "task return" in text.out and "told to stand" in text.out and "m/s" in text.out


def test_a_film_of_the_policy_in_the_repository(cli: Callable, tmp_path: Path) -> None:
    Image = pytest.importorskip("PIL.Image")
    pytest.importorskip("mujoco")
    policy = Path(__file__).parents[2] / "docs" / "results" / "g1" / "float32"
    copy = tmp_path / "short"
    meta = read_policy(policy).meta | {"max_episode_steps": 12}
    save_policy(copy, read_policy(policy).spec, read_policy(policy).params, meta)
    outcome = cli("play", copy, "--gif", tmp_path / "walk.gif", "--every", "5", "--width", "200")
    if outcome.code == 1 and "cannot render here" in outcome.err:
        pytest.skip("nothing to render with")
    assert outcome.code == 0 and outcome.out.count("falls 0.00") == 5  # it stays up that long, whatever it is told
    with Image.open(tmp_path / "walk.gif") as film:
        assert film.n_frames == 3 and film.size[0] == 200


@pytest.mark.parametrize(("precision", "copies"), [("int8", 1), ("binary", 8)])
def test_a_policy_of_shared_legs_is_quantised_and_repaired(
    precision: str, copies: int, cli: Callable, tmp_path: Path
) -> None:
    given, run = Path(__file__).parents[2] / "docs" / "results" / "g1" / "float32", tmp_path / precision
    printed = done(cli(*G1, "--policy", precision, "--init", given, "--run-dir", run))
    start, saved = read_policy(run / "init_policy"), read_policy(run / "policy")
    for policy in (start, saved):
        assert (policy.spec.precision, policy.spec.weight_copies) == (precision, copies)
        assert policy.spec.sides == read_policy(given).spec.sides
    assert printed["init"]["given_precision"] == "float32" and printed["env_steps"] > 0
    found = done(cli("eval", run / "init_policy", "--episodes", "8", "--json"))
    assert found["mean_length"] > 38  # of 40: it stays up as the float policy does


@pytest.mark.parametrize("flag", ["--env-kwarg", "--train-env-kwarg"])
def test_an_unknown_argument_of_the_task(flag: str, cli: Callable, tmp_path: Path) -> None:
    outcome = cli("train", "--env", "G1JoystickFlatTerrain", flag, "push_enabel=False", "--runs", tmp_path)
    assert_one_line(outcome, (2,), "no option 'push_enabel': did you mean 'push_enable'?")


def test_what_only_a_search_can_go_on_from(cli: Callable, tmp_path: Path) -> None:
    pytest.importorskip("stable_baselines3")
    policy = Path(__file__).parents[2] / "docs" / "results" / "g1" / "float32"
    argv = ("train", "--env", "G1JoystickFlatTerrain", "--algo", "ppo", "--policy", "float32", "--init", policy)
    assert_one_line(
        cli(*argv, "--runs", tmp_path), (2,), "has no gradients here; search on from it with --algo polystep"
    )
    assert not list(tmp_path.iterdir())


def test_evaluation_and_judgement_agree(cli: Callable, tmp_path: Path) -> None:
    """The summary's evaluation of the policy, and `eval` on as many episodes of the same stream."""
    printed = done(cli(*G1, "--policy", "float32", "--hidden", "--run-dir", tmp_path / "run"))
    assert "train_end: height<0.5" in (tmp_path / "run" / "config.yaml").read_text()
    found = done(cli("eval", tmp_path / "run", "--episodes", "4", "--json"))
    for name in ("mean_return", "std_return", "mean_length"):
        np.testing.assert_allclose(found[name], printed["eval"][name], rtol=1e-5)


def test_ppo_trains_on_envpool_with_the_preset_of_the_task(cli: Callable, tmp_path: Path) -> None:
    """Gymnasium has no such task; the preset's plain network is not the one of a search."""
    pytest.importorskip("stable_baselines3")
    config = cli("train", *PPO, "--show-config", "--json").json
    assert (config["hidden"], config["structure"], config["step_penalty"]) == ([128, 64], "none", 0.0)
    assert (config["init_scale"], config["observation_scale"], config["deploy"]) == (1.0, "running", "last")
    assert 10_000 <= config["search"]["n_envs"] * config["search"]["n_steps"] <= 20_000
    run = tmp_path / "run"
    few = ("--n-envs", "8", "--n-steps", "16", "--batch-size", "64", "--total-timesteps", "384", "--eval-freq", "128")
    flags = ("--eval-episodes", "4", "--test-episodes", "4", "--max-episode-steps", "40", "--quiet", "--json")
    printed = done(cli("train", *PPO, *few, *flags, "--run-dir", run))
    assert printed["simulator"] == printed["train_simulator"] == "envpool" and printed["env_steps"] == 384
    assert printed["episodes"] > 4 and printed["updates"] == 3 * 4 * 2 and np.isfinite(printed["eval"]["mean_return"])
    assert read_policy(run / "policy").params["0"]["w"].shape == (128, 103)
    found = done(cli("eval", run, "--episodes", "4", "--json"))
    np.testing.assert_allclose(found["mean_return"], printed["eval"]["mean_return"], rtol=1e-5)


def test_a_gait_needs_legs(cli: Callable) -> None:
    outcome = cli("train", "--env", "CartPole-v1", "--structure", "gait", "--quiet", "--json")
    assert_one_line(outcome, 2, "the gait of this task is not known")
    outcome = cli("train", "--env", "G1JoystickFlatTerrain", "--algo", "ppo", "--structure", "gait", "--quiet")
    assert_one_line(outcome, 2, "structure was gait with ppo")
