"""A trained policy as a callable in NumPy alone: bit for bit the policy in JAX where it is an integer one.

Integers are exact in float64; float precisions are computed in float64 and agree with JAX to rounding.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from polystep_rl.policies.deployed import frozen, integer_weights
from polystep_rl.policies.forward import activate, float_layers, pre_activations, quantised_input, squash
from polystep_rl.policies.io import find_policy, read_policy
from polystep_rl.policies.precision import action_plan, plan
from polystep_rl.policies.sides import joined
from polystep_rl.types import Params, PolicySpec


class Network:
    """A specification with parameters, prepared once: from observations (n, o) float32 to outputs and actions."""

    def __init__(self, spec: PolicySpec, params: Params) -> None:
        spec, params = frozen(spec, params)
        self.spec = spec
        self._plans = plan(spec)
        self._layers = (
            [
                integer_weights(layer, params[str(index)]["w"], params[str(index)]["b"])
                for index, layer in enumerate(self._plans)
            ]
            if self._plans
            else float_layers(spec, params)
        )
        self._box = action_plan(spec) if spec.head == "box" and self._plans else None

    def outputs(self, obs: np.ndarray) -> np.ndarray:
        """Inputs of the head (n, a): integers, or y of a float precision."""
        spec, plans = self.spec, self._plans
        if plans:
            y = quantised_input(spec, obs)
            for index, (weight, bias) in enumerate(self._layers):
                y = y @ weight.T + bias
                y = activate(plans[index], y) if index < len(plans) - 1 else y
        else:
            y = pre_activations(spec, self._layers, obs)[-1]
        if spec.sides is None:
            return activate(plans[-1], y) if plans else y
        y = joined(np, spec.sides, np.split(y.T, len(spec.sides.inputs), axis=1), spec.action_size).T
        return np.sign(y) * activate(plans[-1], np.abs(y)) if plans else y

    def actions(self, obs: np.ndarray) -> np.ndarray:
        """Choices (n, groups), or box actions (n, a)."""
        spec, y = self.spec, self.outputs(obs)
        if spec.head != "box":
            return choices(spec, y)
        if self._box is not None:
            mid, step, low, high = self._box
            return np.clip(mid + y.astype(np.float32) * step, low, high)
        low, high = np.asarray(spec.action_low), np.asarray(spec.action_high)
        return np.clip((low + high) / 2 + (high - low) / 2 * squash(spec, y), low, high)


def actions(spec: PolicySpec, params: Params, obs: np.ndarray) -> np.ndarray:
    """`Network.actions` of a specification and parameters."""
    return Network(spec, params).actions(obs)


def choices(spec: PolicySpec, y: np.ndarray) -> np.ndarray:
    """The first largest output of every group: (n, a) -> (n, groups), one group for a discrete head."""
    groups = np.split(y, np.cumsum(spec.groups)[:-1], axis=1) if spec.groups else [y]
    return np.stack([part.argmax(axis=1) for part in groups], axis=1)


class NumpyPolicy:
    """A trained policy: ``policy(obs) -> action``, and `predict` in the place of one of Stable-Baselines3.

    Attributes:
        spec: the specification, with sizes, precision, input scales and the action box.
        metadata: what the file says of it: environment, seed, env steps, return; of a bundle, the whole of policy.json.
    """

    def __init__(self, spec: PolicySpec, params: Params, metadata: dict[str, Any] | None = None) -> None:
        self.spec = spec
        self.metadata = metadata or {}
        self._network = Network(spec, params)

    def __call__(self, obs: Any) -> Any:
        """The action for one observation (o,), or n of them for (n, o): an int, (groups,) int32 or (a,) float32.

        Raises:
            ValueError: an observation of another size.
        """
        rows = np.asarray(obs, np.float32)
        if rows.ndim not in (1, 2) or rows.shape[-1] != self.spec.obs_size:
            size = self.spec.obs_size
            raise ValueError(
                f"observation of shape {rows.shape}: this policy reads ({size},), or n of them as (n, {size})"
            )
        found = self._network.actions(np.atleast_2d(rows))
        found = found.astype(np.float32 if self.spec.head == "box" else np.int32)
        if self.spec.head == "discrete":
            found = found[:, 0]
        if rows.ndim == 2:
            return found
        return int(found[0]) if self.spec.head == "discrete" else found[0]

    def reset(self) -> None:
        """Begin an episode. Nothing to do: these policies remember nothing between two observations."""

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[np.ndarray, Any]:
        """(action, state) as Stable-Baselines3's models return it; the policy is deterministic whatever is asked."""
        return np.asarray(self(observation), np.int64 if self.spec.head != "box" else np.float32), state


def load(path: str | os.PathLike[str]) -> NumpyPolicy:
    """The policy of a run folder (the one it deploys), of an exported bundle, or of a policy file.

    Raises:
        PolicyFileError: nothing of that name, or damaged or foreign files, in one line.
    """
    saved = read_policy(find_policy(path))
    return NumpyPolicy(saved.spec, saved.params, saved.meta)
