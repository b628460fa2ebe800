"""Wrappers of a strategy that work on its steps in parameter space: an optimizer, averaging, amortised steps.

Parameters keep their meaning when a subspace is redrawn, and so do momentum and averages here. Every wrapper of a
strategy, in this module and elsewhere, is made by `wrap`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from polystep_rl.types import Array, Info, Key, Params, Proposal, PyTree, State, Strategy, Structured


def wrap(strategy: Strategy, inner: Callable[[State], State], **changes: Any) -> Strategy:
    """The same search over a state that holds that of the search; every field that is not changed is passed on.

    Args:
        strategy: the search.
        inner: (state of the wrapper) -> state of the search.
        changes: the fields of the wrapper, all over its own state. ``init`` and ``tell`` are always among them, and
            ``observe`` where the search has one. A wrapper whose candidates have no ``structure`` gives None for it
            and says why.

    Raises:
        TypeError: a field that must be given and is not, or one that does not exist.
    """
    needed = {"init", "tell"} | ({"observe"} if strategy.observe is not None else set())
    if missing := needed - changes.keys():
        raise TypeError(f"wrap: {', '.join(sorted(missing))} must be given: a state of its own needs its own")
    structure = strategy.structure

    def passed_on(state: State, candidates: PyTree) -> Structured:
        assert structure is not None
        return structure(inner(state), candidates)

    fields: dict[str, Any] = {
        "ask": lambda key, state: strategy.ask(key, inner(state)),
        "decode": lambda state, candidates: strategy.decode(inner(state), candidates),
        "params": lambda state: strategy.params(inner(state)),
        "structure": None if structure is None else passed_on,
    }
    return Strategy(**{**fields, **changes})


class TransformedState(NamedTuple):
    """The wrapped state, and that of the transformation."""

    inner: Any
    transform: PyTree


def _inner(state: Any) -> State:
    return state.inner


def check_unobserving(name: str, strategy: Strategy) -> None:
    """ValueError for a strategy with observation statistics: they are no step to transform, and belong outside."""
    if strategy.observe is not None:
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

    return wrap(strategy, _inner, init=init, tell=tell)


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

    return wrap(strategy, _inner, init=init, tell=tell, params=lambda state: state.average)


class AmortisedState(NamedTuple):
    """The wrapped state and what is reused."""

    inner: State
    average: Params  # moving average of the displacement of the parameters, zero at the start


def amortise(strategy: Strategy, shift: Callable[[State, Params], State], every: int, decay: float = 0.7) -> Strategy:
    """Follow each generation by every - 1 steps that reuse past displacements and evaluate nothing.

    Source: arXiv:2605.01928. Of every m steps one is evaluated; step j of the other m - 1 adds (1 - j/m) E, where E is
    an exponential moving average of the evaluated displacements. Here a generation is always evaluated, so its m - 1
    free steps follow at once inside `tell`: a schedule over N of the paper's steps is one over N/m generations.

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

    return wrap(strategy, _inner, init=init, tell=tell)
