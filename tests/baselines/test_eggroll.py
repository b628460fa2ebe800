"""EGGROLL's noise, update, memory and products; shaping. What it shares with the others is in test_spsa.py."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.extend.core import subjaxprs

from polystep_rl.baselines import weights as shaping
from polystep_rl.baselines.eggroll import Factors, eggroll, perturbations, perturbed_product

PARAMS = {"b": jnp.asarray([0.5, -1.0]), "w": jnp.linspace(-1, 1, 6).reshape(3, 2)}
CURVATURE = jax.random.normal(jax.random.key(9), (8, 8)) / 3
HESSIAN = CURVATURE @ CURVATURE.T + jnp.eye(8)
ranks = pytest.mark.parametrize("rank", [1, 2, 8])  # min(m, k) is 2


def _flat(params):
    return jnp.concatenate([params["b"], params["w"].ravel()])


def _cost(params):
    """A quadratic that couples all entries."""
    x = _flat(params) - 1
    return 0.5 * x @ HESSIAN @ x


def _estimate(strategy, state, key):
    """The estimated gradient, flattened: what sgd(1) subtracts from the centre."""
    proposal = strategy.ask(key, state)
    told, _ = strategy.tell(state, proposal, jax.vmap(_cost)(strategy.decode(state, proposal.candidates)))
    return _flat(strategy.params(state)) - _flat(strategy.params(told))


def _full_rank_estimate(key, pairs, sigma):
    """OpenAI-ES (arXiv:1703.03864) by hand: antithetic Gaussian noise in all entries, 1 / (n sigma) sum c E."""
    noise = jax.random.normal(key, (pairs, 8))
    noise = jnp.concatenate([noise, -noise])
    x = _flat(PARAMS) + sigma * noise - 1
    return jnp.mean(0.5 * jnp.einsum("ni,ij,nj->n", x, HESSIAN, x)[:, None] * noise, axis=0) / sigma


def _within(samples, expected, errors=5.0):
    """Means of samples (N, ...) are the expected ones, up to that many standard errors each."""
    error = samples.std(0) / np.sqrt(samples.shape[0])
    np.testing.assert_array_less(np.abs(samples.mean(0) - expected), errors * error + 1e-12)


@ranks
def test_noise_has_mean_zero_and_uncorrelated_entries_of_variance_one(rank):
    """E[E] = 0 and Cov(vec E) = I for any rank: 20000 members, 5 standard errors."""
    strategy = eggroll(40_000, 0.1, rank)
    state = strategy.init(jax.random.key(0), PARAMS)
    members = strategy.ask(jax.random.key(1), state).candidates
    drawn = jax.jit(lambda m: perturbations(rank, state, m))(jax.tree.map(lambda leaf: leaf[::2], members))
    assert isinstance(drawn["w"], Factors)
    matrix = jnp.einsum("nmr,nkr->nmk", drawn["w"].a, drawn["w"].b) / np.sqrt(rank)
    vec = np.asarray(jnp.concatenate([drawn["b"], matrix.reshape(-1, 6)], axis=1), np.float64)
    _within(vec, 0)
    _within(vec[:, :, None] * vec[:, None, :], np.eye(8))


@ranks
def test_the_mean_update_on_a_quadratic_is_that_of_full_rank_noise(rank):
    """Both are the gradient, which on a quadratic is that of the smoothed cost: 4000 generations, 5 standard errors."""
    strategy = eggroll(8, 0.4, rank, optax.sgd(1.0), shaping.centred)
    state = strategy.init(jax.random.key(0), PARAMS)
    keys = jax.random.split(jax.random.key(2), 4000)
    low = np.asarray(jax.jit(jax.vmap(lambda key: _estimate(strategy, state, key)))(keys), np.float64)
    full = np.asarray(jax.jit(jax.vmap(lambda key: _full_rank_estimate(key, 4, 0.4)))(keys), np.float64)
    gradient = np.asarray(_flat(jax.grad(_cost)(PARAMS)))
    _within(low, gradient)
    _within(full, gradient)
    _within(low - full, 0)
    assert np.abs(gradient).max() > 20 * (low.std(0) / np.sqrt(4000)).max()  # the test has power


@ranks
def test_members_are_antithetic_and_differ_from_the_centre_by_rank_r(rank):
    strategy = eggroll(6, 0.5, rank)
    params = {"w": jnp.zeros((12, 10)), "t": jnp.zeros((2, 3, 4)), "s": jnp.zeros(())}
    state = strategy.init(jax.random.key(0), params)
    members = strategy.decode(state, strategy.ask(jax.random.key(1), state).candidates)
    for leaf, like in zip(jax.tree.leaves(members), jax.tree.leaves(params), strict=True):
        assert leaf.shape == (6, *like.shape)
        np.testing.assert_array_equal(leaf[0::2], -leaf[1::2])  # around a centre of 0
    assert (np.linalg.matrix_rank(np.asarray(members["w"]), rtol=1e-4) == rank).all()


@pytest.mark.parametrize("rank", [1, 8])
def test_the_update_is_the_weighted_sum_of_the_perturbations(rank):
    """Against perturbations read off the members: g = 1 / (n sigma) sum_i w_i E_i."""
    strategy = eggroll(10, 0.5, rank, optax.sgd(1.0))
    state = strategy.init(jax.random.key(0), PARAMS)
    proposal = strategy.ask(jax.random.key(1), state)
    cost = jax.random.normal(jax.random.key(2), (10,))
    noise = (jax.vmap(_flat)(strategy.decode(state, proposal.candidates)) - _flat(PARAMS)) / 0.5
    expected = shaping.centred_ranks(cost) @ noise / (10 * 0.5)
    told, info = strategy.tell(state, proposal, cost)
    np.testing.assert_allclose(_flat(PARAMS) - _flat(strategy.params(told)), expected, rtol=1e-4, atol=1e-5)
    assert float(info["gradient_norm"]) == pytest.approx(float(jnp.linalg.norm(expected)), rel=1e-4)


def test_the_centre_moves_towards_the_cheaper_side():
    strategy = eggroll(2, 0.1, 1, optax.sgd(0.1))
    state = strategy.init(jax.random.key(0), PARAMS)
    proposal = strategy.ask(jax.random.key(1), state)
    plus, minus = jax.vmap(_flat)(strategy.decode(state, proposal.candidates))
    for costs, cheaper in (([0.0, 1.0], plus), ([1.0, 0.0], minus)):
        told, _ = strategy.tell(state, proposal, jnp.asarray(costs))
        step = _flat(strategy.params(told)) - _flat(PARAMS)
        assert float(step @ (cheaper - _flat(PARAMS))) > 0


def test_the_update_of_a_population_has_a_higher_rank_than_its_members():
    strategy = eggroll(32, 0.1, 1, optax.sgd(1.0))
    state = strategy.init(jax.random.key(0), jnp.zeros((6, 5)))
    told, _ = strategy.tell(state, strategy.ask(jax.random.key(1), state), jnp.arange(32.0) ** 2)
    assert np.linalg.matrix_rank(np.asarray(strategy.params(told))) == 5


def _ask_and_tell(population, size, rank):
    strategy = eggroll(population, 0.1, rank, optax.sgd(1.0))
    shapes = jax.eval_shape(strategy.init, jax.random.key(0), jnp.zeros((size, size)))
    whole = jax.jit(lambda s, k, c: strategy.tell(s, strategy.ask(k, s), c))
    return whole, (shapes, jax.random.key(0), jnp.zeros(population))


def _largest(jaxpr):
    """Entries of the largest array that a traced function makes, at any depth."""
    own = [var.aval.size for eqn in jaxpr.eqns for var in eqn.outvars]
    return max(own + [_largest(inner) for inner in subjaxprs(jaxpr)], default=0)


@pytest.mark.parametrize("rank", [1, 4])
@pytest.mark.parametrize("size", [1024, 2048])
def test_the_largest_array_of_a_generation_is_the_centre_or_a_factor(rank, size):
    """(n, m, k) never exists: entries grow with r (m + k) a member, beside the m k of centre and update."""
    for population in (64, 8192):
        whole, arguments = _ask_and_tell(population, size, rank)
        largest = _largest(jax.make_jaxpr(whole)(*arguments).jaxpr)
        assert largest == max(size * size, population // 2 * rank * size)


def test_a_compiled_generation_takes_memory_for_centre_and_factors_only():
    """Temporaries of 4096 members of a 1024 x 1024 matrix: all perturbed matrices would take 16 GiB."""
    whole, arguments = _ask_and_tell(4096, 1024, 1)
    temporaries = whole.lower(*arguments).compile().memory_analysis().temp_size_in_bytes
    factors, centre = 2048 * (1024 + 1024) * 4, 1024 * 1024 * 4
    assert 0 < temporaries < 4 * factors + 2 * centre


@pytest.mark.parametrize("rank", [1, 8])
def test_the_product_without_the_sum_is_the_product_with_it(rank):
    """For every member, of a vector each and of lanes of vectors; with the strategy's own factors."""
    strategy = eggroll(10, 0.3, rank)
    w = jax.random.normal(jax.random.key(3), (7, 5))
    state = strategy.init(jax.random.key(0), w)
    members = strategy.ask(jax.random.key(1), state).candidates
    factors = perturbations(rank, state, members)
    product = jax.jit(jax.vmap(perturbed_product, in_axes=(None, 0, 0, None, 0)))
    for shape in ((10, 5), (10, 5, 4)):
        x = jax.random.normal(jax.random.key(4), shape)
        expected = jax.vmap(jnp.matmul)(strategy.decode(state, members), x)
        np.testing.assert_allclose(product(w, factors.a, factors.b, 0.3, x), expected, rtol=1e-5, atol=1e-5)
    one = perturbed_product(w, factors.a[3], factors.b[3], 0.3, x[3, :, 0])
    np.testing.assert_allclose(one, expected[3, :, 0], rtol=1e-5, atol=1e-5)


# --- shaping -----------------------------------------------------------------------------------------------------
def test_centred_ranks_share_ties_and_have_mean_zero_and_variance_one():
    cost = jnp.asarray([5.0, 1.0, 5.0, 9.0, 1.0, 1.0])
    rank = np.asarray([3.5, 1, 3.5, 5, 1, 1])
    np.testing.assert_allclose(shaping.centred_ranks(cost), (rank - rank.mean()) / rank.std(), rtol=1e-6)
    np.testing.assert_array_equal(shaping.centred_ranks(jnp.full(7, 0.1)), 0)
    broken = jnp.asarray([1.0, jnp.nan, 3.0, -jnp.inf, 2.0, jnp.inf])
    weight = shaping.centred_ranks(broken)
    assert (weight[jnp.asarray([1, 3, 5])] == weight[2]).all() and weight[0] < weight[4] < weight[2]


def test_centred_ranks_are_blind_to_increasing_transforms_and_follow_permutations():
    cost = jnp.round(4 * jax.random.normal(jax.random.key(0), (33,))) / 4  # with ties
    weight = shaping.centred_ranks(cost)
    for transform in (jnp.exp, lambda c: 100 * c - 7, lambda c: c**3):
        np.testing.assert_array_equal(shaping.centred_ranks(transform(cost)), weight)
    order = jax.random.permutation(jax.random.key(1), 33)
    np.testing.assert_array_equal(shaping.centred_ranks(cost[order]), weight[order])


@pytest.mark.parametrize("name", ["centred", "standardised", "centred_ranks"])
def test_shapings_keep_the_order_have_mean_zero_and_ignore_a_constant(name):
    shape = jax.jit(getattr(shaping, name))
    cost = jnp.round(64 * jax.random.normal(jax.random.key(0), (20,))) / 64
    weight = shape(cost)
    assert float(jnp.abs(weight.mean())) < 1e-6
    np.testing.assert_allclose(shape(cost + 1024), weight, atol=1e-4)
    assert (jnp.diff(weight[jnp.argsort(cost)]) >= 0).all() and weight[cost.argmax()] > 0
    np.testing.assert_allclose(shape(jnp.full(20, 0.1)), 0, atol=1e-7)
    if name != "centred":
        assert float(weight.std()) == pytest.approx(1, rel=1e-5)
        np.testing.assert_allclose(shape(4 * cost), weight, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: eggroll(7), "eggroll: population was 7, expected an even number of at least 2"),
        (lambda: eggroll(0), "eggroll: population was 0, expected an even number"),
        (lambda: eggroll(rank=0), "eggroll: rank was 0, expected at least 1"),
        (lambda: eggroll(sigma=-0.1), "eggroll: sigma was -0.1, expected a number above 0"),
    ],
)
def test_bad_settings_are_one_clear_line(call, message):
    with pytest.raises(ValueError, match=message):
        call()
