"""From returns and lengths to costs; where episodes of training are cut, and what a step costs."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from polystep_rl.types import Array, Evaluation, Moments

MAX_STEPS = 2**31 - 1  # of all episodes of all candidates, counted in int32


def finite_cost(returns: Array) -> tuple[Array, Array]:
    """Cost of each candidate from its returns, and how many returns were not finite.

    The cost is minus the mean return. A candidate with a NaN or infinite return gets the worst finite cost of this
    generation, so that nothing downstream meets a non-finite number (0 where no candidate is finite).

    Args:
        returns: (n, r).

    Returns:
        cost (n,), count () int32.
    """
    bad_return = ~jnp.isfinite(returns)
    cost = -returns.mean(axis=1)
    bad = ~jnp.isfinite(cost)
    worst = jnp.max(jnp.where(bad, -jnp.inf, cost))
    return jnp.where(bad, jnp.where(jnp.isfinite(worst), worst, 0), cost), bad_return.sum(dtype=jnp.int32)


class Horizon(NamedTuple):
    """Where an episode is cut, where that is sooner than the environment's own limit."""

    first: int | None = None  # steps; None: the environment's own
    last: int | None = None  # at the end of the budget, in between geometrically; None: always `first`
    metric: str | None = None  # cut the episode after a step in which this metric of the environment ...
    least: float = 0.0  # ... is below this

    @property
    def grows(self) -> bool:
        return self.last is not None

    def at(self, spent: Any, own: int) -> Any:
        """() int, the limit once a fraction in [0, 1] of the budget is spent, where ``own`` is the environment's."""
        first = min(self.first or own, own)
        last = first if self.last is None else min(self.last, own)
        if first == last:
            return first
        steps = first * (last / first) ** spent
        return steps.round().astype(np.int32) if hasattr(steps, "round") else round(steps)

    def over(self, metrics: dict[str, Any]) -> Any:
        """Whether a step's metrics end the episode, in their shape; False where they have no say."""
        return False if self.metric is None else metrics[self.metric] < self.least


class Penalty(NamedTuple):
    """Subtracted from every step's reward in the cost, not in reported returns. Negative values reward survival."""

    first: float = 0.0
    last: float | None = None  # at the end of the budget, in between linearly; None: always `first`

    @property
    def grows(self) -> bool:
        return self.last is not None

    def at(self, spent: Any) -> Any:
        """The penalty once a fraction in [0, 1] of the budget is spent."""
        return self.first if self.last is None else self.first + (self.last - self.first) * spent


def outcome(returns: Array, lengths: Array, penalty: Penalty, spent: Array | float, moments: Moments) -> Evaluation:
    """The evaluation that returns and lengths (n, r) amount to."""
    cost, nonfinite = finite_cost(returns if penalty == Penalty() else returns - penalty.at(spent) * lengths)
    return Evaluation(cost, returns, lengths, lengths.sum(), moments, nonfinite)


def check_episodes(episodes: int, horizon: Horizon) -> None:
    """ValueError for fewer than one episode or step."""
    if episodes < 1:
        raise ValueError(f"episodes={episodes}: expected at least 1 episode per candidate")
    if min(x for x in (horizon.first, horizon.last, 1) if x is not None) < 1:
        raise ValueError(f"{horizon}: expected at least 1 step")
