"""Simulators in pure JAX: ``make("CartPole-v1")``, ``register`` for your own, ``check_env`` to try it."""

from polystep_rl.envs.checker import check_env
from polystep_rl.envs.registry import make, register, registered_ids

__all__ = ["check_env", "make", "register", "registered_ids"]
