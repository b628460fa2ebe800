"""An outlined function is the same function, however it is called."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from polystep_rl.types import Array
from polystep_rl.xla import outlined


@pytest.mark.parametrize("kernel", [False, True])
def test_an_outlined_function_is_the_same_function(kernel: bool) -> None:
    def pair(x: Array, y: Array) -> tuple[Array, Array]:
        return x * y, x + y

    x, y = jnp.arange(6.0).reshape(2, 3), jnp.float32(2)
    same = outlined(pair, kernel)
    for call in (same, jax.jit(same), jax.vmap(same, in_axes=(1, None), out_axes=1)):
        jax.tree.map(np.testing.assert_array_equal, call(x, y), pair(x, y))
    np.testing.assert_array_equal(jax.grad(lambda x: same(x, y)[0].sum())(x), np.full((2, 3), 2.0))


@pytest.mark.parametrize("size", [1, 16, 1 << 20])  # as threads would share among them
def test_a_kernel_has_loops_and_any_size(size: int) -> None:
    def run(x: Array, rows: Array) -> tuple[Array, Array]:
        def body(i: Array, held: tuple[Array, Array]) -> tuple[Array, Array]:
            out, total = held
            at = rows[i] % size
            new = jax.lax.dynamic_slice(x, (at,), (1,)) + 1
            return jax.lax.dynamic_update_slice(out, new, (at,)), total + rows[i]

        return jax.lax.fori_loop(0, rows.shape[0], body, (x * 2, jnp.int32(0)))

    x, rows = jnp.arange(float(size)), jnp.asarray([3, 70, 5])
    out, total = jax.jit(outlined(run, kernel=True))(x, rows)
    expected = 2 * np.arange(float(size))
    expected[np.asarray(rows) % size] = np.asarray(rows) % size + 1
    np.testing.assert_array_equal(out, expected)
    assert total == 78


def test_what_is_outlined_is_fused_as_ever() -> None:
    """The mark is on the call: on every operation within, it would keep jitted helpers such as `jnp.clip` apart."""
    if jax.default_backend() != "cpu":
        pytest.skip("a property of XLA's CPU backend")
    function = outlined(lambda x: jnp.where(jnp.isnan(x), 0.0, jnp.clip(jnp.rint(x * 3), -1, 1)))
    text = jax.jit(lambda x: function(x) + 1).lower(jnp.zeros((4, 64))).compile().as_text()
    assert text.count(" call(") == 1
    assert partial(function, jnp.asarray([jnp.nan, 0.1, -5.0]))().tolist() == [0.0, 0.0, -1.0]
