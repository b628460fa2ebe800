"""Policies of many candidates on the lanes of host simulators, as compiled functions."""

from __future__ import annotations

import functools
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from polystep_rl.types import Array, Params, Policy, PyTree, Structured


class Forward(NamedTuple):
    """The compiled pieces of a policy, for some candidates."""

    deployed: PyTree  # what each of them has for itself, leaves (n, ...)
    act: Callable[[PyTree, np.ndarray], Array]  # (weights of lanes (..., L), obs (L, o)) -> actions (L, ...)
    # (deployed, candidate (L,), obs (L, o)) -> weights of lanes (..., L), actions (L, ...)
    gather_and_act: Callable[[PyTree, np.ndarray, np.ndarray], tuple[PyTree, Array]]


class _Built(NamedTuple):
    """Policies, each with all its numbers."""

    deployed: PyTree  # (n, ...)


class _Changes(NamedTuple):
    """Policies of which only the change to their centre exists."""

    own: PyTree  # (n, ...)


def forward_of(policy: Policy, decode: Partial, candidates: PyTree) -> Forward:
    """Forward pass of candidates (n, ...) that `decode` builds, or of which it knows the structure."""
    deploy, act, gather_and_act, act_changed, gather_and_act_changed = _functions(policy)
    found = deploy(decode, candidates)
    if isinstance(found, _Built):
        return Forward(found.deployed, act, gather_and_act)
    return Forward(
        found.own, partial(act_changed, decode, candidates), partial(gather_and_act_changed, decode, candidates)
    )


@functools.lru_cache(maxsize=8)
def _functions(policy: Policy) -> tuple[Callable[..., Any], ...]:
    def deploy(decode: Callable[[PyTree], Params | Structured], candidates: PyTree) -> _Built | _Changes:
        found = decode(candidates)
        return _Changes(found.own) if isinstance(found, Structured) else _Built(jax.vmap(policy.deploy)(found))

    def act(weights: PyTree, obs: Array) -> Array:
        return jnp.moveaxis(policy.act_deployed(weights, obs.T), -1, 0)

    def act_changed(structure: Callable[[PyTree], Structured], candidates: PyTree, own: PyTree, obs: Array) -> Array:
        assert policy.act_structured is not None
        # Of the structure only the functions are used; what each candidate has for itself is not computed again.
        return jnp.moveaxis(policy.act_structured(structure(candidates), own, obs.T), -1, 0)

    def gather_and_act(deployed: PyTree, candidate: Array, obs: Array) -> tuple[PyTree, Array]:
        return _gathered(act, deployed, candidate, obs)

    def gather_and_act_changed(structure: Callable, candidates: PyTree, *args: Any) -> tuple[PyTree, Array]:
        return _gathered(partial(act_changed, structure, candidates), *args)

    functions = (deploy, act, gather_and_act, act_changed, gather_and_act_changed)
    return tuple(jax.jit(function) for function in functions)


def _gathered(act: Callable, deployed: PyTree, candidate: Array, obs: Array) -> tuple[PyTree, Array]:
    weights = jax.tree.map(lambda x: jnp.moveaxis(x[candidate], 0, -1), deployed)
    weights = jax.lax.optimization_barrier(weights)  # actions are rounded as those of `act`
    return weights, act(weights, obs)
