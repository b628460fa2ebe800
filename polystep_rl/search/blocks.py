"""Blocks of a random linear map Pi: one for each leaf of the parameters (arXiv:2605.01928).

A block knows how to draw its part of Pi, how to apply it to its coordinates, and how to apply it to a few coordinates
only. Where Pi would be too large to store, its columns are drawn again from a key whenever they are needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from polystep_rl.types import Array, Key, PyTree

DENSE_ADD = 4096  # up to here adding d entries by comparison beats a scatter

Shape = tuple[int, ...]


class Block(NamedTuple):
    """Pi for one leaf. Coordinates are local to the block."""

    size: int
    draw: Callable[[Key], PyTree]  # -> basis
    apply: Callable[[PyTree, Array], Array]  # (basis, z (size,)) -> change of the leaf
    window: Callable[[PyTree, Array], PyTree]  # (basis, which coordinates (d,)) -> what `apply_window` needs
    apply_window: Callable[[PyTree, PyTree, Array], Array]  # (basis, window, weights (d,)) -> change of the leaf
    lazy: bool = False  # a window is costly: make it once per particle
    # Of a matrix (m, k) whose coordinate i moves row i // q along direction i % q: (basis, x (k, L)) -> (q, L), all
    # directions times x. None where coordinates move the whole leaf.
    directions: Callable[[PyTree, Array], Array] | None = None


def _same(basis: PyTree, index: Array) -> Array:
    return index


def identity_block(shape: Shape) -> Block:
    """One coordinate per entry."""
    size = math.prod(shape)

    def apply_window(basis: PyTree, index: Array, weight: Array) -> Array:
        if size <= DENSE_ADD:
            flat = jnp.sum(jnp.where(index[:, None] == jnp.arange(size), weight[:, None], 0), axis=0)
        else:
            flat = jnp.zeros(size, weight.dtype).at[index].add(weight)
        return flat.reshape(shape)

    by_row = (lambda basis, x: x) if len(shape) == 2 else None
    return Block(size, lambda key: (), lambda basis, z: z.reshape(shape), _same, apply_window, directions=by_row)


def stored_block(shape: Shape, size: int, dtype: jnp.dtype) -> Block:
    """Pi of N(0, 1/s) entries, kept as (s, D): a coordinate's column is contiguous."""
    scale = size**-0.5

    def draw(key: Key) -> Array:
        return scale * jax.random.normal(key, (size, math.prod(shape)), dtype)

    def apply(basis: Array, z: Array) -> Array:
        return jnp.dot(z.astype(dtype), basis, precision=jax.lax.Precision.HIGHEST).reshape(shape)

    def apply_window(basis: Array, index: Array, weight: Array) -> Array:
        return jnp.sum(weight[:, None] * basis[index], axis=0).reshape(shape)

    return Block(size, draw, apply, _same, apply_window)


def drawn_block(shape: Shape, size: int, dtype: jnp.dtype) -> Block:
    """The same Pi in law, but only its key is kept: column j comes from fold_in(key, j)."""
    scale = size**-0.5

    def column(key: Key, j: Array) -> Array:
        return scale * jax.random.normal(jax.random.fold_in(key, j), (math.prod(shape),), dtype)

    def apply(key: Key, z: Array) -> Array:
        start = jnp.zeros(math.prod(shape), dtype)
        return jax.lax.fori_loop(0, size, lambda j, total: total + z[j] * column(key, j), start).reshape(shape)

    def window(key: Key, index: Array) -> Array:
        return jax.lax.map(partial(column, key), index)  # (d, D)

    def apply_window(key: Key, columns: Array, weight: Array) -> Array:
        return jnp.dot(weight, columns, precision=jax.lax.Precision.HIGHEST).reshape(shape)

    return Block(size, lambda key: key, apply, window, apply_window, lazy=True)


def factored_block(shape: Shape, rank: int, dtype: jnp.dtype) -> Block:
    """dW = A B: A (m, r) are the coordinates, B (r, n) has random orthonormal rows."""
    rows, columns = shape
    rank = min(rank, columns)

    def draw(key: Key) -> Array:
        at_least_single = jnp.promote_types(dtype, jnp.float32)  # there is no QR in half precision
        q, _ = jnp.linalg.qr(jax.random.normal(key, (columns, rank), at_least_single))
        return q.T.astype(dtype)  # (r, n)

    def apply(basis: Array, z: Array) -> Array:
        return jnp.dot(z.reshape(rows, rank), basis, precision=jax.lax.Precision.HIGHEST)

    def apply_window(basis: Array, index: Array, weight: Array) -> Array:
        return jnp.zeros(shape, dtype).at[index // rank].add(weight[:, None] * basis[index % rank])

    def directions(basis: Array, x: Array) -> Array:
        return jnp.matmul(basis, x, precision=jax.lax.Precision.HIGHEST)

    return Block(rows * rank, draw, apply, _same, apply_window, directions=directions)
