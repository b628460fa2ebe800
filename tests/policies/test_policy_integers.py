"""The int8 and binary policies against an independent NumPy int32 implementation, and the arithmetic's own laws."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.cases import mostly_slow
from support.policies import numpy_int32_actions, observations, random_policy, spec

from polystep_rl.policies import bounds, integers, mlp_policy, sign_pm1
from polystep_rl.policies.layers import agreement_dense, argmax_first, dense, pack, packed_dense, requantise
from polystep_rl.policies.precision import EXACT, TABLE_STD, action_plan, plan, tanh_table
from polystep_rl.policies.runtime import actions

SHAPES = [
    ((), "discrete", 4, 2),
    ((), "box", 3, 1),
    ((1,), "discrete", 2, 3),
    ((16,), "discrete", 6, 3),
    ((16,), "box", 3, 2),
    ((64,), "box", 5, 1),
    ((130,), "discrete", 4, 5),
    ((16, 64), "discrete", 4, 2),
    ((64, 130), "box", 8, 2),
    ((1, 1), "box", 1, 1),
    ((), "multidiscrete", 3, 5),
    ((16, 20), "multidiscrete", 4, 6),
]
QUICK = (((16,), "box", 3, 2), ((16, 64), "discrete", 4, 2), ((16, 20), "multidiscrete", 4, 6), ((), "box", 3, 1))
RELU_SHAPES = [((16,), "discrete", 4, 3), ((64,), "box", 5, 2), ((16, 64), "multidiscrete", 8, 5), ((), "box", 3, 1)]


@pytest.mark.parametrize(
    "precision, shape, activation",
    mostly_slow(
        [(p, shape, "tanh") for p in ("int8", "binary") for shape in SHAPES]
        + [("int8", shape, "relu") for shape in RELU_SHAPES],
        lambda case: case[1] in QUICK,
    ),
    ids=str,
)
def test_numpy_int32_agrees_on_100_000_observations(precision, shape, activation):
    for seed, count in ((0, 90_000), (1, 10_000)):
        policy, params = random_policy(seed, precision, *shape, activation)
        obs = observations(policy.spec, count, seed)
        lanes = np.asarray(policy.act_deployed(policy.deploy(params), obs.T)).T
        expected = numpy_int32_actions(integers(policy.spec, params), obs)
        np.testing.assert_array_equal(lanes, expected)
        assert lanes.dtype == expected.dtype
        assert len(np.unique(expected)) > 1 or 1 in policy.spec.hidden  # one unit wide may be constant


@pytest.mark.parametrize(
    "precision, copies", mostly_slow([("int8", 1), ("binary", 1), ("binary", 4)], lambda case: case != ("binary", 1))
)
@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape[1] == "box"], ids=str)
def test_a_table_of_tanh_is_exact_too(precision, copies, shape):
    policy, params = random_policy(3, precision, *shape)
    policy = mlp_policy(policy.spec._replace(squash="table", weight_copies=copies))
    obs = observations(policy.spec, 5_000)
    lanes = np.asarray(policy.act_deployed(policy.deploy(params), obs.T)).T
    np.testing.assert_array_equal(lanes, numpy_int32_actions(integers(policy.spec, params), obs))
    finite = np.isfinite(obs).all(axis=1)
    np.testing.assert_array_equal(lanes[finite], actions(policy.spec, jax.tree.map(np.asarray, params), obs[finite]))


def test_the_table_is_a_tanh_of_deviations():
    for precision, fan_in in itertools.product(("int8", "binary"), (1, 50, 300)):
        [layer] = plan(spec(precision, (), "box", fan_in, 2)._replace(squash="table"))
        q, table = np.arange(-127, 128), tanh_table(layer)
        unit = layer.deviation * layer.mult / 2**layer.shift
        assert unit == pytest.approx(TABLE_STD, rel=0.3)
        assert np.all(np.abs(table - 127 * np.tanh(q / unit)) <= 0.5) and table[-1] > 120
        np.testing.assert_array_equal(table, -table[::-1])


@pytest.mark.parametrize("precision", ["int8", "binary"])
@pytest.mark.parametrize("fan_in", [1, 64, 130, 1000])
def test_the_bound_is_reached_and_still_exact(precision, fan_in):
    policy = mlp_policy(spec(precision, (), "box", fan_in, 2))
    params = {"0": {"w": jnp.array([[1e9], [-1e9]]) * jnp.ones((2, fan_in)), "b": jnp.array([1e30, -1e30])}}
    obs = np.stack([np.full(fan_in, np.inf), np.full(fan_in, -np.inf), np.full(fan_in, np.nan)]).astype(np.float32)
    described = integers(policy.spec, params)
    (layer,) = described["layers"]
    acc = 127 * layer["weight"].astype(np.int64).sum(1) + layer["bias"]
    assert list(np.abs(acc)) == [layer["acc_bound"]] * 2
    assert layer["acc_bound"] * layer["mult"] + (1 << layer["shift"]) // 2 <= bounds(policy.spec)[0] < EXACT
    got = np.stack([np.asarray(policy.act(params, o)) for o in obs])
    np.testing.assert_array_equal(got, numpy_int32_actions(described, obs))
    low, high = (np.asarray(v, np.float32) for v in (policy.spec.action_low, policy.spec.action_high))
    np.testing.assert_array_equal(got[0], [high[0], low[1]])  # saturated exactly at the box


def test_every_requantisation_scales_a_random_accumulator_to_a_useful_range():
    for hidden in [(k,) for k in (1, 2, 3, 16, 64, 130, 600)]:
        int8 = plan(spec("int8", hidden, "box")) + plan(spec("int8", hidden, "box", activation="relu"))
        for layer in int8 + plan(spec("binary", hidden, "box"))[-1:]:
            deviation = layer.bias_unit * layer.mult / 2**layer.shift
            assert 64 <= deviation <= 136, (hidden, layer)


def test_too_wide_a_layer_is_refused_in_one_line():
    with pytest.raises(ValueError, match=r"^layer 1: .* below 16777216; use a fan-in below 1100$"):
        mlp_policy(spec("int8", (1100,)))
    assert mlp_policy(spec("binary", (1100,))).spec.hidden == (1100,)
    assert bounds(spec("float32")) == ()


@pytest.mark.parametrize("activation, low", [("tanh", -127), ("relu", 0)])
def test_the_nominal_size_of_a_hidden_activation_is_that_of_a_normal_accumulator(activation, low):
    q = np.clip(96 * np.random.default_rng(0).normal(size=100_000), low, 127)
    policy, wide = mlp_policy(spec("int8", (400, 400), activation=activation)), np.sqrt(400) * 32
    assert abs(plan(policy.spec)[1].bias_unit / wide - np.sqrt((q**2).mean())) < 1


@pytest.mark.parametrize("mult, shift", [(1, 0), (3, 1), (255, 12), (192, 3)])
def test_requantisation_is_monotone_saturating_and_an_arithmetic_shift(mult, shift):
    acc = np.arange(-60_000, 60_001, dtype=np.int64)
    got = np.asarray(requantise(jnp.asarray(acc, jnp.float32), mult, shift))
    half = (1 << shift) >> 1
    np.testing.assert_array_equal(got, np.clip((acc * mult + half) >> shift, -127, 127))
    assert np.all(np.diff(got) >= 0) and got[0] == -127 and got[-1] == 127


def test_signs_and_ties():
    np.testing.assert_array_equal(sign_pm1(jnp.array([0.0, -0.0, -1e-30, 2.0, np.nan])), [1, 1, -1, 1, -1])
    assert int(argmax_first(jnp.array([1.0, 3.0, 3.0, 2.0]))) == 1
    policy = mlp_policy(spec("binary", (2,))._replace(obs_offset=(0.0,) * 4, obs_scale=(1.0,) * 4))
    params = {
        "0": {"w": jnp.array([[1.0, -1, 1, -1], [-1, 1, -1, 1]]), "b": jnp.zeros(2)},
        "1": {"w": jnp.array([[-1.0, -1], [1, 1], [1, 1]]), "b": jnp.zeros(3)},
    }
    assert int(policy.act(params, np.ones(4, np.float32))) == 1  # both sums are 0: sign +1; then a tie, the first


@pytest.mark.parametrize("low, high", [(-2, 2), (-1, 1), (0, 1), (-0.4, 3.3), (5, 5.001), (-3e38, 3e38), (-1e-6, 2e-6)])
def test_action_steps_are_exact_products_and_fill_the_box(low, high):
    box = action_plan(spec("int8", (), "box", 4, 1)._replace(action_low=(low,), action_high=(high,)))
    q = np.arange(-127, 128)
    exact = q * box.step.astype(np.float64)
    np.testing.assert_array_equal(exact, (q.astype(np.float32) * box.step).astype(np.float64))  # so FMA cannot differ
    table = box.table()[0]
    assert table[0] == np.float32(low) and table[-1] == np.float32(high) and table[127] == box.mid[0]
    assert np.all(np.diff(table) >= 0)
    line = low + (high - low) * (q + 127) / 254
    assert np.abs(table - line).max() <= 2e-5 * (high - low) + 2e-7 * max(abs(low), abs(high))


@pytest.mark.parametrize("precision", ["int8", "binary"])
def test_deployed_arrays_hold_bounded_integers(precision):
    policy, params = random_policy(0, precision, (16, 16))
    params["0"]["w"] = params["0"]["w"].at[0, 0].set(jnp.nan).at[0, 1].set(jnp.inf)
    params["1"]["b"] = params["1"]["b"].at[0].set(jnp.nan).at[1].set(-jnp.inf)
    deployed = policy.deploy(params)
    for index, layer in enumerate(plan(policy.spec)):
        w, b = np.asarray(deployed[str(index)]["w"]), np.asarray(deployed[str(index)]["b"])
        assert np.all(b == np.rint(b)) and np.abs(b).max() <= layer.bias_max
        if precision == "int8":
            assert np.all(w == np.rint(w)) and np.abs(w).max() <= layer.weight_max
        else:
            bits = unpacked(w, 32 * w.shape[1])
            np.testing.assert_array_equal(bits[:, : layer.fan_in], np.asarray(params[str(index)]["w"]) >= 0)
            assert not bits[:, layer.fan_in :].any()


def unpacked(words, fan_in):
    """(m, k) of 0 and 1 from words (m, ceil(k / 32))."""
    return np.stack([words[:, i // 32] >> np.uint32(i % 32) & 1 for i in range(fan_in)], axis=1)


@pytest.mark.parametrize("fan_in", mostly_slow([1, 31, 32, 33, 64, 65, 100, 348, 2100], {1, 32, 33}.__contains__))
def test_packed_layers_are_dense_layers_of_signs(fan_in):
    rng = np.random.default_rng(fan_in)
    lanes, outputs = 5, 7
    w = rng.choice([-1.0, 1.0], size=(outputs, fan_in, lanes)).astype(np.float32)
    b = rng.integers(-300, 300, size=(outputs, lanes)).astype(np.float32)
    words = jnp.moveaxis(pack(jnp.moveaxis(w, 1, 0)), 0, 1)
    np.testing.assert_array_equal(unpacked(np.asarray(words), fan_in), w > 0)
    x = rng.integers(-127, 128, size=(fan_in, lanes)).astype(np.float32)
    np.testing.assert_array_equal(packed_dense(words, b, x), dense(w, b, x))
    signs = np.where(x >= 0, np.float32(1), np.float32(-1))
    np.testing.assert_array_equal(agreement_dense(words, b, pack(x), fan_in), dense(w, b, signs))
    # one policy on many observations, and many policies on one observation
    np.testing.assert_array_equal(packed_dense(words[..., 0], b[..., 0], x), dense(w[..., 0], b[..., 0], x))
    np.testing.assert_array_equal(packed_dense(words, b, x[:, 0]), dense(w, b, x[:, 0]))


@pytest.mark.parametrize("precision", ["int8", "binary"])
def test_the_order_of_hidden_units_does_not_matter(precision):
    policy, params = random_policy(3, precision, (64,), "box")
    order = np.random.default_rng(0).permutation(64)
    shuffled = {
        "0": {"w": params["0"]["w"][order], "b": params["0"]["b"][order]},
        "1": {"w": params["1"]["w"][:, order], "b": params["1"]["b"]},
    }
    obs = observations(policy.spec, 5_000).T
    one, other = (policy.act_deployed(policy.deploy(p), obs) for p in (params, shuffled))
    np.testing.assert_array_equal(one, other)


def test_binary_weights_know_only_signs():
    policy, params = random_policy(4, "binary", (16,))
    scaled = {i: {"w": 37.0 * jnp.abs(p["w"]) ** 0.5 * sign_pm1(p["w"]), "b": p["b"]} for i, p in params.items()}
    assert jax.tree.all(jax.tree.map(jnp.array_equal, policy.deploy(params), policy.deploy(scaled)))
