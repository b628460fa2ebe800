"""Costs of a population: common random numbers, one result whatever the layout, non-finite returns."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from support.cases import mostly_slow

from polystep_rl.envs import make
from polystep_rl.moments import merge_moments
from polystep_rl.policies import make_policy
from polystep_rl.rollout.device import DeviceEvaluator, Layout, evaluate_params
from polystep_rl.rollout.population import RolloutConfig
from polystep_rl.rollout.score import Horizon, Penalty, finite_cost
from polystep_rl.types import Evaluation, Moments, Policy, Step

N, R = 7, 4  # odd: padding on two devices, and in chunks
TINY = Layout(max_bytes=1)
ONE = Layout(devices=tuple(jax.devices()[:1]))
PAIRS = Layout(RolloutConfig(lanes=3), max_bytes=600)
KEY = jax.random.key(7)


@pytest.fixture(scope="module")
def policy() -> Policy:
    return make_policy(make("CartPole-v1").spec, (8,), "int8", 0.0, 0.2)


def population(policy: Policy, n: int = N) -> Any:
    return jax.vmap(policy.init)(jax.random.split(jax.random.key(1), n))


def evaluate(policy: Policy, params: Any, layout: Layout = Layout(), **kwargs: Any) -> Evaluation:
    evaluator = DeviceEvaluator(make("CartPole-v1"), policy, R, layout, **kwargs)
    return jax.device_get(jax.jit(lambda key, p: evaluator(key, p, lambda x: x))(KEY, params))


@pytest.fixture(scope="module")
def reference(policy: Policy) -> Evaluation:
    return evaluate(policy, population(policy), ONE, collect_moments=True)


def test_identical_candidates_cost_the_same(policy: Policy) -> None:
    one = policy.init(jax.random.key(5))
    same = evaluate(policy, jax.tree.map(lambda x: jnp.broadcast_to(x, (N, *x.shape)), one))
    assert len(set(same.cost.tolist())) == 1
    assert (same.returns == same.returns[:1]).all()
    assert len(set(same.returns[0].tolist())) > 1, "but its episodes differ"
    alone = jax.device_get(
        jax.jit(lambda p: evaluate_params(DeviceEvaluator(make("CartPole-v1"), policy, R), KEY, p))(one)
    )
    np.testing.assert_array_equal(alone.returns, same.returns[:1])


@pytest.mark.parametrize("layout", [Layout(), TINY, PAIRS], ids=["two devices", "chunks of one", "chunks of some"])
def test_layout_changes_no_bit(policy: Policy, reference: Evaluation, layout: Layout) -> None:
    assert jax.device_count() == 2
    given = evaluate(policy, population(policy), layout, collect_moments=True)
    for name in ("cost", "returns", "lengths", "env_steps", "nonfinite"):
        np.testing.assert_array_equal(getattr(given, name), getattr(reference, name), err_msg=name)
    # Sums in another order; but every step is counted, and padding is not.
    assert given.obs_moments.weight == reference.obs_moments.weight == reference.lengths.sum()
    np.testing.assert_allclose(given.obs_moments.mean, reference.obs_moments.mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(given.obs_moments.m2, reference.obs_moments.m2, rtol=1e-4)


def test_cost_and_steps(reference: Evaluation) -> None:
    assert reference.returns.shape == reference.lengths.shape == (N, R)
    np.testing.assert_allclose(reference.cost, -reference.returns.mean(1), rtol=1e-6)
    assert reference.env_steps == reference.lengths.sum() == reference.returns.sum()
    assert reference.nonfinite == 0


def test_horizon_cuts(policy: Policy, reference: Evaluation) -> None:
    """With a reward of 1 a step, a cut episode returns its length."""
    cut = evaluate(policy, population(policy), horizon=Horizon(12))
    np.testing.assert_array_equal(cut.lengths, np.minimum(reference.lengths, 12))
    np.testing.assert_array_equal(cut.returns, cut.lengths)
    assert reference.lengths.max() > 12 == cut.lengths.max()
    longer = evaluate(policy, population(policy), horizon=Horizon(10_000))
    np.testing.assert_array_equal(longer.lengths, reference.lengths)


def test_a_horizon_that_grows(policy: Policy, reference: Evaluation) -> None:
    """The share of the budget that is spent says how long episodes are: geometrically from the first to the last."""
    evaluator = DeviceEvaluator(make("CartPole-v1"), policy, R, horizon=Horizon(5, 80))
    run = jax.jit(lambda share: evaluator(KEY, population(policy), lambda x: x, share))
    for share, limit in ((0.0, 5), (0.25, 10), (0.5, 20), (1.0, 80)):
        np.testing.assert_array_equal(run(jnp.float32(share)).lengths, np.minimum(reference.lengths, limit))
        assert Horizon(5, 80).at(share, 500) == limit
    assert reference.lengths.max() > 20


class Measured:
    """CartPole that also measures how far its angle is from the end of the episode, in radians."""

    def __init__(self) -> None:
        self.env = make("CartPole-v1")
        self.spec = self.env.spec
        self.reset = self.env.reset

    def step(self, state: Any, action: Any) -> Step:
        out = self.env.step(state, action)
        return out._replace(metrics={"margin": 0.2095 - jnp.abs(out.obs[2])})


def test_a_metric_may_end_an_episode(policy: Policy, reference: Evaluation) -> None:
    """After the step in which it fell below a bound: later where the bound is lower, as if cut at that step."""
    env, last = Measured(), np.zeros((N, R))
    for least in (0.15, 0.1, 0.0):
        evaluator = DeviceEvaluator(env, policy, R, horizon=Horizon(metric="margin", least=least))
        cut = evaluator(KEY, population(policy), lambda x: x)
        assert (last <= cut.lengths).all() and (cut.lengths <= reference.lengths).all()
        assert (last < cut.lengths).any()
        np.testing.assert_array_equal(cut.returns, cut.lengths)
        last = np.asarray(cut.lengths)


def test_a_penalty_that_fades(policy: Policy, reference: Evaluation) -> None:
    evaluator = DeviceEvaluator(make("CartPole-v1"), policy, R, penalty=Penalty(2.0, 0.5))
    assert evaluator.grows  # type: ignore[attr-defined]
    for share, penalty in ((0.0, 2.0), (0.5, 1.25), (1.0, 0.5)):
        found = evaluator(KEY, population(policy), lambda x: x, share)  # type: ignore[call-arg]
        np.testing.assert_allclose(found.cost, (penalty - 1) * reference.lengths.mean(1), rtol=1e-5)
        np.testing.assert_array_equal(found.returns, reference.returns)


@pytest.mark.parametrize("horizon, own, ends", [
    (Horizon(), 500, (500, 500)), (Horizon(7), 500, (7, 7)), (Horizon(7), 5, (5, 5)), (Horizon(7, 900), 500, (7, 500)),
    (Horizon(400, 30), 500, (400, 30)), (Horizon(900, 700), 500, (500, 500)),
])  # fmt: skip
def test_horizons_stay_between_their_ends(horizon: Horizon, own: int, ends: tuple[int, int]) -> None:
    steps = [int(horizon.at(share, own)) for share in np.linspace(0, 1, 33).tolist()]
    assert (steps[0], steps[-1]) == ends
    assert steps == sorted(steps, reverse=ends[0] > ends[1])


def test_decode_brings_its_arrays_along(policy: Policy, reference: Evaluation) -> None:
    def decode(params: Any, index: Any) -> Any:
        return jax.tree.map(lambda x: x[index], params)

    evaluator = DeviceEvaluator(make("CartPole-v1"), policy, R)
    given = jax.jit(lambda p: evaluator(KEY, jnp.arange(N), Partial(decode, p)))(population(policy))
    np.testing.assert_array_equal(given.returns, reference.returns)


def test_fewer_candidates_than_devices(policy: Policy, reference: Evaluation) -> None:
    few = jax.tree.map(lambda x: x[:1], population(policy))
    given = evaluate(policy, few)
    np.testing.assert_array_equal(given.returns, reference.returns[:1])


@pytest.mark.parametrize(
    "env_id", mostly_slow(["CartPole-v1", "Acrobot-v1", "Pendulum-v1"], lambda case: case == "CartPole-v1")
)
@pytest.mark.parametrize("episodes", mostly_slow([1, 2, 7, 32], lambda case: case in (1, 7)))
def test_episodes_of_a_single_candidate_are_split_over_devices(env_id: str, episodes: int) -> None:
    """And come back in their order, bit for bit; with moments they are not split, since the padding would count."""
    env = make(env_id)
    policy = make_policy(env.spec, (16,), "float32")
    one = policy.init(jax.random.key(2))
    split, moments, alone = (
        jax.device_get(jax.jit(partial(evaluate_params, evaluator, KEY))(one))
        for evaluator in (
            DeviceEvaluator(env, policy, episodes),
            DeviceEvaluator(env, policy, episodes, collect_moments=True),
            DeviceEvaluator(env, policy, episodes, ONE),
        )
    )
    for given in (split, moments):
        np.testing.assert_array_equal(given.returns, alone.returns)
        np.testing.assert_array_equal(given.lengths, alone.lengths)
        assert given.env_steps == alone.env_steps == alone.lengths.sum()
    assert moments.obs_moments.weight == alone.env_steps


def test_no_episodes(policy: Policy) -> None:
    with pytest.raises(ValueError, match="episodes=0: expected at least 1"):
        DeviceEvaluator(make("CartPole-v1"), policy, 0)


def test_too_many(policy: Policy) -> None:
    evaluator = DeviceEvaluator(make("CartPole-v1"), policy, 2**20)
    with pytest.raises(ValueError, match="4,096 candidates x 1,048,576 episodes of up to 500 steps are too many"):
        jax.eval_shape(lambda p: evaluator(KEY, p, lambda x: x), population(policy, 4096))
    evaluator = DeviceEvaluator(make("CartPole-v1"), policy, 264)  # few enough pairs, too many steps
    with pytest.raises(ValueError, match="16,384 candidates x 264 episodes of up to 500 steps are too many"):
        jax.eval_shape(lambda p: evaluator(KEY, p, lambda x: x), population(policy, 16384))


def test_nonfinite_returns_become_the_worst_finite_cost() -> None:
    inf, nan = np.inf, np.nan
    returns = jnp.array([[1.0, 3.0], [nan, 1.0], [-inf, inf], [5.0, 7.0], [inf, 1.0], [-4.0, 0.0]])
    cost, count = finite_cost(returns)
    np.testing.assert_array_equal(cost, [-2.0, 2.0, 2.0, -6.0, 2.0, 2.0])
    assert count == 4
    cost, count = finite_cost(jnp.full((3, 2), nan))
    np.testing.assert_array_equal(cost, 0)
    assert count == 6


def test_merged_moments_are_those_of_all() -> None:
    rng = np.random.default_rng(0)
    parts = [rng.normal(3, 2, size=(k, 2)).astype(np.float32) for k in (5, 1, 40)]
    one = lambda x: Moments(np.float32(len(x)), x.mean(0), ((x - x.mean(0)) ** 2).sum(0))  # noqa: E731
    nothing = Moments(np.float32(0), np.zeros(2, np.float32), np.zeros(2, np.float32))
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *map(one, parts), nothing)
    merged, everything = merge_moments(stacked), np.concatenate(parts)
    assert merged.weight == 46
    np.testing.assert_allclose(merged.mean, everything.mean(0), rtol=1e-6)
    np.testing.assert_allclose(merged.m2, everything.var(0) * 46, rtol=1e-5)
    empty = merge_moments(jax.tree.map(lambda x: x[None], jax.tree.map(jnp.asarray, nothing)))
    assert np.isfinite(empty.mean).all() and empty.weight == 0
