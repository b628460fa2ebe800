"""A deployed policy as an ONNX graph, from observations to actions: nothing is left to do for who runs it.

The input ``obs`` is (N, o) float32, the output ``action`` (N,) int32 of a discrete head, (N, groups) int32 of a
multidiscrete one and (N, a) float32 of a box. The graph is the arithmetic of ``policies.deployed``, and reads nothing
else but its numbers and ``precision.action_plan``.

An integer policy is exact. Its integers travel in float32, below 2**24 wherever they are (``precision.plan``), and are
bytes at the products alone. ONNX Runtime's products of uint8 by int8 saturate on x86 without VNNI, where two of them
are summed in 16 bits (its documentation, "Quantize ONNX models": reduce_range, or U8U8), so int8 weights are uint8
with the zero point 128, as the inputs are. One-bit weights are int8: 2 * 255 * 1 saturates nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from polystep_rl.policies import precision
from polystep_rl.policies.deployed import INPUT_LIMIT
from polystep_rl.policies.export.graph import Graph
from polystep_rl.policies.sides import PHASE_UNIT
from polystep_rl.types import INPUT_UNIT, INTEGER_PRECISIONS, QMAX, Params, PolicySpec

ZERO = 128  # zero point of bytes


def onnx_model(
    spec: PolicySpec, params: Params, metadata: dict[str, str] | None = None, qdq: bool = False
) -> onnx.ModelProto:
    """The policy as a checked ONNX model, with a symbolic number N of observations.

    Args:
        spec: of any precision.
        params: the latents (input scales included, if they carry any).
        metadata: what to say of it in the model's metadata_props.
        qdq: an int8 policy in floats between QuantizeLinear and DequantizeLinear, for tools that make integers of those
            themselves (TensorRT). QuantizeLinear rounds half to even where the policy rounds half up, and outputs are
            not rounded, so every layer agrees within one int8 step given the same inputs, but not bit for bit (measured
            on networks of up to three layers: 999 outputs of 1000 within 0.52 steps, all within 1.5).

    Raises:
        ValueError: ``qdq`` of a policy that is not int8, or has sides.
    """
    if qdq and (spec.precision != "int8" or spec.sides is not None):
        raise ValueError(
            f"qdq takes int8 policies without sides, not {spec.precision}{' with sides' * bool(spec.sides)}"
        )
    integer = spec.precision in INTEGER_PRECISIONS
    kind = QuantiseDequantise if qdq else Integers if integer else Floats
    return kind(spec, params).model("N", metadata)


class Floats(Graph):
    """float32, int8-act and binary-act."""

    def read(self, obs: str, rows: Any) -> str:
        offset, scale = (self.numbers["input"][name][rows] for name in ("offset", "scale"))
        x = self.node("Mul", self.node("Sub", obs, offset), scale)
        return self.node("Where", self.node("IsNaN", obs), 0, self.node("Clip", x, -INPUT_LIMIT, INPUT_LIMIT))

    def product(self, index: int, x: str) -> str:
        layer = self.numbers["layers"][index]
        return self.node("Gemm", x, layer["weight"], layer["bias"], transB=1)

    def hidden(self, index: int, layer: dict[str, Any], y: str) -> str:
        if layer["activation"] == "sign":
            return self.node("Where", self.node("GreaterOrEqual", y, 0), 1, -1)
        if layer["activation"] in ("tanh", "relu"):
            return self.node({"tanh": "Tanh", "relu": "Relu"}[layer["activation"]], y)
        y = self.node("Tanh", y) if layer["activation"] == "round_tanh" else self.node("Clip", y, 0, 1)
        return self.node("Round", self.node("Mul", y, QMAX))

    def box(self, y: str) -> str:
        box = self.numbers["action"]
        y = self.node("Tanh", y) if self.numbers["squash"] == "tanh" else y
        return self.inside(y, box["mid"], box["half"], box["low"], box["high"])


class Integers(Graph):
    """int8 and binary, exactly."""

    one = INPUT_UNIT

    def read(self, obs: str, rows: Any) -> str:
        multiplier, zero = (self.numbers["input"][name][rows] for name in ("multiplier", "zero_point"))
        # The zero point is subtracted before the cut, so that the cut is the same for all inputs: |zero| + 127 < 2**24,
        # so what was beyond the cut stays beyond it, and what was within it is exact.
        x = self.node("Sub", self.node("Round", self.node("Mul", obs, multiplier)), zero.astype(np.float32))
        return self.int8(self.node("Where", self.node("IsNaN", obs), 0, x), whole=True)

    def int8(self, x: str, low: int = -QMAX, whole: bool = False) -> str:
        """clip(floor(x), low, 127); ``whole``: x has integers, or NaN-free infinities."""
        return self.node("Clip", x if whole else self.node("Floor", x), low, QMAX)

    def product(self, index: int, x: str) -> str:
        x = self.node("Concat", *[x] * self.spec.weight_copies, axis=1) if self.spec.weight_copies > 1 else x
        y = self.multiplied(index, self.numbers["layers"][index]["weight"].T, x)
        return self.node("Add", y, self.numbers["layers"][index]["bias"].astype(np.float32))

    def multiplied(self, index: int, weight: np.ndarray, x: str) -> str:
        """x @ weight of a layer: (N, k) by (k, m) int8, to (N, m)."""
        zero = 0 if self.spec.precision == "binary" else ZERO  # see the top of this file
        kind = np.uint8 if zero else np.int8
        name = self.constant((weight.astype(np.int16) + zero).astype(kind), f"weight_{index}")
        read = self.node("Cast", self.node("Add", x, ZERO), to=TensorProto.UINT8)
        sums = self.node("MatMulInteger", read, name, np.asarray(ZERO, np.uint8), np.asarray(zero, kind))
        return self.node("Cast", sums, to=TensorProto.FLOAT)

    def hidden(self, index: int, layer: dict[str, Any], y: str) -> str:
        return self.sign(y) if layer["activation"] == "sign" else self.requantised(layer, y)

    def sign(self, y: str) -> str:
        """1 where y >= 0, else -1."""
        return self.node("Where", self.node("GreaterOrEqual", y, 0), 1, -1)

    def requantised(self, layer: dict[str, Any], y: str) -> str:
        """clip((y * mult + half) >> shift, low, 127) as floor(y * (mult / 2**shift) + half / 2**shift), where both
        products and the sum are exact: they are integers below 2**24 over 2**shift."""
        step = 2.0 ** -layer["shift"]
        half = 2 ** layer["shift"] >> 1
        return self.int8(self.node("Add", self.node("Mul", y, layer["mult"] * step), half * step), layer["low"])

    def output(self, y: str) -> str:
        layer = self.numbers["layers"][-1]
        return y if layer["activation"] == "none" else self.looked_up(layer, self.requantised(layer, y))

    def joined_output(self, y: str) -> str:
        layer = self.numbers["layers"][-1]  # by size, so that mirrored sums give mirrored actions
        size = self.requantised(layer, self.node("Abs", y))
        return self.looked_up(layer, self.node("Mul", self.node("Sign", y), size))

    def looked_up(self, layer: dict[str, Any], q: str) -> str:
        """The layer's table, if it has one, at the integers q."""
        if layer["table"] is None:
            return q
        where = self.node("Cast", self.node("Add", q, QMAX), to=TensorProto.INT32)
        return self.node("Gather", layer["table"].astype(np.float32), where, axis=0)

    def box(self, y: str) -> str:
        return self.inside(y, *precision.action_plan(self.spec))

    def phase(self, p: str) -> str:
        return self.int8(self.node("Round", self.node("Mul", p, PHASE_UNIT)), whole=True)

    def rounded(self, products: str) -> str:
        return self.int8(self.node("Add", self.node("Mul", products, 1 / 128), 0.5))  # (p y + 64) >> 7


class QuantiseDequantise(Integers):
    """int8 as floats: what a layer reads is quantised and dequantised; a real number is an accumulator's integer."""

    def scale(self, index: int) -> float:
        """Accumulator units of one step of a layer's int8 activation."""
        layer = self.numbers["layers"][index]
        return 2.0 ** layer["shift"] / layer["mult"]

    def multiplied(self, index: int, weight: np.ndarray, x: str) -> str:
        scale = np.asarray(self.scale(index - 1) if index else 1, np.float32)
        zero, inverse = np.zeros((), np.int8), np.asarray(1 / scale, np.float32)
        steps = self.node("QuantizeLinear", x, scale, zero)
        weights = self.node("DequantizeLinear", self.constant(weight, f"weight_{index}"), inverse, zero)
        return self.node("MatMul", self.node("DequantizeLinear", steps, scale, zero), weights)

    def hidden(self, index: int, layer: dict[str, Any], y: str) -> str:
        if layer["activation"] == "requant_relu":
            return self.node("Relu", y)
        return self.node("Clip", y, *(side * QMAX * self.scale(index) for side in (-1, 1)))  # QuantizeLinear has -128

    def output(self, y: str) -> str:
        layer, plan = self.numbers["layers"][-1], precision.plan(self.spec)[-1]
        if layer["activation"] == "none":
            return y
        q = self.node("Clip", self.node("Mul", y, 1 / self.scale(-1)), -QMAX, QMAX)
        if layer["table"] is None:
            return q
        return self.node("Mul", self.node("Tanh", self.node("Mul", q, 1 / plan.unit)), QMAX)
