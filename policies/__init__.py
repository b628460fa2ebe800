"""Policies: multilayer perceptrons in five precisions, their exact integers, their files, and imports."""

from polystep_rl.policies.convert import ForeignMLP, from_foreign, load_foreign
from polystep_rl.policies.io import PolicyFileError, SavedPolicy, load_policy, save_policy
from polystep_rl.policies.mlp import INPUT, frozen, integers, make_policy, mlp_policy
from polystep_rl.policies.precision import PRECISIONS, bounds, sign_pm1
from polystep_rl.policies.quantise import Quantised, agreement, quantise

__all__ = [
    "INPUT",
    "ForeignMLP",
    "PRECISIONS",
    "PolicyFileError",
    "Quantised",
    "SavedPolicy",
    "agreement",
    "bounds",
    "from_foreign",
    "frozen",
    "integers",
    "load_foreign",
    "load_policy",
    "make_policy",
    "mlp_policy",
    "quantise",
    "save_policy",
    "sign_pm1",
]
