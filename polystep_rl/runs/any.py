"""Trains with whatever algorithm the settings name."""

from __future__ import annotations

from typing import Any, TextIO

from polystep_rl.runs.search import run_training
from polystep_rl.settings.algorithms import GRADIENT
from polystep_rl.settings.run import TrainConfig


def run_any(config: TrainConfig, output: Any, stream: TextIO, install_handler: bool = True) -> dict[str, Any]:
    """Train with whatever algorithm the settings name; returns the summary."""
    if config.algo in GRADIENT:
        from polystep_rl.runs.gradient import run_gradient

        return run_gradient(config, output, stream, install_handler)
    return run_training(config, output, stream, install_handler)
