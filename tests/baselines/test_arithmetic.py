"""Baselines do not import policies: what they repeat of them is the same."""

from polystep_rl.baselines import arithmetic as static
from polystep_rl.policies import mlp, precision
from polystep_rl.types import PolicySpec


def test_what_baselines_repeat_is_that_of_the_policies():
    assert static.INPUT_LIMIT == mlp.INPUT_LIMIT
    spec = PolicySpec(4, (16, 8), "int8", "discrete", 3, (), (), (0.0,) * 4, (1.0,) * 4)
    assert static.layer_sizes(spec) == precision.layer_sizes(spec)
