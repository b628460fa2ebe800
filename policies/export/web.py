"""A CartPole policy as one HTML page that stands alone: its integers in JavaScript, and a pole for them to balance.

The script of the page does the arithmetic of `deployed.integers`, one-bit weights packed in 32-bit words, and simulates
CartPole-v1; a test runs both against Python. The page's numbers are made here.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import re
from importlib import resources
from typing import Any

import numpy as np

from polystep_rl.policies.deployed import deployed
from polystep_rl.policies.precision import layer_sizes
from polystep_rl.types import INTEGER_PRECISIONS, Params, PolicySpec

ENV = "CartPole-v1"
OBSERVATIONS, ACTIONS = 4, 2
_LONGEST = 80  # characters of a name that the page or an error line shows


def web_page(spec: PolicySpec, params: Params, metadata: dict[str, Any]) -> str:
    """The page of an int8 or binary policy of CartPole-v1.

    Args:
        spec, params: the policy, of 4 observations and 2 actions.
        metadata: what its file says of it; ``env``, ``seed``, ``env_steps`` and ``return`` (or ``eval_return``) show.

    Returns:
        HTML; write it as UTF-8.

    Raises:
        ValueError: another kind of policy, in one line.
    """
    _check(spec, metadata)
    numbers = deployed(spec, params)
    size, float_size = parameter_bytes(numbers), _float_bytes(spec, numbers)
    total, float_total = sum(size.values()), sum(float_size.values())
    template = resources.files(__package__).joinpath("web.html").read_text(encoding="utf-8")
    # The page's policy lets the browser run this script and no other: whatever got into the page stays text.
    code = template.rpartition("<script>")[2].partition("</script>")[0]
    fills = {
        "TITLE": f"{ENV} on {total:,} bytes",
        "BYTES": f"{total:,}",
        "FLOAT_BYTES": f"{float_total:,}",
        "SHARE": f"{100 * total / float_total:.1f}",
        "SMALLER": f"{float_total / total:.1f}",
        "PARTS": ", ".join(f"{count:,} for {name}" for name, count in size.items()),
        "PRECISION": spec.precision,
        "FACTS": _facts(spec, metadata),
        "NETWORK": _embed(_network(numbers)),
        "SCRIPT_HASH": base64.b64encode(hashlib.sha256(code.encode()).digest()).decode(),
    }
    # All in one pass: what is filled in is never itself searched for marks.
    return re.sub(r"\{\{([A-Z_]+)\}\}", lambda found: fills[found[1]], template)


def parameter_bytes(numbers: dict[str, Any]) -> dict[str, int]:
    """Bytes of the parameters in `deployed.integers`, for ``weights``, ``biases`` and ``inputs``.

    One bit or one byte a weight, each layer rounded up to bytes; biases in the smallest of int8, int16 and int32 that
    holds the layer's; a float32 multiplier for each input, and where a zero point is not 0 one of 2 bytes for each (of
    4 where that does not hold them).
    """
    bits = 1 if numbers["precision"] == "binary" else 8
    multiplier, zero = numbers["input"]["multiplier"], numbers["input"]["zero_point"]
    return {
        "weights": sum(math.ceil(layer["weight"].size * bits / 8) for layer in numbers["layers"]),
        "biases": sum(layer["bias"].size * _width(layer["bias"], 1) for layer in numbers["layers"]),
        "inputs": 4 * multiplier.size + (zero.size * _width(zero, 2) if zero.any() else 0),
    }


def _width(values: np.ndarray, least: int) -> int:
    """Bytes of the smallest signed integer, of at least ``least`` bytes, that holds all the values."""
    return next(size for size in (1, 2, 4) if size >= least and np.all(values == values.astype(f"i{size}")))


def _float_bytes(spec: PolicySpec, numbers: dict[str, Any]) -> dict[str, int]:
    """`parameter_bytes` of the network of the same layers in float32."""
    sizes, moved = layer_sizes(spec), bool(numbers["input"]["zero_point"].any())
    return {
        "weights": 4 * sum(fan_in * fan_out for fan_in, fan_out in sizes),
        "biases": 4 * sum(fan_out for _, fan_out in sizes),
        "inputs": 4 * spec.obs_size * (2 if moved else 1),
    }


def _check(spec: PolicySpec, metadata: dict[str, Any]) -> None:
    """Raise a one-line ValueError for a policy that the page cannot play."""
    head = f"a {spec.head} head of {spec.action_size}"
    env = metadata.get("env")
    for right, given, expected in (
        (env is None or env == ENV, f"the environment {str(env)[:_LONGEST]!r}", ENV),
        (spec.precision in INTEGER_PRECISIONS, f"a {spec.precision} policy", " or ".join(INTEGER_PRECISIONS)),
        (spec.sides is None, "a network that sides share", "one without sides"),
        (spec.obs_size == OBSERVATIONS, f"{spec.obs_size} observations", str(OBSERVATIONS)),
        (spec.head == "discrete" and spec.action_size == ACTIONS, head, f"a discrete head of {ACTIONS}"),
    ):
        if not right:
            raise ValueError(f"the page plays {ENV}: given {given}, expected {expected}")


def _network(numbers: dict[str, Any]) -> dict[str, Any]:
    """The integers as the script reads them."""
    layers = []
    for layer in numbers["layers"]:
        weight, entry = layer["weight"], {"bias": layer["bias"].tolist(), "fan_in": layer["weight"].shape[1]}
        if numbers["precision"] == "binary":
            layers.append({**entry, "words": _words(weight)})
        else:
            layers.append({**entry, "weight": weight.tolist(), **{k: layer[k] for k in ("mult", "shift", "low")}})
    inputs = {name: numbers["input"][name].tolist() for name in ("multiplier", "zero_point")}
    return {"precision": numbers["precision"], "copies": numbers["weight_copies"], "input": inputs, "layers": layers}


def _words(weight: np.ndarray) -> list[list[int]]:
    """Weights (m, k) of -1 and 1 as rows of 32-bit words: input j is bit j % 32 of word j // 32, set for a 1."""
    padded = np.zeros((len(weight), math.ceil(weight.shape[1] / 32) * 32), bool)
    padded[:, : weight.shape[1]] = weight > 0
    return np.packbits(padded, axis=1, bitorder="little").view("<u4").tolist()


def _facts(spec: PolicySpec, metadata: dict[str, Any]) -> str:
    """Facts about the policy, as the entries of a <dl>."""
    shape = "–".join(str(size) for size in (spec.obs_size, *spec.hidden, spec.action_size))
    facts: dict[str, Any] = {"environment": ENV, "precision": spec.precision, "network": shape}
    if spec.weight_copies > 1:
        facts["bits per weight"] = spec.weight_copies
    facts["seed"] = None if metadata.get("seed") is None else str(metadata["seed"])
    facts["env steps"] = metadata.get("env_steps")
    facts["return"] = metadata["return"] if metadata.get("return") is not None else metadata.get("eval_return")
    return "".join(
        f"<div><dt>{name}</dt><dd>{html.escape(_shown(value))}</dd></div>"
        for name, value in facts.items()
        if value is not None
    )


def _shown(value: Any) -> str:
    """A number in digits that are read easily, anything else as text."""
    if isinstance(value, (float, np.floating)):
        return f"{float(value):,.1f}".removesuffix(".0")
    if isinstance(value, (int, np.integer)):
        return f"{int(value):,}"
    text = str(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _embed(data: Any) -> str:
    """JSON that cannot end the ``<script>`` element which it stands in, whatever strings it holds."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
