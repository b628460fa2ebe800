"""EGGROLL: an evolution strategy with low-rank perturbations of weight matrices (arXiv:2511.16652).

Member i perturbs a matrix W (m, k) by sigma E_i, everything that is not a matrix by full Gaussian noise:

    E_i = A_i B_i^T / sqrt(r),    A_i (m, r), B_i (k, r) of N(0, 1) entries
    gradient = 1 / (n sigma) sum_i w_i E_i,    w = shaped costs

E has mean 0 and uncorrelated entries of variance 1 whatever r, hence on a quadratic cost with linear shaping the
expected gradient is that of full-rank noise. The sum over the population has full rank.

Members come in pairs (+E, -E). A candidate is a seed, the pair's number and a sign: O(n), whatever the size of the
parameters and the rank. The factors are drawn again from them in decode, for the members of one chunk, and in tell,
for all pairs at once: O(n r (m + k)) per matrix, in exchange for a single matrix product over pairs and rank. (Storing
the factors in the proposal would save the second draw and pay with the same memory for as long as a generation lasts.)
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from polystep_rl.baselines import spsa
from polystep_rl.baselines import weights as shapings
from polystep_rl.baselines.optimisers import Settings, adam, schedule
from polystep_rl.baselines.spsa import DescentState, Members
from polystep_rl.types import Array, Info, Key, Params, Proposal, PyTree, Strategy, Structured

HIGHEST = jax.lax.Precision.HIGHEST  # some GPUs would round the factors to 10 bits
BLOCK = 16  # of a sum, written out


class Factors(NamedTuple):
    """A perturbation of a matrix (m, k): a b^T / sqrt(r)."""

    a: Array  # (..., m, r)
    b: Array  # (..., k, r)


class _Search(NamedTuple):
    """The checked parts of the strategy."""

    population: int
    sigma: optax.Schedule
    rank: int
    optimizer: optax.GradientTransformation
    shaping: shapings.Shaping


def perturbed_product(w: Array, a: Array, b: Array, sigma: float | Array, x: Array) -> Array:
    """(W + sigma A B^T / sqrt(r)) x without the sum: W x + sigma / sqrt(r) A (B^T x).

    O(r (m + k)) per member besides W x, which all members share. For float weights only: quantised ones are rounded
    after the sum.

    Args:
        w: (m, k) the centre.
        a: (m, r, *b), its sign included; the axes b broadcast with those of x.
        b: (k, r, *b).
        sigma: () the same for all layers.
        x: (k, *b).

    Returns:
        (m, *b).
    """
    y = jnp.matmul(w, x.reshape(x.shape[0], -1), precision=HIGHEST).reshape(w.shape[0], *x.shape[1:])
    a, b = (f.reshape(f.shape + (1,) * (x.ndim + 1 - f.ndim)) for f in (a, b))
    scale = jnp.asarray(sigma, w.dtype) / math.sqrt(a.shape[1])
    along = jax.lax.platform_dependent(b, x, cpu=_along, default=lambda b, x: jnp.sum(b * x[:, None], axis=0))
    for r in range(a.shape[1]):
        y = y + scale * a[:, r] * along[r]
    return y


def _along(b: Array, x: Array) -> Array:
    """B^T x, (r, *b): a chain of multiply-adds over the trailing axes, of ``b`` (k, r, *b) and ``x`` (k, *b).

    A reduction of a leading axis runs down one column after the other on a CPU (measured: ten times as long).
    """

    def add(y: Array, start: Array | int, length: int) -> Array:
        bs, xs = (jax.lax.dynamic_slice_in_dim(f, start, length) for f in (b, x))
        for i in range(length):
            y = y + bs[i] * xs[i]
        return y

    size, rest = divmod(x.shape[0], BLOCK)
    shape = jnp.broadcast_shapes(b.shape[1:], x.shape[1:])
    y = jnp.zeros(shape, x.dtype)
    if size:
        y = jax.lax.fori_loop(0, size, lambda i, y: add(y, i * BLOCK, BLOCK), y)
    return add(y, size * BLOCK, rest)


def perturbations(rank: int, state: DescentState, members: Members) -> PyTree:
    """The signed perturbations of some members, drawn from their seeds.

    Args:
        rank: r, as the strategy has it.
        state: the state that was asked.
        members: leaves (c,).

    Returns:
        like the parameters: `Factors` (c, m, r), (c, k, r) for a matrix (m, k), an array (c, ...) for other leaves.
    """
    leaves, tree = jax.tree.flatten(state.centre)

    def draw(key: Key, leaf: Array, sign: Array) -> Factors | Array:
        if leaf.ndim != 2:
            return sign.astype(leaf.dtype) * spsa.gaussian(key, leaf.shape, leaf.dtype)
        for_a, for_b = jax.random.split(key)
        a = spsa.gaussian(for_a, (leaf.shape[0], rank), leaf.dtype)
        return Factors(sign.astype(leaf.dtype) * a, spsa.gaussian(for_b, (leaf.shape[1], rank), leaf.dtype))

    def one(member: Members) -> PyTree:
        keys = jax.random.split(spsa.perturbation_key(state.key, member), len(leaves))
        return jax.tree.unflatten(tree, [draw(key, leaf, member.sign) for key, leaf in zip(keys, leaves, strict=True)])

    return jax.vmap(one)(members)


def _combine(perturbation: Factors | Array, weight: Array) -> Array:
    """sum_i w_i E_i from weights (c,): (m, k), without an array (c, m, k)."""
    if not isinstance(perturbation, Factors):
        return jnp.tensordot(weight, perturbation, axes=1, precision=HIGHEST)
    weighted = weight[:, None, None] * perturbation.a
    total = jnp.einsum("cmr,ckr->mk", weighted, perturbation.b, precision=HIGHEST)
    return total / math.sqrt(weighted.shape[-1])


def _decode(search: _Search, state: DescentState, members: Members) -> Params:
    sigma = search.sigma(state.step)

    def move(leaf: Array, perturbation: Factors | Array) -> Array:
        if isinstance(perturbation, Factors):
            product = jnp.einsum("cmr,ckr->cmk", perturbation.a, perturbation.b, precision=HIGHEST)
            perturbation = product / math.sqrt(search.rank)
        return leaf + jnp.asarray(sigma, leaf.dtype) * perturbation

    return jax.tree.map(move, state.centre, perturbations(search.rank, state, members))


def _structure(search: _Search, state: DescentState, members: Members) -> Structured:
    """`_decode` without the sum: every layer is `perturbed_product`, its factors on trailing axes (..., *b)."""
    sigma, leaves = search.sigma(state.step), jax.tree.leaves(state.centre)
    own = perturbations(search.rank, state, members)
    is_factors = lambda x: isinstance(x, Factors)  # noqa: E731

    def product(leaf: int, own: PyTree, x: Array) -> Array:
        factors = jax.tree.leaves(own, is_leaf=is_factors)[leaf]
        return perturbed_product(leaves[leaf], factors.a, factors.b, sigma, x)

    def vector(leaf: int, own: PyTree) -> Array:
        noise = jax.tree.leaves(own, is_leaf=is_factors)[leaf]
        centre = leaves[leaf].reshape(leaves[leaf].shape + (1,) * (noise.ndim - leaves[leaf].ndim))
        return centre + jnp.asarray(sigma, centre.dtype) * noise

    return Structured(own, product, vector)


def _tell(search: _Search, state: DescentState, proposal: Proposal, cost: Array) -> tuple[DescentState, Info]:
    sigma = search.sigma(state.step)
    weight = search.shaping(cost)
    # A pair is one perturbation with two weights, so half the factors do.
    plus = jax.tree.map(lambda leaf: leaf[0::2], proposal.candidates)
    coefficient = (weight[0::2] - weight[1::2]) / (search.population * sigma)
    gradient = jax.tree.map(
        lambda leaf, perturbation: _combine(perturbation, coefficient.astype(leaf.dtype)),
        state.centre,
        perturbations(search.rank, state, plus),
    )
    state, info = spsa.descend(search.optimizer, state, gradient)
    return state, {**info, "sigma": jnp.asarray(sigma), **spsa.spread(cost)}


def eggroll(
    population: int = 32,
    sigma: float | optax.Schedule = 0.1,
    rank: int = 1,
    optimizer: optax.GradientTransformation | None = None,
    shaping: shapings.Shaping = shapings.centred_ranks,
) -> Strategy:
    """EGGROLL as a Strategy.

    Args:
        population: n, even: antithetic pairs.
        sigma: standard deviation of a perturbed parameter, above 0, or a schedule over generations.
        rank: r of the perturbation of every matrix; above m k / (m + k) full noise would be smaller than its factors.
        optimizer: minimises, from the estimated gradient; None is `optax.adam(0.05)`.
        shaping: costs (n,) to weights (n,); `shaping.centred` is linear, with the units of the cost.

    Returns:
        a Strategy whose candidates are `Members`. `tell` reports step_norm, gradient_norm, sigma,
        cost_best/mean/worst.

    Raises:
        ValueError: a setting out of range, or, from init, parameters that are not floating point.
    """
    if population < 2 or population % 2:
        raise ValueError(f"eggroll: population was {population!r}, expected an even number of at least 2")
    if rank < 1:
        raise ValueError(f"eggroll: rank was {rank!r}, expected at least 1")
    schedule = spsa.schedule_of("eggroll", sigma)
    optimizer = optax.adam(0.05) if optimizer is None else optimizer
    search = _Search(population, schedule, rank, optimizer, shaping)
    return Strategy(
        init=partial(spsa.start, "eggroll", optimizer),
        ask=lambda key, state: spsa.ask_pairs(population // 2, key),
        decode=partial(_decode, search),
        tell=partial(_tell, search),
        params=lambda state: state.centre,
        structure=partial(_structure, search),
    )


def build(settings: Settings) -> Strategy:
    """EGGROLL from plain settings."""
    return eggroll(settings["population"], schedule(settings, "sigma"), settings["rank"], adam(settings))
