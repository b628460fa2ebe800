"""The grid of a comparison: which runs it has, and that all of them obey the same rules."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from polystep_rl.errors import ConfigError
from polystep_rl.settings.algorithms import EvolutionConfig, PPOConfig
from polystep_rl.settings.grid import Grid, cells, load_grid, narrowed
from polystep_rl.settings.run import from_plain, to_plain

GRID = Grid(
    envs=("CartPole-v1", "Acrobot-v1"),
    algos=("polystep", "open_es", "ppo", "ppo-ste"),
    policies=("float32", "binary"),
    seeds=3,
    seeds_for=("ppo=2", "ppo-ste=1", "Acrobot-v1/binary/ppo=4"),
    budget_for=("Acrobot-v1=777000", "Acrobot-v1/binary=888000"),
    first_seed_for=("Acrobot-v1=10", "Acrobot-v1/binary/ppo=20"),
    settings={"open_es": {"sigma": 0.2}},
)


def test_every_cell_once() -> None:
    names = [cell.name for cell in cells(GRID)]
    assert len(names) == len(set(names)) == 2 * (2 * 2 * 3 + 2 * 2 + 1) + 2  # ppo-ste has nothing to do in float32
    assert "CartPole-v1__ppo-ste-binary__0" in names and "CartPole-v1__ppo-ste-float32__0" not in names


def test_seeds_begin_where_the_environment_or_the_cell_says() -> None:
    for env, first in (("CartPole-v1", 0), ("Acrobot-v1", 10)):
        seeds = [cell.config.seed for cell in cells(GRID) if (cell.config.env, cell.config.algo) == (env, "polystep")]
        assert seeds == 2 * [first, first + 1, first + 2]
    of_ppo = [c.config.seed for c in cells(GRID) if (c.config.env, c.config.algo) == ("Acrobot-v1", "ppo")]
    assert of_ppo == [10, 11, 20, 21, 22, 23]  # float32, and the cell with a first seed and a number of its own


@pytest.mark.parametrize(
    "chosen",
    [
        {"envs": ("CartPole-v1",)},
        {"algos": ("ppo",)},
        {"envs": ("Acrobot-v1",)},
        {"policies": ("float32",)},
        {"envs": ("Acrobot-v1",), "policies": ("binary",)},
        {},
    ],
    ids=str,
)
def test_a_part_of_a_grid_has_the_same_cells(chosen: dict[str, Any]) -> None:
    """Of what is left; what the grid says of the rest is no mistake."""
    part = narrowed(dataclasses.replace(GRID, **chosen), GRID)
    left = [(c, c.config) for c in cells(GRID)]
    wanted = [c for c, of in left if of.env in part.envs and of.algo in part.algos and of.policy in part.policies]
    assert cells(part) == wanted and wanted
    if chosen:
        mistaken = narrowed(dataclasses.replace(GRID, **chosen, budget_for=("Pendulum-v1=5",)), GRID)
        with pytest.raises(ConfigError, match="budget_for: 'Pendulum-v1=5'"):
            cells(mistaken)


def test_all_cells_obey_the_same_rules() -> None:
    for cell in cells(GRID):
        config = cell.config
        budgets = {("Acrobot-v1", "float32"): 777_000, ("Acrobot-v1", "binary"): 888_000}
        assert config.total_timesteps == budgets.get((config.env, config.policy), GRID.budget)
        assert (config.generations, config.wall_seconds, config.stop_reward) == (None, None, None)
        assert not config.stop_at_threshold and config.deploy == "last"
        assert config.test_episodes >= 256
    points = {cell.config.total_timesteps // cell.config.eval_freq for cell in cells(GRID)}
    assert points == {25}


def test_settings_and_schedules() -> None:
    grid = Grid(algos=("open_es", "ppo"), settings={"open_es": {"population": 8, "schedule_generations": 50}}, seeds=1)
    first, second = (cell.config.search for cell in cells(grid))
    assert isinstance(first, EvolutionConfig) and (first.population, first.schedule_generations) == (8, 50)
    assert isinstance(second, PPOConfig)
    stretched = cells(Grid(**{**to_plain(grid), "schedules": 10.0}))[0].config.search
    assert isinstance(stretched, EvolutionConfig) and stretched.schedule_generations == 500


def test_a_file_reads_back(tmp_path: Path) -> None:
    file = tmp_path / "grid.yaml"
    file.write_text(yaml.safe_dump(to_plain(GRID)))
    assert load_grid(file) == GRID
    file.write_text("")
    assert load_grid(file) == Grid()


@pytest.mark.parametrize(
    "values, said",
    [
        ({"envs": []}, "envs is empty"),
        ({"algos": ["ppo", "dqn", "ppo"]}, "algos holds 'ppo' twice"),
        ({"seeds": 0}, "seeds was 0, expected at least 1"),
        ({"seeds_for": ["ppo"]}, "seeds_for: 'ppo', expected one of"),
        ({"first_seed_for": ["CartPole-v1=-1"]}, "first_seed_for: 'CartPole-v1=-1', expected one of CartPole-v1"),
        ({"budget_for": ["Pendulum-v1=5"]}, "budget_for: 'Pendulum-v1=5', expected one of CartPole-v1"),
        ({"settings": {"snes": {}}}, "settings for 'snes', which is not among the algorithms"),
        ({"settings": {"open_es": {"sigmaa": 1.0}}}, "settings of open_es: unknown setting 'sigmaa' (did you mean"),
        ({"settings": {"open_es": {"sigma": -1.0}}}, "sigma was -1.0, expected a number above 0"),
        ({"policies": ["int4"]}, "policies was ['int4']"),
        ({"preset": "papr"}, "unknown preset 'papr'"),
        ({"budgets": 5}, "unknown setting 'budgets' (did you mean 'budget'?)"),
        ({"first_seed": 2**32}, "seed was 4294967296, expected at most"),
        ({"algos": ["../x"]}, "unknown algorithm"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        cells(from_plain(Grid, values))
    assert said in str(error.value) and "\n" not in str(error.value)
