"""The C99 of int8 and binary policies: no floating point but one multiplication for each observation.

A box action that is asked for in floats costs one multiplication and one addition more; ``NAME_step_int8`` has none.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from polystep_rl.policies.export import kernels
from polystep_rl.policies.export.arrays import TYPES, Arrays, packed_nibbles, packed_rows, smallest
from polystep_rl.policies.precision import action_plan
from polystep_rl.policies.sides import PHASE_UNIT, first
from polystep_rl.types import INPUT_UNIT, PolicySpec

TABLED = 6  # rows of one-bit weights from which 16 signed sums for every 4 inputs are cheaper than adding one by one


class IntegerSource:
    """Constants and functions of an int8 or binary policy; `used` are the kernels that they call."""

    def __init__(self, spec: PolicySpec, numbers: dict[str, Any]) -> None:
        self.spec, self.numbers = spec, numbers
        self.arrays, self.used = Arrays("$"), [kernels.QUANTISE]
        sides = spec.sides
        self.input_size = spec.obs_size if sides is None else len(sides.inputs) * (len(sides.inputs[0]) + 2)

    def emit(self) -> str:
        """The functions, public ones last."""
        return self._network() + self._step_int8() + self._step()

    def _use(self, *found: str) -> None:
        self.used += found

    def _network(self) -> str:
        """``$_network``: from the int8 inputs of a layer to the accumulators of the last."""
        layers, binary = self.numbers["layers"], self.numbers["precision"] == "binary"
        copies, lines, declared = self.numbers["weight_copies"], [], []
        source = "x"
        for index, layer in enumerate(layers):
            outputs, inputs = layer["weight"].shape[0], layer["weight"].shape[1] // copies
            last = index == len(layers) - 1
            acc, bias = "acc" if last else f"acc{index}", layer["bias"]
            if binary and index > 0:
                bias = bias + copies * inputs
            bias = smallest(bias)
            self.arrays.add(f"bias{index}", bias)
            if binary and not last and index == 0 and _by_units(outputs, inputs, copies):
                declared.append(f"uint32_t h0[{(outputs + 31) // 32}];")
                lines.append(self._signed_layer(layer["weight"], bias, inputs, copies))
                source = "h0"
                continue
            if not last:
                declared.append(f"int32_t acc{index}[{outputs}];")
            lines.append(f"for (i = 0; i < {outputs}; i++) {{\n        {acc}[i] = $_bias{index}[i];\n    }}")
            lines.append(self._product(index, layer["weight"], source, acc, outputs, inputs, copies))
            if last:
                break
            source = f"h{index}"
            if binary:
                self._use(kernels.SIGNS)
                declared.append(f"uint32_t h{index}[{(outputs + 31) // 32}];")
                lines.append(f"$_signs({acc}, h{index}, {outputs});")
            else:
                self._use(kernels.SHIFT, kernels.REQUANTISE)
                declared.append(f"int8_t h{index}[{outputs}];")
                call = f"(int8_t)$_requantise({acc}[i], {layer['mult']}, {layer['shift']}, {layer['low']})"
                lines.append(f"for (i = 0; i < {outputs}; i++) {{\n        h{index}[i] = {call};\n    }}")
        body = "\n    ".join(["int i;", *declared, *lines])
        return f"static void $_network(const int8_t *x, int32_t *acc)\n{{\n    {body}\n}}\n\n"

    def _signed_layer(self, weight: np.ndarray, bias: np.ndarray, inputs: int, copies: int) -> str:
        """The call that makes the packed signs of a first layer."""
        packed = packed_nibbles(weight, copies).transpose(2, 1, 0)  # (ceil(m / 8), c, ceil(k / 4))
        sizes = {"outputs": len(weight), "inputs": inputs, "tables": packed.shape[2], "copies": copies}
        kernel = kernels.SIGNED_LAYER.replace("{type}", TYPES[str(bias.dtype)])
        for name, size in {**sizes, "words": packed.size}.items():
            kernel = kernel.replace(f"{{{name}}}", str(size))
        self._use(kernel)
        self.arrays.add("weight0", packed)
        return "$_signed_layer($_weight0, $_bias0, x, h0);"

    def _product(self, index: int, weight: np.ndarray, x: str, acc: str, outputs: int, inputs: int, copies: int) -> str:
        """The call that adds the product of a layer to its accumulators."""
        if self.numbers["precision"] == "int8":
            self._use(kernels.DENSE)
            self.arrays.add(f"weight{index}", weight)
            return f"$_dense($_weight{index}, {x}, {acc}, {outputs}, {inputs});"
        if index > 0:
            self._use(kernels.POPCOUNT, kernels.XNOR)
            self.arrays.add(f"weight{index}", packed_rows(weight, copies))
            return f"$_xnor($_weight{index}, {x}, {acc}, {outputs}, {(inputs + 31) // 32}, {copies});"
        tabled = outputs * copies >= TABLED
        self._use(kernels.SIGNED_SUMS if tabled else kernels.SIGNED_SUM)
        self.arrays.add(f"weight{index}", (packed_nibbles if tabled else packed_rows)(weight, copies))
        kernel = "$_signed_sums" if tabled else "$_signed_sum"
        return f"{kernel}($_weight{index}, {x}, {acc}, {outputs}, {inputs}, {copies});"

    def _head(self) -> str:
        """From the accumulators ``acc`` to ``action`` of `step_int8`."""
        spec, last = self.spec, self.numbers["layers"][-1]
        if spec.head != "box":
            self._use(kernels.LARGEST.replace("{type}", "int32_t"))
            starts = np.cumsum((0, *spec.groups)) if spec.groups else [0]
            sizes = spec.groups or (spec.action_size,)
            return "\n    ".join(
                f"action[{g}] = $_largest(acc + {start}, {size});"
                for g, (start, size) in enumerate(zip(starts, sizes, strict=False))
            )
        self._use(kernels.SHIFT, kernels.REQUANTISE)
        call = f"$_requantise({{}}, {last['mult']}, {last['shift']}, -127)"
        if spec.sides is None:
            value = call.format("acc[i]")
        else:  # by its size, so that mirrored sums give mirrored actions
            value = f"acc[i] < 0 ? -{call.format('-acc[i]')} : {call.format('acc[i]')}"
        lines = [f"const int32_t q = {value};"]
        if last["table"] is None:
            lines.append("action[i] = (int8_t)q;")
        else:
            self.arrays.add("tanh", last["table"][127:])
            lines.append("action[i] = (int8_t)(q < 0 ? -$_tanh[-q] : $_tanh[q]);")
        return f"for (i = 0; i < {spec.action_size}; i++) {{\n        " + "\n        ".join(lines) + "\n    }"

    def _step_int8(self) -> str:
        spec, sides = self.spec, self.spec.sides
        loop = "int i;\n    " if spec.head == "box" else ""
        opening = "void $_step_int8(const int8_t *input, $_action_int8 *action)\n{\n    "
        if sides is None:
            code = f"{loop}int32_t acc[{spec.action_size}];\n    $_network(input, acc);\n    {self._head()}"
            return f"{opening}{code}\n}}\n\n"
        count, k, m = len(sides.inputs), len(sides.inputs[0]), len(sides.outputs[0])
        self._use(kernels.SHIFT)
        self.arrays.add("outputs", smallest(np.array(sides.outputs)))
        self.arrays.add("output_signs", np.array(sides.output_signs, np.int8))
        code = f"""int i, side, p;
    int32_t acc[{spec.action_size}];
    for (i = 0; i < {spec.action_size}; i++) {{
        acc[i] = 0;
    }}
    for (side = 0; side < {count}; side++) {{ /* what a side sees: x, c, c x, s, s x */
        const int8_t *seen = input + side * {k + 2};
        int8_t x[{3 * k + 2}];
        int32_t own[{m}];
        for (i = 0; i < {k}; i++) {{
            x[i] = seen[i];
        }}
        for (p = 0; p < 2; p++) {{
            const int32_t phase = seen[{k} + p];
            int8_t *product = x + {k} + p * {k + 1};
            product[0] = (int8_t)$_shift(phase * {INPUT_UNIT} + 64, 7);
            for (i = 0; i < {k}; i++) {{
                product[1 + i] = (int8_t)$_shift(phase * seen[i] + 64, 7);
            }}
        }}
        $_network(x, own);
        for (i = 0; i < {m}; i++) {{
            acc[$_outputs[side * {m} + i]] += $_output_signs[side * {m} + i] * own[i];
        }}
    }}
    {self._head()}"""
        return f"{opening}{code}\n}}\n\n"

    def _step(self) -> str:
        spec, sides, inputs = self.spec, self.spec.sides, self.numbers["input"]
        rows: Any = slice(None) if sides is None else first(sides)
        multiplier, zero = inputs["multiplier"][rows], inputs["zero_point"][rows]
        self.arrays.add("multiplier", multiplier)
        offset = "0"
        if zero.any():
            self.arrays.add("zero_point", smallest(zero))
            offset = "$_zero_point[i]"
        if sides is None:
            read = f"""for (i = 0; i < {spec.obs_size}; i++) {{
        input[i] = (int8_t)$_quantise(obs[i], $_multiplier[i], {offset});
    }}"""
        else:
            count, k = len(sides.inputs), len(sides.inputs[0])
            self.arrays.add("inputs", smallest(np.array(sides.inputs)))
            self.arrays.add("input_signs", np.array(sides.input_signs, np.int8))
            self.arrays.add("phase", smallest(np.array(sides.phase)))
            read = f"""for (side = 0; side < {count}; side++) {{
        int8_t *seen = input + side * {k + 2};
        for (i = 0; i < {k}; i++) {{
            const float value = obs[$_inputs[side * {k} + i]];
            seen[i] = (int8_t)$_quantise($_input_signs[side * {k} + i] < 0 ? -value : value, $_multiplier[i], {offset});
        }}
        for (i = 0; i < 2; i++) {{
            seen[{k} + i] = (int8_t)$_quantise(obs[$_phase[side * 2 + i]], {PHASE_UNIT}.0f, 0);
        }}
    }}"""
        loop = "int i;" if sides is None else "int i, side;"
        opening = (
            f"void $_step(const float *obs, $_action *action)\n{{\n    {loop}\n    int8_t input[{self.input_size}];"
        )
        if spec.head != "box":
            return f"{opening}\n    {read}\n    $_step_int8(input, action);\n}}\n\n"
        self._use(kernels.CLAMP)
        names = []
        for part, values in zip(("mid", "unit", "low", "high"), action_plan(spec), strict=True):
            names.append(self.arrays.constant(part, values))
        mid, unit, low, high = names
        act = f"""for (i = 0; i < {spec.action_size}; i++) {{
        action[i] = $_clamp({mid} + (float)q[i] * {unit}, {low}, {high});
    }}"""
        return (
            f"{opening}\n    int8_t q[{spec.action_size}];\n    {read}\n    $_step_int8(input, q);\n    {act}\n}}\n\n"
        )


def _by_units(outputs: int, inputs: int, copies: int) -> bool:
    """Whether a first layer is computed unit by unit: where the tables of all its inputs take no more stack.

    Otherwise there is one table at a time, and an accumulator for each unit.
    """
    return outputs * copies >= TABLED and 64 * -(-inputs // 4) <= 64 + 4 * outputs
