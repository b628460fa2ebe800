"""Several processes, on one machine or on many, that do one run together.

Every process holds the whole state of the search and a share of the devices. What a generation found is gathered by all
of them, so that all compute the same next state. Process 0 leads: its clock counts, and it alone writes files.

Whoever starts the processes calls ``jax.distributed.initialize`` first (the command line does: ``--coordinator``).
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from polystep_rl.types import PyTree


def processes() -> int:
    """How many do this run."""
    return jax.process_count()


def leads() -> bool:
    """Whether this is the process that writes."""
    return jax.process_index() == 0


class _Meeting(NamedTuple):
    """One device of every process."""

    mesh: Mesh
    gather: Callable[[jax.Array], jax.Array]  # (p, bytes), a row on each -> the same on all


@functools.cache
def _meeting() -> _Meeting:
    first = {device.process_index: device for device in reversed(jax.devices())}
    mesh = Mesh(np.array([first[index] for index in sorted(first)]), ("processes",))
    return _Meeting(mesh, jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, PartitionSpec())))


def everyone(tree: PyTree) -> PyTree:
    """Gather what every process brings: leaves (...), of the same shapes and types everywhere -> NumPy, (p, ...).

    All processes must call it, as often and in the same order. The numbers travel as they are, bit for bit.
    """
    leaves, structure = jax.tree.flatten(jax.tree.map(np.asarray, tree))
    if processes() == 1:
        return jax.tree.unflatten(structure, [leaf[None] for leaf in leaves])
    mesh, gather = _meeting()
    own = np.frombuffer(b"".join(leaf.tobytes() for leaf in leaves), np.uint8)
    spread = jax.make_array_from_process_local_data(NamedSharding(mesh, PartitionSpec("processes")), own[None])
    rows = np.asarray(gather(spread).addressable_data(0))
    ends = np.cumsum([leaf.nbytes for leaf in leaves])
    parts = np.split(rows, ends[:-1], axis=1)
    found = [
        np.frombuffer(part.tobytes(), leaf.dtype).reshape(len(rows), *leaf.shape)
        for part, leaf in zip(parts, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, found)


def from_leader(data: bytes | None) -> bytes | None:
    """The leader's bytes, or its None, on every process; what the others give is ignored."""
    if processes() == 1:
        return data
    size = int(everyone(np.int64(-1 if data is None else len(data)))[0])
    if size < 0:
        return None
    own = np.frombuffer(data, np.uint8) if leads() and data is not None else np.zeros(size, np.uint8)
    return everyone(own)[0].tobytes()


def same_everywhere(tree: PyTree, text: str = "") -> bool:
    """Whether all processes have the same arrays and keys, bit for bit, and the same text."""
    if processes() == 1:
        return True
    found = zlib.crc32(text.encode())
    for leaf in jax.tree.leaves(tree):
        is_key = jax.dtypes.issubdtype(getattr(leaf, "dtype", None), jax.dtypes.prng_key)
        found = zlib.crc32(np.asarray(jax.random.key_data(leaf) if is_key else leaf).tobytes(), found)
    return len(set(everyone(np.uint32(found)).tolist())) == 1


class Part(NamedTuple):
    """Which candidates and which episodes of them one of several processes rolls out."""

    candidates: slice
    episodes: slice
    shape: tuple[int, int]  # of every process's share, those that have less included


def part_of(n: int, episodes: int, index: int, count: int) -> Part:
    """Process ``index`` of ``count``: some of the candidates where there are enough, else some episodes of each.

    Args:
        n: candidates.
        episodes: of each.
    """
    by_candidate = n >= count
    size = -(-(n if by_candidate else episodes) // count)
    own, every = slice(index * size, (index + 1) * size), slice(None)
    return Part(own, every, (size, episodes)) if by_candidate else Part(every, own, (n, size))


def joined_parts(parts: Any, n: int, episodes: int) -> Any:
    """Join the parts of all processes or devices (p, c, r), in their order: (n, episodes), without the padding."""
    if n >= parts.shape[0]:
        return parts.reshape(-1, parts.shape[2])[:n]
    return parts.swapaxes(0, 1).reshape(n, -1)[:, :episodes]


def agreed(wall: float, chunk: int, interrupted: bool) -> tuple[float, int, bool]:
    """Agree on what a training loop decides by the clock: the leader's word, and an interrupt of any process."""
    if processes() == 1:
        return wall, chunk, interrupted
    walls, chunks, interrupts = everyone((np.float64(wall), np.int64(chunk), np.bool_(interrupted)))
    return float(walls[0]), int(chunks[0]), bool(interrupts.any())


def replicated() -> dict[str, Any]:
    """Arguments of ``jax.jit`` with which all devices of all processes have its results; none where one is alone."""
    if processes() == 1:
        return {}
    return {"out_shardings": NamedSharding(Mesh(np.array(jax.devices()), ("devices",)), PartitionSpec())}


def jitted(function: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """``jax.jit``, whose results every process has for itself."""
    compiled = jax.jit(function, **replicated())
    return compiled if processes() == 1 else lambda *args: own_copy(compiled(*args))


def own_copy(tree: PyTree) -> PyTree:
    """Local copies of arrays that all processes have, so that reading them needs no communication."""
    return tree if processes() == 1 else jax.tree.map(_own_leaf, tree)


def _own_leaf(leaf: Any) -> Any:
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
        return leaf
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = np.asarray(jax.random.key_data(leaf.addressable_data(0)))
        return jax.random.wrap_key_data(jax.numpy.asarray(data), impl=jax.random.key_impl(leaf))
    return np.asarray(leaf.addressable_data(0))
