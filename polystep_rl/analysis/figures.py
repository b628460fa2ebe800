"""Figures of a comparison: learning curves, final returns and performance profiles, each as SVG and PNG.

Every figure has a row of panels for each environment and a column for each precision, and an algorithm looks the
same in all of them (:mod:`polystep_rl.analysis.palette`). The same runs give the same bytes of SVG. Needs matplotlib,
which the extra `play` brings. The functions return the paths of the two files, SVG first.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter
from matplotlib.transforms import Bbox

from polystep_rl.analysis import stats
from polystep_rl.analysis.curves import common_grid, curve_points
from polystep_rl.analysis.palette import ALGO_STYLES, algo_order, precision_order, style

__all__ = ["ALGO_STYLES", "bars", "learning_curves", "profiles", "style"]

Run = Mapping[str, Any]
Cell = dict[str, list[Run]]  # the runs of one panel by algorithm

WIDTH = 9.0  # inches; at 100 dpi the width of a README
DPI = 200  # of the PNG: sharp on dense screens
REPS = 1000  # bootstrap resamples: a drawn line is coarser than what more of them would change
EVALUATION = "mean return in evaluations during training"
STEPS = "env steps (living, training)"
RC: Any = {
    "font.size": 9.5, "axes.titlesize": 10, "axes.labelsize": 10, "figure.titlesize": 11.5, "legend.fontsize": 9.5,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#E6E6E6",
    "axes.axisbelow": True, "lines.linewidth": 1.8, "lines.markersize": 5.5, "hatch.linewidth": 0.7,
    "text.parse_math": False,  # a dollar sign in a name is one
    "svg.hashsalt": "polystep_rl", "svg.fonttype": "path",  # the same bytes every time, the same look everywhere
}  # fmt: skip


def learning_curves(runs: Iterable[Run], path_stem: str | Path, *, log_x: bool | None = None) -> list[Path]:
    """IQM over the seeds of the deployed policy's return during training, with 95 % bootstrap bands.

    Args:
        runs: as in a results document; those without a curve are left out.
        path_stem: where to write, without suffix; folders are made.
        log_x: logarithmic env steps; by default where some runs end ten times as early as others.
    """

    def draw(axes: Axes, cell: Cell) -> bool:
        drawn = False
        for algo, members in reversed(cell.items()):  # the first algorithm lies on top
            curves = [curve for curve in map(_curve, members) if curve["env_steps"]]
            if not curves:
                continue
            grid = np.array(common_grid(curves, 100))
            band = stats.curve_band([(curve["env_steps"], curve["return"]) for curve in curves], grid, reps=REPS)
            _line(axes, algo, list(cell), grid, band.value)
            if len(curves) > 1:
                axes.fill_between(grid, band.low, band.high, color=style(algo).color, alpha=0.18, linewidth=0)
            drawn = True
        return drawn

    def finish(axes: Sequence[Axes], cells: Sequence[Cell]) -> None:
        members = [run for cell in cells for some in cell.values() for run in some]
        ends = [curve["env_steps"][-1] for curve in map(_curve, members) if curve["env_steps"]]
        starts = [steps[0] for steps in (_curve(run)["env_steps"] for run in members) if steps and steps[0] > 0]
        spread = bool(ends) and max(ends) > 10 * min(ends)
        logarithmic = bool(starts) and (spread if log_x is None else log_x)
        for one in axes:
            if logarithmic:
                one.set_xscale("log")
                one.set_xlim(min(starts), max(*ends, 1.1 * min(starts)))
                one.xaxis.set_major_locator(LogLocator(numticks=5))
                one.xaxis.set_minor_formatter(NullFormatter())
            else:
                one.set_xlim(0, (max(ends, default=0) or 1) * 1.02)
                one.xaxis.set_major_locator(_ticks(len(axes)))
            one.xaxis.set_major_formatter(EngFormatter(sep=""))

    runs = _in_order(runs)
    title = f"Learning curves: IQM over {_seeds(runs)} with 95 % bootstrap bands"
    return _figure(runs, path_stem, title, STEPS, EVALUATION, draw, finish)


def bars(runs: Iterable[Run], path_stem: str | Path) -> list[Path]:
    """IQM of the final return with its 95 % stratified bootstrap interval, and every seed as a dot.

    Where a return is negative, the bars start at the left edge instead of zero, so that longer is better everywhere.

    Args:
        runs: as in a results document; those without a return are left out.
        path_stem: where to write, without suffix; folders are made.
    """

    def draw(axes: Axes, cell: Cell) -> bool:
        found = [(place, algo, _returns(members)) for place, (algo, members) in enumerate(cell.items())]
        found = [(place, algo, scores) for place, algo, scores in found if len(scores)]
        for place, algo, scores in found:
            look, value = style(algo), stats.iqm(scores)
            axes.barh(place, value, 0.72, color=look.color, edgecolor="white", hatch=look.hatch, linewidth=0)
            if len(scores) > 1:
                low, high = stats.stratified_bootstrap(scores, stats.iqm)
                axes.hlines(place, low, high, color="white", linewidth=4.5, zorder=3)
                axes.hlines(place, low, high, color="black", linewidth=2, zorder=4)
            spread = 0.3 * ((np.arange(len(scores)) * 0.618) % 1 - 0.5) * 2  # dots beside, not upon each other
            axes.plot(scores, place + spread, "o", ms=3.4, mfc="white", mec="black", mew=0.6, alpha=0.8, zorder=5)
        return bool(found)

    def finish(axes: Sequence[Axes], cells: Sequence[Cell]) -> None:
        algos = algo_order(name for cell in cells for name in cell)
        everything = [_returns(members) for cell in cells for members in cell.values()]
        values = np.concatenate([*everything, np.zeros(0)])
        low, high = (values.min(), values.max()) if len(values) else (0.0, 1.0)
        low = min(0.0, low - 0.06 * (high - low))
        for one in axes:
            one.set_xlim(low, high + 0.04 * (high - low or 1.0))
            one.set_ylim(len(algos) - 0.4, -0.6)
            one.set_yticks(range(len(algos)), [_label(algo) for algo in algos])
            one.grid(axis="y", visible=False)
            one.tick_params(axis="y", length=0)
            one.xaxis.set_major_locator(_ticks(len(axes)))
            for bar in one.patches if low < 0 else []:
                if isinstance(bar, Rectangle):
                    bar.set_bounds(low, bar.get_y(), bar.get_x() + bar.get_width() - low, bar.get_height())

    runs = _in_order(runs)
    title = f"Final return: IQM over {_seeds(runs)}, 95 % stratified bootstrap interval, seeds as dots"
    label = _return_label(runs) + ("; bars start at the left edge" if (_returns(runs) < 0).any() else "")
    return _figure(runs, path_stem, title, label, "", draw, finish, legend=False)


def profiles(runs: Iterable[Run], path_stem: str | Path) -> list[Path]:
    """Performance profiles: the fraction of runs whose final return is above each threshold, with 95 % bands.

    Environments are not pooled, as their returns have no common unit, nor precisions, of which an algorithm may have
    only some.

    Args:
        runs: as in a results document; those without a return are left out.
        path_stem: where to write, without suffix; folders are made.
    """
    runs = _in_order(runs)
    ranges = {env: _returns(run for run in runs if _name(run, "env") == env) for env in _names(runs, "env")}

    def draw(axes: Axes, cell: Cell) -> bool:
        found = {algo: _returns(members) for algo, members in cell.items()}
        found = {algo: scores for algo, scores in found.items() if len(scores)}
        for algo, scores in reversed(found.items()):
            values = ranges[_name(cell[algo][0], "env")]
            edge = 0.03 * (values.max() - values.min()) or 1.0
            taus = np.linspace(values.min() - edge, values.max() + edge, 151)
            band = stats.performance_profile(scores, taus, reps=REPS)
            _line(axes, algo, list(cell), taus, band.value)
            if len(scores) > 1:
                axes.fill_between(taus, band.low, band.high, color=style(algo).color, alpha=0.13, linewidth=0)
        return bool(found)

    def finish(axes: Sequence[Axes], cells: Sequence[Cell]) -> None:
        for one in axes:
            one.set_ylim(-0.03, 1.03)
            one.margins(x=0)
            one.xaxis.set_major_locator(_ticks(len(axes)))

    title = f"Performance profiles of the final return over {_seeds(runs)}, with 95 % bootstrap bands"
    label = f"τ: {_return_label(runs)}"
    return _figure(runs, path_stem, title, label, "fraction of runs with return > τ", draw, finish)


# --- what the figures share --------------------------------------------------------------------------------------
def _figure(
    runs: Sequence[Run],
    path_stem: str | Path,
    title: str,
    x_label: str,
    y_label: str,
    draw: Callable[[Axes, Cell], bool],
    finish: Callable[[Sequence[Axes], Sequence[Cell]], None],
    legend: bool = True,
) -> list[Path]:
    """Panels, titles, labels, legend and files; ``draw`` fills a panel and ``finish`` sets the axes of a row."""
    if not runs:
        raise ValueError("no runs to draw: expected at least one")
    envs, policies = _names(runs, "env"), precision_order(_names(runs, "policy"))
    algos = algo_order(_names(runs, "algo"))
    height = 0.75 + max(1.6, 2.1 if legend else 0.55 + 0.235 * len(algos)) * len(envs)
    size, room = (10.0, 30) if len(policies) < 4 else (8.5, 90 // len(policies))  # letters above a panel
    between = "\n" if max(map(len, envs)) + max(map(len, policies)) > 0.75 * room else ", "
    columns = 5 if max(map(len, algos)) <= 16 else 3  # of the legend
    below = 0.12 + 0.23 * math.ceil(len(algos) / columns) if legend else 0.0
    with matplotlib.style.context("default"), matplotlib.rc_context(RC):
        figure = Figure(figsize=(WIDTH, height + below), layout="constrained")
        panels: FigureBase = figure
        if legend:  # by itself, as it would lie on the label of the x axes
            [[panels], [rest]] = figure.subfigures(2, 1, squeeze=False, height_ratios=[height, below])
            order = [algo for column in range(columns) for algo in algos[column::columns]]  # is filled by columns
            handles, labels = [_handle(algo) for algo in order], [_label(algo) for algo in order]
            rest.legend(handles, labels, loc="center", ncols=columns, frameon=False, handlelength=3.6)
        grid = panels.subplots(len(envs), len(policies), squeeze=False, sharey="row", sharex="row")
        for row, env in zip(grid, envs, strict=True):
            cells = []
            for axes, policy in zip(row, policies, strict=True):
                members = [run for run in runs if (_name(run, "env"), _name(run, "policy")) == (env, policy)]
                # Every panel of a row has the places of all the row's algorithms.
                names = algo_order(_name(run, "algo") for run in runs if _name(run, "env") == env)
                cell = {algo: [run for run in members if _name(run, "algo") == algo] for algo in names}
                cells.append(cell)
                axes.set_title(between.join((_label(env, room), _label(policy, room))), fontsize=size)
                if not draw(axes, cell):
                    axes.text(0.5, 0.5, "no data", transform=axes.transAxes, ha="center", va="center", color="#777777")
            finish(row, cells)
        panels.suptitle(title)
        panels.supxlabel(x_label, fontsize=10)
        panels.supylabel(y_label, fontsize=10)
        return save(figure, Path(path_stem))


def save(figure: Figure, stem: Path) -> list[Path]:
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = [stem.with_name(stem.name + suffix) for suffix in (".svg", ".png")]
    _settle(figure)
    figure.savefig(paths[0], metadata={"Date": None})
    figure.savefig(paths[1], dpi=DPI)
    return paths


def _settle(figure: Figure) -> None:
    """Lay out once and round: the layout's solver orders its variables by address, so its last bits differ by run."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for part in figure.subfigs:
        part.bbox_relative.set_points(np.round(part.bbox_relative.get_points(), 6))
    for axes in figure.axes:
        axes.set_position(Bbox(np.round(axes.get_position().get_points(), 6)))


def _ticks(panels: int) -> MaxNLocator:
    """Round numbers, as many as fit the width of one of so many panels."""
    return MaxNLocator(3 if panels > 3 else 5, steps=[1, 2, 5, 10])


def _line(axes: Axes, algo: str, algos: list[str], x: np.ndarray, y: np.ndarray) -> None:
    """A line with a few markers, at places that differ between the algorithms of a panel."""
    gap = max(1, len(x) // 5)
    start = gap * algos.index(algo) // len(algos) if len(x) > 5 else 0
    axes.plot(x, y, markevery=(start, gap), **_shape(algo))


def _handle(algo: str) -> Line2D:
    return Line2D([], [], **_shape(algo))


def _shape(algo: str) -> dict[str, Any]:
    look = style(algo)
    edge = {"markeredgecolor": "white", "markeredgewidth": 0.6}
    return {"color": look.color, "linestyle": look.linestyle, "marker": look.marker, **edge}


def _in_order(runs: Iterable[Run]) -> list[Run]:
    """Sorted, so that a figure does not depend on the order in which runs finished."""

    def key(run: Run) -> tuple[Any, ...]:
        *names, seed = (_name(run, key) for key in ("env", "policy", "algo", "seed"))
        return *names, len(seed), seed  # 9 before 10

    return sorted(runs, key=key)


def _name(run: Run, key: str) -> str:
    return "unknown" if run.get(key) is None else str(run[key])


def _names(runs: Iterable[Run], key: str) -> list[str]:
    return sorted({_name(run, key) for run in runs})


def _label(name: str, longest: int = 28) -> str:
    """A name as a label: one line, not too long, and not beginning with what matplotlib reads as "no label"."""
    text = " ".join(name.split())
    text = text if len(text) <= longest else text[: longest - 1] + "…"
    return f" {text}" if text.startswith("_") else text


def _curve(run: Run) -> dict[str, list[float]]:
    return curve_points(run.get("curve"))


def _returns(runs: Iterable[Run]) -> np.ndarray:
    """The final returns that there are."""
    values = (run.get("return") for run in runs)
    return np.array([value for value in values if value is not None and math.isfinite(value)], np.float64)


def _seeds(runs: Sequence[Run]) -> str:
    """How many seeds the cells of a comparison have, in words."""
    cells = Counter((_name(run, "env"), _name(run, "policy"), _name(run, "algo")) for run in runs)
    low, high = min(cells.values(), default=0), max(cells.values(), default=0)
    return f"{high} seed{'s' if high != 1 else ''}" if low == high else f"{low} to {high} seeds"


def _return_label(runs: Sequence[Run]) -> str:
    episodes = {run.get("test_episodes") for run in runs}
    number = f"{episodes.pop()} " if len(episodes) == 1 and None not in episodes else ""
    return f"mean return over {number}held-out episodes"
