"""Reading the flags of a command: tyro, with errors on one line."""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
from collections.abc import Sequence
from typing import Any, TypeVar

import tyro

from polystep_rl.errors import ConfigError
from polystep_rl.files import finite
from polystep_rl.types import MAX_SEED

T = TypeVar("T")

MOST_SEEDS = 10_000  # of one command

FRAME = re.compile(r"\x1b\[[0-9;]*m|^[╭╰].*$|^│ ?| *│$", re.MULTILINE)
RULE = re.compile(r"^ *(?:─+|-{3,}) *$", re.MULTILINE)  # hyphens where the terminal has no Unicode


def parse_options(
    cls: type[T],
    command: str,
    argv: Sequence[str],
    markers: Sequence[Any] = (tyro.conf.FlagCreatePairsOff,),
    default: T | None = None,
) -> T:
    """The dataclass `cls` from command-line flags. Raises ConfigError, in one line, for what does not parse."""
    prog = f"polystep-rl {command}"
    printed = io.StringIO()
    given: dict[str, Any] = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(printed):
            return tyro.cli(cls, prog=prog, args=list(argv), config=tuple(markers), **given)
    except SystemExit as stop:
        if not stop.code:  # --help
            raise
        if isinstance(error := _cause(stop), ConfigError):  # the settings themselves say what is wrong
            raise error from None
        raise ConfigError(f"{one_line(printed.getvalue())} (see {prog} --help)") from None


def _cause(error: BaseException) -> BaseException:
    """The first of the exceptions that led to this one."""
    while error.__context__ is not None:
        error = error.__context__
    return error


def one_line(box: str) -> str:
    """The error that tyro prints in a box, in one line, with the names of the options that it suggests."""
    framed = "╭" in box
    blocks = [block for block in RULE.split(FRAME.sub("", box)) if block.strip()]
    error, *rest = blocks if framed or len(blocks) < 2 else blocks[1:]  # without a frame, the title is a block
    said = " ".join(error.split())
    for block in rest:
        names = dict.fromkeys(re.findall(r"^ +(--[\w-]+)", block, re.MULTILINE))
        if "erhaps you meant" in block and names:
            return f"{said}; did you mean {' or '.join(names)}?"
    return said


def parse_seeds(text: str) -> list[int]:
    """The seeds of ``0,3,7-9``: [0, 3, 7, 8, 9]. ConfigError, in one line, for anything else."""
    expected = f"--seeds {text}: expected such as 0-9 or 0,3,7-9"
    seeds: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"([0-9]{1,10})(?:-([0-9]{1,10}))?", part.strip(), re.ASCII)
        if found is None:
            raise ConfigError(expected)
        first, last = int(found[1]), int(found[2] or found[1])
        if last < first:
            raise ConfigError(expected)
        if last > MAX_SEED:
            raise ConfigError(f"{expected}, of at most {MAX_SEED}")
        if len(seeds) + last - first >= MOST_SEEDS:
            raise ConfigError(f"{expected}, at most {MOST_SEEDS:,} of them")
        seeds += range(first, last + 1)
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"{expected}, each of them once")
    return seeds


def print_json(value: dict[str, Any]) -> None:
    """One JSON object as the last line of standard output."""
    sys.stdout.write(json.dumps(finite(value)) + "\n")
    sys.stdout.flush()
