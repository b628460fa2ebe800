"""A policy's arithmetic for gradient baselines, handed in because baselines do not import policies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from polystep_rl.types import Params, PolicySpec

INPUT_LIMIT = 1e6  # of an observation in units of its scale, beyond which float32 lanes would not be exact


class LayerLike(Protocol):
    """The static integers of one layer; `polystep_rl.policies.precision.LayerPlan` is one."""

    @property
    def weight_max(self) -> int: ...
    @property
    def bias_unit(self) -> float: ...
    @property
    def bias_max(self) -> int: ...
    @property
    def activation(self) -> str: ...
    @property
    def mult(self) -> int: ...
    @property
    def shift(self) -> int: ...


class InputScales(Protocol):
    """Units of the inputs that follow from the observations so far.

    `polystep_rl.search.observing.RunningScales` is one.
    """

    def add(self, obs: np.ndarray) -> None:
        """Take in observations (n, o)."""

    def scales(self) -> dict[str, np.ndarray]:
        """{"offset": (o,), "scale": (o,)}."""
        ...


class Static(NamedTuple):
    """The static numbers of a policy, and its post-training quantiser.

    ``Static(plan(spec), input_plan(spec), action_plan(spec) if spec.head == "box" else None)`` with the functions of
    `polystep_rl.policies.precision`; the default will do for the float precisions.
    """

    plans: Sequence[LayerLike] = ()
    inputs: Any = None  # (multiplier (o,), zero_point (o,))
    box: Any = None  # (mid, step, low, high), each (a,), or None
    # (float32 latents, observations (n, o)) -> latents of the policy; what the gradient mode ``ptq`` deploys
    quantise: Callable[[Params, np.ndarray], Params] | None = None


def layer_sizes(spec: PolicySpec) -> tuple[tuple[int, int], ...]:
    """(fan-in, fan-out) of every layer, first to last."""
    sizes = (spec.obs_size, *spec.hidden, spec.action_size)
    return tuple(zip(sizes[:-1], sizes[1:], strict=True))
