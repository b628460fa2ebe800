"""Simulators: pure JAX, EnvPool and Gymnasium. ``make_any("Hopper-v5")``, ``register`` for your own, ``check_env``."""

from polystep_rl.envs.checker import check_env
from polystep_rl.envs.registry import SIMULATORS, make, make_any, register, registered_ids

__all__ = ["SIMULATORS", "check_env", "make", "make_any", "register", "registered_ids"]
