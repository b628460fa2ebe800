"""The policies in NumPy are the policies in JAX: bit for bit with integers, to rounding with floats."""

import jax
import numpy as np
import pytest
from support.policies import observations, random_policy

from polystep_rl.policies import PRECISIONS, mlp_policy
from polystep_rl.policies.runtime import actions

CASES = [((), "discrete"), ((16,), "discrete"), ((16, 8), "box"), ((8,), "multidiscrete")]


def both(policy, params, count=5_000):
    obs = observations(policy.spec, count)
    obs = obs[np.isfinite(obs).all(axis=1)]
    got = actions(policy.spec, jax.tree.map(np.asarray, params), obs)
    want = np.asarray(policy.act_deployed(policy.deploy(params), obs.T))
    return got, want[:, None] if policy.spec.head == "discrete" else want.T


@pytest.mark.parametrize(
    "precision, activation", [(p, "tanh") for p in PRECISIONS] + [(p, "relu") for p in PRECISIONS if "binary" not in p]
)
@pytest.mark.parametrize("hidden, head", CASES, ids=str)
def test_the_numpy_policy_is_the_policy(precision, hidden, head, activation):
    policy, params = random_policy(3, precision, hidden, head, 4, 5, activation)
    got, want = both(policy, params)
    if precision in ("int8", "binary"):
        np.testing.assert_array_equal(got, want)
    elif head == "box":  # a rounding that falls the other way moves an int8-act unit by a step
        assert np.quantile(np.abs(got - want), 0.99) < (1e-5 if precision == "float32" else 0.02)
    else:
        assert np.mean(got == want) > 0.995


def test_a_clipped_box_too():
    policy, params = random_policy(3, "float32", (8,), "box")
    policy = mlp_policy(policy.spec._replace(squash="clip"))
    got, want = both(policy, params)
    np.testing.assert_allclose(got, want, atol=1e-4)
