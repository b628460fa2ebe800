"""What a search compiles, it compiles once: in every preset that JAX alone runs."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import pytest

from polystep_rl.policies import PRECISIONS
from polystep_rl.runs.parts import make_parts
from polystep_rl.settings.algorithms import ALGORITHMS, GRADIENT
from polystep_rl.settings.presets import preset
from polystep_rl.settings.run import to_plain
from polystep_rl.training import loop
from polystep_rl.training.programs import initial_progress
from polystep_rl.training.seeds import Seed, train_seeds
from polystep_rl.training.state import Budget, Observer, Row

ENVS = ("CartPole-v1", "Acrobot-v1", "Pendulum-v1", "MountainCar-v0", "MountainCarContinuous-v0")
SEARCHES = [algo for algo in ALGORITHMS if algo not in GRADIENT]
QUICK = ("polystep", "open_es", "cma_es")
GENERATIONS = 12


class Compiled:
    """Names of the programs that JAX has compiled, or has read from its cache, since it was last asked."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def heard(self, event: str, duration: float, **details: Any) -> None:
        if event.endswith("/backend_compile_duration"):
            self.names.append(str(details.get("fun_name", "?")))

    def take(self) -> list[str]:
        names, self.names = self.names, []
        return names


@pytest.fixture
def compiled() -> Iterator[Compiled]:
    listener = Compiled()
    jax.monitoring.register_event_duration_secs_listener(listener.heard)
    yield listener
    jax.monitoring.unregister_event_duration_listener(listener.heard)


class Watch(Observer):
    """What was compiled until the first generation, until the first evaluation, and after it."""

    def __init__(self, compiled: Compiled) -> None:
        self.compiled = compiled
        self.chunks: list[tuple[bool, list[str]]] = []  # whether it ended with an evaluation; what was compiled

    def generations(self, rows: list[Row]) -> None:
        self.chunks.append((rows[-1]["eval/mean_reward"] is not None, self.compiled.take()))


def watched(compiled: Compiled, algo: str, env: str, policy: str, name: str) -> list[tuple[bool, list[str]]]:
    """Some generations of a preset, with some evaluations, chunk by chunk."""
    config = dataclasses.replace(preset(env, policy, name, algo), eval_episodes=8)
    parts = make_parts(config)
    progress = initial_progress(parts.strategy, parts.start, parts.keys.strategy)
    watch = Watch(compiled)
    compiled.take()
    run = (parts.strategy, parts.evaluate, parts.evaluate_centre, parts.keys)
    alone = Budget(config.total_timesteps, generations=1, eval_freq=2**31 - 1)
    first = loop.train(*run, progress, alone, watch).progress
    often = Budget(config.total_timesteps, GENERATIONS, eval_freq=2 * int(first.last_steps) + 1)
    loop.train(*run, first, often, watch)
    return watch.chunks


def distinct() -> list[Any]:
    """Every preset once, however many names it has; what a pull request cannot wait for is slow."""
    seen, cases = set(), []
    for name in ("tuned", "compare", "paper"):
        for algo in SEARCHES if name != "paper" else ["polystep"]:
            for env in ENVS if name != "paper" else ENVS[:2]:
                for policy in PRECISIONS:
                    plain = to_plain(preset(env, policy, name, algo)) | {"preset": None}
                    if str(plain) in seen:
                        continue
                    seen.add(str(plain))
                    quick = (
                        policy == "binary"
                        and env == ENVS[0]
                        and name == "tuned"
                        and algo in ("polystep", "open_es", "cma_es")
                    )
                    marks = () if quick else pytest.mark.slow
                    cases.append(pytest.param(algo, env, policy, name, marks=marks, id=f"{name}-{algo}-{env}-{policy}"))
    return cases


@pytest.mark.parametrize(("algo", "env", "policy", "name"), distinct())
def test_nothing_is_compiled_after_the_first_generation(compiled, algo, env, policy, name):
    chunks = watched(compiled, algo, env, policy, name)
    programs = [names for _, names in chunks]
    assert programs[0].count("jit(run)") == 1, programs[0]  # the listener hears
    evaluations = [i for i, (evaluated, _) in enumerate(chunks) if evaluated]
    assert len(evaluations) >= 2
    first = evaluations[0]
    assert not [names for i, names in enumerate(programs) if names and i not in (0, first)]
    assert "jit(run)" not in programs[first]


def test_other_seeds_and_budgets_compile_nothing(compiled):
    """Within a process; a later one reads them from the cache, by the same key."""
    config = dataclasses.replace(preset("CartPole-v1", "binary"), eval_episodes=8)
    for seed, steps in ((0, 40_000), (1, 40_000), (2, 90_000)):
        parts = make_parts(dataclasses.replace(config, seed=seed, total_timesteps=steps))
        compiled.take()
        progress = initial_progress(parts.strategy, parts.start, parts.keys.strategy)
        run = (parts.strategy, parts.evaluate, parts.evaluate_centre, parts.keys)
        loop.train(*run, progress, Budget(steps, eval_freq=10_000))
        names = compiled.take()
        assert bool(names) == (seed == 0), names


class OneOf(Observer):
    """What was compiled until each chunk of a seed among others."""

    def __init__(self, compiled: Compiled, heard: list[tuple[bool, list[str]]]) -> None:
        self.compiled, self.heard = compiled, heard

    def generations(self, rows: list[Row]) -> None:
        self.heard.append((rows[-1]["eval/mean_reward"] is not None, self.compiled.take()))


@pytest.mark.parametrize("algo", ["polystep", pytest.param("open_es", marks=pytest.mark.slow)])
def test_seeds_side_by_side_compile_once_whenever_they_end(compiled, algo):
    config = dataclasses.replace(preset("CartPole-v1", "binary", "tuned", algo), eval_episodes=8)
    made = [make_parts(dataclasses.replace(config, seed=seed)) for seed in range(4)]
    heard: list[tuple[bool, list[str]]] = []
    seeds = [
        Seed(one.keys, initial_progress(one.strategy, one.start, one.keys.strategy), OneOf(compiled, heard))
        for one in made
    ]
    compiled.take()
    parts = made[0]
    settings = Budget(60_000, eval_freq=6000, stop_reward=120.0)
    ends = [len(heard) for _ in train_seeds(parts.strategy, parts.evaluate, parts.evaluate_centre, seeds, settings)]
    assert len(set(ends)) > 2, "they end at different times"
    programs = [names for _, names in heard]
    assert programs[0].count("jit(run)") == 1, programs[0]
    first = next(i for i, (evaluated, _) in enumerate(heard) if evaluated)
    assert first < ends[0] and not [names for i, names in enumerate(programs) if names and i not in (0, first)]
    assert "jit(run)" not in programs[first] or first == 0
    assert not compiled.take(), "nor when the last one ends"
