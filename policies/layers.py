"""Layers on trailing axes: arrays keep their structural axes first, and whatever batch axes follow broadcast.

Weights (m, k, *b), biases (m, *b), inputs (k, *b); the batch axes b of the arguments broadcast as in NumPy. There is
no vmap and no contraction: a layer is a chain of multiply-adds over (m, *b) arrays, which compiles to vector code over
the lanes (measured 3 to 8 times faster on a CPU than einsum, dot or a reduction with the batch in the last axis).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from polystep_rl.types import QMAX
from polystep_rl.xla import outlined

UNROLL = 64  # fan-in up to which the chain is written out; above, a loop over blocks of BLOCK keeps compiling quick
WORD = 32  # one-bit weights in a word
BLOCK = 16  # the sum keeps its order whatever this is (measured on 103 and 348 inputs: 16 is a quarter faster than 8)
FUSED = 32  # fan-in up to which XLA's CPU backend vectorises a chain within the reduction that reads it


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


def pack(y: jax.Array) -> jax.Array:
    """Signs as bits: (k, *b) -> (ceil(k / 32), *b) uint32; bit i of word j is 1 where y[32 j + i] >= 0, else 0.

    More than two words are packed apart from who reads them: each of the next layer's rows would pack them again
    (measured at 256 units: a third of the speed).
    """
    return _packed(y) if y.shape[0] <= 2 * WORD else outlined(_packed)(y)


def _packed(y: jax.Array) -> jax.Array:
    words = []
    for start in range(0, y.shape[0], WORD):
        bits = (y[start : start + WORD] >= 0).astype(jnp.uint32)
        words.append(reduce(jnp.bitwise_or, (bits[i] << np.uint32(i) for i in range(bits.shape[0]))))
    return jnp.stack(words)


def packed_dense(words: jax.Array, b: jax.Array, x: jax.Array) -> jax.Array:
    """`dense` of one-bit weights: bit 1 adds an input, bit 0 subtracts it, by its sign bit.

    Args:
        words: (m, ceil(k / 32), *b) uint32, every row `pack` of its weights.
        b: (m, *b) float32.
        x: (k, *b) float32.

    Returns:
        (m, *b) float32, the batch axes broadcast.
    """
    rank = max(words.ndim - 2, b.ndim - 1, x.ndim - 1)
    words, y, x = align(words, 2, rank), align(b, 1, rank), align(x, 1, rank)
    x = lax.bitcast_convert_type(x, jnp.uint32)
    fan_in, start = x.shape[0], 0

    def signed(y: jax.Array, word: jax.Array, xs: jax.Array) -> jax.Array:
        for i in range(xs.shape[0]):
            sign = ~(word << np.uint32(WORD - 1 - i)) & np.uint32(1 << (WORD - 1))
            y = y + lax.bitcast_convert_type(xs[i] ^ sign, jnp.float32)
        return y

    if fan_in > UNROLL:
        start = fan_in // WORD
        shape = np.broadcast_shapes(words.shape[:1] + words.shape[2:], y.shape, (1, *x.shape[1:]))

        def block(i: jax.Array, y: jax.Array) -> jax.Array:
            xs = lax.dynamic_slice_in_dim(x, i * WORD, WORD, axis=0)
            return signed(y, lax.dynamic_index_in_dim(words, i, axis=1, keepdims=False), xs)

        y = lax.fori_loop(0, start, block, jnp.broadcast_to(y, shape))
    for i in range(start, words.shape[1]):
        y = signed(y, words[:, i], x[i * WORD : (i + 1) * WORD])
    return y


def agreement_dense(words: jax.Array, b: jax.Array, bits: jax.Array, fan_in: int) -> jax.Array:
    """`dense` of one-bit weights and inputs of -1 and 1: k products less twice those that are -1.

    Args:
        words: (m, ceil(k / 32), *b) uint32, as in `packed_dense`.
        b: (m, *b) float32.
        bits: (ceil(k / 32), *b) uint32, `pack` of the inputs.
        fan_in: k.

    Returns:
        (m, *b) float32, the batch axes broadcast.
    """
    rank = max(words.ndim - 2, b.ndim - 1, bits.ndim - 1)
    words, b, bits = align(words, 2, rank), align(b, 1, rank), align(bits, 1, rank)
    differ = lambda word, other: lax.population_count(word ^ other)  # noqa: E731
    if words.shape[1] > UNROLL:
        shape = np.broadcast_shapes(words.shape[:1] + words.shape[2:], (1, *bits.shape[1:]))

        def block(i: jax.Array, count: jax.Array) -> jax.Array:
            return count + differ(lax.dynamic_index_in_dim(words, i, axis=1, keepdims=False), bits[i])

        count = lax.fori_loop(0, words.shape[1], block, jnp.zeros(shape, jnp.uint32))
    else:
        count = reduce(jnp.add, (differ(words[:, i], bits[i]) for i in range(words.shape[1])))
    return b + (fan_in - 2 * count.astype(jnp.int32)).astype(jnp.float32)


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
    constants = (jnp.asarray(multiplier, jnp.float32), jnp.asarray(zero_point, jnp.float32))
    return _quantised(*align_all(obs, *constants))


@outlined
def _quantised(obs: jax.Array, m: jax.Array, z: jax.Array) -> jax.Array:
    """By itself: every unit of the first layer would quantise the observation again."""
    q = jnp.clip(jnp.rint(obs * m), z - QMAX, z + QMAX) - z
    return jnp.where(jnp.isnan(obs), 0.0, q)


def choice(y: jax.Array, groups: Sequence[int], fan_in: int) -> jax.Array:
    """The action of the outputs (a, *b) of a layer with so many inputs: `argmax_groups` if there are groups, else
    `argmax_first`; apart from a long layer (measured at 64 inputs: twice the speed)."""
    pick = (lambda y: argmax_groups(y, groups)) if groups else argmax_first
    return pick(y) if fan_in <= FUSED else outlined(pick)(y)


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
