"""What happens to a search's steps in parameter space: an optimizer that they pass through, and averaging.

Both wrap a strategy. Parameters keep their meaning when a subspace is redrawn, and so do momentum and averages here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from polystep_rl.types import Array, Info, Key, Params, Proposal, PyTree, State, Strategy


class TransformedState(NamedTuple):
    """The wrapped state, and that of the transformation."""

    inner: Any
    transform: PyTree


def check_unobserving(name: str, strategy: Strategy) -> None:
    """ValueError for a strategy with observation statistics: they are no step to transform, and belong outside."""
    if strategy.observe is not Strategy._field_defaults["observe"]:
        raise ValueError(f"{name}: the strategy observes; put `observing` around this one, not inside it")


def transformed(
    strategy: Strategy, shift: Callable[[State, Params], State], transform: optax.GradientTransformation
) -> Strategy:
    """Pass every step of the centre through an optax transformation.

    The transformation is fed the displacement of the centre (a direction to go, not a gradient), and its output is
    what the centre moves by: `optax.trace` and `optax.scale_by_adam` fit as they are.

    Args:
        strategy: the search.
        shift: (state of strategy, change of the parameters) -> state; `polystep.shift` for PolyStep.
        transform: the transformation, over a pytree like the parameters.

    Raises:
        ValueError: a strategy with observation statistics.
    """
    check_unobserving("transformed", strategy)

    def init(key: Key, params: Params) -> TransformedState:
        inner = strategy.init(key, params)
        return TransformedState(inner, transform.init(strategy.params(inner)))

    def tell(state: TransformedState, proposal: Proposal, cost: Array) -> tuple[TransformedState, Info]:
        before = strategy.params(state.inner)
        inner, info = strategy.tell(state.inner, proposal, cost)
        moved = jax.tree.map(jnp.subtract, strategy.params(inner), before)
        update, after = transform.update(moved, state.transform, before)
        inner = shift(inner, jax.tree.map(jnp.subtract, update, moved))
        return TransformedState(inner, after), {**info, "step_norm": optax.tree.norm(update)}

    return Strategy(
        init=init,
        ask=lambda key, state: strategy.ask(key, state.inner),
        decode=lambda state, candidates: strategy.decode(state.inner, candidates),
        tell=tell,
        params=lambda state: strategy.params(state.inner),
    )


def within(limit: float) -> optax.GradientTransformation:
    """Cut steps so that every weight ("w", not "b") ends within +-limit (BinaryConnect, arXiv:1511.00363).

    The latent of a sign far from 0 would need many steps to change it; a search that drifts freezes its signs so.

    Args:
        limit: above 0, in units of the latents.

    Returns:
        a transformation for `transformed`; its ``update`` needs the parameters, and keeps shapes and dtypes.
    """

    def cut(path: Any, step: Array, weight: Array) -> Array:
        inside = jnp.clip(weight + step, -limit, limit) - weight
        return inside if path[-1] == jax.tree_util.DictKey("w") else step

    def update(updates: Params, state: Any, params: Params | None = None) -> tuple[Params, Any]:
        return jax.tree_util.tree_map_with_path(cut, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


class AveragedState(NamedTuple):
    """The wrapped state, and the moving average of its centre."""

    inner: Any
    average: Params
    told: Array  # () float32, generations


def averaged(strategy: Strategy, decay: float) -> Strategy:
    """Deploy an exponential moving average of the centre (Polyak and Juditsky 1992); the search itself is unchanged.

    Args:
        strategy: the search.
        decay: in [0, 1): average <- decay average + (1 - decay) centre, with decay min(decay, t / (t + 1)) early on.

    Raises:
        ValueError: a decay outside [0, 1), or a strategy with observation statistics.
    """
    check_unobserving("averaged", strategy)
    if not 0 <= decay < 1:
        raise ValueError(f"averaged: decay was {decay!r}, expected a number in [0, 1)")

    def init(key: Key, params: Params) -> AveragedState:
        inner = strategy.init(key, params)
        return AveragedState(inner, strategy.params(inner), jnp.zeros((), jnp.float32))

    def tell(state: AveragedState, proposal: Proposal, cost: Array) -> tuple[AveragedState, Info]:
        inner, info = strategy.tell(state.inner, proposal, cost)
        keep, centre = jnp.minimum(decay, state.told / (state.told + 1)), strategy.params(inner)
        average = jax.tree.map(lambda a, x: (keep * a + (1 - keep) * x).astype(a.dtype), state.average, centre)
        return AveragedState(inner, average, state.told + 1), info

    return Strategy(
        init=init,
        ask=lambda key, state: strategy.ask(key, state.inner),
        decode=lambda state, candidates: strategy.decode(state.inner, candidates),
        tell=tell,
        params=lambda state: state.average,
    )


class AmortisedState(NamedTuple):
    """The wrapped state and what is reused."""

    inner: State
    average: Params  # moving average of the displacement of the parameters, zero at the start


def amortise(strategy: Strategy, shift: Callable[[State, Params], State], every: int, decay: float = 0.7) -> Strategy:
    """Wrap a strategy so that each generation is followed by every - 1 steps without evaluation.

    The average lives in parameter space, so it keeps its meaning when a subspace is redrawn.

    Args:
        strategy: the evaluated steps.
        shift: (state of strategy, change of the parameters) -> state; `polystep.shift` for PolyStep.
        every: m, at least 1; 1 adds nothing.
        decay: of the average, in [0, 1): E <- decay E + (1 - decay) displacement.

    Returns:
        a Strategy; Info gains `reused`, the norm of what the free steps added.

    Raises:
        ValueError: every below 1, decay outside [0, 1), or a strategy with observation statistics.
    """
    check_unobserving("amortise", strategy)
    if every < 1:
        raise ValueError(f"amortise: every was {every!r}, expected at least 1")
    if not 0 <= decay < 1:
        raise ValueError(f"amortise: decay was {decay!r}, expected a number in [0, 1)")
    reuse = sum(1.0 - phase / every for phase in range(1, every))  # sum_j (1 - j/m) = (m - 1) / 2

    def init(key: Key, params: Params) -> AmortisedState:
        inner = strategy.init(key, params)
        return AmortisedState(inner, jax.tree.map(jnp.zeros_like, strategy.params(inner)))

    def tell(state: AmortisedState, proposal: Proposal, cost: Array) -> tuple[AmortisedState, Info]:
        before = strategy.params(state.inner)
        inner, info = strategy.tell(state.inner, proposal, cost)
        moved = jax.tree.map(jnp.subtract, strategy.params(inner), before)
        average = jax.tree.map(lambda e, x: (decay * e + (1 - decay) * x).astype(e.dtype), state.average, moved)
        added = jax.tree.map(lambda e: reuse * e, average)
        return AmortisedState(shift(inner, added), average), {**info, "reused": optax.tree.norm(added)}

    return Strategy(
        init=init,
        ask=lambda key, state: strategy.ask(key, state.inner),
        decode=lambda state, candidates: strategy.decode(state.inner, candidates),
        tell=tell,
        params=lambda state: strategy.params(state.inner),
    )
