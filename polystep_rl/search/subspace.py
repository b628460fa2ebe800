"""Subspaces: theta(z) = theta_0 + Pi z, over any pytree of parameters (arXiv:2605.01928).

A subspace is built from the blocks of `blocks.py`, one per leaf (or one for the flattened whole). A candidate differs
from the centre in one particle, so it costs d columns of Pi, not s.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from polystep_rl.search.blocks import Block, Shape, drawn_block, factored_block, identity_block, stored_block
from polystep_rl.search.low_rank import moved_rows
from polystep_rl.types import Array, Key, Params, PyTree, Structured

STORE_BYTES = 128 * 2**20  # a larger Pi is never stored


class SubState(NamedTuple):
    """Where the subspace stands."""

    base: Params  # theta_0
    basis: tuple[PyTree, ...]  # one entry per block: an array, a key, or ()


class Subspace(NamedTuple):
    """A linear map from coordinates to parameters as pure functions; coordinates beyond `size` are padding."""

    size: Callable[[Params], int]  # parameters -> s
    init: Callable[[Key, Params], SubState]
    expand: Callable[[SubState, Array], Params]  # z of at least s numbers, any shape -> theta_0 + Pi z
    # (substate, centre, particle (), delta (d,)) -> centre moved along the d columns of that particle
    expand_one: Callable[[SubState, Params, Array, Array], Params]
    expand_many: Callable[[SubState, Params, Array, Array], Params]  # the same for (c,) and (c, d); leaves (c, ...)
    redraw: Callable[[Key, SubState], SubState]  # a new Pi, the same theta_0
    absorb: Callable[[SubState, Array], tuple[SubState, Array]]  # theta_0 <- theta(z), z <- 0
    random: bool  # False: there is nothing to redraw
    # `expand_many` as changes of the centre, where every coordinate moves one row of one matrix, or one number
    structure: Callable[[SubState, Params, Array, Array], Structured] | None = None


class _Layout(NamedTuple):
    """How parameters fall into arrays, and which block belongs to each of them."""

    split: Callable[[Params], list[Array]]
    join: Callable[[Params, Sequence[Array]], Params]  # (parameters of the same structure, arrays) -> parameters
    blocks: Callable[[Params], list[Block]]  # from shapes and dtypes only


def _join_leaves(like: Params, arrays: Sequence[Array]) -> Params:
    return jax.tree.unflatten(jax.tree.structure(like), arrays)


def _split_flat(params: Params) -> list[Array]:
    return [jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(params)])]


def _join_flat(like: Params, arrays: Sequence[Array]) -> Params:
    start, out = 0, []
    for leaf in jax.tree.leaves(like):
        out.append(arrays[0][start : start + leaf.size].reshape(leaf.shape).astype(leaf.dtype))
        start += leaf.size
    return _join_leaves(like, out)


def check_params(params: Params) -> None:
    """Raise ValueError unless there is at least one leaf and all are floating-point arrays."""
    leaves = jax.tree.leaves(params)
    if sum(jnp.size(leaf) for leaf in leaves) == 0:
        raise ValueError("subspace: the parameters have no entries, expected at least one")
    for leaf in leaves:
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise ValueError(f"subspace: a leaf has dtype {jnp.result_type(leaf)}, expected floating-point parameters")


def _compose(layout: _Layout, random: bool) -> Subspace:
    def size(params: Params) -> int:
        return sum(block.size for block in layout.blocks(params))

    def draw(key: Key, params: Params) -> tuple[PyTree, ...]:
        blocks = layout.blocks(params)
        return tuple(block.draw(k) for block, k in zip(blocks, jax.random.split(key, len(blocks)), strict=True))

    def init(key: Key, params: Params) -> SubState:
        check_params(params)
        params = jax.tree.map(jnp.asarray, params)
        return SubState(params, draw(key, params))

    def move(params: Params, changes: Sequence[Array]) -> Params:
        moved = [(a + c).astype(a.dtype) for a, c in zip(layout.split(params), changes, strict=True)]
        return layout.join(params, moved)

    def expand(sub: SubState, z: Array) -> Params:
        flat, start, changes = z.ravel(), 0, []
        for block, basis in zip(layout.blocks(sub.base), sub.basis, strict=True):
            changes.append(block.apply(basis, flat[start : start + block.size]))
            start += block.size
        return move(sub.base, changes)

    def windows(sub: SubState, particle: Array, dim: int) -> list[PyTree]:
        out, start = [], particle * dim
        for block, basis in zip(layout.blocks(sub.base), sub.basis, strict=True):
            out.append(block.window(basis, jnp.clip(start + jnp.arange(dim), 0, block.size - 1)))
            start = start - block.size
        return out

    def through(sub: SubState, centre: Params, particle: Array, made: list[PyTree], delta: Array) -> Params:
        changes, start, dim = [], particle * delta.shape[0], delta.shape[0]
        for block, basis, window in zip(layout.blocks(sub.base), sub.basis, made, strict=True):
            local = start + jnp.arange(dim)
            weight = jnp.where((local >= 0) & (local < block.size), delta, 0)  # the rest is another block's
            changes.append(block.apply_window(basis, window, weight))
            start = start - block.size
        return move(centre, changes)

    def expand_one(sub: SubState, centre: Params, particle: Array, delta: Array) -> Params:
        return through(sub, centre, particle, windows(sub, particle, delta.shape[0]), delta)

    def expand_many(sub: SubState, centre: Params, particle: Array, delta: Array) -> Params:
        if not any(block.lazy for block in layout.blocks(sub.base)):
            return jax.vmap(partial(expand_one, sub, centre))(particle, delta)
        dim = delta.shape[1]

        def one(cache: tuple, candidate: tuple[Array, Array]) -> tuple[tuple, Params]:
            which, move_by = candidate
            cache = jax.lax.cond(which == cache[0], lambda: cache, lambda: (which, windows(sub, which, dim)))
            return cache, through(sub, centre, which, cache[1], move_by)

        return jax.lax.scan(one, (particle[0], windows(sub, particle[0], dim)), (particle, delta))[1]

    def redraw(key: Key, sub: SubState) -> SubState:
        return SubState(sub.base, draw(key, sub.base))

    def absorb(sub: SubState, z: Array) -> tuple[SubState, Array]:
        return SubState(expand(sub, z), sub.basis), jnp.zeros_like(z)

    return Subspace(size, init, expand, expand_one, expand_many, redraw, absorb, random)


def full() -> Subspace:
    """Every parameter is a coordinate: s = D, Pi = identity, never redrawn."""
    flat = _Layout(_split_flat, _join_flat, lambda p: [identity_block((_count(p),))])

    def structure(sub: SubState, centre: Params, particle: Array, delta: Array) -> Structured:
        leaves = jax.tree.leaves(centre)
        return moved_rows([identity_block(x.shape) for x in leaves], [()] * len(leaves), leaves, particle, delta)

    return _compose(flat, random=False)._replace(structure=structure)


def _count(params: Params) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def _check_at_least_one(name: str, what: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise ValueError(f"{name}: {what} was {value!r}, expected an integer of at least 1")


def projection_sizes(shapes: Sequence[Shape], rank: int, cap: int | None = None) -> list[int]:
    """Coordinates of every leaf: r (m + n) for a matrix (m, n), one per entry for anything else.

    Args:
        shapes: shapes of the leaves; two axes make a weight matrix.
        rank: r, at least 1.
        cap: wanted bound on the total; the projected leaves shrink in proportion, to no less than one each, so the
            total exceeds the cap where the vectors alone fill it.

    Returns:
        as many sizes as shapes.

    Raises:
        ValueError: rank or cap below 1.
    """
    _check_at_least_one("projection", "rank", rank)
    _check_at_least_one("projection", "cap", cap)
    kept = sum(math.prod(shape) for shape in shapes if len(shape) != 2)
    projected = sum(rank * sum(shape) for shape in shapes if len(shape) == 2)
    shrink = 1.0 if cap is None or not projected else min(1.0, max(cap - kept, 0) / projected)
    return [max(1, int(rank * sum(s) * shrink + 1e-9)) if len(s) == 2 else math.prod(s) for s in shapes]


def _projected(shape: Shape, size: int, dtype: jnp.dtype, store: bool) -> Block:
    return (stored_block if store else drawn_block)(shape, size, dtype)


def projection(rank: int = 4, cap: int | None = None, store_bytes: int = STORE_BYTES) -> Subspace:
    """Per-layer random projection: every weight matrix has its own Pi of N(0, 1/s_l) entries, vectors are kept.

    Args:
        rank: r; a matrix (m, n) gets s_l = r (m + n) coordinates.
        cap: bound on the total number of coordinates, see `projection_sizes`.
        store_bytes: if all Pi together are larger, their columns are drawn from keys when needed.

    Returns:
        a Subspace.

    Raises:
        ValueError: rank or cap below 1.
    """
    projection_sizes([], rank, cap)

    def blocks(params: Params) -> list[Block]:
        leaves = jax.tree.leaves(params)
        sizes = projection_sizes([leaf.shape for leaf in leaves], rank, cap)
        pairs = list(zip(leaves, sizes, strict=True))
        total = sum(math.prod(a.shape) * s * a.dtype.itemsize for a, s in pairs if len(a.shape) == 2)
        return [
            _projected(a.shape, s, a.dtype, total <= store_bytes) if len(a.shape) == 2 else identity_block(a.shape)
            for a, s in pairs
        ]

    return _compose(_Layout(jax.tree.leaves, _join_leaves, blocks), random=True)


def factored(rank: int = 4) -> Subspace:
    """dW = A B for every weight matrix (m, n): A (m, min(r, n)) are coordinates, B has random orthonormal rows.

    Args:
        rank: r, at least 1.

    Returns:
        a Subspace; vectors keep one coordinate per entry.

    Raises:
        ValueError: rank below 1.
    """
    _check_at_least_one("factored", "rank", rank)

    def blocks(params: Params) -> list[Block]:
        return [
            factored_block(leaf.shape, rank, leaf.dtype) if len(leaf.shape) == 2 else identity_block(leaf.shape)
            for leaf in jax.tree.leaves(params)
        ]

    def structure(sub: SubState, centre: Params, particle: Array, delta: Array) -> Structured:
        return moved_rows(blocks(sub.base), sub.basis, jax.tree.leaves(centre), particle, delta)

    return _compose(_Layout(jax.tree.leaves, _join_leaves, blocks), random=True)._replace(structure=structure)


def global_block(size: int, store_bytes: int = STORE_BYTES) -> Subspace:
    """A block of a single random projection of all parameters, flattened: Pi (D, s) of N(0, 1/s) entries.

    Args:
        size: s, at least 1.
        store_bytes: if Pi is larger, its columns are drawn from a key when needed.

    Returns:
        a Subspace.

    Raises:
        ValueError: size below 1.
    """
    _check_at_least_one("global_block", "size", size)

    def blocks(params: Params) -> list[Block]:
        count, dtype = _count(params), jnp.result_type(*jax.tree.leaves(params))
        return [_projected((count,), size, dtype, count * size * dtype.itemsize <= store_bytes)]

    return _compose(_Layout(_split_flat, _join_flat, blocks), random=True)
