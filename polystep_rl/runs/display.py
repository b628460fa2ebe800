"""Shows how a run stands while it goes on: lines in a log, or a bar in a terminal or a notebook."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

LINE_SECONDS = 0.5  # between two lines

Display = Callable[[str, int, bool], None]  # (line, env steps so far, whether it tells of an evaluation)


class Lines:
    """Prints a line for every evaluation, and one now and then in between; several runs may share it."""

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(file=stream, highlight=False, soft_wrap=True)
        self._shown = 0.0

    def __call__(self, line: str, env_steps: int, evaluated: bool) -> None:
        now = time.perf_counter()
        if evaluated or now - self._shown > LINE_SECONDS:
            self._shown = now
            self._console.print(line)


def silent(line: str, env_steps: int, evaluated: bool) -> None:
    """Shows nothing."""


@contextmanager
def shown(total: int | None, quiet: bool) -> Iterator[Display]:
    """A display that suits where it is read: a bar in a terminal or a notebook, lines on standard error elsewhere.

    Args:
        total: budget in env steps, None where there is none.
        quiet: whether to show nothing.
    """
    console = Console(stderr=not _in_notebook(), highlight=False)
    if quiet:
        yield silent
    elif not (console.is_terminal or console.is_jupyter):
        yield Lines(sys.stderr)
    else:
        columns = (BarColumn(), TaskProgressColumn(), TextColumn("{task.description}"))
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task("", total=total)
            yield lambda line, env_steps, _: bar.update(task, description=line, completed=env_steps)


def _in_notebook() -> bool:
    return Console().is_jupyter
