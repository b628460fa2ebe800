"""An integer policy as QONNX: the graph of ``policies.export.onnx`` in the words of FPGA tools (FINN, hls4ml).

Floats that are integers, quantised where they are said to be by nodes of the domain ``qonnx.custom_op.general``
(Pappalardo et al. 2022, "QONNX: Representing Arbitrary-Precision Quantized Neural Networks"): ``Quant`` with the scale
1 and the zero point 0, so that what leaves it are integers of its width, and ``BipolarQuant``, 1 where x >= 0, else -1.
"""

from __future__ import annotations

import numpy as np
import onnx

from polystep_rl.policies.export.graph import OPSET
from polystep_rl.policies.export.onnx import Integers
from polystep_rl.types import INTEGER_PRECISIONS, QMAX, Params, PolicySpec

DOMAIN = "qonnx.custom_op.general"


def qonnx_model(
    spec: PolicySpec, params: Params, metadata: dict[str, str] | None = None, batch: int = 1
) -> onnx.ModelProto:
    """The policy as a checked QONNX model, exact under qonnx's executor (``qonnx.core.onnx_exec.execute_onnx``).

    That one wants all shapes to be known: transform the model with ``qonnx.transformation.infer_shapes.InferShapes``.
    It makes models of single nodes with onnx's newest IR version, which the installed onnxruntime has to know.

    Args:
        spec: of an int8 or binary policy, with or without sides.
        params: the latents (input scales included, if they carry any).
        metadata: what to say of it in the model's metadata_props.
        batch: observations at a time, a fixed number since these tools know no symbolic ones.

    Raises:
        ValueError: the policy is not an integer one.
    """
    if spec.precision not in INTEGER_PRECISIONS:
        raise ValueError(f"QONNX takes int8 or binary policies, not {spec.precision}")
    return Quants(spec, params).model(batch, metadata)


class Quants(Integers):
    """int8 and binary in float32, with their widths said by Quant and BipolarQuant."""

    domains = (("", OPSET), (DOMAIN, 1))

    def quant(self, x: str, bits: int, signed: bool, rounding: str) -> str:
        """x, cut to the integers of that many bits, without the lowest if signed, and rounded."""
        ends = {"signed": int(signed), "narrow": int(signed), "rounding_mode": rounding}
        return self.node("Quant", x, 1, 0, bits, domain=DOMAIN, **ends)

    def int8(self, x: str, low: int = -QMAX, whole: bool = False) -> str:
        """Cut first, then floor: the same, since both ends are integers. From 0 to 127 are 7 bits."""
        return self.quant(x, 8 if low else 7, bool(low), "ROUND" if whole else "FLOOR")

    def sign(self, y: str) -> str:
        return self.node("BipolarQuant", y, 1, domain=DOMAIN)

    def multiplied(self, index: int, weight: np.ndarray, x: str) -> str:
        if index not in self.weights:
            name = self.constant(weight.astype(np.float32), f"weight_{index}")
            binary = self.spec.precision == "binary"
            self.weights[index] = self.sign(name) if binary else self.quant(name, 8, True, "ROUND")
        return self.node("MatMul", x, self.weights[index])
