"""The order in which the lanes of a rollout take up pairs of a candidate and an episode."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from polystep_rl.types import Array, Env, Key, PyTree

# float32 lanes in the widest vector register. One or two lanes alone would be compiled to scalar code, which rounds
# differently (fused multiply-adds), and a result would depend on how many others there are.
WIDTH = 16


def padded(count: int) -> int:
    """As many, up to a multiple of WIDTH."""
    return -(-count // WIDTH) * WIDTH


class Items(NamedTuple):
    """Items of work: candidate by candidate, and group by group."""

    todo: Array  # () int32, items 0, 1, ... that there are
    pair: Callable[[Array], Array]  # items (L,) -> pairs (L,)
    start: Callable[[Array], Array]  # pairs (L,) -> rows of the starts (L,)


def items(keys: Key, n: int, count: Array | None, groups: Array | None) -> Items:
    """Items for the first ``count`` candidates of each of the first ``groups`` groups, of n candidates in all.

    Args:
        keys: (r,), or (g, r) for groups.
        n: candidates, of all groups together.
        count: () int32; None: all.
        groups: () int32; None: all.
    """
    r = keys.shape[-1]
    if keys.ndim == 1:
        todo = jnp.int32(n * r) if count is None else jnp.asarray(count * r, jnp.int32)
        return Items(todo, lambda item: item, lambda pair: pair % r)
    own = n * r // keys.shape[0]  # pairs of a group, padding included
    real = jnp.int32(own) if count is None else jnp.asarray(count * r, jnp.int32)
    safe = jnp.maximum(real, 1)
    return Items(
        real * jnp.asarray(keys.shape[0] if groups is None else groups, jnp.int32),
        lambda item: item // safe * own + item % safe,
        lambda pair: pair // own * padded(r) + pair % r,
    )


def starts(env: Env, keys: Key) -> tuple[PyTree, Array]:
    """State and observation for every key, leaves (padded(r), ...), or (g * padded(r), ...) of groups.

    The padding is some of them once more: one or two alone would be rounded in another way. For the same reason groups
    are by themselves: a program for more keys may round differently.
    """
    r = keys.shape[-1]
    keys = keys[..., np.arange(padded(r)) % r]
    if keys.ndim == 1:
        return jax.vmap(env.reset)(keys)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), jax.lax.map(jax.vmap(env.reset), keys))
