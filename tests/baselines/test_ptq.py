"""Post-training quantisation: the NumPy forward pass is the policy's, and int8 policies act like their float ones."""

import jax
import numpy as np
import pytest

from polystep_rl.baselines import ptq
from polystep_rl.policies import layers, mlp, mlp_policy, precision
from polystep_rl.types import PolicySpec

BOX = ((-2.0, -1.0), (2.0, 3.0))


def make_spec(name, head="discrete", hidden=(16,), obs_size=4):
    low, high = BOX if head == "box" else ((), ())
    size = 2 if head == "box" else 3
    return PolicySpec(obs_size, hidden, name, head, size, low, high, (0.2,) * obs_size, (0.5,) * obs_size)


def make_static(spec):
    box = precision.action_plan(spec) if spec.head == "box" else None
    return ptq.Static(precision.plan(spec), precision.input_plan(spec), box)


def trained_like(spec, seed):
    """A float policy with weights beyond those of the start, and correlated observations as an episode gives them."""
    rng = np.random.default_rng(seed)
    params = {
        str(i): {"w": 1.5 * rng.normal(size=(m, k)), "b": 0.3 * rng.normal(size=m)}
        for i, (k, m) in enumerate(ptq.layer_sizes(spec))
    }
    mixing = rng.normal(size=(spec.obs_size, spec.obs_size)) / np.sqrt(spec.obs_size)
    obs = (0.2 + 0.5 * rng.normal(size=(6000, spec.obs_size)) @ mixing).astype(np.float32)
    return jax.tree.map(np.float32, params), obs


def actions(spec, params, obs):
    return np.asarray(jax.vmap(mlp_policy(spec).act, in_axes=(None, 0))(params, obs))


def test_the_constants_are_those_of_the_policies():
    assert (ptq.QMAX, ptq.INPUT_UNIT, ptq.WEIGHT_UNIT) == (
        precision.QMAX,
        precision.INPUT_UNIT,
        precision.WEIGHT_UNIT,
    )
    assert ptq.INPUT_LIMIT == mlp.INPUT_LIMIT
    assert ptq.layer_sizes(make_spec("int8")) == precision.layer_sizes(make_spec("int8"))


@pytest.mark.parametrize("head", ["discrete", "box"])
@pytest.mark.parametrize("name", ["int8", "binary"])
def test_the_numpy_forward_pass_is_the_policy(name, head):
    spec = make_spec(name, head, (16, 8))
    static = make_static(spec)
    params, obs = trained_like(spec, 0)
    obs = obs * np.float32(3)
    x = ptq.quantised_input(static, obs)
    for index, plan in enumerate(static.plans):
        layer = params[str(index)]
        x = ptq.activate(plan, ptq.accumulate(plan, layer["w"], layer["b"], x))
    if head == "box":
        mid, step, low, high = static.box
        got = np.clip(mid + x.astype(np.float32) * step, low, high)
    else:
        got = np.asarray(layers.argmax_first(x.T.astype(np.float32)))
    np.testing.assert_array_equal(got, actions(spec, params, obs))


@pytest.mark.parametrize("hidden", [(), (16,), (16, 16)], ids=str)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_int8_agrees_with_the_float_policy_on_unseen_observations(hidden, seed):
    spec = make_spec("int8", hidden=hidden)
    float_spec = spec._replace(precision="float32")
    params, obs = trained_like(float_spec, seed)
    latents = ptq.quantise(params, spec, make_static(spec), obs[:3000])
    wanted, got = actions(float_spec, params, obs[3000:]), actions(spec, latents, obs[3000:])
    assert np.bincount(wanted, minlength=3).max() < 2900  # not a policy of one action
    assert np.mean(wanted == got) > (0.93 if len(hidden) > 1 else 0.95)  # errors of layers add up
    naive = np.mean(wanted == actions(spec, params, obs[3000:]))
    assert np.mean(wanted == got) >= naive  # the same latents, taken as they are


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_small_last_layers_do_not_round_to_nothing(seed):
    spec = make_spec("int8")
    float_spec = spec._replace(precision="float32")
    params, obs = trained_like(float_spec, seed)
    params["1"] = jax.tree.map(lambda v: v * np.float32(0.003), params["1"])
    latents = ptq.quantise(params, spec, make_static(spec), obs)
    agreement = np.mean(actions(float_spec, params, obs) == actions(spec, latents, obs))
    assert agreement > 0.95
    assert np.mean(actions(float_spec, params, obs) == actions(spec, params, obs)) < agreement


def test_int8_box_actions_are_near_the_float_ones():
    spec = make_spec("int8", "box")
    float_spec = spec._replace(precision="float32")
    params, obs = trained_like(float_spec, 0)
    latents = ptq.quantise(params, spec, make_static(spec), obs)
    error = actions(spec, latents, obs) - actions(float_spec, params, obs)
    assert np.sqrt(np.mean(error**2, axis=0)).max() < 0.2  # of a reach of 2


@pytest.mark.parametrize(("name", "least"), [("binary", 0.4), ("binary-act", 0.75), ("int8-act", 0.98)])
def test_the_other_precisions_are_better_than_chance(name, least):
    spec = make_spec(name)
    float_spec = spec._replace(precision="float32")
    for seed in range(3):
        params, obs = trained_like(float_spec, seed)
        latents = ptq.quantise(params, spec, make_static(spec), obs)
        assert np.mean(actions(float_spec, params, obs) == actions(spec, latents, obs)) > least


def test_odd_observations():
    spec = make_spec("int8")
    params, obs = trained_like(spec, 0)
    odd = np.concatenate([obs[:500], np.full((3, 4), np.nan, np.float32), np.full((2, 4), np.inf, np.float32)])
    jax.tree.map(
        np.testing.assert_array_equal,
        ptq.quantise(params, spec, make_static(spec), odd),
        ptq.quantise(params, spec, make_static(spec), obs[:500]),
    )
    one = ptq.quantise(params, spec, make_static(spec), np.tile(obs[:1], (5, 1)))  # nothing varies
    assert all(np.all(np.isfinite(leaf)) and leaf.dtype == np.float32 for leaf in jax.tree.leaves(one))
    with pytest.raises(ValueError, match="at least one finite observation"):
        ptq.quantise(params, spec, make_static(spec), odd[500:])
