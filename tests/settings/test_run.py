"""Settings as data: presets, reading back, and values that cannot be."""

from __future__ import annotations

import dataclasses
import typing
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import yaml
from support.cases import mostly_slow

from polystep_rl.envs import registered_ids
from polystep_rl.envs.robots.locomotion import G1
from polystep_rl.errors import ConfigError
from polystep_rl.runs.polystep import build_strategy
from polystep_rl.settings import presets
from polystep_rl.settings import run as configs
from polystep_rl.settings.algorithms import ALGORITHMS, settings_class
from polystep_rl.settings.grid import Grid
from polystep_rl.settings.presets import preset
from polystep_rl.settings.run import Precision, SearchConfig, TrainConfig, from_plain, load_yaml, to_plain, to_yaml

FILES = sorted(path.stem for path in Path(presets.__file__).parent.glob("*.yaml"))
PRESETS = [
    (algo, name, env, policy)
    for algo in sorted({*FILES, *ALGORITHMS} - {"common"})
    for name in sorted({"tuned", "compare", *presets._presets(algo)})
    for env in (presets._presets(algo)[name] if name == "paper" else registered_ids())
    for policy in typing.get_args(Precision)
]


@pytest.mark.parametrize(
    "algo",
    mostly_slow(sorted({algo for algo, *_ in PRESETS}), {"polystep", "open_es", "ppo", "sac"}.__contains__),
)
def test_every_preset_is_complete_and_reads_back(algo: str) -> None:
    for _, name, env, policy in (entry for entry in PRESETS if entry[0] == algo):
        config = preset(env, policy, name, algo)
        assert (config.env, config.policy, config.preset, config.algo) == (env, policy, name, algo)
        assert type(config.search) is settings_class(algo)
        assert from_plain(TrainConfig, yaml.safe_load(to_yaml(config))) == config
        assert from_plain(TrainConfig, to_plain(config)) == config


@pytest.mark.parametrize("entry", [entry for entry in PRESETS if entry[0] == "polystep"], ids=str)
def test_polystep_can_be_built_from_every_preset(entry: tuple[str, ...]) -> None:
    algo, name, env, policy = entry
    build_strategy(preset(env, policy, name, algo).search)


@pytest.mark.parametrize("file", FILES)
def test_presets_name_known_environments_and_precisions(file: str) -> None:
    assert file in {"common", *ALGORITHMS}
    for name, entries in presets._presets(file).items():
        assert name in presets.PRESETS
        assert set(entries) - {"any"} <= {*registered_ids(), *gymnasium.registry, *G1}
        for group in entries.values():
            assert set(group) <= {"all", *typing.get_args(Precision)}


def test_every_algorithm_acts_on_the_same_policy() -> None:
    """What defines the policy comes from the task, not from the algorithm that is compared."""
    for env in registered_ids():
        for policy in typing.get_args(Precision):
            seen = set()
            for algo in ALGORITHMS:
                config = preset(env, policy, "compare", algo)
                seen.add((config.hidden, config.observation_scale, config.observation_unit))
            assert len(seen) == 1, (env, policy, seen)


def test_later_entries_win(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = {
        "any": {"all": {"eval_freq": 1, "seed": 1, "search": {"rank": 2, "probes": 2}}},
        "E": {"all": {"eval_freq": 3, "search": {"rank": 3}}, "int8": {"search": {"probes": 4}}},
    }
    common = {"E": {"all": {"eval_freq": 7, "test_episodes": 7}}}
    tables = {"polystep": {"tuned": entries}, "common": {"tuned": common}}
    monkeypatch.setattr(presets, "_presets", lambda algo: tables[algo])
    config = preset("E", "int8", "tuned")
    search = typing.cast(SearchConfig, config.search)
    assert (config.eval_freq, config.seed, search.rank, search.probes, config.test_episodes) == (3, 1, 3, 4, 7)
    config = preset("other", "binary", "tuned")
    search = typing.cast(SearchConfig, config.search)
    assert (config.eval_freq, search.rank, search.probes) == (1, 2, 2)


@pytest.mark.parametrize(
    "args, said",
    [
        (("CartPole-v1", "bianry"), "unknown policy 'bianry' (did you mean 'binary'?)"),
        (("CartPole-v1", "binary", "papr"), "unknown preset 'papr' (did you mean 'paper'?)"),
        (("CartPole-v1", "binary", "paper", "ppo"), "algorithm 'ppo' has no preset 'paper'"),
        (("probe/Bandit-v0", "binary", "paper"), "preset 'paper' has no settings for 'probe/Bandit-v0'"),
    ],
)
def test_unknown_presets(args: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        preset(*args)
    assert said in str(error.value)


def test_gradient_methods_have_no_settings_of_the_evaluation() -> None:
    for env in ("LunarLander-v3", "Hopper-v5"):
        assert preset(env, "float32").step_penalty > 0
        assert preset(env, "float32", algo="ppo").step_penalty == 0
        preset(env, "float32", algo="ppo")


def test_every_setting_has_a_description() -> None:
    folder = Path(configs.__file__).parent
    source = "".join((folder / name).read_text(encoding="utf-8") for name in ("run.py", "algorithms.py", "grid.py"))
    for cls in (*(entry.settings for entry in ALGORITHMS.values()), settings_class("CMA_ES"), TrainConfig, Grid):
        for entry in dataclasses.fields(cls):
            assert f"    {entry.name}: " in source


@pytest.mark.parametrize(
    "values, said",
    [
        ({"sead": 1}, "unknown setting 'sead' (did you mean 'seed'?)"),
        ({"seed": "1"}, "seed was '1', expected int"),
        ({"seed": True}, "seed was True, expected int"),
        ({"policy": "float16"}, "policy was 'float16', expected float32 or int8"),
        ({"hidden": [4, 4.0]}, "hidden was [4, 4.0]"),
        ({"hidden": 4}, "hidden was 4"),
        ({"search": {"plan": "emd"}}, "search: plan was 'emd', expected softmax or sinkhorn or kl"),
        ({"search": []}, "search: expected a mapping of settings, got []"),
        ({"search": {"epsilon": None}}, "epsilon was None, expected float"),
        ({1: 2}, "unknown setting 1"),
        (["seed"], "expected a mapping"),
        (None, "expected a mapping of settings, got None"),
        ("x" * 10_000, "expected a mapping"),
    ],
)
def test_foreign_values(values: Any, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        from_plain(TrainConfig, values)
    assert said in str(error.value) and len(str(error.value)) < 300 and "\n" not in str(error.value)


def test_whole_numbers_serve_as_floats_and_lists_as_tuples() -> None:
    config = from_plain(TrainConfig, {"stop_reward": 500, "hidden": [], "search": {"epsilon": 1}})
    assert type(config.stop_reward) is float and type(config.search.epsilon) is float and config.hidden == ()


@pytest.mark.parametrize(
    "change, said",
    [
        ({"seed": -1}, "seed was -1, expected at least 0"),
        ({"seed": 2**32}, "seed was 4294967296, expected at most 4294967295"),
        ({"hidden": (4, 0)}, "hidden was 0, expected at least 1"),
        ({"eval_episodes": 0}, "eval_episodes was 0, expected at least 1"),
        ({"eval_freq": 0}, "eval_freq was 0, expected at least 1"),
        ({"total_timesteps": 0}, "total_timesteps was 0, expected at least 1"),
        ({"generations": -3}, "generations was -3, expected at least 1"),
        ({"wall_seconds": 0.0}, "wall_seconds was 0.0, expected a number above 0"),
        ({"wall_seconds": float("nan")}, "wall_seconds was nan, expected a finite number"),
        ({"stop_reward": float("inf")}, "stop_reward was inf, expected a finite number"),
    ],
)
def test_numbers_out_of_range(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        dataclasses.replace(TrainConfig(), **change)
    assert str(error.value) == said


def test_ranges_reach_the_search() -> None:
    with pytest.raises(ConfigError, match="epsilon was nan, expected a finite number"):
        TrainConfig(search=SearchConfig(epsilon=float("nan")))
    TrainConfig(total_timesteps=None, wall_seconds=float("inf"), hidden=())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00\xff\xfe",
        b"seed: [1",
        b"seed: {{{{",
        b"- a\n- b\n",
        b"seed: 2020-99-99",
        b"[" * 5000,
        b"!!python/object:os.x {}",
    ],
    ids=lambda data: repr(data[:12]),
)
def test_files_that_are_no_settings(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(data)
    with pytest.raises(ConfigError) as error:
        load_yaml(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read \\(No such file or directory\\)"):
        load_yaml(tmp_path / "config.yaml")
