"""Gymnasium's classic control tasks in pure JAX."""
