"""Post-training quantisation: the best candidate is kept, it is what was measured, and width and flips pay."""

from functools import partial

import numpy as np
import pytest
from support.cases import mostly_slow

from polystep_rl.policies import mlp_policy
from polystep_rl.policies.precision import layer_sizes
from polystep_rl.policies.quantisation import post_training
from polystep_rl.policies.quantisation.binarise import _best_bias, binarise
from polystep_rl.policies.quantisation.descent import _Network, descend
from polystep_rl.policies.quantisation.layerwise import layerwise
from polystep_rl.policies.quantisation.post_training import agreement, rescaled
from polystep_rl.policies.runtime import Network, actions, choices
from polystep_rl.types import PolicySpec

quantise = partial(post_training.quantise, trials=4_000)
HEADS = {"discrete": 3, "box": 2, "multidiscrete": 5}


def network(seed=0, hidden=(12,), head="discrete", obs_size=4, activation="tanh", squash="tanh", rows=1200):
    """A float policy with large weights, and correlated observations of uneven sizes."""
    size = HEADS[head]
    low, high = ((-2.0,) * size, (1.0,) * size) if head == "box" else ((), ())
    unit = tuple(0.2 * 2.0**i for i in range(obs_size))
    groups = (2, 3) if head == "multidiscrete" else ()
    scales = ((0.3,) * obs_size, unit)
    spec = PolicySpec(obs_size, hidden, "float32", head, size, low, high, *scales, groups, activation, squash)
    rng = np.random.default_rng(seed)
    params = {
        str(i): {"w": np.float32(1.5 * rng.normal(size=(m, k))), "b": np.float32(0.3 * rng.normal(size=m))}
        for i, (k, m) in enumerate(layer_sizes(spec))
    }
    mixing = rng.normal(size=(obs_size, obs_size)) / np.sqrt(obs_size)
    obs = 0.3 + unit * (rng.normal(size=(2 * rows, obs_size)) @ mixing)
    return spec, params, obs[:rows].astype(np.float32), obs[rows:].astype(np.float32)


def badness(measured):
    return measured["action_rmse"] if "action_rmse" in measured else 1 - measured["agreement"]


@pytest.mark.parametrize("head", mostly_slow(HEADS, lambda head: head != "multidiscrete"))
@pytest.mark.parametrize(
    "precision", mostly_slow(["int8", "binary", "int8-act", "binary-act"], lambda case: case in ("int8", "binary"))
)
def test_the_best_candidate_is_returned_and_is_what_was_measured(precision, head):
    spec, params, obs, fresh = network(head=head)
    result = quantise(spec, params, precision, obs)
    assert result.spec.precision == precision and result.spec.hidden == spec.hidden
    assert len(result.measured) > 1
    assert all(badness(result.measured[result.chosen]) <= badness(m) for m in result.measured.values())
    policy = mlp_policy(result.spec)
    deployed = policy.act_deployed(policy.deploy(result.params), fresh.T)
    wanted = mlp_policy(spec).act_deployed(mlp_policy(spec).deploy(params), fresh.T)
    now = agreement(spec, params, result.spec, result.params, fresh)
    same = np.mean(np.asarray(deployed) == np.asarray(wanted))
    if head != "box":
        assert abs(now["agreement"] - same) < 2e-3
    assert abs(badness(now) - badness(result.measured[result.chosen])) < 0.07  # held out, so it holds elsewhere


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("squash", ["tanh", "clip"])
def test_int8_is_near_the_float_policy_and_better_than_rounding(activation, squash):
    for seed in range(2):
        spec, params, obs, fresh = network(seed, (16,), "box", activation=activation, squash=squash)
        result = quantise(spec, params, "int8", obs)
        rounded = badness(result.measured["round"])
        now = badness(agreement(spec, params, result.spec, result.params, fresh))
        assert now < 0.15 and now < rounded / 2
        spec, params, obs, fresh = network(seed, (16,), activation=activation)
        result = quantise(spec, params, "int8", obs)
        assert agreement(spec, params, result.spec, result.params, fresh)["agreement"] > 0.93


@pytest.mark.parametrize("hidden", [(), (16,)], ids=str)
def test_a_table_makes_int8_actions_a_tanh(hidden):
    for seed in range(2):
        spec, params, obs, fresh = network(seed, hidden, "box")
        line, curve = (quantise(spec, params, "int8", obs, free_head=free) for free in (False, True))
        assert (line.spec.squash, curve.spec.squash) == ("tanh", "table")
        errors = [badness(agreement(spec, params, one.spec, one.params, fresh)) for one in (line, curve)]
        assert errors[1] < (0.4 if not hidden else 0.8) * errors[0]
        clipped = spec._replace(squash="clip")
        assert quantise(clipped, params, "int8", obs).spec.squash == "tanh"  # a line that is cut is what that is


def test_input_scales_that_do_not_fit_are_replaced():
    spec, params, obs, fresh = network(head="box")
    for factor in (0.02, 50.0):  # everything saturates, or everything is less than one integer
        offset, scale = (np.asarray(v) for v in (spec.obs_offset, spec.obs_scale))
        odd, odd_params = rescaled(spec, params, offset, scale * factor)
        np.testing.assert_allclose(actions(odd, odd_params, fresh), actions(spec, params, fresh), atol=1e-4)
        result = quantise(odd, odd_params, "int8", obs)
        assert "+range" in result.chosen
        assert badness(agreement(spec, params, result.spec, result.params, fresh)) < 0.15


@pytest.mark.parametrize("head", mostly_slow(["discrete", "box"], lambda head: head == "box"))
def test_flips_and_width_make_binary_policies_better(head):
    """Means over networks: descent beats the sign of the weights by far, and twice as many units beat as many."""
    sign, narrow, wide = [], [], []
    for seed in range(3):
        spec, params, obs, fresh = network(seed, (16,), head)
        one, two = quantise(spec, params, "binary", obs), quantise(spec, params, "binary", obs, hidden_multiple=3)
        assert two.spec.hidden == (48,) and two.params["0"]["w"].shape == (48, 4)
        sign.append(badness(one.measured["sign"]))
        narrow.append(badness(agreement(spec, params, one.spec, one.params, fresh)))
        wide.append(badness(agreement(spec, params, two.spec, two.params, fresh)))
    assert np.mean(narrow) < 0.8 * np.mean(sign) and np.mean(wide) < np.mean(narrow)


@pytest.mark.parametrize("hidden", mostly_slow([((),), ((16,),)], lambda case: case[0]), ids=["()", "(16,)"])
@pytest.mark.parametrize("head", mostly_slow(HEADS, lambda head: head == "discrete"))
def test_more_bits_for_each_weight_make_binary_policies_better(head, hidden):
    found = []
    for copies in (1, 4, 16):
        made = [network(seed, hidden, head) for seed in range(3)]
        results = [quantise(spec, params, "binary", obs, weight_copies=copies) for spec, params, obs, _ in made]
        assert all(result.spec.weight_copies == copies for result in results)
        errors = [
            badness(agreement(spec, params, result.spec, result.params, fresh))
            for (spec, params, _, fresh), result in zip(made, results, strict=True)
        ]
        found.append(np.mean(errors))
    assert found[0] > found[1] > found[2]


def test_greedy_flips_bring_the_hidden_units_nearer():
    spec, params, obs, _ = network(1, (24,))
    target = spec._replace(precision="binary")
    t = np.tanh(obs_pre(spec, params, obs))
    t = t - t.mean(axis=0)
    gains = [
        (t * hidden_signs(target, binarise(spec, params, target, obs, greedy=greedy), obs)).mean()
        for greedy in (False, True)
    ]
    assert gains[1] > 1.02 * gains[0]


def obs_pre(spec, params, obs):
    one = {"0": params["0"]}
    return Network(spec._replace(hidden=(), action_size=spec.hidden[0]), one).outputs(obs)


def hidden_signs(target, latents, obs):
    acc = Network(target._replace(hidden=(), action_size=target.hidden[0]), {"0": latents["0"]}).outputs(obs)
    return np.where(acc >= 0, 1.0, -1.0)


def test_the_best_bias_is_the_best_of_all():
    rng = np.random.default_rng(0)
    acc, t = rng.integers(-9, 10, (50, 6)).astype(np.float32), rng.normal(size=(50, 6)).astype(np.float32)
    bias, z = _best_bias(acc, t, 100)
    every = np.stack([(np.where(acc + b >= 0, t, -t)).sum(axis=0) for b in range(-9, 10)])
    np.testing.assert_allclose((z * t).sum(axis=0), every.max(axis=0), rtol=1e-5)
    np.testing.assert_array_equal(z, np.where(acc + bias >= 0, 1, -1))


@pytest.mark.parametrize("precision", ["int8", "binary"])
@pytest.mark.parametrize("head", list(HEADS))
@pytest.mark.parametrize("hidden", [(), (8,), (8, 6, 5)], ids=str)
def test_descent_only_goes_down_and_keeps_its_books(precision, head, hidden):
    """What it has kept up to date is the forward pass of what it returns, and the loss has fallen."""
    spec, params, obs, _ = network(2, hidden, head)
    target = spec._replace(precision=precision)
    wanted = choices(spec, Network(spec, params).outputs(obs))
    if head == "box":
        wanted = np.tanh(Network(spec, params).outputs(obs)).astype(np.float32)
    start = layerwise(spec, params, target, obs)
    found = descend(target, start, obs, wanted, trials=600)
    before, after = (loss(target, latents, obs, wanted) for latents in (start, found))
    assert after < before
    again = descend(target, found, obs, wanted, trials=0)
    for one, two in zip(found.values(), again.values(), strict=True):
        np.testing.assert_array_equal(one["w"], two["w"])
        np.testing.assert_array_equal(one["b"], two["b"])


def loss(spec, latents, obs, wanted):
    return float(_Network(spec, latents, obs, wanted).losses.mean())


def test_latents_have_the_size_that_a_search_expects():
    spec, params, obs, _ = network(0, (16,))
    binary = quantise(spec, params, "binary", obs)
    for layer in binary.params.values():
        assert 0.9 < np.sqrt((layer["w"] ** 2).mean()) < 1.1 and np.abs(layer["w"]).min() > 0.04
        assert layer["w"].dtype == np.float32 and np.all(np.abs(layer["b"]) <= 4.1)
    importance = np.abs(params["0"]["w"] / np.linalg.norm(params["0"]["w"], axis=1, keepdims=True)).ravel()
    sign = binarise(spec, params, spec._replace(precision="binary"), obs)
    assert np.corrcoef(importance, np.abs(sign["0"]["w"]).ravel())[0, 1] > 0.99
    int8 = quantise(spec, params, "int8", obs)
    for layer in int8.params.values():
        np.testing.assert_array_equal(32 * layer["w"], np.clip(np.rint(32 * layer["w"]), -127, 127))


def test_few_and_odd_observations():
    spec, params, obs, _ = network()
    for precision in ("int8", "binary", "binary-act"):
        for few in (obs[:1], np.tile(obs[:1], (20, 1)), obs[:9]):
            result = quantise(spec, params, precision, few)
            assert all(np.all(np.isfinite(leaf)) for layer in result.params.values() for leaf in layer.values())
    odd = np.concatenate([obs[:100], np.full((3, 4), np.nan, np.float32)])
    assert quantise(spec, params, "int8", odd).measured == quantise(spec, params, "int8", obs[:100]).measured


def test_mistakes_are_one_line():
    spec, params, obs, _ = network()
    for arguments, message in [
        ((spec, params, "int9", obs), "unknown precision"),
        ((spec._replace(precision="int8"), params, "int8", obs), "only a float32 policy"),
        ((spec, params, "int8", obs, 2), "above 1 only for binary"),
        ((spec, params, "binary", obs, 0), "at least 1"),
        ((spec, params, "binary", np.full((3, 4), np.nan)), "at least one finite observation"),
    ]:
        with pytest.raises(ValueError, match=message) as error:
            quantise(*arguments)
        assert "\n" not in str(error.value)
