"""Transport plans: from scaled costs (P, V) to how much mass each particle sends to each of its vertices.

Source: arXiv:2605.01928; the Sinkhorn step of a motion planner, arXiv:2309.15970. With rows a = 1/P and columns
b = 1/V, a plan T solves

    min_T <C, T> + eps sum T (log T - 1) + lambda KL(T^T 1 || b),   T 1 = a,

where lambda = 0 is a softmax a row, lambda = inf is Sinkhorn with both marginals fixed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.nn import logsumexp
from jax.typing import DTypeLike

from polystep_rl.types import Array, Info

MIN_EPSILON = 1e-12  # a schedule may reach 0: the plan is then the argmin


class Plan(NamedTuple):
    """A solver as two pure functions."""

    init: Callable[..., Array]  # (P, V, dtype=float32) -> duals of the columns (V,), kept from step to step
    # (scaled cost (P, V), eps (), duals (V,)) -> (plan (P, V), duals (V,), report of () arrays)
    solve: Callable[[Array, Array, Array], tuple[Array, Array, Info]]


class _Loop(NamedTuple):
    column: Array  # (V,) dual g
    change: Array  # () max |new g - g| / eps, the log of the worst column's mismatch
    iterations: Array  # () int32


def _zero_duals(particles: int, vertices: int, dtype: DTypeLike = jnp.float32) -> Array:
    del particles
    return jnp.zeros((vertices,), dtype)


def _report(plan: Array, iterations: Array | int, residual: Array | float) -> Info:
    vertices = plan.shape[1]
    return {
        "solver_iterations": jnp.asarray(iterations, jnp.int32),
        "solver_residual": jnp.asarray(residual, plan.dtype),
        "column_error": jnp.max(jnp.abs(vertices * jnp.sum(plan, axis=0) - 1.0)),  # relative to b = 1/V
    }


def _row_softmax(cost: Array, epsilon: Array) -> Array:
    """softmax_v(-C_pv / eps) / P. The row's minimum goes first: the best vertex is then exp(0) however small eps is."""
    low = cost - jnp.min(cost, axis=1, keepdims=True)
    return jax.nn.softmax(-low / epsilon, axis=1) / cost.shape[0]


def softmax() -> Plan:
    """One-sided plan, W_pv = softmax_v(-C_pv / eps) / P (lambda = 0).

    Returns:
        a Plan; its report has solver_iterations and solver_residual 0, and column_error, the worst relative mismatch
        of a column's mass with 1/V.
    """

    def solve(cost: Array, epsilon: Array, duals: Array) -> tuple[Array, Array, Info]:
        plan = _row_softmax(cost, jnp.maximum(epsilon, MIN_EPSILON))
        return plan, duals, _report(plan, 0, 0.0)

    return Plan(_zero_duals, solve)


def _row_dual(cost: Array, epsilon: Array, column: Array) -> Array:
    # f = eps log a - eps LSE_v((g - C) / eps)
    return -epsilon * (logsumexp((column[None, :] - cost) / epsilon, axis=1) + math.log(cost.shape[0]))


def _column_dual(cost: Array, epsilon: Array, row: Array, damping: Array) -> Array:
    # g = lambda/(lambda + eps) (eps log b - eps LSE_p((f - C) / eps))
    return -damping * epsilon * (logsumexp((row[:, None] - cost) / epsilon, axis=0) + math.log(cost.shape[1]))


def _solve_kl(
    penalty: float, tolerance: float | None, max_iterations: int, cost: Array, epsilon: Array, duals: Array
) -> tuple[Array, Array, Info]:
    eps = jnp.maximum(jnp.asarray(epsilon, cost.dtype), MIN_EPSILON)
    damping = jnp.ones((), cost.dtype) if math.isinf(penalty) else penalty / (penalty + eps)
    machine = float(jnp.finfo(cost.dtype).eps)
    wanted = 50.0 * machine if tolerance is None else tolerance
    # Below the rounding of C/eps the duals only flicker, so no smaller change is asked for.
    stop = jnp.maximum(wanted, 4.0 * machine * jnp.max(jnp.abs(cost)) / eps)

    def unfinished(loop: _Loop) -> Array:
        return (loop.change > stop) & (loop.iterations < max_iterations)

    def sweep(loop: _Loop) -> _Loop:
        row = _row_dual(cost, eps, loop.column)
        column = _column_dual(cost, eps, row, damping)
        return _Loop(column, jnp.max(jnp.abs(column - loop.column)) / eps, loop.iterations + 1)

    start = _Loop(duals.astype(cost.dtype), jnp.full((), jnp.inf, cost.dtype), jnp.zeros((), jnp.int32))
    end = jax.lax.while_loop(unfinished, sweep, start)
    # T = exp((f + g - C) / eps) with f solved for last: the rows are exact.
    plan = _row_softmax(cost - end.column[None, :], eps)
    return plan, end.column.astype(duals.dtype), _report(plan, end.iterations, end.change)


def kl(penalty: float, tolerance: float | None = None, max_iterations: int = 500) -> Plan:
    """Rows fixed, columns pulled towards 1/V by lambda KL; interpolates from softmax to Sinkhorn.

    Log-domain scaling of the two duals, where the columns' is damped by lambda / (lambda + eps); the duals of the
    last step start the next one.

    Args:
        penalty: lambda in [0, inf], in units of the scaled cost.
        tolerance: stop once no column's dual changes by more than tolerance * eps in a sweep; None is 50 times the
            rounding of the cost's dtype.
        max_iterations: sweeps at most.

    Returns:
        a Plan; its report has solver_iterations, solver_residual (the last change of a dual over eps) and
        column_error (the worst relative mismatch of a column's mass with 1/V).

    Raises:
        ValueError: penalty negative or NaN, tolerance not above 0, max_iterations below 1.
    """
    if not penalty >= 0:
        raise ValueError(f"kl: penalty was {penalty!r}, expected a number in [0, inf]")
    if tolerance is not None and not tolerance > 0:
        raise ValueError(f"kl: tolerance was {tolerance!r}, expected a number above 0 or None")
    if max_iterations < 1:
        raise ValueError(f"kl: max_iterations was {max_iterations!r}, expected at least 1")
    return Plan(_zero_duals, partial(_solve_kl, float(penalty), tolerance, max_iterations))


def sinkhorn(tolerance: float | None = None, max_iterations: int = 500) -> Plan:
    """Two-sided plan: rows sum to 1/P and columns to 1/V (lambda = inf). See `kl` for arguments, report, errors."""
    return kl(math.inf, tolerance, max_iterations)


def weights(plan: Array, alive: Array | None = None) -> tuple[Array, Array]:
    """Normalise every row by the mass it realised.

    Args:
        plan: (P, V), non-negative.
        alive: (P,) bool, rows that may move; None is all.

    Returns:
        (weights (P, V) whose rows sum to 1, or are 0 where the particle stays; moves (P,) bool).
    """
    mass = jnp.sum(plan, axis=1)
    moves = (mass > 0) & jnp.isfinite(mass)
    if alive is not None:
        moves = moves & alive
    normalised = plan / jnp.where(moves, mass, 1.0)[:, None]
    return jnp.where(moves[:, None], normalised, 0.0), moves


def effective_sample_size(weight: Array, moves: Array) -> Array:
    """1 / sum_v w_pv^2 averaged over the particles that move (0 if none does); between 1 and V.

    Args:
        weight: (P, V) rows that sum to 1.
        moves: (P,) bool.

    Returns:
        ().
    """
    size = jnp.where(moves, 1.0 / jnp.where(moves, jnp.sum(weight**2, axis=1), 1.0), 0.0)
    return jnp.sum(size) / jnp.maximum(jnp.sum(moves), 1)
