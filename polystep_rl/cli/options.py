"""Reading the flags of a command: tyro, with errors on one line."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Sequence
from typing import Any, TypeVar

import tyro

from polystep_rl.cli import UsageError

T = TypeVar("T")

FRAME = re.compile(r"\x1b\[[0-9;]*m|^[╭╰].*$|^│ ?| *│$", re.MULTILINE)
RULE = re.compile(r"^ *(?:─+|-{3,}) *$", re.MULTILINE)  # hyphens where the terminal has no Unicode


def parse_options(
    cls: type[T],
    command: str,
    argv: Sequence[str],
    markers: Sequence[Any] = (tyro.conf.FlagCreatePairsOff,),
    default: T | None = None,
) -> T:
    """The dataclass `cls` from command-line flags. Raises UsageError, in one line, for what does not parse."""
    prog = f"polystep-rl {command}"
    printed = io.StringIO()
    given: dict[str, Any] = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(printed):
            return tyro.cli(cls, prog=prog, args=list(argv), config=tuple(markers), **given)
    except SystemExit as stop:
        if not stop.code:  # --help
            raise
        raise UsageError(f"{one_line(printed.getvalue())} (see {prog} --help)") from None


def one_line(box: str) -> str:
    """What tyro prints in a box: the error itself and the names of the options that it suggests."""
    framed = "╭" in box
    blocks = [block for block in RULE.split(FRAME.sub("", box)) if block.strip()]
    error, *rest = blocks if framed or len(blocks) < 2 else blocks[1:]  # without a frame, the title is a block
    said = " ".join(error.split())
    for block in rest:
        names = dict.fromkeys(re.findall(r"^ +(--[\w-]+)", block, re.MULTILINE))
        if "erhaps you meant" in block and names:
            return f"{said}; did you mean {' or '.join(names)}?"
    return said
