"""Arithmetic operations of one lane of a rollout for one step, counted in the programs of its policy and simulator.

One for every number that an operation makes, whatever the operation: a sum, a product, a comparison, a choice, a bit
operation or a conversion; so a 32-bit word of one-bit weights is one for xor and one for its population count, and a
square root, a division or a tanh is one, too. A contraction is two for every multiply-add, a reduction one for every
number that it reads. Moving data is none. What all lanes share (the counters of loops) is left out: the count is that
of two lanes less that of one.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np

from polystep_rl.types import Env, Policy

MOVES = {  # primitives that compute nothing
    "bitcast_convert_type", "broadcast_in_dim", "concatenate", "copy", "copy_p", "dynamic_slice",
    "dynamic_update_slice", "expand_dims", "gather", "iota", "pad", "platform_index", "reshape", "rev", "slice",
    "split", "squeeze", "stop_gradient", "transpose", "xla_metadata_value",
}  # fmt: skip
REDUCTIONS = ("reduce_", "argmax", "argmin")


def of_a_step(env: Env, policy: Policy) -> dict[str, int]:
    """What one more lane adds to a living step, by who needs it."""
    params = policy.init(jax.random.key(0))
    deployed = jax.eval_shape(policy.deploy, params)
    state, obs = jax.eval_shape(env.reset, jax.random.key(0))
    action = jax.eval_shape(policy.act_deployed, deployed, obs)

    def lanes(count: int) -> tuple[int, int]:
        stacked = lambda tree: jax.tree.map(lambda x: jax.ShapeDtypeStruct((*x.shape, count), x.dtype), tree)  # noqa: E731
        step = jax.vmap(env.step, in_axes=-1, out_axes=-1)
        return (
            count_all(jax.make_jaxpr(policy.act_deployed)(stacked(deployed), stacked(obs)).jaxpr),
            count_all(jax.make_jaxpr(step)(stacked(state), stacked(action)).jaxpr),
        )

    one, two = lanes(1), lanes(2)
    return {"policy": two[0] - one[0], "simulator": two[1] - one[1]}


def count_all(jaxpr: Any) -> int:
    """Operations of a program, loops as often as they run; of branches the longest. ValueError for a `while`."""
    return sum(_count(equation) for equation in jaxpr.eqns)


def _count(equation: Any) -> int:
    name, given = equation.primitive.name, equation.params
    made = sum(math.prod(v.aval.shape) for v in equation.outvars)
    if name == "scan":
        return given["length"] * count_all(given["jaxpr"].jaxpr)
    if name == "cond":
        return max(count_all(branch.jaxpr) for branch in given["branches"])
    if name == "while":
        raise ValueError("operations: a loop whose length is not known")
    inner = [p for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if (p := given.get(key)) is not None]
    if inner:
        return sum(count_all(getattr(p, "jaxpr", p)) for p in inner)
    if name in MOVES:
        return 0
    if name == "convert_element_type":
        before, after = equation.invars[0].aval.dtype, given["new_dtype"]
        return made if np.dtype(before) != np.dtype(after) else 0
    if name == "dot_general":
        (contracted, _), _ = given["dimension_numbers"]
        return 2 * made * math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
    if name.startswith(REDUCTIONS):
        return math.prod(equation.invars[0].aval.shape)
    return made
