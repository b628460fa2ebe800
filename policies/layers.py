"""Layers on trailing axes: arrays keep their structural axes first, and whatever batch axes follow broadcast.

Weights (m, k, *b), biases (m, *b), inputs (k, *b); the batch axes b of the arguments broadcast as in NumPy. There is
no vmap and no contraction: a layer is a chain of multiply-adds over (m, *b) arrays, which compiles to vector code over
the lanes (measured 3 to 8 times faster on a CPU than einsum, dot or a reduction with the batch in the last axis).
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from polystep_rl.policies.precision import QMAX

UNROLL = 64  # fan-in up to which the chain is written out; above, a loop over blocks of BLOCK keeps compiling quick
BLOCK = 16  # the sum keeps its order whatever this is (measured on 103 and 348 inputs: 16 is a quarter faster than 8)


def sign_pm1(x: jax.Array) -> jax.Array:
    """The sign without a third value: 1 where x >= 0 (also -0.0), -1 elsewhere (also NaN). Same shape and dtype."""
    return jnp.where(x >= 0, 1, -1).astype(x.dtype)


def align(x: jax.Array, core: int, rank: int) -> jax.Array:
    """Insert axes of size 1 after the first ``core`` axes, so that ``rank`` batch axes follow them."""
    missing = rank - (x.ndim - core)
    return x if missing == 0 else x.reshape(x.shape[:core] + (1,) * missing + x.shape[core:])


def align_all(*vectors: jax.Array) -> list[jax.Array]:
    """Arrays (o, *b) with as many batch axes as the one that has most."""
    rank = max(x.ndim for x in vectors) - 1
    return [align(x, 1, rank) for x in vectors]


def dense(w: jax.Array, b: jax.Array, x: jax.Array) -> jax.Array:
    """W x + b, summed in the order bias, input 0, input 1, ...

    Args:
        w: (m, k, *b).
        b: (m, *b).
        x: (k, *b).

    Returns:
        (m, *b), the batch axes broadcast.
    """
    rank = max(w.ndim - 2, b.ndim - 1, x.ndim - 1)
    w, y, x = align(w, 2, rank), align(b, 1, rank), align(x, 1, rank)
    fan_in, start = w.shape[1], 0
    if fan_in > UNROLL:
        start = fan_in - fan_in % BLOCK
        shape = np.broadcast_shapes(w.shape[:1] + w.shape[2:], y.shape, (1, *x.shape[1:]))

        def block(i: jax.Array, y: jax.Array) -> jax.Array:
            ws = lax.dynamic_slice_in_dim(w, i * BLOCK, BLOCK, axis=1)
            xs = lax.dynamic_slice_in_dim(x, i * BLOCK, BLOCK, axis=0)
            for j in range(BLOCK):
                y = y + ws[:, j] * xs[j]
            return y

        y = lax.fori_loop(0, fan_in // BLOCK, block, jnp.broadcast_to(y, shape))
    for i in range(start, fan_in):
        y = y + w[:, i] * x[i]
    return y


def requantise(acc: jax.Array, mult: int, shift: int, low: int = -QMAX) -> jax.Array:
    """clip((acc * mult + half) >> shift, low, 127) with half = 2**shift >> 1, on integers held in float32.

    ``acc * mult + half`` must stay below 2**24 in size (``precision.plan`` sees to it); then all of it is exact.
    """
    scaled = (acc * float(mult) + float(2**shift >> 1)) * 2.0**-shift
    return jnp.clip(jnp.floor(scaled), low, QMAX)


def quantise_input(obs: jax.Array, multiplier: np.ndarray | jax.Array, zero_point: np.ndarray | jax.Array) -> jax.Array:
    """Observations (o, *b) to integers in [-127, 127], held in float32: one multiplication per feature.

    The multiplier and the zero point are (o, *b) too; the batch axes broadcast.

    rint(obs * multiplier) is cut to 127 on either side of the zero point before that is subtracted, so that every
    number is exact for infinite and huge observations too. NaN gives 0, the centre of the range.
    """
    obs, m, z = align_all(obs, jnp.asarray(multiplier, jnp.float32), jnp.asarray(zero_point, jnp.float32))
    q = jnp.clip(jnp.rint(obs * m), z - QMAX, z + QMAX) - z
    return jnp.where(jnp.isnan(obs), 0.0, q)


def argmax_groups(y: jax.Array, groups: Sequence[int]) -> jax.Array:
    """`argmax_first` of every group of consecutive entries, counted within the group: (a, *b) -> (groups, *b) int32."""
    ends = np.cumsum(groups)
    return jnp.stack([argmax_first(y[end - size : end]) for size, end in zip(groups, ends, strict=True)])


def argmax_first(y: jax.Array) -> jax.Array:
    """Index of the largest entry along the first axis, the first one of equals: (a, *b) -> (*b) int32.

    A reduction, unlike the layers: XLA would fuse a written-out comparison with the last layer and compute that
    several times over (measured: half the speed).
    """
    return jnp.argmax(y, axis=0).astype(jnp.int32)
