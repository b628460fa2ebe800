"""Amortised steps: after every evaluated generation, a few steps that reuse past displacements and evaluate nothing.

Source: arXiv:2605.01928. Of every m steps one is evaluated; step j of the other m - 1 adds (1 - j/m) E, where E is an
exponential moving average of the evaluated displacements. Here a generation is always evaluated, so its m - 1 free
steps follow at once inside `tell`: a schedule over N of the paper's steps is one over N/m generations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from polystep_rl.search.wrappers import check_unobserving
from polystep_rl.types import Array, Info, Key, Params, Proposal, State, Strategy


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
