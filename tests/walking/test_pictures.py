"""A walking robot shown at fixed commands."""

import numpy as np
import pytest

from polystep_rl.rollout.recording import Recorded
from polystep_rl.walking.pictures import COMMANDS, Look, film, obeying, velocities
from polystep_rl.walking.tracking import AXES


def recorded(command, lengths, t=20):
    """Episodes of the given lengths under one command, tracked with an error of 0.1; the last one was told nothing."""
    n = len(lengths)
    alive = np.arange(t)[:, None] < np.array(lengths)
    metrics = {}
    for axis, value in zip(AXES, command, strict=True):
        given = np.full((t, n), value)
        given[:, -1] = 0.0
        metrics[f"command_{axis}"] = np.where(alive, given, 0)
        metrics[f"velocity_{axis}"] = np.where(alive, given + 0.1, 0)
    return Recorded(alive, np.zeros((t, n)), np.array(lengths) < t, metrics)


def test_episodes_that_were_told_something_else_are_left_out():
    found = recorded(COMMANDS["forward"], (20, 5, 20))
    assert obeying(found, COMMANDS["forward"]).tolist() == [0, 1]
    assert obeying(found, COMMANDS["stand"]).tolist() == [2]


def test_the_figure_has_what_was_commanded_and_measured(tmp_path, monkeypatch):
    from polystep_rl.analysis import figures

    kept = []
    save = figures.save
    monkeypatch.setattr(figures, "save", lambda figure, stem: kept.append(figure) or save(figure, stem))
    shown = {name: recorded(command, (20, 10, 4)).only(np.arange(2)) for name, command in COMMANDS.items()}
    paths = velocities(shown, tmp_path / "folder" / "tracking", 0.5, 8.0)  # 16 of 20 steps
    assert [path.name for path in paths] == ["tracking.svg", "tracking.png"] and all(p.stat().st_size for p in paths)
    grid = np.array(kept[0].axes).reshape(4, 5)
    for column, (name, command) in zip(grid.T, COMMANDS.items(), strict=True):
        assert column[0].get_title() == f"{name} (2)"
        for axes, value in zip(column, command, strict=False):
            measured, given = axes.get_lines()
            np.testing.assert_allclose(measured.get_ydata(), np.full(16, value + 0.1))
            np.testing.assert_allclose(given.get_ydata(), np.full(16, value))
            assert measured.get_xdata()[-1] == 8.0
        np.testing.assert_allclose(column[3].get_lines()[0].get_ydata(), [1.0] * 10 + [0.5] * 6)


def test_nobody_is_left(tmp_path):
    """Episodes that all end early are drawn for as long as they last."""
    shown = {"stand": recorded((0, 0, 0), (3, 2), t=3)}
    assert len(velocities(shown, tmp_path / "short", 0.1, 5.0)) == 2


def test_a_film_shows_robots_side_by_side():
    mujoco = pytest.importorskip("mujoco")
    model = mujoco.MjModel.from_xml_string(
        """<mujoco><worldbody><light pos="0 0 3"/><body><freejoint/><geom size="0.3" rgba="1 0 0 1"/></body></worldbody>
        </mujoco>"""
    )
    still = np.tile([0.0, 0.0, 0.65, 1.0, 0.0, 0.0, 0.0], (10, 1))
    rising = still + np.linspace(0, 0.5, 10)[:, None] * np.eye(7)[2]
    try:
        frames = film(model, {"a": still, "b": rising[:4]}, Look(width=200, every=2, steps=8))
    except ValueError as error:
        assert "MUJOCO_GL" in str(error)
        pytest.skip("nothing to render with")
    assert len(frames) == 4 and {frame.shape for frame in frames} == {(132, 200, 3)}
    left, right = ([frame[:, part].astype(int) for frame in frames] for part in (slice(100), slice(100, 200)))
    assert all((one == left[0]).all() for one in left)
    assert (right[0] != right[1]).any() and (right[2] == right[3]).all()

    def colourful(picture):
        return (np.ptp(picture, axis=-1) > 60).any()

    assert all(map(colourful, (*left, *right[:2]))) and not any(map(colourful, right[2:]))
