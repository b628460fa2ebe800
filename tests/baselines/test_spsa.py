"""The laws that SPSA, EGGROLL and the hill climber share, then those of SPSA."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.tree_util import Partial

from polystep_rl.baselines import weights as shaping
from polystep_rl.baselines.eggroll import eggroll
from polystep_rl.baselines.hill_climbing import hill_climbing
from polystep_rl.baselines.spsa import spsa
from polystep_rl.envs import make
from polystep_rl.policies import make_policy
from polystep_rl.rollout.device import DeviceEvaluator, Layout

COSINE = optax.cosine_decay_schedule(0.2, 150, alpha=0.1)
STRATEGIES = {
    "spsa": spsa(16, 0.05, optax.adam(0.1)),
    "spsa-gaussian": spsa(16, COSINE, optax.sgd(0.02), "gaussian"),
    "spsa-standardised": spsa(16, 0.05, optax.sgd(0.005), standardise=True),
    "spsa-ranks": spsa(16, 0.05, optax.adam(0.1), shaping=shaping.centred_ranks),
    "eggroll": eggroll(32, 0.1, 1, optax.adam(0.1)),
    "eggroll-8": eggroll(32, COSINE, 8, optax.adam(0.1)),
    "hill": hill_climbing(31, 0.15),
    "hill-adapted": hill_climbing(31, COSINE, grow=1.5, shrink=0.9),
}
PARAMS = {"b": jnp.linspace(-1, 1, 5), "s": jnp.asarray(0.5), "w": jnp.linspace(-1, 1, 30).reshape(6, 5)}
MAIN = ["spsa", "eggroll", "hill"]
every_strategy = pytest.mark.parametrize(
    "strategy",
    [pytest.param(x, marks=() if name in MAIN else pytest.mark.slow, id=name) for name, x in STRATEGIES.items()],
)
main_strategies = pytest.mark.parametrize("strategy", [STRATEGIES[name] for name in MAIN], ids=MAIN)


def cost(params):
    return sum(jnp.sum(jnp.square(leaf - 1.5)) for leaf in jax.tree.leaves(params))


def generation(strategy, state, key):
    proposal = strategy.ask(key, state)
    return strategy.tell(state, proposal, jax.vmap(cost)(strategy.decode(state, proposal.candidates)))


def same(one, other):
    equal = jax.tree.map(lambda a, b: a.shape == b.shape and a.dtype == b.dtype and bool((a == b).all()), one, other)
    return all(jax.tree.leaves(equal))


def pairs(one, other):
    return zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)


def near(one, other, **tolerance):
    jax.tree.map(partial(np.testing.assert_allclose, **tolerance), one, other)


def asked(strategy, params=PARAMS, seed=1):
    state = jax.jit(strategy.init)(jax.random.key(0), params)
    return state, jax.jit(strategy.ask)(jax.random.key(seed), state)


def costs_of(strategy, state, proposal):
    return jax.jit(lambda s, c: jax.vmap(cost)(strategy.decode(s, c)))(state, proposal.candidates)


@every_strategy
def test_ask_is_pure_and_every_candidate_is_of_its_own(strategy):
    state, proposal = asked(strategy)
    assert same(proposal, strategy.ask(jax.random.key(1), state))
    decode = jax.jit(strategy.decode)
    members = decode(state, proposal.candidates)
    later = decode(state, strategy.ask(jax.random.key(2), state).candidates)
    n = proposal.candidates.seed.shape[0]
    flat = [jnp.concatenate([leaf.reshape(n, -1) for leaf in jax.tree.leaves(m)], 1) for m in (members, later)]
    both = np.concatenate(flat)
    centres = 2 if int(proposal.candidates.sign[0]) == 0 else 1  # a hill climber's centre is in both
    assert len(np.unique(both, axis=0)) == 2 * n + 1 - centres
    assert all(leaf.shape == (n, *like.shape) and leaf.dtype == like.dtype for leaf, like in pairs(members, PARAMS))


@main_strategies
def test_compact_candidates_do_not_grow_with_the_parameters(strategy):
    shapes = [jax.tree.map(jnp.shape, asked(strategy, jnp.ones((k, k)))[1]) for k in (2, 50)]
    assert shapes[0] == shapes[1]


@main_strategies
def test_chunks_decode_to_the_same_members(strategy):
    state, proposal = asked(strategy)
    decode = jax.jit(strategy.decode)
    whole, n = decode(state, proposal.candidates), proposal.candidates.seed.shape[0]
    chunks = [jax.tree.map(lambda x, i=i: x[i : i + 5], proposal.candidates) for i in range(0, n, 5)]
    parts = [decode(state, chunk) for chunk in chunks]
    near(jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts), whole, rtol=1e-6, atol=1e-7)
    padding = decode(state, jax.tree.map(lambda x: jnp.zeros_like(x[:2]), proposal.candidates))
    near(jax.tree.map(lambda leaf: leaf[1], padding), strategy.params(state), rtol=0, atol=0)


@main_strategies
def test_compiled_is_eager_and_one_compilation_serves_all_generations(strategy):
    step = jax.jit(partial(generation, strategy))
    state = strategy.init(jax.random.key(0), PARAMS)
    eager, eager_info = generation(strategy, state, jax.random.key(0))
    for number in range(4):
        before, (state, info) = state, step(state, jax.random.key(number))
        if number == 0:
            near(strategy.params(state), strategy.params(eager), rtol=1e-4, atol=1e-5)
            near(info, eager_info, rtol=1e-3, atol=1e-4)
        kinds = [jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), s) for s in (before, state)]
        assert kinds[0] == kinds[1]
    assert step._cache_size() == 1
    assert int(state.step) == 4
    assert {"step_norm", "sigma", "cost_best", "cost_mean", "cost_worst"} <= set(info)
    assert all(x.shape == () and np.isfinite(x) for x in info.values())


@every_strategy
def test_a_quadratic_is_descended(strategy):
    """Below a tenth of its cost within 150 generations, from each of three seeds."""

    def run(key):
        state = strategy.init(key, PARAMS)
        keys = jax.random.split(jax.random.fold_in(key, 1), 150)
        state, info = jax.lax.scan(partial(generation, strategy), state, keys)
        return cost(strategy.params(state)), info

    final, info = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), 3))
    assert float(cost(PARAMS)) > 80
    assert float(final.max()) < 8, final
    assert np.isfinite(info["step_norm"]).all()


@main_strategies
def test_a_constant_added_to_all_costs_changes_nothing(strategy):
    state, proposal = asked(strategy)
    costs = jnp.round(16 * costs_of(strategy, state, proposal)) / 16  # exact after the addition
    tell = jax.jit(strategy.tell)
    one, other = (strategy.params(tell(state, proposal, c)[0]) for c in (costs, costs + 1024))
    near(one, other, rtol=0, atol=1e-4)
    assert not same(one, PARAMS)


@every_strategy
def test_equal_costs_leave_the_centre_and_broken_ones_leave_it_finite(strategy):
    state, proposal = asked(strategy)
    costs, tell = jnp.full(proposal.candidates.seed.shape, 0.1), jax.jit(strategy.tell)
    assert same(strategy.params(tell(state, proposal, costs)[0]), PARAMS)
    broken = costs.at[2].set(jnp.nan).at[4].set(jnp.inf).at[5].set(-jnp.inf).at[7].set(-1.0)
    moved = strategy.params(tell(state, proposal, broken)[0])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(moved))
    assert not same(moved, PARAMS)
    assert same(strategy.params(tell(state, proposal, costs * jnp.nan)[0]), PARAMS)


@pytest.mark.parametrize("name", ["eggroll", "hill"])
def test_the_layout_of_an_evaluation_changes_no_cost(name):
    """Devices, chunks and their padding, with weights that are quantised after the perturbation."""
    env, strategy = make("CartPole-v1"), STRATEGIES[name]
    policy = make_policy(env.spec, (), "int8", 0.0, 0.2)
    centre = jax.tree.map(jnp.zeros_like, policy.init(jax.random.key(3)))
    state, proposal = asked(strategy, centre)
    costs = []
    for layout in (Layout(devices=tuple(jax.devices()[:1])), Layout(max_bytes=3000)):
        evaluate = DeviceEvaluator(env, policy, 2, layout)
        run = jax.jit(lambda s, c, evaluate=evaluate: evaluate(jax.random.key(4), c, Partial(strategy.decode, s)).cost)
        costs.append(np.asarray(run(state, proposal.candidates)))
    assert len(set(costs[0].tolist())) > 3
    np.testing.assert_array_equal(costs[0], costs[1])


@pytest.mark.parametrize("params", [[1, 2], [], jnp.zeros((0, 3))])
@pytest.mark.parametrize("name", ["spsa", "eggroll", "hill"])
def test_parameters_that_cannot_be_searched_are_refused(name, params):
    with pytest.raises(ValueError, match="expected floating-point|no entries"):
        STRATEGIES[name].init(jax.random.key(0), params)


# --- SPSA --------------------------------------------------------------------------------------------------------
def test_one_pair_is_the_directional_derivative():
    """(C+ - C-) / (2 sigma) z, here with z read off the members, and sgd(1) steps against it."""
    for distribution in ("rademacher", "gaussian"):
        strategy = spsa(1, 0.5, optax.sgd(1.0), distribution)
        x = jnp.linspace(-1, 1, 6)
        state, proposal = asked(strategy, x)
        plus, minus = strategy.decode(state, proposal.candidates)
        z = (plus - x) / 0.5
        np.testing.assert_allclose(minus, x - 0.5 * z, atol=1e-6)
        told, info = strategy.tell(state, proposal, jnp.asarray([3.0, 1.0]))
        np.testing.assert_allclose(strategy.params(told), x - (3 - 1) / (2 * 0.5) * z, atol=1e-5)
        assert float(info["step_norm"]) == pytest.approx(2 * float(jnp.linalg.norm(z)), rel=1e-5)
        if distribution == "rademacher":
            np.testing.assert_allclose(jnp.abs(z), 1, atol=1e-5)


@pytest.mark.parametrize("distribution", ["rademacher", "gaussian"])
def test_the_mean_estimate_is_the_gradient_of_a_quadratic(distribution):
    """Over 4000 generations, within 5 standard errors in every coordinate."""
    strategy = spsa(2, 0.3, optax.sgd(1.0), distribution)
    state = strategy.init(jax.random.key(0), PARAMS)

    def estimate(key):
        moved = strategy.params(generation(strategy, state, key)[0])
        return jax.tree.map(jnp.subtract, PARAMS, moved)

    estimates = jax.jit(jax.vmap(estimate))(jax.random.split(jax.random.key(1), 4000))
    for leaf, gradient in pairs(estimates, jax.grad(cost)(PARAMS)):
        error = leaf.std(0) / np.sqrt(4000)
        assert float(jnp.max(jnp.abs(leaf.mean(0) - gradient) / error)) < 5
        assert float(jnp.max(error)) < 0.4 < float(jnp.max(jnp.abs(gradient)))


def test_standardised_differences_forget_the_scale_of_the_cost_and_the_others_do_not():
    steps = {}
    for standardise in (False, True):
        strategy = spsa(4, 0.1, optax.sgd(1.0), standardise=standardise)
        state, proposal = asked(strategy, jnp.zeros(7))
        costs = jnp.arange(8.0) ** 2
        steps[standardise] = [strategy.params(strategy.tell(state, proposal, f * costs)[0]) for f in (1.0, 10.0)]
    np.testing.assert_allclose(steps[True][1], steps[True][0], rtol=1e-5)
    np.testing.assert_allclose(steps[False][1], 10 * steps[False][0], rtol=1e-5)


def test_memory_of_tell_does_not_grow_with_the_pairs():
    def temporaries(pairs):
        strategy = spsa(pairs, 0.1, optax.sgd(1.0))
        shapes = jax.eval_shape(strategy.init, jax.random.key(0), jnp.zeros((512, 512)))
        whole = jax.jit(lambda s, k, c: strategy.tell(s, strategy.ask(k, s), c))
        compiled = whole.lower(shapes, jax.random.key(0), jnp.zeros(2 * pairs)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    few, many = temporaries(2), temporaries(64)
    assert few > 0
    assert many - few < 512 * 512 * 4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: spsa(0), "spsa: pairs was 0, expected at least 1"),
        (lambda: spsa(sigma=0.0), "spsa: sigma was 0.0, expected a number above 0"),
        (lambda: spsa(sigma=float("nan")), "spsa: sigma was nan, expected a number above 0"),
        (lambda: spsa(distribution="cauchy"), "distribution was 'cauchy', expected one of rademacher, gaussian"),
    ],
)
def test_bad_settings_are_one_clear_line(call, message):
    with pytest.raises(ValueError, match=message):
        call()
