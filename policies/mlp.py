"""Multilayer perceptrons in five precisions, from a linear policy (``hidden=()``) upwards.

Parameters are float32 latents ``{"0": {"w": (m, k), "b": (m,)}, "1": ...}``, matrices (out, in), drawn as N(0, 1) for
weights and N(0, 0.1) for biases in every precision; ``precision.py`` says what each of them becomes. ``deploy`` has
the same tree: scaled floats, or integers held in float32; one-bit weights, where an input has no more than one, are
packed into words, (m, ceil(k / 32)) uint32. Constants (input scales, requantisation, the action box)
are closed over and never enter the batch; but where input scales still change, as statistics of the observations do
during a search, they travel with the parameters under ``"input"``, and `frozen` makes constants of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from polystep_rl.policies import layers, precision
from polystep_rl.policies.deployed import INPUT, INPUT_LIMIT, floats32
from polystep_rl.policies.layers import sign_pm1
from polystep_rl.policies.sides import features, first, integer_features, joined
from polystep_rl.types import (
    INPUT_UNIT,
    INTEGER_PRECISIONS,
    QMAX,
    Array,
    EnvSpec,
    Key,
    Params,
    Policy,
    PolicySpec,
    PyTree,
    Sides,
    Structured,
)
from polystep_rl.xla import outlined

Functions = tuple[Callable[..., Any], ...]  # deploy, act_deployed, act_structured where there is one

BIAS_INIT = 0.1  # standard deviation of a bias latent at the start


def make_policy(
    env_spec: EnvSpec,
    hidden: Sequence[int] = (16,),
    precision: str = "binary",
    obs_offset: Any = None,
    obs_scale: Any = None,
    activation: str = "tanh",
    sides: Sides | None = None,
    weight_copies: int = 1,
) -> Policy:
    """A policy for an environment.

    Args:
        env_spec: spaces of the environment: a flat Box observation; a Discrete or flat MultiDiscrete action that counts
            from 0, or a bounded flat Box action.
        hidden: units of each hidden layer; () is a linear policy.
        precision: one of ``PRECISIONS``.
        obs_offset, obs_scale: (o,) or a number; the first layer sees (obs - obs_offset) / obs_scale. Default 0 and 1;
            an integer policy resolves that to 1/32 within +-127/32, so calibrate them.
        activation: of hidden units, ``tanh`` or ``relu`` (not for binary units, which are signs).
        sides: of a body, that share the network; the layers are then those of a side.
        weight_copies: of a binary policy, the one-bit weights that each input of a layer has, 1 to 16.

    Raises:
        ValueError: spaces that do not fit, an unknown name, or layers too wide for exact integers.
    """
    obs_space = env_spec.observation_space
    if not isinstance(obs_space, spaces.Box) or len(obs_space.shape) != 1:
        raise ValueError(f"{env_spec.id}: the observation space must be a flat Box, not {obs_space}")
    size = obs_space.shape[0]
    offset = floats32(0.0 if obs_offset is None else obs_offset, size)
    scale = floats32(1.0 if obs_scale is None else obs_scale, size)
    head, action_size, low, high, groups = _head(env_spec)
    layers_and_head = (size, tuple(hidden), precision, head, action_size, low, high)
    return mlp_policy(PolicySpec(*layers_and_head, offset, scale, groups, activation, "tanh", sides, weight_copies))


def _head(env_spec: EnvSpec) -> tuple[str, int, tuple[float, ...], tuple[float, ...], tuple[int, ...]]:
    """(head, action_size, action_low, action_high, groups) of an action space."""
    space = env_spec.action_space
    if isinstance(space, spaces.Discrete) and space.start == 0:
        return "discrete", int(space.n), (), (), ()
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1 and not np.any(space.start):
        groups = tuple(int(n) for n in space.nvec)
        return "multidiscrete", sum(groups), (), (), groups
    if isinstance(space, spaces.Box) and len(space.shape) == 1 and space.is_bounded():
        size = space.shape[0]
        return "box", size, floats32(space.low, size), floats32(space.high, size), ()
    raise ValueError(
        f"{env_spec.id}: the action space must be Discrete or flat MultiDiscrete from 0, or a bounded flat Box, "
        f"not {space}"
    )


def mlp_policy(spec: PolicySpec) -> Policy:
    """The policy that a specification describes. Raises a one-line ValueError where the specification is wrong."""
    precision.check_spec(spec)
    integer = spec.precision in INTEGER_PRECISIONS
    deploy, forward, *structured = _integer_functions(spec) if integer else _float_functions(spec)
    # jit, inlined into any caller's: XLA fuses multiply-adds, and so an eager call is the same function as a traced one
    deploy, forward = jax.jit(deploy, inline=True), jax.jit(forward, inline=True)

    def act(params: Params, obs: Array) -> Array:
        return forward(deploy(params), obs)

    return Policy(spec, lambda key: init_params(spec, key), act, deploy, forward, *structured)


def init_params(spec: PolicySpec, key: Key) -> Params:
    """Random latents, the same law in every precision: weights N(0, 1), biases N(0, 0.1)."""
    params = {}
    for index, (fan_in, fan_out) in enumerate(precision.layer_sizes(spec)):
        w_key, b_key = jax.random.split(jax.random.fold_in(key, index))
        w = jax.random.normal(w_key, (fan_out, fan_in), jnp.float32)
        b = BIAS_INIT * jax.random.normal(b_key, (fan_out,), jnp.float32)
        params[str(index)] = {"w": w, "b": b}
    return params


def _integer_functions(spec: PolicySpec) -> Functions:
    """(deploy, act_deployed) of the int8 and binary policies; what is in the lanes is always an integer."""
    plans, inputs = precision.plan(spec), precision.input_plan(spec)
    packed = spec.precision == "binary" and spec.weight_copies == 1
    box = precision.action_plan(spec) if spec.head == "box" else None

    def rounded(latent: Array, unit: float, limit: int) -> Array:
        latent = jnp.asarray(latent, jnp.float32)
        return jnp.clip(jnp.rint(jnp.where(jnp.isnan(latent), 0.0, latent) * unit), -limit, limit)

    def deploy(params: Params) -> Params:
        deployed = {}
        if INPUT in params:
            multiplier = INPUT_UNIT / params[INPUT]["scale"]
            deployed[INPUT] = {"scale": multiplier, "offset": jnp.rint(params[INPUT]["offset"] * multiplier)}
        for index, layer in enumerate(plans):
            latent = params[str(index)]
            w = precision.integer_weight(jnp, jnp.asarray(latent["w"], jnp.float32), layer.weight_max)
            w = layers.pack(w.T).T if packed else w
            deployed[str(index)] = {"w": w, "b": rounded(latent["b"], layer.bias_unit, layer.bias_max)}
        return deployed

    def network(deployed: Params, x: Array) -> Array:
        """The accumulators of the last layer."""
        for index, layer in enumerate(plans):
            w, b = deployed[str(index)]["w"], deployed[str(index)]["b"]
            if not packed:
                x = layers.dense(w, b, x)
            else:
                x = layers.agreement_dense(w, b, x, layer.fan_in) if index else layers.packed_dense(w, b, x)
            if index == len(plans) - 1:
                break
            if layer.activation == "sign":
                x = layers.pack(x) if packed else sign_pm1(x)
            else:
                x = layers.requantise(x, layer.mult, layer.shift, 0 if layer.activation == "requant_relu" else -QMAX)
        return x

    def act_deployed(deployed: Params, obs: Array) -> Array:
        own = deployed.get(INPUT)
        multiplier, zero = (own["scale"], own["offset"]) if own else (inputs.multiplier, inputs.zero_point)
        obs = jnp.asarray(obs, jnp.float32)
        if spec.sides is None:
            x = network(deployed, layers.quantise_input(obs, multiplier, zero))
        else:
            rows = first(spec.sides)
            read = partial(layers.quantise_input, multiplier=multiplier[rows], zero_point=zero[rows])
            seen = integer_features(jnp, spec.sides, obs, read, INPUT_UNIT)
            x = joined(jnp, spec.sides, [network(deployed, part) for part in seen], spec.action_size)
        if box is None:
            return layers.choice(x, spec.groups, plans[-1].fan_in)
        if spec.sides is None:
            x = layers.requantise(x, plans[-1].mult, plans[-1].shift)
        else:  # of the size, so that mirrored sums give mirrored actions
            x = jnp.sign(x) * layers.requantise(jnp.abs(x), plans[-1].mult, plans[-1].shift)
        if spec.squash == "table":
            x = jnp.asarray(precision.tanh_table(plans[-1]))[x.astype(jnp.int32) + QMAX]
        mid, step, low, high = (layers.align(jnp.asarray(c), 1, x.ndim - 1) for c in box)
        return jnp.clip(mid + x * step, low, high)

    return deploy, act_deployed


def _float_functions(spec: PolicySpec) -> Functions:
    """(deploy, act_deployed, act_structured) of float32, int8-act and binary-act.

    Weights carry 1 / sqrt(fan-in) (the "NTK" parameterisation). An int8-act activation is the integer
    rint(127 tanh(y)), or rint(127 clip(y, 0, 1)) for relu, and the 1 / 127 is carried by the weights that read it.
    """
    sizes = precision.layer_sizes(spec)
    offset = np.asarray(spec.obs_offset, np.float32)
    inverse = (1.0 / np.asarray(spec.obs_scale, np.float64)).astype(np.float32)
    low, high = np.asarray(spec.action_low, np.float32), np.asarray(spec.action_high, np.float32)
    units = [QMAX if index > 0 and spec.precision == "int8-act" else 1 for index in range(len(sizes))]
    scales = [np.float32(1 / (unit * np.sqrt(fan_in))) for unit, (fan_in, _) in zip(units, sizes, strict=True)]
    gains = [np.float32(precision.bias_gain(spec, index)) for index in range(len(sizes))]

    def deploy(params: Params) -> Params:
        deployed = {}
        if INPUT in params:
            deployed[INPUT] = {"scale": 1 / params[INPUT]["scale"], "offset": params[INPUT]["offset"]}
        for index in range(len(sizes)):
            latent = params[str(index)]
            w, b = jnp.asarray(latent["w"], jnp.float32), jnp.asarray(latent["b"], jnp.float32)
            deployed[str(index)] = {"w": w * scales[index], "b": b * gains[index]}
        return deployed

    def activation(y: Array) -> Array:
        if spec.precision == "binary-act":
            return sign_pm1(y)
        if spec.activation == "relu":
            return jnp.rint(QMAX * jnp.clip(y, 0, 1)) if spec.precision == "int8-act" else jnp.maximum(y, 0)
        return jnp.rint(QMAX * jnp.tanh(y)) if spec.precision == "int8-act" else jnp.tanh(y)

    def network(linear: Callable[[int, Array], Array], x: Array) -> Array:
        for index in range(len(sizes)):
            x = linear(index, x)
            x = activation(x) if index < len(spec.hidden) else x
        return x

    @outlined  # every unit of the first layer would normalise the observation again
    def scaled(obs: Array, a: Array, b: Array) -> Array:
        return jnp.where(jnp.isnan(obs), 0.0, jnp.clip((obs - a) * b, -INPUT_LIMIT, INPUT_LIMIT))

    def normalised(obs: Array, a: Array, b: Array) -> Array:
        return scaled(*layers.align_all(obs, jnp.asarray(a), jnp.asarray(b)))

    def act_deployed(deployed: Params, obs: Array) -> Array:
        own = deployed.get(INPUT)
        inputs = (own["offset"], own["scale"]) if own else (offset, inverse)
        layer = lambda index, x: layers.dense(deployed[str(index)]["w"], deployed[str(index)]["b"], x)  # noqa: E731
        return acting(layer, inputs, obs)

    leaf = jax.tree.unflatten(
        jax.tree.structure({str(index): {"w": 0, "b": 0} for index in range(len(sizes))}), range(2 * len(sizes))
    )

    def act_structured(candidates: Structured, own: PyTree, obs: Array) -> Array:
        def layer(index: int, x: Array) -> Array:
            y = scales[index] * candidates.product(leaf[str(index)]["w"], own, x)
            b = gains[index] * candidates.vector(leaf[str(index)]["b"], own)
            return y + layers.align(b, 1, y.ndim - 1)

        return acting(layer, (offset, inverse), obs)

    def acting(layer: Callable[[int, Array], Array], inputs: tuple[Any, Any], obs: Array) -> Array:
        obs = jnp.asarray(obs, jnp.float32)
        if spec.sides is None:
            x = network(layer, normalised(obs, *inputs))
        else:
            rows = first(spec.sides)
            read = partial(normalised, a=inputs[0][rows], b=inputs[1][rows])
            seen = features(jnp, spec.sides, obs, read)
            x = joined(jnp, spec.sides, [network(layer, part) for part in seen], spec.action_size)
        if spec.head != "box":
            return layers.choice(x, spec.groups, sizes[-1][0])
        y = x if spec.squash == "clip" else jnp.tanh(x)
        mid, half = high * np.float32(0.5) + low * np.float32(0.5), high * np.float32(0.5) - low * np.float32(0.5)
        lo, hi, centre, reach = (layers.align(jnp.asarray(c), 1, x.ndim - 1) for c in (low, high, mid, half))
        return jnp.clip(centre + reach * y, lo, hi)

    return deploy, act_deployed, act_structured
