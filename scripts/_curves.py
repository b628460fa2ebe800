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

from polystep_rl.analysis.figures import RC, WIDTH, save
from polystep_rl.analysis.palette import Style

Curve = tuple[np.ndarray, np.ndarray]  # x (k,) and y (k,)


@contextlib.contextmanager
def panels(
    titles: Sequence[str], stem: Path, x: str, y: str, size: tuple[float, float] = (WIDTH, 3.4), **shared: Any
) -> Iterator[list[Axes]]:
    """A row of axes to draw in, which is then written to ``stem.svg`` and ``stem.png``; sizes in inches."""
    with matplotlib.style.context("default"), matplotlib.rc_context(RC):
        figure = Figure(figsize=size, layout="constrained")
        [row] = figure.subplots(1, len(titles), squeeze=False, **shared)
        for axes, title in zip(row, titles, strict=True):
            axes.set_title(title)
        yield list(row)
        for axes in row:
            axes.legend(frameon=False)
        row[0].set_ylabel(y)
        figure.supxlabel(x, fontsize=10)
        save(figure, stem)


def draw(axes: Axes, label: str, look: Style, middle: Curve, seeds: Sequence[Curve] = ()) -> None:
    """A thick line through the middle of some runs, each of which is a thin one."""
    for steps, values in seeds:
        axes.plot(steps, values, color=look.color, lw=0.7, alpha=0.5)
    axes.plot(*middle, color=look.color, linestyle=look.linestyle, label=label)
