"""Reads the deployed network of a stable-baselines3 ``.zip`` as plain NumPy, without unpickling anything.

Such a file holds the state dict of the policy, which torch reads with ``weights_only``, and ``data``: JSON in which
spaces and settings that are not JSON appear twice, pickled (never looked at here) and as text (read here). What the
text does not say has the default of the algorithm, or is given as an argument. Supported are multilayer perceptrons
with tanh or ReLU units over flat observations: PPO and A2C (Discrete, MultiDiscrete, Box), DQN, SAC, TD3, DDPG. The
statistics of VecNormalize are in a pickle of their own, which is not read: give its mean and deviation to whoever takes
the network. Needs torch, not stable-baselines3.
"""

from __future__ import annotations

import io
import json
import os
import re
import zipfile
from typing import Any

import numpy as np
import torch

MAX_BYTES = 2**32  # of one member; anything larger is not a policy
ACTIVATIONS = {"Tanh": "tanh", "ReLU": "relu"}
# algorithm: (hidden layers, last layer: a single one, or None where it ends the hidden ones, activation, box squash)
NETWORKS = {
    "PPO or A2C": ("mlp_extractor.policy_net", "action_net", "tanh", "clip"),
    "DQN": ("q_net.q_net", None, "relu", ""),
    "SAC": ("actor.latent_pi", "actor.mu", "relu", "tanh"),
    "TD3 or DDPG": ("actor.mu", None, "relu", "tanh"),
}


def read_sb3(
    path: str | os.PathLike[str],
    activation: str | None = None,
    action_low: tuple[float, ...] | None = None,
    action_high: tuple[float, ...] | None = None,
) -> dict[str, Any]:
    """Read the acting network, as the fields of `polystep_rl.policies.convert.ForeignMLP`.

    Args:
        path: what ``model.save`` wrote.
        activation: ``tanh`` or ``relu``; default what the file says, or else the default of the algorithm.
        action_low, action_high: (a,) of a Box; default what the file says.

    Returns:
        ``weights`` (m, k) and ``biases`` (m,) float32, first layer to last; ``activation``; ``squash``: ``tanh``,
        ``clip`` or, of discrete actions, ``none``; ``action_low``, ``action_high`` (a,) or (); ``groups`` or ().

    Raises:
        ValueError: another file, or another policy than the ones above (one line, the path first).
    """
    try:
        with zipfile.ZipFile(path) as archive:
            data = json.loads(_member(archive, "data"))
            state = torch.load(io.BytesIO(_member(archive, "policy.pth")), map_location="cpu", weights_only=True)
        if not isinstance(data, dict) or not isinstance(state, dict):
            raise ValueError("data or policy.pth is not a dictionary")
        return _network(data, state, activation, action_low, action_high)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or error})") from None
    except zipfile.BadZipFile:
        raise ValueError(f"{path}: not a zip file of stable-baselines3") from None
    except Exception as error:  # torch fails in many ways on damaged files
        raise ValueError(" ".join(f"{path}: {error}"[:400].split())) from None


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    if name not in archive.namelist():
        raise ValueError(f"not a file of stable-baselines3: it has no {name!r}")
    if archive.getinfo(name).file_size > MAX_BYTES:
        raise ValueError(f"{name!r} is larger than {MAX_BYTES} bytes")
    return archive.read(name)


def _network(
    data: dict[str, Any],
    state: dict[str, Any],
    activation: str | None,
    low: tuple[float, ...] | None,
    high: tuple[float, ...] | None,
) -> dict[str, Any]:
    algorithm = _algorithm(data, state)
    prefix, last, default, squash = NETWORKS[algorithm]
    layers = _layers(state, prefix)
    if last is not None:
        layers.append((_array(state, f"{last}.weight"), _array(state, f"{last}.bias")))
    if not layers:
        raise ValueError(f"the network of {algorithm} has no layers")
    space = data.get("action_space")
    kind = _kind(space)
    groups: tuple[int, ...] = ()
    if kind == "Box" or (kind is None and low is not None):
        limits = [given if given is not None else _numbers(space, key) for given, key in ((low, "low"), (high, "high"))]
        if any(len(limit) != len(layers[-1][1]) for limit in limits):
            raise ValueError(f"action_low and action_high must have {len(layers[-1][1])} numbers")
    elif kind in ("Discrete", "MultiDiscrete"):
        limits, squash = [(), ()], "none"
        if any(_numbers(space, "start")):
            raise ValueError(f"the {kind} actions must count from 0")
        if kind == "MultiDiscrete":
            groups = tuple(int(n) for n in _numbers(space, "nvec"))
    else:
        raise ValueError(
            f"the action space is {kind or 'not described'}: only Discrete, MultiDiscrete and Box are read"
        )
    return {
        "weights": tuple(w for w, _ in layers),
        "biases": tuple(b for _, b in layers),
        "activation": activation or _activation(data, default),
        "squash": squash,
        "action_low": tuple(limits[0]),
        "action_high": tuple(limits[1]),
        "groups": groups,
    }


def _algorithm(data: dict[str, Any], state: dict[str, Any]) -> str:
    """Key of NETWORKS, or ValueError for a policy that is more than such a network."""
    extractor = [name for name in state if "features_extractor" in name or "shared_net" in name]
    if extractor:
        raise ValueError(f"only plain networks over flat observations are read, not one with {extractor[0]}")
    names = {"PPO or A2C": "action_net.weight", "DQN": "q_net.q_net.0.weight", "SAC": "actor.mu.weight"}
    names["TD3 or DDPG"] = "actor.mu.0.weight"
    found = [algorithm for algorithm, name in names.items() if name in state]
    if len(found) != 1 or (found == ["TD3 or DDPG"] and any("latent_pi" in name for name in state)):
        raise ValueError("not a policy of PPO, A2C, DQN, SAC (without gSDE), TD3 or DDPG")
    module = _dict(data.get("policy_class")).get("__module__", "stable_baselines3")
    if not str(module).startswith("stable_baselines3"):
        raise ValueError(f"a policy class of {module}: only those of stable-baselines3 are read")
    if _dict(data.get("policy_kwargs")).get("squash_output"):
        raise ValueError("squash_output is not read")
    if _kind(data.get("observation_space")) not in (None, "Box"):
        raise ValueError(f"the observation space is {_kind(data.get('observation_space'))}: only a Box is read")
    return found[0]


def _layers(state: dict[str, Any], prefix: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """(weight, bias) of the linear layers ``prefix.0``, ``prefix.2``, ..."""
    found = re.compile(re.escape(prefix) + r"\.(\d+)\.weight")
    indices = sorted(int(match[1]) for match in map(found.fullmatch, state) if match)
    known = {f"{prefix}.{i}.{leaf}" for i in indices for leaf in ("weight", "bias")}
    odd = [name for name in state if name.startswith(prefix + ".") and name not in known]
    if odd:
        raise ValueError(f"only linear layers are read, not {odd[0]}")
    return [(_array(state, f"{prefix}.{i}.weight"), _array(state, f"{prefix}.{i}.bias")) for i in indices]


def _array(state: dict[str, Any], name: str) -> np.ndarray:
    value = state.get(name)
    if not isinstance(value, torch.Tensor) or value.ndim != (2 if name.endswith("weight") else 1):
        raise ValueError(f"only linear layers with a bias are read: {name} is missing or has another shape")
    return value.detach().to(torch.float32).numpy().copy()


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _kind(space: Any) -> str | None:
    """Class name of a space, from the text beside it: Box, Discrete, ..."""
    match = re.fullmatch(r"<class '(?:\w+\.)*(\w+)'>", str(_dict(space).get(":type:", "")))
    return match[1] if match else None


def _numbers(space: Any, key: str) -> tuple[float, ...]:
    """Numbers that the text of a space gives for a field: an array as NumPy prints it."""
    text = str(_dict(space).get(key, ""))
    if "..." in text:
        raise ValueError(f"the file shortens {key!r} of the action space: give it as an argument")
    return tuple(float(v) for v in text.replace("[", " ").replace("]", " ").replace(",", " ").split())


def _activation(data: dict[str, Any], default: str) -> str:
    text = _dict(data.get("policy_kwargs")).get("activation_fn")
    if text is None:
        return default
    name = str(text).rstrip("'>").rpartition(".")[2]
    if name not in ACTIVATIONS:
        raise ValueError(f"activation {name[:40]}: only Tanh and ReLU are read")
    return ACTIVATIONS[name]
