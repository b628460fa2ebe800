"""Optimisers and schedules of evolution strategies, from plain settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import optax

Settings = Mapping[str, Any]


def schedule(settings: Settings, name: str) -> optax.Schedule:
    """A setting over generations: constant, or a cosine to its `*_final` within `schedule_generations`."""
    start, end = settings[name], settings.get(f"{name}_final")
    if end is None:
        return optax.constant_schedule(start)
    return optax.cosine_decay_schedule(start, settings["schedule_generations"], alpha=end / start)


def adam(settings: Settings) -> optax.GradientTransformation:
    """Adam with the schedule of `learning_rate`."""
    return optax.adam(schedule(settings, "learning_rate"))
