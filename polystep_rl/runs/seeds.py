"""A run for each of several seeds, side by side where they can be, or one after the other."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from polystep_rl.errors import TrainError
from polystep_rl.records.folder import RunDir
from polystep_rl.runs.display import Display
from polystep_rl.runs.observer import RunObserver, interruptible
from polystep_rl.runs.opening import Destination, budget_of, new_run
from polystep_rl.runs.parts import Parts, make_parts
from polystep_rl.runs.train import conclude, judge_start, train
from polystep_rl.settings.algorithms import GRADIENT
from polystep_rl.settings.run import TrainConfig
from polystep_rl.training.programs import initial_progress
from polystep_rl.training.seeds import Seed, seeds_at_once, train_seeds
from polystep_rl.training.state import Progress, Row

MOST = 64  # seeds side by side: each has files open

Report = Callable[[TrainConfig, dict[str, Any] | TrainError], None]


class Group:
    """The one wish to stop that the observers of seeds side by side share."""

    def __init__(self) -> None:
        self.stop = False


class SeedObserver(RunObserver):
    """A run among others: its lines say whose they are, and an interrupt stops all of them."""

    def __init__(self, group: Group, run: RunDir, parts: Parts, config: TrainConfig, display: Display) -> None:
        self.group = group
        super().__init__(run, parts, config, display)

    stop = property(lambda self: self.group.stop, lambda self, value: setattr(self.group, "stop", value))

    def _line(self, row: Row) -> str:
        return f"seed {self.config.seed:>3}  {super()._line(row)}"


def train_each(
    config: TrainConfig,
    seeds: Sequence[int],
    to: Destination,
    display: Display,
    report: Report,
    note: Callable[[str], None] = lambda text: None,
) -> bool:
    """Train several seeds, each into a folder of its own, side by side where they can be.

    Args:
        config: the settings of all of them.
        seeds: one or more.
        to: where the folders are made.
        display: shows how they stand.
        report: is told of every seed as it ends: its settings, and its summary or the TrainError that ended it.
        note: is told why seeds train one after the other, where they do.

    Returns:
        whether they were interrupted.
    """
    runs = [dataclasses.replace(config, seed=seed) for seed in seeds]
    at_once, why = _at_once(runs[0])
    if at_once == 1:
        if why:
            note(f"one seed after the other: {why}")
        return _one_by_one(runs, to, display, report)
    batches = -(-len(runs) // at_once)
    places = -(-len(runs) // batches)
    return any(_together(runs[i : i + places], places, to, display, report) for i in range(0, len(runs), places))


def _at_once(config: TrainConfig) -> tuple[int, str]:
    """How many seeds can train side by side, and, where it is one, why: the one place that decides that."""
    if config.algo in GRADIENT:
        return 1, f"{config.algo} is no population search"
    parts = make_parts(config)
    try:
        state = initial_progress(parts.strategy, parts.start, parts.keys.strategy).state
        found, why = seeds_at_once(parts.strategy, parts.evaluate, parts.evaluate_centre, state)
        return min(MOST, found), why
    finally:
        parts.close()


def _one_by_one(runs: Sequence[TrainConfig], to: Destination, display: Display, report: Report) -> bool:
    """Train one seed after the other; whether they were interrupted."""
    for config in runs:
        try:
            summary = train(config, runs=to.runs, display=display).summary
        except TrainError as error:
            report(config, error)
            continue
        report(config, summary)
        if summary["stopped_by"] == "interrupt":
            return True
    return False


def _together(runs: Sequence[TrainConfig], places: int, to: Destination, display: Display, report: Report) -> bool:
    """Train some seeds side by side; whether they were interrupted."""
    group = Group()
    with contextlib.ExitStack() as stack:
        started = [_start(config, group, to, display, stack) for config in runs]
        parts = started[0].observer.parts
        budget = budget_of(runs[0], parts.env)
        stack.enter_context(interruptible(started[0].observer))
        seeds = [Seed(one.observer.parts.keys, one.progress, one.observer) for one in started]
        found = train_seeds(parts.strategy, parts.evaluate, parts.evaluate_centre, seeds, budget, places)
        for index, result in found:
            observer = started[index].observer
            if isinstance(result, TrainError):
                report(observer.config, result)
            else:
                report(observer.config, conclude(observer, result, started[index].given))
                observer.run.close()
    return group.stop


@dataclasses.dataclass
class _Started:
    """A seed before its first generation."""

    observer: SeedObserver
    progress: Progress
    given: dict[str, Any]  # what the summary says of the policy that the search starts at


def _start(
    config: TrainConfig, group: Group, to: Destination, display: Display, stack: contextlib.ExitStack
) -> _Started:
    parts = make_parts(config)
    budget_of(config, parts.env)  # says what is wrong before there is a folder
    if parts.initial is not None:
        config = dataclasses.replace(config, hidden=parts.policy.spec.hidden)
    progress = initial_progress(parts.strategy, parts.start, parts.keys.strategy)
    run = new_run(config, to)
    stack.callback(run.close)
    observer = SeedObserver(group, run, parts, config, display)
    return _Started(observer, *judge_start(observer, progress))
