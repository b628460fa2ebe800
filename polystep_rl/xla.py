"""How XLA compiles a function on a CPU, where its own choice is a slow one. It imports nothing of ours."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.experimental.xla_metadata import set_xla_metadata


def outlined(function: Callable[..., Any], kernel: bool = False) -> Callable[..., Any]:
    """The same function of arrays, compiled on its own on a CPU: what it returns is written to memory once.

    XLA's CPU backend has no multi-output fusion: a cheap value with several readers is computed anew in each of them,
    so a chain of such values (the stages of Runge-Kutta) costs exponentially many copies, and it drops
    ``optimization_barrier`` before it fuses. A call that may not be inlined does hold (Acrobot: 2.6 to 80 M steps/s
    per core). Other platforms get the plain function.

    Args:
        function: of arrays, or pytrees of them.
        kernel: compile the call into a single kernel, as XLA does with small loops by itself. Its operations then have
            neither threads nor a dispatch of their own: right for loops over single numbers. XLA's emitter of such
            kernels is limited, and aborts the process beyond its limits: plain arithmetic, gathers, dynamic slices,
            their updates, and loops of these, without sums of floats, scatters or calls of other outlined functions;
            and the function must return several arrays, for a single one would be split among threads.
    """
    compiled = jax.jit(function)
    marks = {"inlineable": "false", **({"xla_cpu_small_call": "true"} if kernel else {})}

    def call(*args: Any) -> Any:  # the mark is on the call alone, and what is called is fused as ever
        return jax.tree.map(lambda x: set_xla_metadata(x, **marks), compiled(*args))

    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return jax.lax.platform_dependent(*args, cpu=call, default=function)

    return wrapper
