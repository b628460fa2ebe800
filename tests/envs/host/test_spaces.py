"""Spaces of Gymnasium as a policy sees them: nothing lost on the way in, nothing out of bounds on the way out."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from polystep_rl.envs.host.spaces import flat_observations, policy_actions

OBSERVATIONS = {
    "box": spaces.Box(-1, 1, (3,), np.float32),
    "box64": spaces.Box(-np.inf, np.inf, (2,), np.float64),
    "scalar": spaces.Box(0, 1, (), np.float32),
    "image": spaces.Box(0, 255, (2, 3, 2), np.uint8),
    "discrete": spaces.Discrete(4, start=-1),
    "bits": spaces.MultiBinary((2, 2)),
    "many": spaces.MultiDiscrete([[2, 3], [1, 4]], start=[[0, 5], [1, -2]]),
    "dict": spaces.Dict({"b": spaces.Discrete(2), "a": spaces.Box(-1, 1, (2, 2))}),
    "nested": spaces.Tuple((spaces.Dict({"x": spaces.MultiBinary(3)}), spaces.Box(0, 9, (2,), np.int64))),
}


@pytest.mark.parametrize("space", OBSERVATIONS.values(), ids=OBSERVATIONS)
def test_observations_are_flattened_as_gymnasium_does(space):
    box, flatten = flat_observations(space)
    space.seed(0)
    for _ in range(20):
        sample = space.sample()
        row = flatten(sample)
        assert row.dtype == np.float32 and row.shape == box.shape and box.contains(row)
        assert np.array_equal(row, gymnasium.spaces.flatten(space, sample).astype(np.float32))


def test_order_of_a_nested_observation():
    space = spaces.Dict({"b": spaces.Discrete(3), "a": spaces.Tuple((spaces.Box(0, 9, (2, 2)), spaces.MultiBinary(1)))})
    assert list(space.spaces) == ["b", "a"] or list(space.spaces) == ["a", "b"]
    parts = {"a": [1, 2, 3, 4, 1], "b": [0, 0, 1]}
    row = flat_observations(space)[1]({"b": 2, "a": (np.array([[1, 2], [3, 4]], np.float32), np.array([1]))})
    assert row.tolist() == [number for key in space.spaces for number in parts[key]]


def test_bounds_beyond_float32_become_infinite_without_a_warning():
    box = flat_observations(spaces.Box(-np.finfo(np.float64).max, 1e300, (2,), np.float64))[0]
    assert np.isneginf(box.low).all() and np.isposinf(box.high).all()


def test_lists_and_other_dtypes_are_taken():
    flatten = flat_observations(spaces.Box(-1, 1, (2, 2)))[1]
    assert flatten([[0.5, 1], [0, -1]]).tolist() == [0.5, 1, 0, -1]
    assert np.array_equal(flatten(np.asfortranarray([[0.0, 1.0], [2.0, 3.0]])), [0, 1, 2, 3])


@pytest.mark.parametrize("space", ["box", "image", "bits"])
def test_an_observation_of_another_size_is_refused(space):
    with pytest.raises(ValueError, match=r"the observation has 1 numbers, the observation space \d+"):
        flat_observations(OBSERVATIONS[space])[1](np.zeros(1))


UNFIT = [
    spaces.Text(5),
    spaces.Graph(spaces.Box(0, 1, (2,)), None),
    spaces.Sequence(spaces.Discrete(2)),
    spaces.OneOf([spaces.Discrete(2), spaces.Box(0, 1, (2,))]),
]


@pytest.mark.parametrize("space", [*UNFIT, spaces.Dict({"a": spaces.Tuple((spaces.Discrete(2), UNFIT[0]))})])
def test_observations_without_a_fixed_size_are_refused_in_one_line(space):
    with pytest.raises(ValueError, match=r"cannot be flattened; expected Box, .*`wrapper`") as error:
        flat_observations(space)
    assert "\n" not in str(error.value)


ACTIONS = {
    "discrete": (spaces.Discrete(4), spaces.Discrete(4)),
    "shifted": (spaces.Discrete(3, start=-5), spaces.Discrete(3)),
    "box": (spaces.Box(-2, np.array([1, 2, 3], np.float32)), spaces.Box(-2, np.array([1, 2, 3], np.float32))),
    "box64": (spaces.Box(0.1, 0.3, (2, 2), np.float64), spaces.Box(0.1, 0.3, (4,), np.float32)),
    "scalar": (spaces.Box(-1, 1, ()), spaces.Box(-1, 1, (1,))),
    "integers": (spaces.Box(0, 255, (3,), np.uint8), spaces.Box(0, 255, (3,), np.float32)),
    "many": (spaces.MultiDiscrete([[2, 3]], start=[[1, 7]]), spaces.MultiDiscrete([2, 3])),
    "bits": (spaces.MultiBinary((2, 2)), spaces.MultiDiscrete([2, 2, 2, 2])),
}


@pytest.mark.parametrize("own, expected", ACTIONS.values(), ids=ACTIONS)
def test_every_action_of_a_policy_is_one_of_the_environment(own, expected):
    space, convert = policy_actions(own)
    assert space == expected
    space.seed(0)
    samples = [space.sample() for _ in range(20)]
    batch = np.array(samples, np.float32 if isinstance(space, spaces.Box) else np.int32)
    together = convert(batch)
    for sample, row in zip(batch, together, strict=True):
        action = convert(sample)
        assert own.contains(action) and own.contains(np.asarray(row) if isinstance(own, spaces.Box) else row)
        assert action.dtype == own.dtype and np.array_equal(action, row)


@pytest.mark.parametrize("name", ["box", "box64", "scalar", "integers"])
def test_what_a_network_may_give_ends_in_the_box(name):
    own = ACTIONS[name][0]
    space, convert = policy_actions(own)
    wild = np.array([-np.inf, -1e30, 0, 1e30, np.inf], np.float32)
    for value in wild:
        assert own.contains(convert(np.full(space.shape, value, np.float32)))
    middle = convert(np.full(space.shape, np.nan, np.float32))
    assert own.contains(middle)
    expected = own.low.astype(np.float64) / 2 + own.high.astype(np.float64) / 2
    assert np.allclose(middle, np.rint(expected) if own.dtype == np.uint8 else expected)


def test_one_nan_leaves_the_other_numbers_alone():
    convert = policy_actions(spaces.Box(-1, 3, (3,)))[1]
    assert convert(np.array([0.5, np.nan, 9], np.float32)).tolist() == [0.5, 1, 3]


def test_actions_inside_the_box_are_passed_on_bit_for_bit():
    actions = np.random.default_rng(0).uniform(-1, 1, (50, 3)).astype(np.float32)
    assert np.array_equal(policy_actions(spaces.Box(-1, 1, (3,)))[1](actions), actions)


def test_offsets_and_shapes():
    assert policy_actions(spaces.Discrete(3, start=-5))[1](np.int32(2)) == -3
    assert policy_actions(ACTIONS["many"][0])[1](np.array([1, 2], np.int32)).tolist() == [[2, 9]]


def test_converted_actions_are_new_arrays():
    """An environment may keep them, and the memory they came from is overwritten in the next tick."""
    for own, _ in ACTIONS.values():
        space, convert = policy_actions(own)
        batch = np.array([space.sample()], np.float32 if isinstance(space, spaces.Box) else np.int32)
        assert not np.shares_memory(convert(batch), batch)


@pytest.mark.parametrize("space", [*UNFIT, spaces.Dict({"a": spaces.Discrete(2)}), spaces.Tuple([spaces.Discrete(2)])])
def test_other_action_spaces_are_refused_in_one_line(space):
    with pytest.raises(ValueError, match=r"expected Discrete, a bounded Box, .*`wrapper`") as error:
        policy_actions(space)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("low, high", [(-np.inf, np.inf), (0, np.inf), (-1e300, 1e300)])
def test_a_box_without_bounds_is_refused_in_one_line(low, high):
    with pytest.raises(ValueError, match=r"is not bounded; .*ActionWrapper") as error:
        policy_actions(spaces.Box(low, high, (30,), np.float64))
    assert "\n" not in str(error.value)
