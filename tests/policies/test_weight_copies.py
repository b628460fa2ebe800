"""Several one-bit weights for each input of a binary policy: what they sum to, and that they are all there is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.policies import numpy_int32_actions, observations, spec

from polystep_rl.policies import integers, mlp_policy, read_policy
from polystep_rl.policies.io import save_policy
from polystep_rl.policies.layers import sign_pm1
from polystep_rl.policies.precision import integer_weight, plan
from polystep_rl.policies.runtime import actions


def copied(copies, hidden=(), head="box", **kwargs):
    policy = mlp_policy(spec("binary", hidden, head, **kwargs)._replace(weight_copies=copies))
    params = policy.init(jax.random.key(copies))
    return policy, jax.tree.map(lambda x: 2 * x, params)


@pytest.mark.parametrize("copies", [1, 2, 3, 4, 16])
def test_the_sum_is_the_nearest_of_its_values(copies):
    latents = np.random.default_rng(0).normal(size=2000).astype(np.float32) * copies
    values = np.arange(-copies, copies + 1, 2)
    nearest = values[np.abs(latents[:, None] - values / np.sqrt(copies)).argmin(axis=1)]
    for xp in (np, jnp):
        np.testing.assert_array_equal(integer_weight(xp, latents, copies), nearest)
        odd = xp.asarray(np.array([np.inf, -np.inf, np.nan, -0.0, 1e-30, -1e-30], np.float32))
        found = np.asarray(integer_weight(xp, odd, copies))
        assert (found[:3] == (copies, -copies, -copies)).all()
        if copies % 2 == 0:
            assert (found[3:] == 0).all()
        if copies == 1:
            np.testing.assert_array_equal(found[:4], sign_pm1(jnp.asarray(odd))[:4])


@pytest.mark.parametrize("hidden, head", [((), "box"), ((16,), "box"), ((9, 5), "discrete"), ((), "multidiscrete")])
@pytest.mark.parametrize("copies", [2, 3, 4])
def test_one_bit_weights_are_all_there_is(copies, hidden, head):
    """NumPy's int32 and weights of -1 and 1 alone give the same actions as the sums that run here."""
    policy, params = copied(copies, hidden, head)
    numbers, obs = integers(policy.spec, params), observations(policy.spec, 5000)
    for layer, like in zip(numbers["layers"], plan(policy.spec), strict=True):
        assert layer["weight"].shape == (like.fan_out, copies * like.fan_in) and set(layer["weight"].flat) == {-1, 1}
    ours = np.asarray(jax.jit(jax.vmap(policy.act, (None, 0)))(params, obs))
    np.testing.assert_array_equal(ours, numpy_int32_actions(numbers, obs))
    finite = obs[np.isfinite(obs).all(axis=1)]
    again = actions(policy.spec, jax.tree.map(np.asarray, params), finite)
    np.testing.assert_array_equal(ours[np.isfinite(obs).all(axis=1)], again[:, 0] if head == "discrete" else again)


@pytest.mark.parametrize("copies", [2, 4])
def test_an_even_number_can_begin_with_nothing(copies):
    policy, params = copied(copies)
    nothing = jax.tree.map(jnp.zeros_like, params)
    middle = (np.array(policy.spec.action_low) + policy.spec.action_high) / 2
    for obs in observations(policy.spec, 5):
        np.testing.assert_allclose(policy.act(nothing, obs), middle, atol=1e-6)


def test_the_largest_sum_is_within_the_bound():
    policy, params = copied(16, (), "discrete", obs_size=300)
    [layer] = plan(policy.spec)
    largest = {"0": {"w": jnp.full_like(params["0"]["w"], 99.0), "b": jnp.full_like(params["0"]["b"], 99.0)}}
    deployed = jax.device_get(policy.deploy(largest))["0"]
    assert 127 * deployed["w"].sum(axis=1)[0] + deployed["b"][0] == layer.acc_bound == layer.bound < 2**24


def test_files_keep_them(tmp_path):
    policy, params = copied(4)
    saved = read_policy(save_policy(tmp_path / "policy", policy.spec, params, {}))
    assert saved.spec == policy.spec and saved.spec.weight_copies == 4


@pytest.mark.parametrize("precision, copies", [("binary", 0), ("binary", 17), ("int8", 2), ("float32", 4)])
def test_what_does_not_fit_is_said_in_one_line(precision, copies):
    with pytest.raises(ValueError, match="weight_copies") as error:
        mlp_policy(spec(precision)._replace(weight_copies=copies))
    assert "\n" not in str(error.value)
