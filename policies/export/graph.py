"""An ONNX graph of a policy, written down node by node: what all precisions share, from observations to actions."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from polystep_rl.policies.deployed import deployed, frozen
from polystep_rl.policies.sides import first, meeting
from polystep_rl.types import Params, PolicySpec, Sides

OPSET = 12  # the first whose ArgMax says that it takes the first of equals; Round, and Clip with inputs, need 11
IR_VERSION = 7  # that of the first release with this opset, 1.7
Tensor = str | np.ndarray  # a value of the graph by its name, or a constant


class Graph:
    """Nodes that all precisions share: inputs, the sides of a body, the head. Values are float32 (N, features)."""

    one = 1.0  # what stands for an observation of 1
    domains: tuple[tuple[str, int], ...] = (("", OPSET),)

    def __init__(self, spec: PolicySpec, params: Params) -> None:
        self.spec, self.params = frozen(spec, params)
        self.numbers = deployed(spec, params)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[tuple[Any, ...], onnx.TensorProto] = {}
        self.weights: dict[int, str] = {}  # by layer: the sides of a body share them

    def model(self, batch: int | str, metadata: dict[str, str] | None = None) -> onnx.ModelProto:
        """The checked model of ``batch`` observations."""
        choices = self.spec.head != "box"
        size = len(self.spec.groups) if choices else self.spec.action_size
        shape = [batch] if self.spec.head == "discrete" else [batch, size]
        self.action()
        self.nodes[-1].output[0] = "action"
        graph = helper.make_graph(
            self.nodes,
            "policy",
            [helper.make_tensor_value_info("obs", TensorProto.FLOAT, [batch, self.spec.obs_size])],
            [helper.make_tensor_value_info("action", TensorProto.INT32 if choices else TensorProto.FLOAT, shape)],
            list(self.constants.values()),
        )
        imports = [helper.make_opsetid(*domain) for domain in self.domains]
        model = helper.make_model(graph, opset_imports=imports, ir_version=IR_VERSION, producer_name="polystep-rl")
        helper.set_model_props(model, metadata or {})
        onnx.checker.check_model(model, full_check=True)
        return model

    def constant(self, value: np.ndarray, name: str = "constant") -> str:
        """The name of an initialiser, one for every value."""
        key = (value.dtype.str, value.shape, value.tobytes())
        if key not in self.constants:
            self.constants[key] = numpy_helper.from_array(value, f"{name}_{len(self.constants)}")
        return self.constants[key].name

    def node(self, kind: str, *inputs: Tensor | float, domain: str = "", **attributes: Any) -> str:
        """The output of a new node; numbers become float32 constants."""
        numbers = (np.float32(x) if isinstance(x, float | int) else x for x in inputs)
        names = [x if isinstance(x, str) else self.constant(np.asarray(x)) for x in numbers]
        output = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, names, [output], output, domain=domain, **attributes))
        return output

    def columns(self, x: str, rows: Any) -> str:
        """(N, k): those of the columns of x."""
        return self.node("Gather", x, np.asarray(rows, np.int64), axis=1)

    def action(self) -> str:
        """The whole graph."""
        sides = self.numbers["sides"]
        if sides is None:
            y = self.output(self.network(self.read("obs", slice(None))))
        else:
            y = self.joined_output(self.joined(sides, [self.network(x) for x in self.features(sides)]))
        return self.box(y) if self.spec.head == "box" else self.choices(y)

    def network(self, x: str) -> str:
        """Run the layers on x, up to the sums of the last."""
        for index, layer in enumerate(self.numbers["layers"]):
            x = self.product(index, x)
            x = self.hidden(index, layer, x) if index < len(self.spec.hidden) else x
        return x

    def features(self, sides: Sides) -> list[str]:
        """Inputs of the network for each side: x, c, c x, s, s x (``policies.sides``)."""
        found = []
        for rows, signs, phase in zip(sides.inputs, sides.input_signs, sides.phase, strict=True):
            x = self.read(self.node("Mul", self.columns("obs", rows), np.asarray(signs, np.float32)), first(sides))
            products = []
            for row in phase:
                seen = self.columns("obs", [row])
                p = self.phase(self.node("Clip", self.node("Where", self.node("IsNaN", seen), 0, seen), -1, 1))
                products += [self.node("Mul", p, self.one), self.node("Mul", p, x)]
            found.append(self.node("Concat", x, self.rounded(self.node("Concat", *products, axis=1)), axis=1))
        return found

    def joined(self, sides: Sides, outputs: list[str]) -> str:
        """(N, a): the sums of what the sides (N, m) say of every action, 0 where none does.

        There is no product of matrices in it: some processors shorten its floats (TF32).
        """
        said: list[list[tuple[int, int]]] = [[] for _ in range(self.spec.action_size)]
        flat = zip(np.ravel(sides.outputs), np.ravel(sides.output_signs), strict=True)
        for column, (action, sign) in enumerate(flat):
            said[action].append((column, int(sign)))
        together, total = self.node("Concat", *outputs, axis=1), ""
        for term in range(meeting(sides)):
            rows, signs = zip(*(pairs[term] if term < len(pairs) else (0, 0) for pairs in said), strict=True)
            part = self.node("Mul", self.columns(together, rows), np.asarray(signs, np.float32))
            total = self.node("Add", total, part) if total else part
        return total

    def choices(self, y: str) -> str:
        """(N,) or (N, groups) int32: the first largest of every group."""
        if not self.spec.groups:
            return self.node("Cast", self.node("ArgMax", y, axis=1, keepdims=0), to=TensorProto.INT32)
        ends = np.cumsum(self.spec.groups)
        parts = [self.columns(y, np.arange(e - g, e)) for e, g in zip(ends, self.spec.groups, strict=True)]
        best = self.node("Concat", *(self.node("ArgMax", part, axis=1, keepdims=1) for part in parts), axis=1)
        return self.node("Cast", best, to=TensorProto.INT32)

    def inside(self, y: str, mid: np.ndarray, step: np.ndarray, low: np.ndarray, high: np.ndarray) -> str:
        """clip(mid + y * step, low, high), one number of each for every action."""
        return self.node("Max", self.node("Min", self.node("Add", self.node("Mul", y, step), mid), high), low)

    # What the precisions have of their own.
    def read(self, obs: str, rows: Any) -> str:
        """Inputs of the first layer from observations; ``rows`` says whose scales they have."""
        raise NotImplementedError

    def product(self, index: int, x: str) -> str:
        """bias + weight @ x of a layer."""
        raise NotImplementedError

    def hidden(self, index: int, layer: dict[str, Any], y: str) -> str:
        """The activation of a hidden layer."""
        raise NotImplementedError

    def output(self, y: str) -> str:
        """Inputs of the head from the sums of the last layer."""
        return y

    def joined_output(self, y: str) -> str:
        """The same of the sums of all sides."""
        return y

    def box(self, y: str) -> str:
        """Actions (N, a)."""
        raise NotImplementedError

    def phase(self, p: str) -> str:
        """A cosine or sine in [-1, 1] as the features have it."""
        return p

    def rounded(self, products: str) -> str:
        """Products of phases as the features have them."""
        return products
