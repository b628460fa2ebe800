"""``polystep-rl train --seeds``: a run for each seed, side by side where they can be, or one after the other."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable
from typing import Any, TextIO

import numpy as np

from polystep_rl.cli.options import print_json
from polystep_rl.records.folder import RunDir
from polystep_rl.runs.any import run_any
from polystep_rl.runs.judging import close, evaluate_on_test
from polystep_rl.runs.observer import RunObserver, interruptible
from polystep_rl.runs.opening import new_run
from polystep_rl.runs.parts import Parts, make_parts
from polystep_rl.runs.search import judge_start, settings_of, summarised, told
from polystep_rl.settings.algorithms import GRADIENT
from polystep_rl.settings.run import TrainConfig
from polystep_rl.training.seeds import Seed, seeds_at_once, train_seeds
from polystep_rl.training.state import Progress, Result, Row, TrainError, initial_progress

MOST = 64  # seeds side by side: each has files open

Report = Callable[[TrainConfig, dict[str, Any] | TrainError], None]


class Group:
    """What the observers of seeds side by side have in common."""

    def __init__(self) -> None:
        self.stop, self.shown = False, 0.0


class SeedObserver(RunObserver):
    """A run among others: their lines take turns and say whose they are, and an interrupt stops all of them."""

    def __init__(
        self, group: Group, run: RunDir, parts: Parts, config: TrainConfig, stream: TextIO, quiet: bool
    ) -> None:
        self.group = group
        super().__init__(run, parts, config, stream, quiet)

    stop = property(lambda self: self.group.stop, lambda self, value: setattr(self.group, "stop", value))
    _shown = property(lambda self: self.group.shown, lambda self, value: setattr(self.group, "shown", value))

    def _line(self, row: Row) -> str:
        return f"seed {self.config.seed:>3}  {super()._line(row)}"


def run_seeds(config: TrainConfig, output: Any, seeds: list[int], stream: TextIO, install_handler: bool) -> int:
    """Train all seeds and say how they ended; returns the exit code. TrainError, in the end, where some failed."""
    ended: dict[int, dict[str, Any]] = {}
    failed: dict[int, str] = {}

    def report(own: TrainConfig, found: dict[str, Any] | TrainError) -> None:
        if isinstance(found, TrainError):
            failed[own.seed] = str(found)
            return
        ended[own.seed] = found
        if found["stopped_by"] == "interrupt":
            how = f"continue with: polystep-rl train --resume {found['run_dir']}"
            if own.algo in GRADIENT:
                how = f"a run of {own.algo} cannot be continued; its policy so far is in {found['run_dir']}"
            print(f"seed {own.seed} interrupted; {how}", file=sys.stderr)
        if not output.json and not output.quiet:
            print(told(found), file=stream)

    runs = [dataclasses.replace(config, seed=seed) for seed in seeds]
    at_once, why = _at_once(runs[0])
    if at_once == 1:
        if why and not output.quiet:
            print(f"one seed after the other: {why}", file=stream)
        _one_by_one(runs, output, stream, install_handler, report)
    else:
        batches = -(-len(runs) // at_once)
        places = -(-len(runs) // batches)
        for first in range(0, len(runs), places):
            if _together(runs[first : first + places], places, output, stream, install_handler, report):
                break
    in_order = {seed: ended[seed] for seed in seeds if seed in ended}
    _conclude(in_order, failed, output, stream)
    interrupted = len(ended) + len(failed) < len(seeds) or any(x["stopped_by"] == "interrupt" for x in ended.values())
    return 130 if interrupted else 0


def _conclude(ended: dict[int, dict[str, Any]], failed: dict[int, str], output: Any, stream: TextIO) -> None:
    """The last line of standard output."""
    returns = [summary["eval"]["mean_return"] for summary in ended.values()]
    if output.json:
        print_json(
            {
                "runs": [{"seed": seed, **summary} for seed, summary in ended.items()],
                "failed": [{"seed": seed, "error": error} for seed, error in failed.items()],
                "mean_return": float(np.mean(returns)) if returns else None,
                "worst_return": min(returns, default=None),
            }
        )
    elif returns and not output.quiet:
        print(f"{len(returns)} seeds: mean return {np.mean(returns):.2f}, worst {min(returns):.2f}", file=stream)
    if failed:
        raise TrainError("; ".join(f"seed {seed}: {error}" for seed, error in failed.items()))


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
        close(parts.evaluate, parts.evaluate_centre)


def _one_by_one(runs: list[TrainConfig], output: Any, stream: TextIO, install_handler: bool, report: Report) -> None:
    for config in runs:
        try:
            summary = run_any(config, output, stream, install_handler)
        except TrainError as error:
            report(config, error)
            continue
        report(config, summary)
        if summary["stopped_by"] == "interrupt":
            return


def _together(
    runs: list[TrainConfig], places: int, output: Any, stream: TextIO, install_handler: bool, report: Report
) -> bool:
    """Train some seeds side by side; whether they were interrupted."""
    group = Group()
    with contextlib.ExitStack() as stack:
        started = [_start(config, group, output, stream, stack) for config in runs]
        parts = started[0].observer.parts
        settings = settings_of(runs[0], parts)
        if install_handler:
            stack.enter_context(interruptible(started[0].observer))
        seeds = [Seed(one.observer.parts.keys, one.progress, one.observer) for one in started]
        found = train_seeds(parts.strategy, parts.evaluate, parts.evaluate_centre, seeds, settings, places)
        for index, result in found:
            config = started[index].observer.config
            if isinstance(result, TrainError):
                report(config, result)
            else:
                report(config, _finish(started[index], result))
    return group.stop


@dataclasses.dataclass
class _Started:
    """A seed before its first generation."""

    observer: SeedObserver
    progress: Progress
    given: dict[str, Any]  # what the summary says of the policy that the search starts at


def _start(config: TrainConfig, group: Group, output: Any, stream: TextIO, stack: contextlib.ExitStack) -> _Started:
    parts = make_parts(config)
    settings_of(config, parts)  # says what is wrong before there is a folder
    if parts.initial is not None:
        config = dataclasses.replace(config, hidden=parts.policy.spec.hidden)
    progress = initial_progress(parts.strategy, parts.start, parts.keys.strategy)
    given: dict[str, Any] = {}
    run = new_run(config, output)
    stack.callback(run.close)
    observer = SeedObserver(group, run, parts, config, stream, output.quiet)
    if parts.initial is not None:
        progress, given = judge_start(run, parts, config, progress)
    return _Started(observer, progress, given)


def _finish(started: _Started, result: Result) -> dict[str, Any]:
    """Write what a seed has found; returns its summary."""
    observer = started.observer
    config, parts = observer.config, observer.parts
    best = observer.finish(result.progress)
    evaluation = evaluate_on_test(parts.env, parts.policy, best, config.test_episodes, config.seed)
    summary = {**summarised(observer, result, evaluation), **started.given}
    if result.stopped_by != "interrupt":
        observer.run.finish(summary)
    observer.run.close()
    return summary
