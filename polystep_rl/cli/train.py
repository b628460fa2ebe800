"""``polystep-rl train``: settings from preset, run folder or flags; the run; its summary."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TextIO

import tyro

from polystep_rl.cli.options import parse_options, parse_seeds, print_json
from polystep_rl.errors import ConfigError
from polystep_rl.machine import setup_jax
from polystep_rl.runs import cluster
from polystep_rl.settings.algorithms import GRADIENT
from polystep_rl.settings.presets import preset
from polystep_rl.settings.run import TrainConfig, load_yaml, to_plain, to_yaml

BUDGETS = ("total_timesteps", "generations", "wall_seconds", "stop_reward", "stop_at_threshold")


@dataclass(frozen=True)
class Output:
    """Where a run goes and what it prints."""

    run_dir: Path | None = None
    """This run's own folder; refused if it holds anything. By default a new one under --runs."""
    runs: Path = Path("runs")
    """Where new run folders are made."""
    seeds: str | None = None
    """Train these seeds, such as 0-9 or 0,3,7-9, each with a run folder of its own as --seed would write it: side by
    side where they can be, or one after the other. Wall-clock times are then those of all."""
    resume: Path | None = None
    """Continue this run; only budgets may be given anew."""
    track: Annotated[bool, tyro.conf.arg(aliases=("--wandb",))] = False
    """Log to Weights & Biases, too."""
    quiet: bool = False
    """No progress line."""
    json: bool = False
    """Print one JSON object as the last line of standard output, and nothing else there."""
    show_config: bool = False
    """Print the resolved settings as YAML and stop."""
    cores: int | None = None
    """CPU cores to use; all by default."""
    coordinator: str | None = None
    """One run by several processes, here or on many machines, each given the same command: host:port where process 0
    will listen, or auto under Slurm, Open MPI, Kubernetes or on TPUs. See docs/scale.md."""
    num_processes: int | None = None
    """With --coordinator: how many."""
    process_id: int | None = None
    """With --coordinator: which one this is, from 0; process 0 writes the run folder."""

    @property
    def meeting(self) -> cluster.Meeting:
        """How the processes of the run meet."""
        return cluster.Meeting(self.coordinator, self.num_processes, self.process_id)


# The flags of Output are off by default. Whether one of the config is depends on the preset: both --x and --no-x exist.
@dataclass(frozen=True)
class TrainArgs:
    """Train a policy. Defaults come from the preset of algorithm, environment and precision (--show-config)."""

    config: TrainConfig = field(default_factory=TrainConfig)
    output: Annotated[Output, tyro.conf.FlagCreatePairsOff] = field(default_factory=Output)
    """Where the run goes and what it prints."""


def _given(argv: Sequence[str], name: str, default: str) -> str:
    """The value of a flag before the real parsing, because other defaults depend on it."""
    flags = ["--policy", "--precision"] if name == "policy" else [f"--{name}"]
    for i, arg in enumerate(argv):
        flag, equals, value = arg.partition("=")
        if equals and flag in flags:
            default = value
        elif arg in (*flags, flags[0].replace("-", "_")) and i + 1 < len(argv):
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
            raise ConfigError(f"--resume {resume}: no such run folder; check the path")
        config = load_yaml(Path(resume) / "config.yaml")
    else:
        named = {name: _given(argv, name, getattr(base, name)) for name in ("env", "policy", "algo")}
        named["preset"] = _given(argv, "preset", "repair" if _given(argv, "init", "") else base.preset)
        config = preset(named["env"], named["policy"], named["preset"], named["algo"])
    default = TrainArgs(config, Output())
    args = parse_options(TrainArgs, "train", argv, (tyro.conf.OmitArgPrefixes,), default)
    if args.output.cores is not None and args.output.cores < 1:
        raise ConfigError(f"cores was {args.output.cores}, expected at least 1")
    cluster.check(args.output.meeting, args.config.algo, args.output.seeds)
    check_seeds(args.output, _given(argv, "seed", ""))
    if resume:
        for entry in dataclasses.fields(config) if not _led(argv, resume) else ():
            if getattr(config, entry.name) != getattr(args.config, entry.name) and entry.name not in BUDGETS:
                raise ConfigError(
                    f"--resume continues with the run's own settings: {entry.name} cannot change "
                    f"(only {', '.join(BUDGETS)} can)"
                )
        if args.output.run_dir is not None:
            raise ConfigError("--resume and --run-dir exclude each other: the run keeps its folder")
    return args


def check_seeds(output: Output, seed: str) -> None:
    """ConfigError for seeds that are none, or beside what is about a single run."""
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
            raise ConfigError(
                f"--seeds and --{flag} exclude each other: every seed is a run with a folder under --runs"
            )


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
    with cluster.joined(args.output.meeting):
        if args.output.coordinator is not None:
            complete = args.output.resume is None or args.output.resume.is_dir()
            args = dataclasses.replace(args, config=cluster.agreed_settings(args.config, complete))
        return _train(args.config, args.output)


def _train(config: TrainConfig, output: Output) -> int:
    """Train, and say how it ended; of several processes, the leader says it."""
    from polystep_rl.processes import leads
    from polystep_rl.runs.display import Lines, silent
    from polystep_rl.runs.summary import told
    from polystep_rl.runs.train import train

    stream = sys.stderr if output.json else sys.stdout
    display = silent if output.quiet else Lines(stream)
    if output.seeds is not None:
        return _train_seeds(config, output, display, stream)
    summary = train(
        config, run_dir=output.run_dir, runs=output.runs, resume=output.resume, track=output.track, display=display
    ).summary
    interrupted = summary["stopped_by"] == "interrupt"
    if leads():
        if interrupted:
            print(f"interrupted; {_how_to_go_on(config, summary)}", file=sys.stderr)
        if output.json:
            print_json(summary)
        elif not output.quiet:
            print(told(summary), file=stream)
    return 130 if interrupted else 0


def _how_to_go_on(config: TrainConfig, summary: dict[str, Any]) -> str:
    if config.algo in GRADIENT:
        return f"a run of {config.algo} cannot be continued; its policy so far is in {summary['run_dir']}"
    return f"continue with: polystep-rl train --resume {summary['run_dir']}"


def _train_seeds(config: TrainConfig, output: Output, display: Any, stream: TextIO) -> int:
    """Train all seeds and say how they ended; returns the exit code. TrainError, in the end, where some failed."""
    from polystep_rl.errors import TrainError
    from polystep_rl.runs.opening import Destination
    from polystep_rl.runs.seeds import train_each
    from polystep_rl.runs.summary import told

    seeds = parse_seeds(output.seeds or "")
    ended: dict[int, dict[str, Any]] = {}
    failed: dict[int, str] = {}

    def report(own: TrainConfig, found: dict[str, Any] | TrainError) -> None:
        if isinstance(found, TrainError):
            failed[own.seed] = str(found)
            return
        ended[own.seed] = found
        if found["stopped_by"] == "interrupt":
            print(f"seed {own.seed} interrupted; {_how_to_go_on(own, found)}", file=sys.stderr)
        if not output.json and not output.quiet:
            print(told(found), file=stream)

    def note(text: str) -> None:
        if not output.quiet:
            print(text, file=stream)

    interrupted = train_each(config, seeds, Destination(runs=output.runs), display, report, note)
    _conclude({seed: ended[seed] for seed in seeds if seed in ended}, failed, output, stream)
    return 130 if interrupted else 0


def _conclude(ended: dict[int, dict[str, Any]], failed: dict[int, str], output: Output, stream: TextIO) -> None:
    """Print the last line of standard output. TrainError where seeds failed."""
    import numpy as np

    from polystep_rl.errors import TrainError

    returns = [summary["eval"]["mean_return"] for summary in ended.values()]
    mean = float(np.mean(returns)) if returns else None
    if output.json:
        print_json(
            {
                "runs": [{"seed": seed, **summary} for seed, summary in ended.items()],
                "failed": [{"seed": seed, "error": error} for seed, error in failed.items()],
                "mean_return": mean,
                "worst_return": min(returns, default=None),
            }
        )
    elif returns and not output.quiet:
        print(f"{len(returns)} seeds: mean return {mean:.2f}, worst {min(returns):.2f}", file=stream)
    if failed:
        raise TrainError("; ".join(f"seed {seed}: {error}" for seed, error in failed.items()))
