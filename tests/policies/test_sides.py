"""A network that both sides of a body share: mirrored observations give mirrored actions, and integers stay exact."""

import jax
import numpy as np
import pytest
from support.policies import observations
from support.sides import (
    MIRROR_ACT,
    MIRROR_ACT_SIGN,
    MIRROR_OBS,
    MIRROR_SIGN,
    PRECISIONS,
    SIDES,
    phases,
    policy_and_params,
    spec,
)

from polystep_rl.policies import agreement, integers, make_policy, mlp_policy, read_policy, save_policy
from polystep_rl.policies.quantisation.post_training import quantise
from polystep_rl.policies.runtime import actions
from polystep_rl.types import PolicySpec


@pytest.mark.parametrize("hidden", [(), (16,), (12, 8)], ids=str)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_mirrored_observations_give_mirrored_actions(precision, hidden):
    policy, params = policy_and_params(precision, hidden)
    obs = phases(np.random.default_rng(0).normal(size=(200, 8)))
    deployed = policy.deploy(params)
    there, here = (np.asarray(policy.act_deployed(deployed, x.T)).T for x in (obs[:, MIRROR_OBS] * MIRROR_SIGN, obs))
    np.testing.assert_array_equal(there, here[:, MIRROR_ACT] * MIRROR_ACT_SIGN)
    assert np.abs(here[:, :5]).max() > 0.3 and not here[:, 5].any()


def test_a_linear_policy_is_the_written_formula():
    policy, params = policy_and_params("float32", ())
    obs = phases(np.random.default_rng(3).normal(size=(50, 8)))
    w, b = (np.asarray(params["0"][name], np.float64) / np.sqrt(14) for name in "wb")
    offset, scale = (np.array(getattr(policy.spec, name))[:4] for name in ("obs_offset", "obs_scale"))
    want = np.zeros((50, 6))
    for row, o in zip(want, obs.astype(np.float64), strict=True):
        for side in range(2):
            x = (np.array(SIDES.input_signs[side]) * o[list(SIDES.inputs[side])] - offset) / scale
            c, s = (o[i] for i in SIDES.phase[side])
            y = w @ np.concatenate([x, [c], c * x, [s], s * x]) + b
            for value, action, sign in zip(y, SIDES.outputs[side], SIDES.output_signs[side], strict=True):
                row[action] += sign * value
    np.testing.assert_allclose(policy.act_deployed(policy.deploy(params), obs.T).T, np.tanh(want), atol=1e-5)


def requantised(layer, acc):
    return np.clip((acc * layer["mult"] + (2 ** layer["shift"] >> 1)) >> layer["shift"], layer["low"], 127)


def int32_actions(found, obs):
    """From the documented integers alone, in NumPy int32, one observation after the other."""
    sides, rows = found["sides"], []
    multiplier, zero = (found["input"][name][list(sides.inputs[0])] for name in ("multiplier", "zero_point"))
    for o in obs:
        total = np.zeros(len(found["action_table"]), np.int32)
        for side in range(len(sides.inputs)):
            own = np.array(sides.input_signs[side], np.float32) * o[list(sides.inputs[side])]
            with np.errstate(over="ignore", under="ignore", invalid="ignore"):
                product = np.rint(own * multiplier)
            q = np.clip(np.where(np.isnan(product), 0, product), zero - 127, zero + 127).astype(np.int32) - zero
            q[np.isnan(own)] = 0
            x = q.tolist()
            phase = [0.0 if np.isnan(o[i]) else min(max(float(o[i]), -1.0), 1.0) for i in sides.phase[side]]
            phase = [int(np.rint(np.float32(p) * np.float32(127))) for p in phase]
            x += [(p * y + 64) >> 7 for p in phase for y in (32, *x)]
            y = np.array(x[: len(sides.inputs[side])] + x[len(sides.inputs[side]) :], np.int32)
            for layer in found["layers"]:
                acc = layer["weight"].astype(np.int32) @ y + layer["bias"]
                if layer["activation"] == "sign":
                    y = np.where(acc < 0, -1, 1).astype(np.int32)
                else:
                    y = requantised(layer, acc)
            for value, action, sign in zip(acc, sides.outputs[side], sides.output_signs[side], strict=True):
                total[action] += sign * value
        assert np.abs(total).max() <= found["layers"][-1]["acc_bound"]
        q = np.sign(total) * requantised(found["layers"][-1], np.abs(total))
        q = q if found["layers"][-1]["table"] is None else found["layers"][-1]["table"].astype(np.int32)[q + 127]
        rows.append([table[t + 127] for table, t in zip(found["action_table"], q, strict=True)])
    return np.array(rows, np.float32)


@pytest.mark.parametrize("hidden", [(), (16,)], ids=str)
@pytest.mark.parametrize("squash", ["tanh", "table"])
@pytest.mark.parametrize("precision", ["int8", "binary"])
def test_integers_are_exact(precision, squash, hidden):
    policy, params = policy_and_params(precision, hidden, seed=5)
    policy = mlp_policy(policy.spec._replace(squash=squash))
    obs = observations(policy.spec, 600)
    obs[:300] = phases(obs[:300])
    want = int32_actions(integers(policy.spec, params), obs)
    np.testing.assert_array_equal(np.asarray(policy.act_deployed(policy.deploy(params), obs.T)).T, want)
    finite = np.isfinite(obs).all(axis=1)
    plain = jax.tree.map(np.asarray, params)
    np.testing.assert_array_equal(actions(policy.spec, plain, obs[finite]), want[finite])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_one_observation_is_a_row_of_many(precision):
    policy, params = policy_and_params(precision)
    obs, deployed = observations(policy.spec, 40), policy.deploy(params)
    many = np.asarray(policy.act_deployed(deployed, obs.T)).T
    np.testing.assert_array_equal(many, np.stack([policy.act(params, o) for o in obs]))
    lanes = jax.tree.map(lambda x: np.repeat(np.asarray(x)[..., None], 40, axis=-1), deployed)
    np.testing.assert_allclose(policy.act_deployed(lanes, obs.T).T, many, atol=1e-6)
    assert np.isfinite(many).all()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_files_keep_the_sides(precision, tmp_path):
    policy, params = policy_and_params(precision)
    saved = read_policy(save_policy(tmp_path / "walker", policy.spec, params, {}))
    assert saved.spec.sides == SIDES and saved.spec == policy.spec


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"phase": ((4, 6),)}, "same number of sides"),
        ({"inputs": ((0, 1, 2, 8), (0, 1, 3, 2))}, "sides.inputs must hold integers from 0 to 7"),
        ({"outputs": ((0, 1, 4), (2, 3, 6))}, "sides.outputs must hold integers from 0 to 5"),
        ({"inputs": ((0, 1), (0, 1, 3, 2))}, "rows of one length"),
        ({"phase": ((4, 5, 6), (5, 6, 7))}, "the cosine and the sine"),
        ({"input_signs": ((1, 1, 1, 1), (1, 0, 1, 1))}, "sides.input_signs must hold a 1 or -1"),
        ({"output_signs": ((1, 1), (1, 1))}, "sides.output_signs must hold a 1 or -1"),
    ],
)
def test_sides_that_do_not_fit_are_refused(changes, said):
    with pytest.raises(ValueError, match=said) as found:
        mlp_policy(spec("float32", sides=SIDES._replace(**changes)))
    assert "\n" not in str(found.value)


def test_choices_have_no_sides():
    with pytest.raises(ValueError, match="box head"):
        mlp_policy(PolicySpec(8, (), "float32", "discrete", 6, (), (), (0.0,) * 8, (1.0,) * 8, sides=SIDES))


@pytest.mark.parametrize("hidden", [(), (16,)], ids=str)
def test_quantised_sides_act_like_the_float_policy(hidden):
    """The more so the more values a weight has; in units of the actions themselves, at large biases."""
    policy, params = policy_and_params("float32", hidden, seed=2)
    if hidden:
        params["1"]["b"] = params["1"]["b"] / 4  # outputs of ordinary size
    rng = np.random.default_rng(4)
    obs, fresh = (phases(0.1 + 0.5 * rng.normal(size=(1500, 8)), seed) for seed in (1, 2))
    silent = jax.tree.map(np.zeros_like, params)
    size = agreement(policy.spec, params, policy.spec, silent, fresh)["action_rmse"]
    errors = []
    for precision, copies in (("int8-act", 1), ("int8", 1), ("binary", 8), ("binary", 4), ("binary", 1)):
        made = quantise(policy.spec, params, precision, obs, trials=4_000, weight_copies=copies)
        assert made.spec._replace(precision="float32", weight_copies=1, squash="tanh") == policy.spec
        assert (made.spec.precision, made.spec.weight_copies) == (precision, copies)
        if "scaled" in made.measured:  # one of its scales is 1
            scaled, rounded = (made.measured[name]["action_rmse"] for name in ("scaled", "round"))
            assert scaled < 1.02 * rounded
        errors.append(agreement(policy.spec, params, made.spec, made.params, fresh)["action_rmse"] / size)
    assert errors == sorted(errors)
    assert errors[0] < 0.01 and errors[1] < (0.2 if hidden else 0.1) and errors[3] < 0.5


def test_make_policy_takes_sides():
    from gymnasium import spaces

    from polystep_rl.types import EnvSpec

    box = spaces.Box(-np.inf, np.inf, (8,), np.float32), spaces.Box(-1, 1, (6,), np.float32)
    policy = make_policy(EnvSpec("walker", *box, 100, None), (), "int8", sides=SIDES)
    assert policy.init(jax.random.key(0))["0"]["w"].shape == (3, 14)
