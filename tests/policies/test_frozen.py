"""Input scales that travel with the parameters are the same policy as the scales of the specification, bit for bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.policies import observations, random_policy, spec

from polystep_rl.policies import INPUT, PRECISIONS, frozen, integers, mlp_policy, read_policy, save_policy

N, R = 3, 2


def carried(seed, count, size=5):
    """(count, o) offsets and scales; the offsets are whole multiples of scale / 32, as the caller snaps them."""
    rng = np.random.default_rng(seed)
    scale = np.exp(rng.normal(size=(count, size))).astype(np.float32)
    return {"offset": (np.rint(200 * rng.normal(size=scale.shape)) * (scale / 32)).astype(np.float32), "scale": scale}


def candidates(policy):
    params = jax.vmap(policy.init)(jax.random.split(jax.random.key(0), N))
    return params | {INPUT: jax.tree.map(jnp.asarray, carried(1, N))}


def one(params, index):
    return jax.tree.map(lambda leaf: leaf[index], params)


def actions_when_frozen(policy, params, obs):
    fixed, layers_only = frozen(policy.spec, params)
    assert INPUT not in layers_only and fixed != policy.spec
    other = mlp_policy(fixed)
    return np.asarray(other.act_deployed(other.deploy(layers_only), obs.T))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("head", ["discrete", "box"])
def test_parameters_with_input_scales_act_like_the_frozen_policy_in_every_layout(precision, head):
    policy = mlp_policy(spec(precision, (16,), head, 5, 2))
    params, obs = candidates(policy), observations(policy.spec, N * R).reshape(R, N, 5)
    deployed, trailing = jax.vmap(policy.deploy, out_axes=-1)(params), obs.transpose(2, 0, 1)  # (..., n), (o, r, n)
    rows = np.asarray(jax.vmap(jax.vmap(policy.act), in_axes=(None, 0))(params, obs))  # (r, n[, a])
    lanes = np.asarray(policy.act_deployed(deployed, trailing))
    np.testing.assert_array_equal(lanes if head == "discrete" else np.moveaxis(lanes, 0, -1), rows)
    same_obs = np.asarray(policy.act_deployed(deployed, trailing[:, 0, 0]))  # one observation (o,), all candidates
    for i in range(N):
        want = actions_when_frozen(policy, one(params, i), obs[:, i])
        np.testing.assert_array_equal(rows[:, i].T, want)
        np.testing.assert_array_equal(np.asarray(policy.act(one(params, i), obs[0, i])), want[..., 0])
        first = actions_when_frozen(policy, one(params, i), obs[0, :1])
        np.testing.assert_array_equal(same_obs[..., i], first[..., 0])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_scales_of_the_parameters_count_and_those_of_the_specification_do_not(precision):
    policy, params = random_policy(0, precision, (16,), "box", 5)
    obs = observations(policy.spec, 500).T
    moved = params | {INPUT: one(carried(2, 1), 0)}
    plain = mlp_policy(policy.spec._replace(obs_offset=(0.0,) * 5, obs_scale=(1.0,) * 5))
    one_way, other = (np.asarray(p.act_deployed(p.deploy(moved), obs)) for p in (policy, plain))
    np.testing.assert_array_equal(one_way, other)
    assert np.any(one_way != np.asarray(policy.act_deployed(policy.deploy(params), obs)))


def test_without_input_scales_nothing_changes():
    policy, params = random_policy(0, "int8", (16,))
    assert frozen(policy.spec, params) == (policy.spec, params)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_files_and_integers_hold_the_frozen_policy(tmp_path, precision):
    policy, params = random_policy(0, precision, (16,), "box", 5)
    params = params | {INPUT: one(carried(3, 1), 0)}
    save_policy(tmp_path, policy.spec, params, {})
    saved = read_policy(tmp_path)
    fixed, layers_only = frozen(policy.spec, params)
    assert saved.spec == fixed and jax.tree.all(jax.tree.map(np.array_equal, saved.params, layers_only))
    if precision in ("int8", "binary"):
        got, want = integers(policy.spec, params), integers(fixed, layers_only)
        assert jax.tree.all(jax.tree.map(np.array_equal, got, want))
