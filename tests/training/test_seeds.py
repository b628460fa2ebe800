"""Seeds side by side: each does what it does alone, bit for bit, whenever the others end."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.training import Record
from support.trees import plain

from polystep_rl.envs import make
from polystep_rl.errors import TrainError
from polystep_rl.policies import make_policy
from polystep_rl.rollout.device import DeviceEvaluator, Layout
from polystep_rl.rollout.score import Horizon, Penalty
from polystep_rl.runs.polystep import build_strategy
from polystep_rl.runs.strategy import make_strategy
from polystep_rl.search.racing import racing
from polystep_rl.settings.presets import preset
from polystep_rl.settings.run import SearchConfig
from polystep_rl.training.loop import train
from polystep_rl.training.programs import initial_progress
from polystep_rl.training.seeds import Seed, seeds_at_once, train_seeds
from polystep_rl.training.state import Budget, Progress, Result, streams
from polystep_rl.types import Evaluator, Policy, Strategy

SEARCH = SearchConfig(subspace_size=8, particle_dim=8, epsilon=0.2, step_radius=1.0, probe_radius=2.0, episodes=3)


class Task(NamedTuple):
    """Everything but seeds and settings."""

    policy: Policy
    strategy: Strategy
    evaluate: Evaluator
    centre: Evaluator


def task(env_id: str, precision: str, strategy: Strategy | None = None, **kwargs: Any) -> Task:
    env = make(env_id)
    policy = make_policy(env.spec, (8,), precision, 0.0, 0.25)
    strategy = build_strategy(SEARCH) if strategy is None else strategy
    return Task(policy, strategy, DeviceEvaluator(env, policy, 3, **kwargs), DeviceEvaluator(env, policy, 9))


def start(it: Task, seed: int) -> Progress:
    keys = streams(seed)
    return initial_progress(it.strategy, it.policy.init(keys.policy), keys.strategy)


def alone(it: Task, seed: int, settings: Budget) -> tuple[Result, Record]:
    record = Record()
    run = (it.strategy, it.evaluate, it.centre, streams(seed), start(it, seed))
    return train(*run, settings, record), record


def together(
    it: Task, seeds: range, settings: Budget, records: list[Record], places: int | None = None
) -> dict[int, Result | TrainError]:
    given = [Seed(streams(seed), start(it, seed), record) for seed, record in zip(seeds, records, strict=True)]
    return dict(train_seeds(it.strategy, it.evaluate, it.centre, given, settings, places))


def assert_same(found: Any, expected: Any) -> None:
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(plain(x), plain(y))


def baseline(name: str, population: int) -> Strategy:
    search = preset("CartPole-v1", "float32", "tuned", name).search
    return make_strategy(name, dataclasses.replace(search, population=population))


CASES: dict[str, Any] = {
    "polystep binary": lambda: task("CartPole-v1", "binary", horizon=Horizon(60)),
    "polystep float32": lambda: task("Pendulum-v1", "float32", penalty=Penalty(0.1, 0.0)),
    "open_es": lambda: task("CartPole-v1", "float32", baseline("open_es", 10)),
    "eggroll": lambda: task("MountainCarContinuous-v0", "float32", baseline("eggroll", 8)),
    "cma_es": lambda: task("CartPole-v1", "int8", baseline("cma_es", 7)),  # an odd number, on two devices
    "racing": lambda: task("CartPole-v1", "float32", racing(build_strategy(SEARCH), 2, 3)),
}
QUICK = ("polystep float32",)


@pytest.mark.parametrize("name", [x if x in QUICK else pytest.param(x, marks=pytest.mark.slow) for x in CASES])
def test_every_seed_does_what_it_does_alone(name: str) -> None:
    it, seeds = CASES[name](), range(3)
    steps = int(alone(it, 0, Budget(None, generations=6))[0].progress.env_steps)
    settings = Budget(3 * steps, eval_freq=steps // 2)
    expected = [alone(it, seed, settings) for seed in seeds]
    records = [Record() for _ in seeds]
    found = together(it, seeds, settings, records, places=4)
    for seed, (result, record) in zip(seeds, expected, strict=True):
        assert found[seed].stopped_by == result.stopped_by == "total_timesteps"
        assert records[seed].table() == record.table()
        assert_same(found[seed].progress, result.progress)
        assert len(records[seed].saved) == len(record.saved) > 1
        assert_same(records[seed].saved[1], record.saved[1])


def test_each_seed_stops_by_itself() -> None:
    it, seeds = task("CartPole-v1", "binary"), range(5)
    settings = Budget(60_000, eval_freq=4000, stop_reward=150.0)
    expected = [alone(it, seed, settings) for seed in seeds]
    records = [Record() for _ in seeds]
    found = together(it, seeds, settings, records)
    ends = [len(record.rows) for record in records]
    assert {result.stopped_by for result, _ in expected} == {"stop_reward", "total_timesteps"}
    assert list(found) == sorted(found, key=lambda seed: ends[seed]), "in the order in which they end"
    for seed, (result, record) in zip(seeds, expected, strict=True):
        assert found[seed].stopped_by == result.stopped_by
        assert records[seed].table() == record.table()
        assert_same(found[seed].progress, result.progress)


def test_generations_interrupt_and_going_on_alone() -> None:
    it, seeds = task("CartPole-v1", "binary"), range(2)
    settings = Budget(None, generations=25, eval_freq=3000)
    expected = [alone(it, seed, settings) for seed in seeds]
    records = [Record(interrupt_after=4), Record()]
    found = together(it, seeds, settings, records)
    assert found[0].stopped_by == "interrupt" and found[1].stopped_by == "generations"
    assert_same(found[1].progress, expected[1][0].progress)
    assert 4 <= found[0].progress.generation < 25
    rest = train(it.strategy, it.evaluate, it.centre, streams(0), found[0].progress, settings, other := Record())
    assert_same(rest.progress, expected[0][0].progress)
    records[0].rows += other.rows
    assert records[0].table() == expected[0][1].table()


def test_a_seed_that_fails_leaves_the_others_alone() -> None:
    settings = Budget(None, generations=3)
    pendulum = task("Pendulum-v1", "float32", penalty=Penalty(0.1, 0.0))  # whose reward depends on the action
    good, bad = start(pendulum, 0), start(pendulum, 1)
    nan = jax.tree.map(lambda x: x * jnp.nan, bad.state.subspace.base)
    bad = bad._replace(state=bad.state._replace(subspace=bad.state.subspace._replace(base=nan)))
    given = [Seed(streams(1), bad, Record()), Seed(streams(0), good, Record())]
    found = dict(train_seeds(pendulum.strategy, pendulum.evaluate, pendulum.centre, given, settings))
    assert isinstance(found[0], TrainError) and "more than half of the returns" in str(found[0])
    expected, _ = alone(pendulum, 0, settings)
    assert_same(found[1].progress, expected.progress)


def at_once(it: Task) -> tuple[int, str]:
    return seeds_at_once(it.strategy, it.evaluate, it.centre, start(it, 0).state)


def test_which_seeds_can_be_merged() -> None:
    assert at_once(task("CartPole-v1", "binary"))[0] > 1000
    for kwargs, why in (
        ({"collect_moments": True}, "statistics"),
        ({"horizon": Horizon(20, 50)}, "episodes grow"),
        ({"layout": Layout(max_bytes=2000)}, "memory"),
    ):
        found, said = at_once(task("CartPole-v1", "binary", **kwargs))
        assert found == 1 and why in said
    large = make_policy(make("CartPole-v1").spec, (128, 128), "float32")
    strategy = build_strategy(SearchConfig(subspace="full", particle_dim=4))
    evaluate = DeviceEvaluator(make("CartPole-v1"), large, 2)
    assert at_once(Task(large, strategy, evaluate, evaluate)) == (
        1,
        "the policies are large, and their candidates are never built",
    )
    small = task("CartPole-v1", "binary", layout=Layout(max_bytes=60_000))
    count, _ = at_once(small)
    assert 1 < count < 100
    given = [Seed(streams(seed), start(small, seed)) for seed in range(count + 1)]
    with pytest.raises(ValueError, match=f"{count + 1} seeds side by side: at most {count} can be"):
        train_seeds(small.strategy, small.evaluate, small.centre, given, Budget())
