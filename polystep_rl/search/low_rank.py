"""Candidates of a subspace as changes of low rank to their centre, which none of them copies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from polystep_rl.search.blocks import Block, Shape
from polystep_rl.types import Array, PyTree, Structured


class _Moved(NamedTuple):
    """The part of a candidate that is its own."""

    particle: Array  # (c,) int32
    delta: Array  # (c, d)


def moved_rows(
    blocks: Sequence[Block], basis: Sequence[PyTree], leaves: Sequence[Array], particle: Array, delta: Array
) -> Structured:
    """Candidates of a subspace each of whose coordinates moves one row of one matrix, or one number of a vector.

    Args:
        blocks: one for each leaf, identities or factored.
        basis: of every block.
        leaves: of the centre that they move.
        particle: (c,) int32.
        delta: (c, d).
    """
    starts = np.cumsum([0, *(block.size for block in blocks)])
    dim = delta.shape[1]

    def local(leaf: int, own: _Moved) -> tuple[Array, Array]:
        """(d, *b): coordinates within the block of a leaf, and whether they lie there."""
        index = own.particle * dim + jnp.arange(dim).reshape(dim, *(1,) * own.particle.ndim) - int(starts[leaf])
        return index, (index >= 0) & (index < blocks[leaf].size)

    def product(leaf: int, own: _Moved, x: Array) -> Array:
        block, w = blocks[leaf], leaves[leaf]
        batch = x.shape[1:]
        flat = x.reshape(x.shape[0], -1)
        y = jnp.matmul(w, flat, precision=jax.lax.Precision.HIGHEST)
        along = block.directions(basis[leaf], flat)  # type: ignore[misc]
        index, here = (_over(a, batch) for a in local(leaf, own))
        row, which = index // along.shape[0], index % along.shape[0]
        lane = jnp.arange(flat.shape[1])
        moved = _over(own.delta, batch) * along[jnp.where(here, which, 0), lane]
        y = y.at[jnp.where(here, row, w.shape[0]), lane].add(moved.astype(y.dtype), mode="drop")
        return y.reshape(w.shape[0], *batch)

    def vector(leaf: int, own: _Moved) -> Array:
        size, batch = leaves[leaf].size, own.particle.shape
        index, here = (_over(a, batch) for a in local(leaf, own))
        start = jnp.broadcast_to(leaves[leaf].reshape(-1, 1), (size, index.shape[1]))
        moved = _over(own.delta, batch).astype(start.dtype)
        return (
            start.at[jnp.where(here, index, size), jnp.arange(index.shape[1])]
            .add(moved, mode="drop")
            .reshape(*leaves[leaf].shape, *batch)
        )

    return Structured(_Moved(particle, delta), product, vector)


def _over(a: Array, batch: Shape) -> Array:
    """(d, *b) broadcast over the batch and flattened: (d, L)."""
    return jnp.broadcast_to(a, (a.shape[0], *batch)).reshape(a.shape[0], -1)
