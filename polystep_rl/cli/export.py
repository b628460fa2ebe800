"""``polystep-rl export RUN --to bundle|c|onnx|qonnx|web``."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from polystep_rl.cli.options import parse_options, print_json
from polystep_rl.deploy.trained import read
from polystep_rl.errors import ConfigError
from polystep_rl.machine import setup_jax


@dataclass(frozen=True)
class ExportArgs:
    """Write a trained policy as C99, as ONNX, as a web page, or as a bundle of them that proves itself."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder, or a policy file; with --policy also a model of Stable-Baselines3 (.zip) or a foreign MLP."""
    to: Literal["bundle", "c", "onnx", "qonnx", "web"] = "bundle"
    """bundle: C, ONNX, description, test vectors and report; c: header and source; onnx: one graph; qonnx: for FPGA
    tools, with Quant and BipolarQuant nodes; web: one HTML file in which a CartPole policy plays."""
    out: Path | None = None
    """Folder to write to; by default a folder with the name of the format in the run folder, or beside the file."""
    name: str = "policy"
    """Prefix of the functions in C; policies of different names link into one program."""
    which: Literal["best", "last"] | None = None
    """The best policy by held-out evaluation during training, or the last; by default the one that the run deploys."""
    policy: Annotated[Literal["int8", "binary"] | None, tyro.conf.arg(aliases=("--precision",))] = None
    """Quantise a float32 policy to this first, calibrated on episodes of --env that it plays."""
    env: str | None = None
    """The environment of a policy that does not say so itself."""
    episodes: int = 100
    """Episodes that the return in a bundle is the mean of."""
    json: bool = False
    """Print one JSON object as the last line of standard output, and nothing else there."""


def run(argv: list[str]) -> int:
    """Entry point; returns the exit code."""
    args = parse_options(ExportArgs, "export", argv)
    from polystep_rl.deploy import write as deployment
    from polystep_rl.policies.export.c import check_name

    setup_jax()
    try:
        check_name(args.name)
    except ValueError as error:
        raise ConfigError(f"--{error}") from None
    if args.episodes < 1:
        raise ConfigError(f"--episodes {args.episodes}: expected at least 1")
    given = read(args.run, args.which, args.policy, args.env)
    folder = args.out or _default_folder(args.run, args.to)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--out {folder}: is a file; expected a folder")
    folder.mkdir(parents=True, exist_ok=True)
    writers: dict[str, Callable[..., dict[str, Any]]] = {
        "bundle": functools.partial(deployment.write_bundle, episodes=args.episodes),
        "c": deployment.write_c,
        "onnx": deployment.write_onnx,
        "qonnx": deployment.write_qonnx,
        "web": deployment.write_web,
    }
    try:
        found = writers[args.to](given, folder, args.name)
    except ModuleNotFoundError as error:
        raise ConfigError(f"--to {args.to} needs {error.name}: pip install 'polystep-rl[export]'") from None
    if args.json:
        print_json(found)
    else:
        print(f"{given.spec.precision} policy for {given.env_id or 'no known environment'} -> {folder}")
        for key, value in found.items():
            if key != "files":
                print(f"  {key:<20} {value}")
        print(f"  files                {', '.join(found['files'])}")
        if args.to == "bundle":
            print(f"next: polystep-rl verify {folder}")
    return 0


def _default_folder(run: Path, to: str) -> Path:
    return run / to if run.is_dir() else run.parent / f"{run.stem}_{to}"
