"""How many float32 operations per second all devices together can do, measured: the limit of every fraction.

Independent chains of y <- y x + c on arrays that stay in cache (on an accelerator: in registers), multiply and add
counted as two, which hardware does in one instruction. A CPU should come near cores x clock x lanes of a register x 2
such instructions x 2; XLA uses registers of 256 bits, whatever the CPU has.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

CHAINS, DEGREE = 12, 64  # with x and c in the 16 vector registers of AVX2; latency 4, two at once, needs 8
SIZES = {"cpu": (4096, 512)}  # numbers of a device, and repetitions
OTHER_SIZES = (2**22, 64)


def prepare() -> tuple[Callable[[], object], int]:
    """A call that keeps all devices busy, compiled, and the operations that it does."""
    mesh = Mesh(np.array(jax.devices()), ("d",))
    spec = PartitionSpec("d")
    size, repeats = SIZES.get(jax.default_backend(), OTHER_SIZES)

    def once(_: jax.Array, c: jax.Array, x: jax.Array) -> jax.Array:
        chains = [c + 0.01 * i for i in range(CHAINS)]
        for _ in range(DEGREE):
            chains = [y * x + c for y in chains]
        return sum(chains) * (0.25 / CHAINS)

    def device(x: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, repeats, partial(once, x=x), x)

    x = jax.random.uniform(jax.random.key(0), (mesh.size * size,), minval=0.1, maxval=0.9)
    x = jax.device_put(x, NamedSharding(mesh, spec))
    run = jax.jit(jax.shard_map(device, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False))
    call = lambda: jax.block_until_ready(run(x))  # noqa: E731
    call()
    return call, mesh.size * size * repeats * CHAINS * DEGREE * 2
