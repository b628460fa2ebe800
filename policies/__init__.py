"""Policies: multilayer perceptrons in five precisions, their exact integers, and their files."""

from polystep_rl.policies.io import PolicyFileError, SavedPolicy, load_policy, save_policy
from polystep_rl.policies.mlp import INPUT, frozen, integers, make_policy, mlp_policy
from polystep_rl.policies.precision import PRECISIONS, bounds, sign_pm1

__all__ = [
    "INPUT",
    "PRECISIONS",
    "PolicyFileError",
    "SavedPolicy",
    "bounds",
    "frozen",
    "integers",
    "load_policy",
    "make_policy",
    "mlp_policy",
    "save_policy",
    "sign_pm1",
]
