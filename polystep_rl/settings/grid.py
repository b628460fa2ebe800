"""The grid of a comparison: environments x algorithms x precisions x seeds, each cell one training run."""

from __future__ import annotations

import dataclasses
import itertools
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
import yaml

from polystep_rl.errors import ConfigError
from polystep_rl.files import safe_name
from polystep_rl.settings.checks import Config, Count, Natural
from polystep_rl.settings.presets import preset
from polystep_rl.settings.run import TrainConfig, from_plain
from polystep_rl.types import MAX_SEED, Precision

EVALUATIONS = 25  # points of a learning curve


@dataclass(frozen=True)
class Grid(Config):
    """The cells of a comparison. Every one gets the same budget and is judged in the same way."""

    envs: tuple[str, ...] = ("CartPole-v1",)
    """Environments."""
    algos: tuple[str, ...] = ("polystep", "open_es", "cma_es", "eggroll")
    """Algorithms."""
    policies: Annotated[tuple[Precision, ...], tyro.conf.arg(aliases=("--precisions",))] = ("binary",)
    """Precisions of the policy."""
    seeds: Count = 5
    """Seeds of each cell."""
    first_seed: Natural = 0
    """The first of them."""
    first_seed_for: tuple[str, ...] = ()
    """Another first seed for some environments or cells, as environment=seed or environment/policy/algorithm=seed."""
    seeds_for: tuple[str, ...] = ()
    """Another number of seeds for algorithms or cells, as algorithm=seeds or environment/policy/algorithm=seeds."""
    budget: Count = 500_000
    """Env steps of every run: living steps of all candidates, or steps of a gradient method."""
    budget_for: tuple[str, ...] = ()
    """Another budget for some environments or precisions of one, as environment=steps or environment/policy=steps."""
    preset: str = "compare"
    """Preset of every algorithm."""
    schedules: float = 1.0
    """Multiplies schedule_generations: presets are made for short budgets, and schedules may stretch with them."""
    test_episodes: Count = 256
    """Fresh episodes on which the deployed policy is judged."""
    eval_episodes: Count = 64
    """Episodes of a point of the learning curve; nothing else depends on it."""
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Algorithm -> settings that differ from its preset (in a file only)."""


class Cell(typing.NamedTuple):
    """One training run of a grid."""

    config: TrainConfig

    @property
    def name(self) -> str:
        """The name of its run folder: unique within a grid."""
        c = self.config
        return f"{safe_name(c.env)}__{safe_name(c.algo)}-{c.policy}__{c.seed}"


def load_grid(path: Path) -> Grid:
    """A grid from a YAML file with the fields of `Grid`. ConfigError if it is not one."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error}); check the path") from error
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: not a YAML file of a grid ({type(error).__name__})") from error
    return from_plain(Grid, values if values is not None else {}, str(path))


def skipped(algo: str, policy: str) -> bool:
    """Whether a cell says nothing new: without a quantiser, ste and ptq are plain training."""
    return policy == "float32" and algo.endswith(("-ste", "-ptq"))


def cells(grid: Grid) -> list[Cell]:
    """Every cell: the seeds of one task and algorithm follow each other, since they share their compiled programs.

    Raises:
        ConfigError: an empty list, a bad number, or settings that do not fit an algorithm.
    """
    for name in ("envs", "algos", "policies"):
        values = getattr(grid, name)
        if not values:
            raise ConfigError(f"{name} is empty, expected at least one")
        if len(set(values)) < len(values):
            raise ConfigError(f"{name} holds {max(values, key=values.count)!r} twice")
    if unknown := set(grid.settings) - set(grid.algos):
        raise ConfigError(f"settings for {min(unknown)!r}, which is not among the algorithms")
    return list(_cells(grid))


def _cells(grid: Grid) -> Iterator[Cell]:
    seeds = _numbers(grid.seeds_for, "seeds_for", _counted(grid))
    firsts = _numbers(grid.first_seed_for, "first_seed_for", _named(grid), least=0)
    budgets = _numbers(grid.budget_for, "budget_for", _tasks(grid))
    for env in grid.envs:
        for policy in grid.policies:
            for algo in grid.algos:
                if skipped(algo, policy):
                    continue
                budget = budgets.get(f"{env}/{policy}", budgets.get(env, grid.budget))
                config = _configure(grid, env, algo, policy, budget)
                first = firsts.get(f"{env}/{policy}/{algo}", firsts.get(env, grid.first_seed))
                count = seeds.get(f"{env}/{policy}/{algo}", seeds.get(algo, grid.seeds))
                for seed in range(first, first + count):
                    if seed > MAX_SEED:
                        raise ConfigError(f"seed was {seed}, expected at most {MAX_SEED}")
                    yield Cell(dataclasses.replace(config, seed=seed))


def _configure(grid: Grid, env: str, algo: str, policy: str, budget: int) -> TrainConfig:
    """The run of a cell, but for the seed: the algorithm's preset under the rules of the comparison."""
    config = preset(env, policy, grid.preset, algo)
    search = config.search
    if given := grid.settings.get(algo):
        plain = {**dataclasses.asdict(search), **given}
        search = from_plain(type(search), plain, f"settings of {algo}")
    return dataclasses.replace(
        config,
        search=search.stretched(grid.schedules),
        total_timesteps=budget,
        generations=None,
        wall_seconds=None,
        stop_reward=None,  # everyone spends the budget
        stop_at_threshold=False,
        deploy="last",  # choosing by evaluation would be more training data
        eval_freq=max(1, budget // EVALUATIONS),
        eval_episodes=grid.eval_episodes,
        test_episodes=grid.test_episodes,
    )


def _numbers(pairs: tuple[str, ...], name: str, known: tuple[str, ...], least: int = 1) -> dict[str, int]:
    """name=number, with the name one of those known."""
    found = {}
    for pair in pairs:
        key, _, number = pair.rpartition("=")
        if key not in known or not number.isdecimal() or int(number) < least:
            raise ConfigError(f"{name}: {pair!r}, expected one of {', '.join(known)}, '=' and a number from {least} on")
        found[key] = int(number)
    return found


def _tasks(grid: Grid) -> tuple[str, ...]:
    """Names that a budget may be given for."""
    return (*grid.envs, *(f"{env}/{policy}" for env in grid.envs for policy in grid.policies))


def _named(grid: Grid) -> tuple[str, ...]:
    """Names that a first seed may be given for."""
    return (*grid.envs, *_rows(grid))


def _counted(grid: Grid) -> tuple[str, ...]:
    """Names that a number of seeds may be given for."""
    return (*grid.algos, *_rows(grid))


def _rows(grid: Grid) -> tuple[str, ...]:
    """The names of what a table has a row for."""
    return tuple("/".join(cell) for cell in itertools.product(grid.envs, grid.policies, grid.algos))


def narrowed(grid: Grid, whole: Grid) -> Grid:
    """A grid that has fewer environments, algorithms or precisions than ``whole``, which it was made from, without what
    that says of those left out."""

    def gone(names: Callable[[Grid], tuple[str, ...]]) -> set[str]:
        return set(names(whole)) - set(names(grid))

    algos = gone(lambda x: x.algos)
    names = {"seeds_for": _counted, "budget_for": _tasks, "first_seed_for": _named}
    changes: dict[str, Any] = {
        name: tuple(pair for pair in getattr(grid, name) if pair.rpartition("=")[0] not in gone(known))
        for name, known in names.items()
        if getattr(grid, name) == getattr(whole, name)  # else it was given anew, and for this grid
    }
    changes["settings"] = {algo: given for algo, given in grid.settings.items() if algo not in algos}
    return dataclasses.replace(grid, **changes)
