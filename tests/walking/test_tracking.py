"""What a walking policy is judged by."""

import numpy as np
import pytest

from polystep_rl.rollout.recording import Recorded
from polystep_rl.walking.tracking import AXES, DIRECTIONS, direction, tracking


def recorded(command, velocity, alive=None, fell=None):
    """Commands and velocities (t, n, 3)."""
    t, n = command.shape[:2]
    alive = np.ones((t, n), bool) if alive is None else alive
    metrics = {
        f"{kind}_{axis}": np.where(alive, values[..., i], 0)
        for kind, values in (("command", command), ("velocity", velocity))
        for i, axis in enumerate(AXES)
    }
    return Recorded(alive, np.where(alive, 0.5, 0), np.zeros(n, bool) if fell is None else fell, metrics)


def commands(*rows, t=10):
    return np.tile(np.array(rows, float), (t, 1, 1))


FIVE = commands([0, 0, 0], [1, 0, 0], [-1, 0, 0], [0, 0.5, 0], [0, 0, 1])


def test_a_command_is_named_by_what_it_mostly_asks_for():
    named = [DIRECTIONS[i] for i in direction(FIVE[0], np.array([1, 0.5, 1]))]
    assert named == ["stand", "forward", "backward", "sideways", "turn"]
    mixed = np.array([[0.4, 0.25, 0], [0.6, 0.25, 0.5], [0.005, 0, 0]])
    assert [DIRECTIONS[i] for i in direction(mixed, np.array([1, 0.5, 1]))] == ["sideways", "forward", "stand"]


def test_perfect_tracking_has_no_error():
    report = tracking(recorded(FIVE, FIVE), 0.02)
    for name in DIRECTIONS:
        assert report["directions"][name] == {"seconds": pytest.approx(0.2), "linear_error": 0.0, "yaw_error": 0.0}
    assert report["mean_return"] == 5.0 and report["mean_length"] == 10.0 and report["fall_rate"] == 0.0


def test_errors_are_root_mean_squares_in_their_units():
    off = FIVE + np.array([0.3, -0.4, 0.2])
    for errors in tracking(recorded(FIVE, off), 0.02)["directions"].values():
        assert errors["linear_error"] == pytest.approx(0.5) and errors["yaw_error"] == pytest.approx(0.2)


def test_only_living_steps_count():
    alive = np.ones((10, 5), bool)
    alive[5:, 1] = False
    wrong = FIVE.copy()
    wrong[5:, 1] += 100
    report = tracking(recorded(FIVE, wrong, alive, np.arange(5) == 1), 0.02)
    assert report["directions"]["forward"] == {"seconds": pytest.approx(0.1), "linear_error": 0.0, "yaw_error": 0.0}
    assert report["fall_rate"] == 0.2 and report["mean_length"] == 9.0
    low, high = report["mean_length_interval"]
    assert 5 < low < 9 < high <= 10


def test_a_direction_that_was_never_commanded_has_no_error():
    report = tracking(recorded(FIVE[:, :1], FIVE[:, :1]), 0.02)
    assert report["directions"]["turn"] == {"seconds": 0.0, "linear_error": None, "yaw_error": None}


def test_an_environment_that_measures_nothing_is_refused():
    with pytest.raises(ValueError, match="has no command_x"):
        tracking(Recorded(np.ones((2, 1), bool), np.ones((2, 1)), np.zeros(1, bool), {}), 0.02)


def test_the_terms_of_the_reward_add_up():
    found = recorded(FIVE, FIVE)
    terms = {"reward/up": np.full((10, 5), 20.0), "reward/down": np.full((10, 5), -5.0)}
    report = tracking(found._replace(metrics=found.metrics | terms), 0.02)
    assert report["reward_terms"] == {"up": pytest.approx(4.0), "down": pytest.approx(-1.0)}
    assert tracking(found, 0.02)["reward_terms"] == {}
