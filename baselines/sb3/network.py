"""Our policies as a torch module: the same function for all five precisions, and gradients through (or not) rounding.

The integer precisions run in float32 lanes, where every intermediate is an integer below 2**24, so torch computes
the same integers as the policy in JAX whatever the order of summation. The float precisions agree to rounding.

Parameters are *effective* weights W (m, k) and biases b (m,): the latent of a weight is W * sqrt(k), that of a bias is
b. Then y = W x + b in every precision, in the units of a float network (``y = accumulator / deviation`` for integers),
and Adam at the usual learning rates moves W as it does the weights of an ordinary network.

Gradient modes:

``none``  gradients as they come: those of rounding and sign are zero. In an int8 or binary policy nothing but the
          output scale moves; in int8-act and binary-act the last layer does.
``ste``   straight-through estimators (Bengio, Leonard and Courville 2013, arXiv:1308.3432): identity through rounding,
          the clipped identity through sign and saturation (Courbariaux and others 2016, arXiv:1602.02830). Weights
          pass their gradient unchanged and are kept in range by `QuantisedNetwork.project` after every step, so a
          latent never wanders off to where it has no effect.

Initialisation. Float weights (float32, int8-act, binary-act) start as stable-baselines3 starts them: orthogonal with
gain sqrt(2), 0.01 in the action layer and biases of zero for PPO; torch's default for DQN, SAC and TD3. Int8 weights
that PPO, SAC or TD3 train with straight-through estimators start as PPO's float ones: most of the action layer rounds
to 0 and +-1 at first, and moves on from there (PPO, Acrobot-v1, one seed, mean training return after 100,000 steps:
-85, and -484 with the start below). All other integer policies start with latents N(0, 1) and biases N(0, 0.1), the
law of our own searches: without estimators rounding would leave an action layer of zeros for good, and a binary one has
no small weights; PPO's small first logits come from the output scale instead. Binary weights that straight-through
estimators train start as N(0, 0.3), the same signs: the size of a latent is then only how long it takes to change sign
(there: -139 against -421).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polystep_rl.baselines.arithmetic import INPUT_LIMIT, LayerLike, Static, layer_sizes
from polystep_rl.types import INPUT_UNIT, INTEGER_PRECISIONS, QMAX, WEIGHT_UNIT, Params, PolicySpec

GRADIENTS = ("none", "ste")
LOWEST = {"requant": -QMAX, "requant_relu": 0}  # value of a requantised integer
BIAS_INIT = 0.1
BINARY_LIMIT = 1.0  # latents of binary weights are kept in [-1, 1] (BinaryConnect, arXiv:1511.00363)
BINARY_INIT = 0.3
LOGIT_SCALE = 0.3  # first scale of an integer policy's logits: not far from uniform actions
REACH_LIMIT = 1.0 - 1.0 / 254.0  # a normal's mean before the tanh is finite: half an int8 step inside the bounds
OFFSET_UNIT = 10.0  # Q-values may be tens: their common offset moves as fast as a layer that sums ten units


def straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """The value of ``hard``, exactly, with the gradient of ``soft``, of the same shape and finite."""
    return hard.detach() + (soft - soft.detach())


class QuantisedNetwork(nn.Module):
    """One policy of ours: observations (n, o) to logits, Q-values or mean actions (n, a), and to exact actions.

    Args:
        spec: the policy.
        static: its static integers; needed by int8 and binary.
        gradients: ``none`` or ``ste``.
        values: the outputs are Q-values rather than logits (a common offset, and DQN's initialisation).
        default_init: float weights start as torch's linear layers do, rather than as PPO's; implied by ``values``.
    """

    def __init__(
        self,
        spec: PolicySpec,
        static: Static,
        gradients: str = "ste",
        values: bool = False,
        default_init: bool = False,
    ) -> None:
        super().__init__()
        if gradients not in GRADIENTS:
            raise ValueError(f"unknown gradients {gradients!r}: expected one of {', '.join(GRADIENTS)}")
        self.spec, self.ste, self.integer = spec, gradients == "ste", spec.precision in INTEGER_PRECISIONS
        self.smooth = not self.integer and spec.squash == "tanh"  # the box action is a tanh, and needs no estimator
        self.small_start = self.ste and spec.precision == "int8" and not values
        self.default_init = (values or default_init) and not self.integer
        self.plans, self.sizes = tuple(static.plans), layer_sizes(spec)
        if self.integer and len(self.plans) != len(self.sizes):
            raise ValueError(f"a {spec.precision} policy of {len(self.sizes)} layers needs as many plans")
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for index, (fan_in, fan_out) in enumerate(self.sizes):
            weight, bias = nn.Parameter(torch.empty(fan_out, fan_in)), nn.Parameter(torch.zeros(fan_out))
            self._initialise(weight, bias, index == len(spec.hidden))
            self.weights.append(weight)
            self.biases.append(bias)
        self.log_scale, self.offset = None, None
        if self.integer and spec.head != "box":
            self.log_scale = nn.Parameter(torch.tensor(0.0 if values or self.small_start else math.log(LOGIT_SCALE)))
            self.offset = nn.Parameter(torch.tensor(0.0)) if values else None
        self.own_scales: dict[str, np.ndarray] | None = None
        if self.integer:
            multiplier, zero_point = static.inputs[:2] if static.inputs is not None else _no_inputs(spec)
            self._constant("multiplier", multiplier)
            self._constant("zero_point", zero_point)
        self._constant("obs_offset", spec.obs_offset)
        self._constant("obs_inverse", 1.0 / np.asarray(spec.obs_scale, np.float64))
        if spec.head == "box":
            low, high = np.asarray(spec.action_low, np.float32), np.asarray(spec.action_high, np.float32)
            half = np.float32(0.5)
            mid, step = high * half + low * half, high * half - low * half
            if self.integer:
                if static.box is None:
                    raise ValueError(f"a {spec.precision} policy with a box head needs its action plan")
                mid, step, low, high = static.box
            for name, value in (("mid", mid), ("step", step), ("low", low), ("high", high)):
                self._constant(name, value)

    def _constant(self, name: str, value: Any) -> None:
        self.register_buffer(name, torch.from_numpy(np.array(value, np.float32)), persistent=False)

    def _initialise(self, weight: Tensor, bias: Tensor, last: bool) -> None:
        fan_in = weight.shape[1]
        if self.integer and not self.small_start:
            small = self.ste and self.spec.precision == "binary"
            nn.init.normal_(weight, std=(BINARY_INIT if small else 1.0) / math.sqrt(fan_in))
            nn.init.normal_(bias, std=BIAS_INIT)
        elif self.default_init:
            nn.init.kaiming_uniform_(weight, a=math.sqrt(5))
            nn.init.uniform_(bias, -1.0 / math.sqrt(fan_in), 1.0 / math.sqrt(fan_in))
        else:
            nn.init.orthogonal_(weight, gain=0.01 if last else math.sqrt(2.0))

    def normalised(self, obs: Tensor) -> Tensor:
        """(obs - obs_offset) / obs_scale (n, o), NaN as 0 and cut at 1e6, as the float policies see it."""
        x = ((obs - self.obs_offset) * self.obs_inverse).clamp(-INPUT_LIMIT, INPUT_LIMIT)
        return torch.where(torch.isnan(obs), 0.0, x)

    def hidden(self, obs: Tensor) -> Tensor:
        """Inputs of the last layer (n, k): integers, or floats."""
        x = self._quantised(obs) if self.integer else self.normalised(obs)
        for index in range(len(self.sizes) - 1):
            x = self._activation(index, self._affine(index, x))
        return x

    def raw(self, obs: Tensor) -> Tensor:
        """Inputs of the head (n, a): integer accumulators, requantised integers (int8 and binary boxes), or y."""
        last = len(self.sizes) - 1
        y = self._affine(last, self.hidden(obs))
        return self._activation(last, y) if self.integer else y

    def reach(self, hidden: Tensor) -> Tensor:
        """The box action in units of the box, in [-1, 1] (n, a), differentiable, from the output of `hidden`.

        Where rounding or a cut makes it, straight-through estimators give it the gradient of a tanh: actions are often
        at their bounds, and with the gradient of a cut they could not come back.
        """
        reach, y = self._box(hidden)
        return reach if self.smooth else self._pick(reach, torch.tanh(y))

    def mean(self, hidden: Tensor) -> Tensor:
        """Mean of a normal (n, a) whose tanh is `reach`, cut at REACH_LIMIT where that is not a tanh itself."""
        reach, y = self._box(hidden)
        return y if self.smooth else self._pick(torch.atanh(reach.clamp(-REACH_LIMIT, REACH_LIMIT)), y)

    def features(self, hidden: Tensor) -> Tensor:
        """`hidden` in the units of a float network (n, k): integers divided by their nominal size."""
        if not self.integer:
            return hidden
        layer, fan_in = self.plans[-1], self.sizes[-1][0]
        return hidden * ((WEIGHT_UNIT if layer.weight_max > 1 else 1) * math.sqrt(fan_in) / layer.bias_unit)

    def _box(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """The action in units of the box, and the input of a tanh in its place: both (n, a)."""
        y = self._affine(len(self.sizes) - 1, hidden)
        if not self.integer:
            return torch.tanh(y) if self.smooth else y.clamp(-1, 1), y
        return _requantised(self.plans[-1], y) / QMAX, y * (_gain(self.plans[-1]) / QMAX)

    def _quantised(self, obs: Tensor) -> Tensor:
        low, high = self.zero_point - QMAX, self.zero_point + QMAX
        x = torch.minimum(torch.maximum(torch.round(obs * self.multiplier), low), high) - self.zero_point
        return torch.where(torch.isnan(obs), 0.0, x)

    def _affine(self, index: int, x: Tensor) -> Tensor:
        """Integer accumulators, or y, of one layer (n, m)."""
        if not self.integer:
            return F.linear(x, self.weights[index], self.biases[index])
        layer = self.plans[index]
        w, b = self._latent(index)
        if layer.weight_max > 1:
            w = self._pick(torch.round(w * WEIGHT_UNIT).clamp(-QMAX, QMAX), w * WEIGHT_UNIT)
        else:
            w = self._pick(_sign(w), w)
        b = self._pick(torch.round(b * layer.bias_unit).clamp(-layer.bias_max, layer.bias_max), b * layer.bias_unit)
        return F.linear(x, w, b)

    def _activation(self, index: int, y: Tensor) -> Tensor:
        if not self.integer:
            return self._float_activation(y)
        layer = self.plans[index]
        if layer.activation == "sign":
            return self._pick(_sign(y), (y / layer.bias_unit).clamp(-1, 1))
        if layer.activation in LOWEST:
            return self._pick(_requantised(layer, y), (y * _gain(layer)).clamp(LOWEST[layer.activation], QMAX))
        return y

    def _float_activation(self, y: Tensor) -> Tensor:
        if self.spec.precision == "binary-act":
            return self._pick(_sign(y), y.clamp(-1, 1))
        if self.spec.precision == "int8-act":
            soft = y.clamp(0, 1) if self.spec.activation == "relu" else torch.tanh(y)
            return self._pick(torch.round(QMAX * soft) / QMAX, soft)
        return torch.relu(y) if self.spec.activation == "relu" else torch.tanh(y)

    def _pick(self, hard: Tensor, soft: Tensor) -> Tensor:
        return straight_through(hard, soft) if self.ste else hard

    def _latent(self, index: int) -> tuple[Tensor, Tensor]:
        """Latent weights (m, k) and biases (m,) of a layer, made only here, so that export rounds the same ones."""
        return self.weights[index] * math.sqrt(self.sizes[index][0]), self.biases[index]

    def head(self, raw: Tensor) -> Tensor:
        """Logits or Q-values (n, a), or the exact box action (n, a), from the output of `raw`."""
        if self.spec.head == "box":
            reach = torch.tanh(raw) if self.smooth else raw
            return torch.minimum(torch.maximum(self.mid + reach * self.step, self.low), self.high)
        if self.log_scale is None:
            return raw
        y = raw / self.plans[-1].bias_unit * torch.exp(self.log_scale)
        return y if self.offset is None else y + OFFSET_UNIT * self.offset

    def forward(self, obs: Tensor) -> Tensor:
        """Logits, Q-values or mean actions (n, a), differentiable, from observations (n, o).

        A mean that `head` cuts at the box is left uncut, as PPO has it: it could not come back from outside.
        """
        raw = self.raw(obs)
        cut = self.spec.head == "box" and not self.integer and not self.smooth
        return self.mid + raw * self.step if cut else self.head(raw)

    def act(self, obs: Tensor) -> Tensor:
        """The deployed policy's actions: neither scale nor softmax can make ties.

        (n,) int64, (n, groups) int64 of a multidiscrete head, or (n, a) float32 of a box.
        """
        raw = self.raw(obs)
        if self.spec.head == "multidiscrete":
            return torch.stack([torch.argmax(part, dim=1) for part in torch.split(raw, self.spec.groups, dim=1)], dim=1)
        return torch.argmax(raw, dim=1) if self.spec.head == "discrete" else self.head(raw)

    @torch.no_grad()
    def project(self) -> None:
        """Put the latents of an integer policy back into the range in which they have an effect, in place."""
        for index, layer in enumerate(self.plans if self.integer else ()):
            limit = QMAX / WEIGHT_UNIT if layer.weight_max > 1 else BINARY_LIMIT
            limit /= math.sqrt(self.sizes[index][0])
            self.weights[index].clamp_(-limit, limit)
            bias_limit = layer.bias_max / layer.bias_unit
            self.biases[index].clamp_(-bias_limit, bias_limit)

    @torch.no_grad()
    def scale_inputs(self, offset: np.ndarray, scale: np.ndarray) -> None:
        """Replace the units of observations (o,), the specification's at first; `latents` returns the new ones."""
        self.own_scales = {"offset": np.array(offset, np.float32), "scale": np.array(scale, np.float32)}
        buffers = {"obs_offset": offset, "obs_inverse": 1.0 / np.asarray(scale, np.float64)}
        if self.integer:
            multiplier = (INPUT_UNIT / np.asarray(scale, np.float64)).astype(np.float32)
            buffers |= {"multiplier": multiplier, "zero_point": np.rint(np.asarray(offset, np.float32) * multiplier)}
        for name, value in buffers.items():
            getattr(self, name).copy_(torch.from_numpy(np.array(value, np.float32)))

    @torch.no_grad()
    def latents(self) -> Params:
        """The latents of our policy: {"0": {"w": (m, k), "b": (m,)}, ...}, copies as NumPy float32.

        With input scales of its own, also "input": {"offset": (o,), "scale": (o,)}.
        """
        layers = (self._latent(index) for index in range(len(self.sizes)))
        found = {str(i): {"w": w.numpy().copy(), "b": b.numpy().copy()} for i, (w, b) in enumerate(layers)}
        return found if self.own_scales is None else {**found, "input": dict(self.own_scales)}

    @torch.no_grad()
    def load(self, latents: Params) -> None:
        """Start from these latents, the inverse of `latents` up to the range in which they have an effect."""
        for index, (fan_in, _) in enumerate(self.sizes):
            layer = latents[str(index)]
            self.weights[index].copy_(torch.as_tensor(np.array(layer["w"], np.float32)) / math.sqrt(fan_in))
            self.biases[index].copy_(torch.as_tensor(np.array(layer["b"], np.float32)))
        self.project()


def _sign(x: Tensor) -> Tensor:
    """1 where x >= 0, -1 elsewhere; its gradient is zero."""
    return torch.where(x >= 0, 1.0, -1.0)


def _gain(layer: LayerLike) -> float:
    return float(layer.mult * 2.0**-layer.shift)


def _requantised(layer: LayerLike, acc: Tensor) -> Tensor:
    """Integers in [-127, 127], or [0, 127], of integer accumulators; its gradient is zero."""
    scaled = (acc * float(layer.mult) + float(2**layer.shift >> 1)) * 2.0**-layer.shift
    return torch.floor(scaled).clamp(LOWEST[layer.activation], QMAX)


def _no_inputs(spec: PolicySpec) -> tuple[Any, Any]:
    raise ValueError(f"a {spec.precision} policy needs its input plan (multiplier, zero_point)")
