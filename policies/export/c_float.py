"""The C99 of float policies (float32, int8-act, binary-act), the reference beside the integer ones."""

from __future__ import annotations

from typing import Any

import numpy as np

from polystep_rl.policies.export import kernels
from polystep_rl.policies.export.arrays import Arrays, smallest
from polystep_rl.policies.sides import first
from polystep_rl.types import QMAX, PolicySpec

ACTIVATIONS = {  # of y
    "tanh": "tanhf({y})",
    "relu": "{y} > 0.0f ? {y} : 0.0f",
    "sign": "{y} >= 0.0f ? 1.0f : -1.0f",
    "round_tanh": f"rintf({QMAX}.0f * tanhf({{y}}))",
    "round_relu": f"rintf({QMAX}.0f * $_clamp({{y}}, 0.0f, 1.0f))",
}


class FloatSource:
    """Constants and functions of a float policy; `used` are the kernels that they call."""

    def __init__(self, spec: PolicySpec, numbers: dict[str, Any]) -> None:
        self.spec, self.numbers = spec, numbers
        self.input_size = 0  # no int8 inputs
        self.arrays, self.used = Arrays("$"), [kernels.NORMALISE, kernels.FLOAT_DENSE]
        if spec.head == "box" or (spec.precision == "int8-act" and spec.activation == "relu"):
            self.used.append(kernels.CLAMP)

    def emit(self) -> str:
        """The functions, public ones last."""
        return self._network() + self._step()

    def _network(self) -> str:
        lines, source = [], "x"
        for index, layer in enumerate(self.numbers["layers"]):
            outputs, inputs = layer["weight"].shape
            self.arrays.add(f"weight{index}", layer["weight"])
            self.arrays.add(f"bias{index}", layer["bias"])
            last = index == len(self.numbers["layers"]) - 1
            target = "y" if last else f"h{index}"
            lines.append(f"$_dense($_weight{index}, $_bias{index}, {source}, {target}, {outputs}, {inputs});")
            if not last:
                value = ACTIVATIONS[layer["activation"]].format(y=f"{target}[i]")
                lines.append(f"for (i = 0; i < {outputs}; i++) {{\n        {target}[i] = {value};\n    }}")
            source = target
        hidden = [f"float h{i}[{size}];" for i, size in enumerate(self.spec.hidden)]
        body = "\n    ".join([*(["int i;"] if hidden else []), *hidden, *lines])
        return f"static void $_network(const float *x, float *y)\n{{\n    {body}\n}}\n\n"

    def _step(self) -> str:
        spec, sides, inputs = self.spec, self.spec.sides, self.numbers["input"]
        rows: Any = slice(None) if sides is None else first(sides)
        self.arrays.add("offset", inputs["offset"][rows])
        self.arrays.add("scale", inputs["scale"][rows])
        if sides is None:
            read = f"""int i;
    float x[{spec.obs_size}], y[{spec.action_size}];
    for (i = 0; i < {spec.obs_size}; i++) {{
        x[i] = $_normalise(obs[i], $_offset[i], $_scale[i]);
    }}
    $_network(x, y);"""
        else:
            read = self._sides()
        return f"void $_step(const float *obs, $_action *action)\n{{\n    {read}\n    {self._head()}\n}}\n\n"

    def _sides(self) -> str:
        spec, sides = self.spec, self.spec.sides
        assert sides is not None
        count, k, m = len(sides.inputs), len(sides.inputs[0]), len(sides.outputs[0])
        for name in ("inputs", "phase", "outputs"):
            self.arrays.add(name, smallest(np.array(getattr(sides, name))))
        for name in ("input_signs", "output_signs"):
            self.arrays.add(name, np.array(getattr(sides, name), np.int8))
        return f"""int i, side, p;
    float y[{spec.action_size}];
    for (i = 0; i < {spec.action_size}; i++) {{
        y[i] = 0.0f;
    }}
    for (side = 0; side < {count}; side++) {{ /* what a side sees: x, c, c x, s, s x */
        float x[{3 * k + 2}], own[{m}];
        for (i = 0; i < {k}; i++) {{
            const float value = obs[$_inputs[side * {k} + i]];
            x[i] = $_normalise($_input_signs[side * {k} + i] < 0 ? -value : value, $_offset[i], $_scale[i]);
        }}
        for (p = 0; p < 2; p++) {{
            const float value = obs[$_phase[side * 2 + p]];
            const float phase = value != value ? 0.0f : $_clamp(value, -1.0f, 1.0f);
            float *product = x + {k} + p * {k + 1};
            product[0] = phase;
            for (i = 0; i < {k}; i++) {{
                product[1 + i] = phase * x[i];
            }}
        }}
        $_network(x, own);
        for (i = 0; i < {m}; i++) {{
            y[$_outputs[side * {m} + i]] += (float)$_output_signs[side * {m} + i] * own[i];
        }}
    }}"""

    def _head(self) -> str:
        spec = self.spec
        if spec.head != "box":
            self.used.append(kernels.LARGEST.replace("{type}", "float"))
            starts = np.cumsum((0, *spec.groups)) if spec.groups else [0]
            sizes = spec.groups or (spec.action_size,)
            return "\n    ".join(
                f"action[{g}] = $_largest(y + {start}, {size});"
                for g, (start, size) in enumerate(zip(starts, sizes, strict=False))
            )
        names = {part: self.arrays.constant(part, values) for part, values in self.numbers["action"].items()}
        squashed = "y[i]" if spec.squash == "clip" else "tanhf(y[i])"
        value = f"$_clamp({names['mid']} + {names['half']} * {squashed}, {names['low']}, {names['high']})"
        return f"for (i = 0; i < {spec.action_size}; i++) {{\n        action[i] = {value};\n    }}"
