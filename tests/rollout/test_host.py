"""Host evaluation: a pair's result depends on the pair alone, whatever lanes, groups, chunks and dying simulators."""

import jax
import numpy as np
import pytest
from jax.tree_util import Partial
from support.host_task import PointEnv, PointLanes

from polystep_rl.baselines.eggroll import eggroll
from polystep_rl.moments import merge
from polystep_rl.policies import make_policy
from polystep_rl.rollout.bookkeeping import Ledger
from polystep_rl.rollout.host import HostEvaluator, HostLayout, SimulatorError
from polystep_rl.rollout.score import Horizon, Penalty
from polystep_rl.search import polystep, subspace
from polystep_rl.training.programs import programs
from polystep_rl.training.state import Limits, streams
from polystep_rl.types import Moments

N, R = 9, 3
KEY = jax.random.key(5)


def candidates(policy, n=N):
    return jax.vmap(policy.init)(jax.random.split(jax.random.key(1), n))


def evaluate(env, layout=HostLayout(), n=N, **kwargs):
    policy = make_policy(env.spec, (5,), "float32")
    with HostEvaluator(env, policy, R, layout, **kwargs) as evaluator:
        return evaluator(KEY, candidates(policy, n), lambda x: x)


def by_hand(env):
    """Returns, lengths and all observations acted on, one episode at a time."""
    policy = make_policy(env.spec, (5,), "float32")
    params = candidates(policy)
    seeds = np.asarray(jax.random.randint(KEY, (R,), 0, 2**31 - 1), np.int64)
    returns, lengths, seen = np.zeros((N, R)), np.zeros((N, R), int), []
    act = jax.jit(policy.act)
    for i in range(N):
        own = jax.tree.map(lambda x, i=i: x[i], params)
        for j in range(R):
            lanes, lane, none = env.lanes(1, 1, 0), np.array([0]), np.zeros((1, 1))
            lanes.send(0, lane, none, seeds[j : j + 1])
            ticks = lanes.recv(0)
            while not ticks.terminated[0] and lengths[i, j] < env.spec.horizon:
                seen.append(ticks.obs[0])
                lanes.send(0, lane, np.asarray(act(own, ticks.obs[0]))[None], np.array([-1]))
                ticks = lanes.recv(0)
                returns[i, j] += ticks.reward[0]
                lengths[i, j] += 1
    return returns, lengths, np.array(seen, np.float64)


def test_equals_single_episodes_by_hand():
    env = PointEnv()
    found = evaluate(env, collect_moments=True)
    returns, lengths, seen = by_hand(env)
    np.testing.assert_array_equal(found.lengths, lengths)
    np.testing.assert_allclose(found.returns, returns, rtol=1e-5)
    np.testing.assert_allclose(found.cost, -returns.mean(1), rtol=1e-5)
    assert found.env_steps == lengths.sum() == found.obs_moments.weight
    np.testing.assert_allclose(found.obs_moments.mean, seen.mean(0), rtol=1e-5)
    np.testing.assert_allclose(found.obs_moments.m2, ((seen - seen.mean(0)) ** 2).sum(0), rtol=1e-5)


@pytest.mark.parametrize("layout", [HostLayout(1, 1), HostLayout(5, 1), HostLayout(18, 2), HostLayout(24, 3)], ids=str)
def test_lanes_and_groups_change_nothing(layout):
    reference, other = evaluate(PointEnv(), collect_moments=True), evaluate(PointEnv(), layout, collect_moments=True)
    for a, b in zip(jax.tree.leaves(reference), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


def test_lanes_that_begin_together_change_nothing(monkeypatch):
    monkeypatch.setattr(PointLanes, "together", True)
    started = []
    send = PointLanes.send

    def watched(self, group, lanes, actions, seeds):
        assert (seeds >= 0).all() or (seeds < 0).all()
        started.append(int((seeds >= 0).sum()))
        send(self, group, lanes, actions, seeds)

    monkeypatch.setattr(PointLanes, "send", watched)
    waves = evaluate(PointEnv(), HostLayout(16, 1), collect_moments=True)
    monkeypatch.undo()
    assert [k for k in started if k] == [16, 11]
    for a, b in zip(jax.tree.leaves(evaluate(PointEnv(), collect_moments=True)), jax.tree.leaves(waves), strict=True):
        np.testing.assert_array_equal(a, b)


def test_chunks_change_only_how_moments_are_summed():
    reference = evaluate(PointEnv(), collect_moments=True)
    env = PointEnv()
    other = evaluate(env, HostLayout(max_bytes=1), collect_moments=True)  # a candidate at a time
    np.testing.assert_array_equal(reference.returns, other.returns)
    for a, b in zip(reference.obs_moments, other.obs_moments, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9)
    assert len(env.pools) == 1 and env.pools[0].width == R


def test_lost_episodes_are_run_again():
    rng = np.random.default_rng(0)
    env = PointEnv(lose=lambda tick, lane: rng.random() < 0.02)
    reference, other = evaluate(PointEnv(), collect_moments=True), evaluate(env, collect_moments=True)
    assert env.pools[0].faults >= 3
    for a, b in zip(jax.tree.leaves(reference), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


def test_identical_candidates_get_identical_costs():
    env = PointEnv()
    policy = make_policy(env.spec, (5,), "binary")
    same = jax.tree.map(lambda x: jax.numpy.stack([x] * 40), policy.init(KEY))
    with HostEvaluator(env, policy, 2) as evaluator:
        found = evaluator(KEY, same, lambda x: x)
    assert len(set(np.asarray(found.cost).tolist())) == 1 and len(set(found.returns[0].tolist())) == 2


def test_horizon_cuts():
    found = evaluate(PointEnv(longest=30, horizon=4), collect_moments=True)
    assert found.lengths.max() == 4
    asked = evaluate(PointEnv(longest=30), collect_moments=True, horizon=Horizon(4))  # the same by the evaluator alone
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(asked), strict=True):
        np.testing.assert_array_equal(a, b)
    assert evaluate(PointEnv(longest=30, horizon=4), horizon=Horizon(9)).lengths.max() == 4, (
        "never longer than the task"
    )


def test_a_horizon_that_grows():
    env = PointEnv(longest=30)
    policy = make_policy(env.spec, (5,), "binary")
    with HostEvaluator(env, policy, 2, horizon=Horizon(2, 18)) as evaluator:
        assert evaluator.grows
        params = jax.vmap(policy.init)(jax.random.split(KEY, 10))
        longest = [evaluator(KEY, params, lambda x: x, share).lengths.max() for share in (0.0, 0.5, 1.0, 0.0)]
    assert longest == [2, 6, 18, 2]


def test_a_penalty_may_fade():
    """Linearly in the share of the budget that is spent."""
    env = PointEnv()
    policy = make_policy(env.spec, (), "float32")
    params = jax.vmap(policy.init)(jax.random.split(jax.random.key(0), 5))
    with HostEvaluator(env, policy, 2, penalty=Penalty(-1.0, 0.0)) as evaluator:
        assert evaluator.grows
        found = [evaluator(jax.random.key(1), params, lambda c: c, share) for share in (0.0, 0.75, 1.0)]
    plain = found[-1]
    living = plain.lengths.mean(axis=1)
    for share, one in zip((0.0, 0.75, 1.0), found, strict=True):
        np.testing.assert_allclose(one.cost, plain.cost - (1 - share) * living, rtol=1e-5)
        np.testing.assert_array_equal(one.returns, plain.returns)


def test_step_penalty_is_in_the_cost_alone():
    plain, shaped = evaluate(PointEnv()), evaluate(PointEnv(), penalty=Penalty(0.5))
    np.testing.assert_array_equal(plain.returns, shaped.returns)
    np.testing.assert_allclose(shaped.cost, plain.cost + 0.5 * plain.lengths.mean(1), rtol=1e-5)


def test_not_a_number_becomes_the_worst_finite_cost():
    found = evaluate(PointEnv(mad=3), HostLayout(lanes=N * R, groups=1))
    bad = ~np.isfinite(found.returns).all(1)
    assert bad.any() and not bad.all() and np.isfinite(found.cost).all()
    assert (found.cost[bad] == found.cost[~bad].max()).all() and found.nonfinite == (~np.isfinite(found.returns)).sum()


def test_an_episode_that_is_always_lost_ends_the_run():
    env = PointEnv(lose=lambda tick, lane: True)
    with pytest.raises(SimulatorError, match="lost 5 times in a row: its simulator died"):
        evaluate(env)
    assert env.pools[0].closed


def test_a_pool_is_closed_when_something_breaks():
    env = PointEnv()
    policy = make_policy(env.spec, (5,), "float32")
    evaluator = HostEvaluator(env, policy, R)
    evaluator(KEY, candidates(policy), lambda x: x)
    env.pools[0].recv = lambda group: 1 / 0
    with pytest.raises(ZeroDivisionError):
        evaluator(KEY, candidates(policy), lambda x: x)
    assert env.pools[0].closed
    evaluator(KEY, candidates(policy), lambda x: x)  # a new one
    assert len(env.pools) == 2


def test_no_episodes_are_refused():
    env = PointEnv()
    with pytest.raises(ValueError, match="expected at least 1"):
        HostEvaluator(env, make_policy(env.spec, (), "float32"), 0)
    with pytest.raises(ValueError, match="expected at least 1 step"):
        HostEvaluator(env, make_policy(env.spec, (), "float32"), 1, horizon=Horizon(0))


def test_moments_merge_in_any_split():
    rows = np.random.default_rng(1).normal(3, 2, (100, 4))
    of = lambda x: Moments(np.float32(len(x)), x.mean(0), ((x - x.mean(0)) ** 2).sum(0))  # noqa: E731
    whole = of(rows)
    for cut in (1, 37, 99):
        for a, b in zip(merge(of(rows[:cut]), of(rows[cut:])), whole, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5)
    empty = Moments(np.float32(0), np.zeros(4), np.zeros(4))
    for a, b in zip(merge(empty, whole), whole, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_lanes_stay_with_their_candidate_and_every_pair_is_done_once(seed):
    n, r, width = 6, 4, 4
    rng = np.random.default_rng(seed)
    ledger = Ledger(n, r, np.zeros(1), False)
    at, busy, done = [-1] * width, {}, []
    while ledger.left or busy:
        lane = int(rng.integers(width))
        if lane in busy:  # its episode ends, or is lost once
            pair = busy.pop(lane)
            if rng.random() < 0.8 or ledger.losses[pair]:
                done.append(pair)
            else:
                ledger.again(pair, "lost")
        elif ledger.left:
            has_more = bool(ledger.todo[at[lane]])
            (pair,) = ledger.begin([at[lane]])
            assert pair // r == at[lane] or not has_more
            at[lane] = pair // r
            busy[lane] = pair
    assert sorted(done) == list(range(n * r))


def test_the_first_lanes_take_different_candidates():
    ledger = Ledger(5, 3, np.zeros(1), False)
    assert [pair // 3 for pair in ledger.begin([-1] * 5)] == list(range(5))


@pytest.mark.parametrize("search", ["factored", "eggroll"])
def test_candidates_that_are_never_built_return_the_same(search):
    """Up to the rounding of their actions; in a generation of a host search, large policies are not built."""
    env = PointEnv()
    policy = make_policy(env.spec, (64, 64), "float32")
    geometry = polystep.Geometry(dim=5)
    strategy = eggroll(8) if search == "eggroll" else polystep.polystep(subspace.factored(1), geometry)
    state = strategy.init(jax.random.key(0), policy.init(jax.random.key(1)))
    few = jax.tree.map(lambda x: x[:12], strategy.ask(jax.random.key(2), state).candidates)
    with HostEvaluator(env, policy, R) as evaluator:
        built, structured = (evaluator(KEY, few, Partial(f, state)) for f in (strategy.decode, strategy.structure))
        np.testing.assert_allclose(structured.returns, built.returns, rtol=1e-4)
        np.testing.assert_array_equal(structured.lengths, built.lengths)
        assert len(np.unique(built.returns)) > R, "the candidates differ"

        def builds(*args):
            raise AssertionError("built")

        host = programs(strategy._replace(decode=builds), evaluator, evaluator)
        limits = Limits(*np.int32([0, 0, 1, 10**6, 10**6, 10**6]))
        assert len(host.chunk(streams(0), state, limits)[1]["_ran"]) == 1
