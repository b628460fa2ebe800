"""Figures are written, the same every time, and one algorithm looks the same everywhere."""

import itertools
import xml.etree.ElementTree as ET

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from polystep_rl.analysis import figures, palette

DRAW = [figures.learning_curves, figures.bars, figures.profiles]


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch):
    monkeypatch.setattr(figures, "REPS", 40)


@pytest.fixture(scope="module")
def runs(results_factory):
    return results_factory(algos=("polystep", "open_es", "ppo-ste"), policies=("float32", "binary"), seeds=4)["runs"]


def svg_text(paths):
    return paths[0].read_text(encoding="utf-8")


# --- files -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("draw", DRAW)
def test_svg_and_png_are_written(draw, runs, tmp_path):
    svg, png = draw(runs, tmp_path / "new" / "folder" / "name.v1")
    assert (svg.name, png.name) == ("name.v1.svg", "name.v1.png")
    width = int.from_bytes(png.read_bytes()[16:20])
    assert width == 2 * 900  # a README's width on a dense screen
    root = ET.parse(svg).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert float(root.get("width").removesuffix("pt")) == 9 * 72


@pytest.mark.parametrize("draw", DRAW)
def test_svg_is_deterministic(draw, runs, tmp_path):
    first, second = (draw(some, tmp_path / name) for some, name in ((runs, "a"), (list(reversed(runs)), "b")))
    assert first[0].read_bytes() == second[0].read_bytes()  # of the runs' order, either
    assert "<dc:date>" not in svg_text(first)


@pytest.mark.parametrize("draw", DRAW)
def test_the_last_bits_of_the_layout_change_nothing(draw, runs, tmp_path, monkeypatch):
    """The solver of the layout orders by address: its results differ by 1e-16 from one draw to the next."""
    before = draw(runs[:8], tmp_path / "a")
    layout = Figure.draw_without_rendering

    def other_bits(figure):
        layout(figure)
        for part in figure.subfigs:
            part.bbox_relative.set_points(part.bbox_relative.get_points() + 1e-15)
        for axes in figure.axes:
            axes.set_position(Bbox(axes.get_position().get_points() + 1e-15))

    monkeypatch.setattr(Figure, "draw_without_rendering", other_bits)
    after = draw(runs[:8], tmp_path / "b")
    assert before[0].read_bytes() == after[0].read_bytes()


@pytest.mark.parametrize("draw", DRAW)
def test_a_style_sheet_of_the_user_changes_nothing(draw, runs, tmp_path):
    import matplotlib

    before = draw(runs[:8], tmp_path / "a")
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "text.parse_math": True}):
        after = draw(runs[:8], tmp_path / "b")
        assert matplotlib.rcParams["font.size"] == 30
    assert before[0].read_bytes() == after[0].read_bytes()


# --- runs that lack something ------------------------------------------------------------------------------------
@pytest.mark.parametrize("draw", DRAW)
def test_missing_curves_and_returns(draw, runs, tmp_path):
    odd = [dict(run) for run in runs]
    odd[0] |= {"curve": {"env_steps": [], "return": []}, "return": None}
    odd[1] |= {"curve": None, "return": float("nan")}
    del odd[2]["curve"], odd[2]["test_episodes"], odd[2]["return"]
    odd[3]["curve"] = {"env_steps": [10, 20, 20, None, 30], "return": [None, 1.0, 2.0, 3.0, None]}
    draw(odd, tmp_path / "odd")
    nothing = [{**run, "curve": None, "return": None} for run in runs[:5]]
    draw(nothing, tmp_path / "nothing")
    draw([run for run in runs if (run["env"], run["policy"]) != ("Acrobot-v1", "binary")], tmp_path / "hole")
    draw([{**runs[0], "curve": {"env_steps": [0], "return": [1.0]}}], tmp_path / "point")
    if draw is figures.learning_curves:
        draw([{**runs[0], "curve": {"env_steps": [5], "return": [1.0]}}], tmp_path / "log", log_x=True)
    draw([{**run, "return": 500.0} for run in runs[:4]], tmp_path / "equal")


@pytest.mark.parametrize("draw", DRAW)
def test_no_runs_is_an_error_of_one_line(draw, tmp_path):
    with pytest.raises(ValueError, match="no runs to draw"):
        draw([], tmp_path / "x")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("draw", DRAW)
def test_names_that_matplotlib_would_read_as_something_else(draw, runs, tmp_path):
    names = ["_hidden", r"$\bad$", "<script>", "two\nlines", "x" * 300]
    draw([{**runs[0], "algo": name, "env": name, "policy": name} for name in names], tmp_path / "odd")


# --- what is drawn -----------------------------------------------------------------------------------------------
def captured(monkeypatch, draw, runs, tmp_path):
    kept = []
    monkeypatch.setattr(figures, "save", lambda figure, stem: kept.append(figure) or [])
    draw(runs, tmp_path / "x")
    FigureCanvasAgg(kept[0]).draw()
    return kept[0]


def axes_of(figure):
    return {axes.get_title(): axes for axes in figure.axes}


def test_bars_show_the_iqm_from_the_left(monkeypatch, runs, tmp_path):
    from polystep_rl.analysis.stats import iqm

    panels = axes_of(captured(monkeypatch, figures.bars, runs, tmp_path))
    assert set(panels) == {
        f"{env}, {policy}" for env in ("Acrobot-v1", "CartPole-v1") for policy in ("float32", "binary")
    }
    for env in ("Acrobot-v1", "CartPole-v1"):
        axes = panels[f"{env}, binary"]
        ends = [bar.get_x() + bar.get_width() for bar in axes.patches]
        expected = [
            iqm([run["return"] for run in runs if (run["env"], run["policy"], run["algo"]) == (env, "binary", algo)])
            for algo in ("polystep", "open_es", "ppo-ste")
        ]
        np.testing.assert_allclose(ends, expected)
        assert {bar.get_x() for bar in axes.patches} == {axes.get_xlim()[0]}
        assert (axes.get_xlim()[0] == 0) == (env == "CartPole-v1")


def test_curves_are_the_band_of_stats(monkeypatch, runs, tmp_path):
    from polystep_rl.analysis.stats import curve_band

    panel = axes_of(captured(monkeypatch, figures.learning_curves, runs, tmp_path))["CartPole-v1, binary"]
    (line,) = (line for line in panel.lines if line.get_color() == palette.style("open_es").color)
    curves = [
        (run["curve"]["env_steps"], run["curve"]["return"])
        for run in runs
        if (run["env"], run["policy"], run["algo"]) == ("CartPole-v1", "binary", "open_es")
    ]
    grid = line.get_xdata()
    assert grid[0] == min(steps[0] for steps, _ in curves) and grid[-1] == max(steps[-1] for steps, _ in curves)
    np.testing.assert_allclose(line.get_ydata(), curve_band(curves, grid, reps=1).value)


def test_log_axis_where_runs_end_early(monkeypatch, runs, tmp_path):
    early = [
        {**run, "curve": {**run["curve"], "env_steps": [step // 50 for step in run["curve"]["env_steps"]]}}
        if (run["env"], run["algo"]) == ("CartPole-v1", "polystep")
        else run
        for run in runs
    ]
    panels = axes_of(captured(monkeypatch, figures.learning_curves, early, tmp_path))
    assert panels["CartPole-v1, binary"].get_xscale() == "log"
    assert panels["Acrobot-v1, binary"].get_xscale() == "linear"


@pytest.mark.parametrize("draw", DRAW)
@pytest.mark.parametrize("policies", [("binary",), ("float32", "int8", "int8-act", "binary-act", "binary")])
def test_no_text_overlaps(draw, policies, monkeypatch, runs, tmp_path):
    algos = [*itertools.islice(palette.ALGO_STYLES, 12), "a_rather_long_name_of_one"]
    many = [
        {**run, "policy": policy, "algo": algo, "env": env}
        for (run, policy, algo), env in itertools.product(
            zip(itertools.cycle(runs[:3]), policies * len(algos), sorted(algos * len(policies)), strict=False),
            ("CartPole-v1", "MountainCarContinuous-v0"),
        )
    ]
    figure = captured(monkeypatch, draw, many, tmp_path)
    renderer = figure.canvas.get_renderer()
    panels = figure.subfigs[0] if figure.subfigs else figure
    texts = [panels._suptitle, panels._supxlabel, panels._supylabel]
    for axes in figure.axes:
        low, high = sorted(axes.get_xlim())
        inside = [
            label for at, label in zip(axes.get_xticks(), axes.get_xticklabels(), strict=True) if low <= at <= high
        ]
        texts += [axes.title, *inside]
        texts += axes.get_yticklabels() if axes.get_subplotspec().is_first_col() and draw is figures.bars else []
    texts += [text for legend in (figure.subfigs[1].legends if figure.subfigs else []) for text in legend.get_texts()]
    boxes = [
        (text.get_text(), text.get_window_extent(renderer)) for text in texts if text.get_text() and text.get_visible()
    ]
    assert len(boxes) > 10
    for name, box in boxes:
        assert box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y0 >= 0 and box.y1 <= figure.bbox.y1, name
    for (one, a), (other, b) in itertools.combinations(boxes, 2):
        assert not a.overlaps(b), (one, other)


# --- styles ------------------------------------------------------------------------------------------------------
def test_known_styles_differ_in_two_ways_at_least():
    known = palette.ALGO_STYLES
    assert len(known) >= 10
    for (one, a), (other, b) in itertools.combinations(known.items(), 2):
        differences = [a.color != b.color, a.dash != b.dash, a.marker != b.marker]
        assert sum(differences) >= 2, (one, other)
        assert a.hatch != b.hatch, (one, other)


def test_every_algorithm_of_the_package_has_its_own():
    from polystep_rl.settings.algorithms import ALGORITHMS

    assert set(ALGORITHMS) <= set(palette.ALGO_STYLES)


def test_style_depends_on_the_name_alone():
    assert figures.style("open_es") is figures.ALGO_STYLES["open_es"]
    assert palette.style("OPEN-ES") == palette.style("open_es")
    assert palette.style("ppo_ste") == palette.ALGO_STYLES["ppo-ste"]
    assert palette.style("SomeNew_ES") == palette.style("SomeNew_ES")
    assert palette.style("SomeNew_ES") != palette.style("SomeOther_ES")
    assert palette.style("SomeNew_ES") == palette.Style(palette.GREEN, palette.SOLID, "H", "*")  # in any process
    known = {look.marker for look in palette.ALGO_STYLES.values()}
    assert not {palette.style(f"new{i}").marker for i in range(50)} & known
    assert palette.style("\ud800") and palette.style("")


def test_orders():
    assert palette.algo_order(["zzz", "ppo", "aaa", "polystep", "ppo"]) == ["polystep", "ppo", "aaa", "zzz"]
    assert palette.precision_order(["binary", "odd", "float32", "int8"]) == ["float32", "int8", "binary", "odd"]


def test_every_marker_has_an_outline_of_about_one_unit():
    paths = {look.marker: palette.marker_path(look.marker) for look in palette.ALGO_STYLES.values()}
    assert len(set(paths.values())) == len(paths)
    for marker, path in paths.items():
        numbers = np.array([float(part) for part in path.replace("M", " ").replace("L", " ").replace("Z", "").split()
                            if not path.startswith("M-1 0A")])  # fmt: skip
        assert marker == "o" or 0.85 < np.abs(numbers).max() < 1.4
    assert palette.marker_path("8") != palette.marker_path("H") != palette.marker_path("o")


def test_a_style_is_the_same_in_every_figure(monkeypatch, runs, tmp_path):
    look = palette.style("ppo-ste")
    for draw in (figures.learning_curves, figures.profiles):
        lines = [line for axes in captured(monkeypatch, draw, runs, tmp_path).axes for line in axes.lines]
        assert {line.get_marker() for line in lines if line.get_color() == look.color} == {look.marker}
    bars = [bar for axes in captured(monkeypatch, figures.bars, runs, tmp_path).axes for bar in axes.patches]
    assert {bar.get_hatch() for bar in bars} == {"", "//", "++"}
