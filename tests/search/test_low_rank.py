"""Candidates that are never built act like those that are."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from polystep_rl.baselines.eggroll import eggroll
from polystep_rl.envs import make
from polystep_rl.policies import make_policy
from polystep_rl.rollout.device import DeviceEvaluator
from polystep_rl.search import polystep, subspace
from polystep_rl.training.programs import make_step
from polystep_rl.types import Strategy

POLICY = make_policy(make("Pendulum-v1").spec, (16, 12), "float32", 0.1, 0.3)
STRATEGIES = {
    "factored": polystep.polystep(subspace.factored(3), polystep.Geometry(dim=5)),
    "eggroll": eggroll(24, rank=2),
    "full": polystep.polystep(subspace.full(), polystep.Geometry(dim=4)),
}


@pytest.fixture(params=STRATEGIES)
def strategy(request: pytest.FixtureRequest) -> Strategy:
    return STRATEGIES[request.param]


def asked(strategy: Strategy):
    state = strategy.init(jax.random.key(0), POLICY.init(jax.random.key(1)))
    return state, strategy.ask(jax.random.key(2), state).candidates


def test_they_act_like_their_parameters(strategy: Strategy) -> None:
    state, candidates = asked(strategy)
    n = jax.tree.leaves(candidates)[0].shape[0]
    obs = jax.random.normal(jax.random.key(3), (3, n, 7))
    deployed = jax.vmap(POLICY.deploy, out_axes=-1)(strategy.decode(state, candidates))
    wanted = POLICY.act_deployed(jax.tree.map(lambda x: x[..., None], deployed), obs)
    structured = strategy.structure(state, candidates)
    own = jax.tree.map(lambda x: jnp.moveaxis(x, 0, -1)[..., None], structured.own)
    np.testing.assert_allclose(POLICY.act_structured(structured, own, obs), wanted, atol=2e-5)
    centre = POLICY.act_deployed(POLICY.deploy(strategy.params(state)), obs)
    assert np.abs(wanted - centre).max(axis=(0, 2)).min() > 1e-4, "every candidate differs from the centre"


def test_they_cost_the_same(strategy: Strategy) -> None:
    state, candidates = asked(strategy)
    evaluate = DeviceEvaluator(make("Pendulum-v1"), POLICY, 2)
    wanted, given = (
        jax.jit(lambda c, f=f: evaluate(jax.random.key(4), c, jax.tree_util.Partial(f, state)))(candidates)
        for f in (strategy.decode, strategy.structure)
    )
    np.testing.assert_allclose(given.cost, wanted.cost, rtol=1e-3)


def test_a_generation_builds_small_policies_only() -> None:
    def builds(*args):
        raise AssertionError("built")

    env, zero = make("Pendulum-v1"), jnp.float32(0)
    for hidden, is_built in (((16, 12), True), ((64, 64), False)):
        policy = make_policy(env.spec, hidden, "float32", 0.1, 0.3)
        strategy, evaluate = eggroll(8), DeviceEvaluator(env, policy, 1)
        state = strategy.init(jax.random.key(0), policy.init(jax.random.key(1)))
        keys = jax.random.split(jax.random.key(2))
        go = lambda s, e=evaluate, k=keys, x=state: jax.jit(make_step(s, e))(*k, x, zero)[2].cost  # noqa: E731
        wanted = go(strategy._replace(structure=None))
        if is_built:
            np.testing.assert_array_equal(go(strategy), wanted)
            with pytest.raises(AssertionError, match="built"):
                go(strategy._replace(decode=builds))
        else:
            np.testing.assert_allclose(go(strategy._replace(decode=builds)), wanted, rtol=1e-3)


def test_integer_policies_are_built() -> None:
    env = make("Pendulum-v1")
    policy = make_policy(env.spec, (8,), "binary")
    strategy = STRATEGIES["factored"]
    state = strategy.init(jax.random.key(0), policy.init(jax.random.key(1)))
    candidates = strategy.ask(jax.random.key(2), state).candidates
    with pytest.raises(ValueError, match="binary"):
        DeviceEvaluator(env, policy, 1)(jax.random.key(0), candidates, partial(strategy.structure, state))
