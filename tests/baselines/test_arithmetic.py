"""The constants that baselines repeat, because they do not import policies, are those of the policies."""

from polystep_rl.baselines import arithmetic as static
from polystep_rl.policies import mlp, precision
from polystep_rl.types import PolicySpec


def test_the_constants_are_those_of_the_policies():
    assert (static.QMAX, static.INPUT_UNIT, static.WEIGHT_UNIT, static.INPUT_LIMIT) == (
        precision.QMAX,
        precision.INPUT_UNIT,
        precision.WEIGHT_UNIT,
        mlp.INPUT_LIMIT,
    )
    spec = PolicySpec(4, (16, 8), "int8", "discrete", 3, (), (), (0.0,) * 4, (1.0,) * 4)
    assert static.layer_sizes(spec) == precision.layer_sizes(spec)
