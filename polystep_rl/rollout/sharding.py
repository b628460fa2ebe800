"""Spreads a population over devices: its candidates, or, where there are few of them, their episodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from polystep_rl.types import Array, PyTree

AXIS = "candidates"  # of the mesh of devices


def mesh_of(devices: Sequence[jax.Device] | None) -> Mesh:
    """The mesh of some devices; None: all devices of the default backend."""
    return Mesh(np.array(devices or jax.devices()), (AXIS,))


def pad(x: Array, multiple: int, axis: int = 0) -> Array:
    """Zeros at the end of an axis, up to a multiple."""
    extra = list(x.shape)
    extra[axis] = -x.shape[axis] % multiple
    return jnp.concatenate([x, jnp.zeros(extra, x.dtype)], axis) if extra[axis] else x


def repeated(episodes: int, multiple: int) -> np.ndarray:
    """Indices of episodes up to a multiple: the padding is some episodes once more."""
    return np.arange(-(-episodes // multiple) * multiple) % episodes


def spread(function: Callable[..., PyTree], mesh: Mesh, axes: tuple[int | None, ...] | None) -> Callable[..., PyTree]:
    """A function that every device calls, each with its part of the arguments.

    Args:
        function: (*arguments) -> a pytree of 32-bit leaves.
        mesh: of the devices.
        axes: along which each argument is split over the devices, None for one that is given whole to all; None for
            all of them: one device does it alone.

    Returns:
        (*arguments) -> the results of all devices, leaves (devices, ...), on each of them.
    """
    if axes is None or mesh.size == 1:
        return lambda *given: jax.tree.map(lambda x: x[None], function(*given))
    whole = PartitionSpec()
    specs = tuple(whole if axis is None else PartitionSpec(*(None,) * axis, AXIS) for axis in axes)

    def on_device(*given: Any) -> PyTree:
        return _gathered(function(*given))

    return jax.shard_map(on_device, mesh=mesh, in_specs=specs, out_specs=whole, check_vma=False)


def everywhere(given: PyTree, mesh: Mesh) -> PyTree:
    """The arguments of a spread function, made by every device for itself rather than split and sent around."""
    return jax.lax.with_sharding_constraint(given, NamedSharding(mesh, PartitionSpec()))


def _gathered(out: PyTree) -> PyTree:
    """The outcomes of all devices, on each of them: leaves (devices, ...). Called within shard_map.

    They travel as one array of 32-bit words: what a small population waits for is how often devices meet.
    """
    words = jax.tree.map(lambda x: jax.lax.bitcast_convert_type(x, jnp.uint32), out)
    flat, unflatten = ravel_pytree(words)
    parts = jax.vmap(unflatten)(jax.lax.all_gather(flat, AXIS))
    return jax.tree.map(lambda x, like: jax.lax.bitcast_convert_type(x, like.dtype), parts, out)
