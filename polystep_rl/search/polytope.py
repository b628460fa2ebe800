"""Unit polytopes and the random rotations that turn them around every particle (arXiv:2605.01928)."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from polystep_rl.types import Array, Key

Polytope = Callable[[int], np.ndarray]  # particle dimension d -> unit vertices (V, d), float64

MAX_CUBE_DIM = 16  # 2**16 vertices per particle is the most that makes sense


def _check_dim(name: str, dim: int) -> None:
    if not isinstance(dim, int | np.integer) or dim < 1:
        raise ValueError(f"{name}: particle dimension was {dim!r}, expected an integer of at least 1")


def orthoplex(dim: int) -> np.ndarray:
    """Vertices +e_i, then -e_i.

    Args:
        dim: particle dimension d, at least 1.

    Returns:
        (2d, d) float64, unit rows that sum to zero.

    Raises:
        ValueError: d below 1.
    """
    _check_dim("orthoplex", dim)
    return np.concatenate([np.eye(dim), -np.eye(dim)])


def simplex(dim: int) -> np.ndarray:
    """Regular simplex: d vertices a e_i + b 1, then 1/sqrt(d); any two have the inner product -1/d.

    Args:
        dim: particle dimension d, at least 1.

    Returns:
        (d + 1, d) float64, unit rows that sum to zero.

    Raises:
        ValueError: d below 1.
    """
    _check_dim("simplex", dim)
    a = np.sqrt(1.0 + 1.0 / dim)
    b = -(a + 1.0 / np.sqrt(dim)) / dim  # from (a e_i + b 1) . 1/sqrt(d) = -1/d
    return np.concatenate([a * np.eye(dim) + b, np.full((1, dim), 1.0 / np.sqrt(dim))])


def cube(dim: int) -> np.ndarray:
    """All sign patterns over sqrt(d); the first coordinate changes its sign fastest.

    Args:
        dim: particle dimension d, 1 to 16.

    Returns:
        (2**d, d) float64, unit rows that sum to zero.

    Raises:
        ValueError: d below 1 or above 16.
    """
    _check_dim("cube", dim)
    if dim > MAX_CUBE_DIM:
        raise ValueError(f"cube: particle dimension was {dim}, expected at most {MAX_CUBE_DIM} (2**d vertices)")
    bits = (np.arange(2**dim)[:, None] >> np.arange(dim)[None, :]) & 1  # (V, d)
    return (1.0 - 2.0 * bits) / np.sqrt(dim)


def haar(key: Key, particles: int, dim: int, dtype: DTypeLike = jnp.float32) -> Array:
    """Independent rotations, uniform (Haar) on SO(d).

    The Q of a Gaussian matrix with the signs of R's diagonal moved into it is Haar on O(d) (Mezzadri 2007,
    arXiv:math-ph/0609050); negating one column where det Q = -1 makes it Haar on SO(d). SO(1) = {1}; for d = 2 one
    uniform angle does.

    Args:
        key: typed key.
        particles: P.
        dim: d.
        dtype: floating dtype of the result.

    Returns:
        (P, d, d).

    Raises:
        ValueError: d below 1.
    """
    _check_dim("haar", dim)
    if dim == 1:
        return jnp.ones((particles, 1, 1), dtype)
    if dim == 2:
        angle = jax.random.uniform(key, (particles,), dtype, maxval=2.0 * np.pi)
        c, s = jnp.cos(angle), jnp.sin(angle)
        return jnp.stack([jnp.stack([c, -s], -1), jnp.stack([s, c], -1)], -2)
    at_least_single = jnp.promote_types(dtype, jnp.float32)  # there is no QR in half precision
    q, r = jnp.linalg.qr(jax.random.normal(key, (particles, dim, dim), at_least_single))
    q = q * jnp.where(jnp.diagonal(r, axis1=-2, axis2=-1) < 0, -1, 1)[:, None, :]
    q = q.at[:, :, 0].multiply(jnp.where(jnp.linalg.det(q) < 0, -1, 1)[:, None])
    return q.astype(dtype)


def directions(rotation: Array, vertices: Array) -> Array:
    """u_pv = R_p v.

    Args:
        rotation: (P, d, d).
        vertices: (V, d).

    Returns:
        (P, V, d) unit directions.
    """
    return jnp.einsum("pij,vj->pvi", rotation, vertices, precision=jax.lax.Precision.HIGHEST)
