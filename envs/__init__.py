"""Simulators: pure JAX, EnvPool and Gymnasium. ``make_any("Hopper-v5")``, ``register`` for your own, ``check_env``.

Names are imported when they are first used: a worker process that steps Gymnasium's environments needs no JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from polystep_rl.envs.checker import check_env
    from polystep_rl.envs.registry import SIMULATORS, make, make_any, register, registered_ids

_HOME = {
    "check_env": "checker",
    **dict.fromkeys(("SIMULATORS", "make", "make_any", "register", "registered_ids"), "registry"),
}

__all__ = ["SIMULATORS", "check_env", "make", "make_any", "register", "registered_ids"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
