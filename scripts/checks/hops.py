"""Counts the functions and files of ours between `polystep_rl.train` and the first `env.step` of a training rollout.

    python scripts/checks/hops.py

Frames are those that are on the stack when the environment is stepped, from `train` to the function that calls `step`.
Files are all that ran between the call and that step: settings, parts, search and policy included.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import Any

import polystep_rl
from polystep_rl.envs.classic.cartpole import CartPole

PACKAGE = Path(polystep_rl.__file__).resolve().parent
ROOTS = (
    PACKAGE,
    *(PACKAGE.parent / name for name in ("envs", "policies", "baselines")),
)  # in a checkout, and installed


class Arrived(BaseException):
    """The environment was stepped."""


def is_ours(frame: FrameType) -> bool:
    """Whether a function of the package runs in this frame."""
    path = Path(frame.f_code.co_filename)
    return any(path.is_relative_to(root) for root in ROOTS)


def stack() -> list[str]:
    """Our functions on the stack, outermost first."""
    frame, found = sys._getframe(1), []
    while frame is not None:
        if is_ours(frame):
            found.append(f"{Path(frame.f_code.co_filename).stem}.{frame.f_code.co_qualname}")
        frame = frame.f_back
    return found[::-1]


def main() -> None:
    files: set[str] = set()

    def heard(frame: FrameType, event: str, arg: Any) -> None:
        if event == "call" and frame.f_code.co_flags & inspect.CO_OPTIMIZED and is_ours(frame):  # no import
            files.add(frame.f_code.co_filename)

    def step(self: CartPole, state: Any, action: Any) -> Any:
        frames = stack()
        if not any(name.startswith("population.rollout") for name in frames):
            return honest(self, state, action)  # input scales are measured first
        sys.setprofile(None)
        raise Arrived(frames[frames.index("train.train") :])

    config = dataclasses.replace(polystep_rl.preset("CartPole-v1", "binary"), generations=1)
    honest = CartPole.step
    with tempfile.TemporaryDirectory() as folder:
        CartPole.step = step  # type: ignore[method-assign]
        sys.setprofile(heard)
        try:
            polystep_rl.train(config, run_dir=f"{folder}/run", quiet=True)
        except Arrived as arrived:
            frames = arrived.args[0]
        finally:
            sys.setprofile(None)
            CartPole.step = honest  # type: ignore[method-assign]
    print("\n".join(frames))
    print(f"{len(frames)} frames in {len({name.split('.')[0] for name in frames})} files; {len(files)} files ran:")
    print(*sorted(Path(file).stem for file in files))


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    main()
