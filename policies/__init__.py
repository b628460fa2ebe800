"""Policies: multilayer perceptrons in five precisions, their exact integers, their files, imports and exports.

Names are imported when they are first used: reading and running a policy file (`io`, `deployed`, `runtime`) needs NumPy
and safetensors, not JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

from polystep_rl.types import INPUT, PRECISIONS

if TYPE_CHECKING:
    from polystep_rl.policies.convert import ForeignMLP, from_foreign, load_foreign
    from polystep_rl.policies.deployed import frozen, integers
    from polystep_rl.policies.io import PolicyFileError, SavedPolicy, read_policy, save_policy
    from polystep_rl.policies.layers import sign_pm1
    from polystep_rl.policies.mlp import make_policy, mlp_policy
    from polystep_rl.policies.precision import bounds
    from polystep_rl.policies.quantisation.post_training import Quantised, agreement, quantise
    from polystep_rl.policies.runtime import NumpyPolicy

_MODULES = {
    "convert": ("ForeignMLP", "from_foreign", "load_foreign"),
    "deployed": ("frozen", "integers"),
    "io": ("PolicyFileError", "SavedPolicy", "read_policy", "save_policy"),
    "layers": ("sign_pm1",),
    "mlp": ("make_policy", "mlp_policy"),
    "quantisation.post_training": ("Quantised", "agreement", "quantise"),
    "precision": ("bounds",),
    "runtime": ("NumpyPolicy",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "INPUT",
    "PRECISIONS",
    "ForeignMLP",
    "NumpyPolicy",
    "PolicyFileError",
    "Quantised",
    "SavedPolicy",
    "agreement",
    "bounds",
    "from_foreign",
    "frozen",
    "integers",
    "load_foreign",
    "read_policy",
    "make_policy",
    "mlp_policy",
    "quantise",
    "save_policy",
    "sign_pm1",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
