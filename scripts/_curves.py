"""Learning curves of runs in the look of the project's other figures. Needs matplotlib (the extra `play`)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from polystep_rl.analysis.figures import RC, WIDTH, save
from polystep_rl.analysis.palette import Style

Curve = tuple[np.ndarray, np.ndarray]  # x (k,) and y (k,)


@contextlib.contextmanager
def panels(
    titles: Sequence[str],
    stem: Path,
    x: str,
    y: str,
    size: tuple[float, float] = (WIDTH, 3.4),
    legend: float | None = None,
    **shared: Any,
) -> Iterator[list[Axes]]:
    """A row of axes to draw in, which is then written to ``stem.svg`` and ``stem.png``.

    Args:
        titles: one for each of them.
        stem: where to write, without suffix; folders are made.
        x: label below all of them.
        y: label of the first.
        size: of the figure, in inches.
        legend: size of its letters, in points; None is that of the other figures.
        shared: as in ``Figure.subplots``, such as ``sharey``.
    """
    with matplotlib.style.context("default"), matplotlib.rc_context(RC):
        figure = Figure(figsize=size, layout="constrained")
        [row] = figure.subplots(1, len(titles), squeeze=False, **shared)
        for axes, title in zip(row, titles, strict=True):
            axes.set_title(title)
        yield list(row)
        for axes in row:
            axes.legend(frameon=False, fontsize=legend)
        row[0].set_ylabel(y)
        figure.supxlabel(x, fontsize=10)
        save(figure, stem)


def logarithmic(axes: Axes) -> None:
    """Env steps by their order of magnitude: 10k, 100k, 1M."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(numticks=5))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_minor_formatter(NullFormatter())


def draw(axes: Axes, label: str, look: Style, middle: Curve, seeds: Sequence[Curve] = ()) -> None:
    """A thick line through the middle of some runs, each of which is a thin one."""
    for steps, values in seeds:
        axes.plot(steps, values, color=look.color, lw=0.7, alpha=0.5)
    axes.plot(*middle, color=look.color, linestyle=look.linestyle, label=label)
