"""``polystep-rl train``: settings from preset, run folder or flags; the run; its summary."""

from __future__ import annotations

import dataclasses
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from polystep_rl.cli.options import parse_options, parse_seeds, print_json
from polystep_rl.errors import ConfigError, UsageError
from polystep_rl.machine import setup_jax
from polystep_rl.runs import cluster
from polystep_rl.runs.opening import Output
from polystep_rl.settings.algorithms import GRADIENT
from polystep_rl.settings.checks import check_ranges
from polystep_rl.settings.presets import preset
from polystep_rl.settings.run import TrainConfig, load_yaml, to_plain, to_yaml

BUDGETS = ("total_timesteps", "generations", "wall_seconds", "stop_reward", "stop_at_threshold")


# The flags of Output are off by default. Whether one of the config is depends on the preset: both --x and --no-x exist.
@dataclass(frozen=True)
class TrainArgs:
    """Train a policy. Defaults come from the preset of algorithm, environment and precision (--show-config)."""

    config: TrainConfig = field(default_factory=TrainConfig)
    output: Annotated[Output, tyro.conf.FlagCreatePairsOff] = field(default_factory=Output)
    """Where the run goes and what it prints."""


def _given(argv: Sequence[str], name: str, default: str) -> str:
    """The value of a flag before the real parsing, because other defaults depend on it."""
    flag = f"--{name}"
    for i, arg in enumerate(argv):
        if arg.startswith(f"{flag}="):
            default = arg.split("=", 1)[1]
        elif arg in (flag, flag.replace("-", "_")) and i + 1 < len(argv):
            default = argv[i + 1]
    return default


def _led(argv: Sequence[str], resume: str) -> bool:
    """Whether the run folder may be where process 0 is, and nowhere else."""
    return _given(argv, "coordinator", "") != "" and _given(argv, "process-id", "") != "0" and not Path(resume).is_dir()


def parse(argv: Sequence[str]) -> TrainArgs:
    """Flags over the defaults of the preset, or over the settings of the run that is resumed."""
    resume = _given(argv, "resume", "")
    base = TrainConfig()
    if resume and _led(argv, resume):
        config = base
    elif resume:
        if not Path(resume).is_dir():
            raise UsageError(f"--resume {resume}: no such run folder; check the path")
        config = load_yaml(Path(resume) / "config.yaml")
    else:
        named = {name: _given(argv, name, getattr(base, name)) for name in ("env", "policy", "algo")}
        named["preset"] = _given(argv, "preset", "repair" if _given(argv, "init", "") else base.preset)
        try:
            config = preset(named["env"], named["policy"], named["preset"], named["algo"])
        except ConfigError as error:
            raise UsageError(str(error)) from None
    default = TrainArgs(config, Output())
    args = parse_options(TrainArgs, "train", argv, (tyro.conf.OmitArgPrefixes,), default)
    try:
        check_ranges(args.config)
    except ConfigError as error:
        raise UsageError(str(error)) from None
    if args.output.cores is not None and args.output.cores < 1:
        raise UsageError(f"cores was {args.output.cores}, expected at least 1")
    cluster.check(args.output, args.config.algo)
    check_seeds(args.output, _given(argv, "seed", ""))
    if resume:
        for entry in dataclasses.fields(config) if not _led(argv, resume) else ():
            if getattr(config, entry.name) != getattr(args.config, entry.name) and entry.name not in BUDGETS:
                raise UsageError(
                    f"--resume continues with the run's own settings: {entry.name} cannot change "
                    f"(only {', '.join(BUDGETS)} can)"
                )
        if args.output.run_dir is not None:
            raise UsageError("--resume and --run-dir exclude each other: the run keeps its folder")
    return args


def check_seeds(output: Output, seed: str) -> None:
    """UsageError for seeds that are none, or beside what is about a single run."""
    if output.seeds is None:
        return
    parse_seeds(output.seeds)
    for flag, given in (
        ("seed", seed),
        ("run-dir", output.run_dir),
        ("resume", output.resume),
        ("track", output.track),
    ):
        if given:
            raise UsageError(f"--seeds and --{flag} exclude each other: every seed is a run with a folder under --runs")


def run(argv: list[str]) -> int:
    """Entry point; returns the exit code."""
    args = parse(argv)

    if args.output.show_config:
        if args.output.json:
            print_json(to_plain(args.config))
        else:
            print(to_yaml(args.config), end="")
        return 0
    setup_jax(args.output.cores)
    with cluster.joined(args.output):
        if args.output.coordinator is not None:
            complete = args.output.resume is None or args.output.resume.is_dir()
            args = dataclasses.replace(args, config=cluster.agreed_settings(args.config, complete))
        return _train(args)


def _train(args: TrainArgs) -> int:
    """Train, and say how it ended; of several processes, the leader says it."""
    from polystep_rl.cli.options import print_json
    from polystep_rl.processes import leads
    from polystep_rl.runs.any import run_any
    from polystep_rl.runs.search import told

    stream = sys.stderr if args.output.json else sys.stdout
    if args.output.seeds is not None:
        from polystep_rl.runs.seeds import run_seeds

        return run_seeds(args.config, args.output, parse_seeds(args.output.seeds), stream, _in_main_thread())
    summary = run_any(args.config, args.output, stream, install_handler=_in_main_thread())
    interrupted = summary["stopped_by"] == "interrupt"
    if not leads():
        return 130 if interrupted else 0
    if interrupted:
        how = f"continue with: polystep-rl train --resume {summary['run_dir']}"
        if args.config.algo in GRADIENT:
            how = f"a run of {args.config.algo} cannot be continued; its policy so far is in {summary['run_dir']}"
        print(f"interrupted; {how}", file=sys.stderr)
    if args.output.json:
        print_json(summary)
    elif not args.output.quiet:
        print(told(summary), file=stream)
    return 130 if interrupted else 0


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
