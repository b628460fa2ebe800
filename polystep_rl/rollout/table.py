"""Rows of a population, looked up by the lanes of a rollout."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from polystep_rl.types import Array, PyTree


class Table(NamedTuple):
    """The rows of a pytree with leaves (n, ...), as lanes want them.

    All leaves of 4 bytes lie in one row, and whole rows are copied: gathering leaf by leaf, or along the trailing
    axis, takes many times as long on a CPU.
    """

    rows: tuple[Array, ...]  # (n, w) uint32, and every leaf of another size for itself
    split: Callable[[tuple[Array, ...]], PyTree]  # columns -> leaves (..., L)

    def columns(self, index: Array) -> tuple[Array, ...]:
        """Columns of some rows (L,): (w, L) uint32, and (..., L)."""
        return tuple(jnp.moveaxis(row[index], 0, -1) for row in self.rows)


def table(tree: PyTree) -> Table:
    """The table of a pytree with leaves (n, ...)."""
    leaves, structure = jax.tree.flatten(tree)
    n = leaves[0].shape[0]
    native = [jnp.issubdtype(x.dtype, np.number) and x.dtype.itemsize == 4 for x in leaves]
    words = [x if x.dtype == np.uint32 else jax.lax.bitcast_convert_type(x, np.uint32) for x in _only(leaves, native)]
    row = jnp.concatenate([x.reshape(n, -1) for x in words], axis=1) if words else jnp.zeros((n, 0), np.uint32)

    def split(columns: tuple[Array, ...]) -> PyTree:
        found, start, others = [], 0, iter(columns[1:])
        for leaf, in_row in zip(leaves, native, strict=True):
            if not in_row:
                found.append(next(others))
                continue
            size = int(np.prod(leaf.shape[1:]))
            part = columns[0][start : start + size].reshape(*leaf.shape[1:], columns[0].shape[-1])
            found.append(part if leaf.dtype == np.uint32 else jax.lax.bitcast_convert_type(part, leaf.dtype))
            start += size
        return jax.tree.unflatten(structure, found)

    return Table((row, *_only(leaves, [not x for x in native])), split)


def _only(leaves: list[Array], wanted: list[bool]) -> list[Array]:
    return [leaf for leaf, want in zip(leaves, wanted, strict=True) if want]
