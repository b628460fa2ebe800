"""What holds for a policy in every precision: one function, whatever the layout, and sane at the edges."""

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from support.policies import observations, random_policy, spec

from polystep_rl.policies import PRECISIONS, make_policy, mlp_policy
from polystep_rl.policies.layers import dense
from polystep_rl.types import EnvSpec, PolicySpec

HEADS = ("discrete", "box", "multidiscrete")


def env_spec(env_id: str) -> EnvSpec:
    env = gym.make(env_id)
    return EnvSpec(env_id, env.observation_space, env.action_space, 500, None)


def stacked(policy, count):
    return jax.vmap(policy.init)(jax.random.split(jax.random.key(7), count))


def deployed_lanes(policy, params):
    return jax.vmap(policy.deploy, in_axes=0, out_axes=-1)(params)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    "hidden, head", [((), "box"), ((16,), "discrete"), ((70, 9), "box"), ((9,), "multidiscrete")], ids=str
)
def test_one_function_in_every_layout(precision, hidden, head):
    """act == its vmapped row == trailing lanes (n,) == (r, n) with weights (1, n) or (n,), bit for bit, jit or not."""
    n, r = 37, 3
    policy = mlp_policy(spec(precision, hidden, head, 5, 5 if head == "multidiscrete" else 2))
    params, obs = stacked(policy, n), observations(policy.spec, n * r).reshape(r, n, 5)
    deployed, trailing = deployed_lanes(policy, params), obs.transpose(2, 0, 1)
    tail = lambda a: np.asarray(a) if head == "discrete" else np.moveaxis(np.asarray(a), 0, -1)  # noqa: E731
    rows = np.asarray(jax.vmap(jax.vmap(policy.act), in_axes=(None, 0))(params, obs))
    for layout in (deployed, jax.tree.map(lambda a: a[..., None, :], deployed)):
        np.testing.assert_array_equal(tail(policy.act_deployed(layout, trailing)), rows)
        np.testing.assert_array_equal(tail(jax.jit(policy.act_deployed)(layout, trailing)), rows)
    np.testing.assert_array_equal(tail(policy.act_deployed(deployed, trailing[:, 1])), rows[1])
    first = jax.tree.map(lambda a: a[0], params)
    single = policy.deploy(first)
    for i in range(4):
        one = np.asarray(policy.act(first, obs[i % r, 0]))
        np.testing.assert_array_equal(one, rows[i % r, 0])
        np.testing.assert_array_equal(np.asarray(policy.act_deployed(single, obs[i % r, 0])), one)
        np.testing.assert_array_equal(np.asarray(jax.jit(policy.act)(first, obs[i % r, 0])), one)
    np.testing.assert_array_equal(tail(policy.act_deployed(single, trailing[:, :, 0])), rows[:, 0])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_action_within_a_rollout_is_the_action_alone(precision):
    policy = mlp_policy(spec(precision, (16,), "box", 4, 1))
    params = stacked(policy, 64)
    deployed = deployed_lanes(policy, params)

    def step(obs, _):
        action = policy.act_deployed(deployed, obs)
        return jnp.sin(obs * 1.7 + action), (obs, action)

    _, (obs, actions) = jax.jit(lambda o: jax.lax.scan(step, o, length=20))(observations(policy.spec, 64, 3).T)
    alone = np.stack([np.asarray(policy.act_deployed(deployed, o)) for o in obs])
    np.testing.assert_array_equal(actions, alone)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_actions_are_valid_for_any_observation(precision):
    for head in HEADS:
        policy, params = random_policy(1, precision, (16,), head)
        actions = np.asarray(policy.act_deployed(policy.deploy(params), observations(policy.spec, 20_000).T))
        assert actions.dtype == (np.float32 if head == "box" else np.int32)
        low, high = map(np.float32, policy.spec[5:7]) if head == "box" else (0, 2 if head == "discrete" else (1, 0))
        assert np.all(actions.T >= low) and np.all(actions.T <= high)
        nan = policy.act(params, np.full(4, np.nan, np.float32))
        centre = policy.act(params, np.asarray(policy.spec.obs_offset, np.float32))
        np.testing.assert_array_equal(nan, centre)


@pytest.mark.parametrize("precision", ["float32", "binary-act"])
def test_scaling_float_parameters(precision):
    """A power of two on the last layer keeps the argmax; behind a sign, on the hidden layer too."""
    policy, params = random_policy(2, precision, (16,))
    obs = observations(policy.spec, 5_000).T
    base = policy.act_deployed(policy.deploy(params), obs)
    for layer in ("1", "0") if precision == "binary-act" else ("1",):
        scaled = params | {layer: jax.tree.map(lambda a: 8 * a, params[layer])}
        np.testing.assert_array_equal(base, policy.act_deployed(policy.deploy(scaled), obs))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_unit_of_an_observation_does_not_matter(precision):
    """Observation, offset and scale times a power of two: the same action."""
    policy, params = random_policy(5, precision, (16,))
    s = policy.spec
    other = mlp_policy(
        s._replace(obs_offset=tuple(4 * v for v in s.obs_offset), obs_scale=tuple(4 * v for v in s.obs_scale))
    )
    obs = np.random.default_rng(0).normal(size=(4, 2_000)).astype(np.float32)
    one, two = policy.act_deployed(policy.deploy(params), obs), other.act_deployed(other.deploy(params), 4 * obs)
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("fan_in", [1, 64, 65, 72, 130])
def test_dense_is_a_matrix_product(fan_in):
    rng = np.random.default_rng(0)
    w, b, x = (rng.integers(-127, 128, size=s).astype(np.float32) for s in ((3, fan_in, 5), (3, 5), (fan_in, 2, 5)))
    expected = np.einsum("mkn,krn->mrn", w, x) + b[:, None]
    np.testing.assert_array_equal(dense(jnp.asarray(w), jnp.asarray(b), jnp.asarray(x)), expected)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_random_policy_is_not_saturated(precision):
    """Fresh latents use the box: between 5 and 90 % of random policies' actions lie in its inner half."""
    for hidden in [(), (16,), (32, 32)]:
        policy = mlp_policy(spec(precision, hidden, "box", 6, 1)._replace(obs_offset=(0.0,) * 6, obs_scale=(1.0,) * 6))
        deployed = deployed_lanes(policy, stacked(policy, 400))
        obs = np.random.default_rng(1).normal(size=(6, 400)).astype(np.float32)
        actions = np.asarray(policy.act_deployed(deployed, obs))[0]
        low, high = policy.spec.action_low[0], policy.spec.action_high[0]
        inner = np.mean(np.abs(actions - (low + high) / 2) < (high - low) / 4)
        assert 0.05 < inner < 0.9, (hidden, inner)


def test_make_policy_reads_the_spaces():
    policy = make_policy(env_spec("CartPole-v1"), hidden=(), precision="int8", obs_scale=[1, 2, 3, 4])
    assert policy.spec[:5] == (4, (), "int8", "discrete", 2) and policy.spec.obs_scale == (1, 2, 3, 4)
    policy = make_policy(env_spec("Pendulum-v1"))
    assert policy.spec[:7] == (3, (16,), "binary", "box", 1, (-2.0,), (2.0,))
    assert jax.tree.map(jnp.shape, policy.init(jax.random.key(0)))["0"] == {"w": (16, 3), "b": (16,)}
    many = EnvSpec("X", spaces.Box(-1, 1, (3,)), spaces.MultiDiscrete([2, 5]), 1, None)
    policy = make_policy(many, precision="int8", activation="relu")
    assert policy.spec[3:7] == ("multidiscrete", 7, (), ()) and policy.spec[9:12] == ((2, 5), "relu", "tanh")
    assert jax.eval_shape(policy.act, policy.init(jax.random.key(0)), np.zeros(3)).shape == (2,)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_multidiscrete_action_is_the_first_largest_of_every_group(precision):
    """The groups of a policy against the discrete policies that have those rows of the last layer alone."""
    policy, params = random_policy(1, precision, (16,), "multidiscrete", 4, 6)
    obs = observations(policy.spec, 2_000).T
    got = np.asarray(policy.act_deployed(policy.deploy(params), obs))
    for i, rows in enumerate((slice(0, 2), slice(2, 6))):
        alone = mlp_policy(spec(precision, (16,), "discrete", 4, rows.stop - rows.start))
        part = params | {"1": jax.tree.map(lambda leaf, rows=rows: leaf[rows], params["1"])}
        np.testing.assert_array_equal(got[i], alone.act_deployed(alone.deploy(part), obs))
        assert len(np.unique(got[i])) > 1
    tie = np.asarray(policy.act(jax.tree.map(jnp.zeros_like, params), np.ones(4, np.float32)))
    np.testing.assert_array_equal(tie, [0, 0])


def test_float_hidden_units_and_box_heads_by_hand():
    one = PolicySpec(1, (1,), "float32", "box", 1, (-1.0,), (3.0,), (0.0,), (1.0,))
    params = {"0": {"w": jnp.ones((1, 1)), "b": jnp.zeros(1)}, "1": {"w": jnp.full((1, 1), 0.5), "b": jnp.zeros(1)}}
    for x in (-3.0, -0.4, 0.3, 0.6, 5.0):
        for activation, hidden in (("tanh", np.tanh(x)), ("relu", max(x, 0.0))):
            for squash, reach in (("tanh", np.tanh(hidden / 2)), ("clip", np.clip(hidden / 2, -1, 1))):
                policy = mlp_policy(one._replace(activation=activation, squash=squash))
                np.testing.assert_allclose(policy.act(params, np.float32([x])), [1 + 2 * reach], atol=1e-6)
        rounded = mlp_policy(one._replace(activation="relu", squash="clip", precision="int8-act"))
        want = 1 + np.rint(127 * np.clip(x, 0, 1)) / 127
        np.testing.assert_allclose(rounded.act(params, np.float32([x])), [want], atol=1e-6)


def test_mistakes_give_one_line():
    good = spec("float32")
    cases = [
        (good._replace(precision="binery"), "did you mean 'binary'"),
        (good._replace(precision="int8act"), "did you mean 'int8-act'"),
        (good._replace(head="softmax"), "unknown head"),
        (good._replace(activation="gelu"), "unknown activation 'gelu': expected one of tanh, relu"),
        (good._replace(squash="sigmoid"), "unknown squash"),
        (good._replace(squash="clip"), "squash 'clip': only a float policy with a box head"),
        (spec("int8", (4,), "box")._replace(squash="clip"), "squash 'clip': only a float policy"),
        (spec("float32", (4,), "box")._replace(squash="table"), "squash 'table': only an integer policy"),
        (spec("int8", (4,))._replace(squash="table"), "squash 'table': only an integer policy with a box"),
        (spec("binary")._replace(activation="relu"), "units of a binary policy are signs"),
        (spec("binary-act")._replace(activation="relu"), "units of a binary-act policy are signs"),
        (good._replace(groups=(1, 2)), "groups .* others none"),
        (good._replace(head="multidiscrete"), "groups .* a multidiscrete head has some"),
        (good._replace(head="multidiscrete", groups=(2, 2)), "groups .* sum to action_size"),
        (good._replace(head="multidiscrete", groups=(3, 0)), "groups must be a positive integer"),
        (good._replace(hidden=(0,)), "hidden must be a positive integer"),
        (good._replace(obs_scale=(1.0,)), "obs_scale must have 4 numbers"),
        (good._replace(obs_scale=(1.0, 0.0, 1.0, 1.0)), "obs_scale must be positive"),
        (good._replace(obs_offset=(np.nan,) * 4), "obs_offset must be finite"),
        (good._replace(precision="int8", obs_offset=(1e9,) * 4), "zero point"),
        (spec("int8", (4,), "box")._replace(action_low=(5.0,) * 3), "action_low must be below"),
    ]
    for bad, message in cases:
        with pytest.raises(ValueError, match=message) as caught:
            mlp_policy(bad)
        assert "\n" not in str(caught.value)
    unbounded = EnvSpec("X", spaces.Box(-1, 1, (3,)), spaces.Box(-np.inf, np.inf, (1,)), 1, None)
    image = EnvSpec("X", spaces.Box(-1, 1, (3, 3)), spaces.Discrete(2), 1, None)
    grid = EnvSpec("X", spaces.Box(-1, 1, (3,)), spaces.MultiDiscrete([[2, 3], [4, 5]]), 1, None)
    late = EnvSpec("X", spaces.Box(-1, 1, (3,)), spaces.MultiDiscrete([2, 3], start=[0, 1]), 1, None)
    for env in (unbounded, image, grid, late):
        with pytest.raises(ValueError, match=r"^X: the (action|observation) space must be"):
            make_policy(env)
