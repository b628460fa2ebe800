"""Every subspace is the linear map it says it is, and absorb and redraw leave the parameters alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from polystep_rl.search import subspace

DIM = 5
SPACES = {
    "full": subspace.full(),
    "projection": subspace.projection(2),
    "projection-capped": subspace.projection(4, cap=20),
    "projection-drawn": subspace.projection(2, store_bytes=0),
    "factored": subspace.factored(2),
    "global": subspace.global_block(12),
    "global-drawn": subspace.global_block(12, store_bytes=0),
}
BY_NAME = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES.keys())


def _params():
    rng = np.random.default_rng(0)
    shapes = {"layers": [{"w": (4, 3), "b": (4,)}, {"w": (2, 4), "b": (2,)}], "gain": ()}
    return jax.tree.map(
        lambda s: jnp.asarray(rng.normal(size=s), jnp.float32), shapes, is_leaf=lambda s: type(s) is tuple
    )


def _start(space):
    params = _params()
    sub = jax.jit(space.init)(jax.random.key(1), params)
    particles = -(-space.size(params) // DIM)
    z = jax.random.normal(jax.random.key(2), (particles, DIM))
    return params, sub, z


def _close(one, other, atol=1e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=atol), one, other)


def _distance(one, other):
    return max(float(jnp.abs(a - b).max()) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


@BY_NAME
def test_zero_coordinates_are_the_base(space):
    params, sub, z = _start(space)
    _close(space.expand(sub, 0 * z), params, atol=0)


@BY_NAME
def test_expand_is_linear_and_moves_every_leaf(space):
    params, sub, z = _start(space)

    def change(coordinates):
        return jax.tree.map(jnp.subtract, space.expand(sub, coordinates), params)

    _close(jax.tree.map(lambda a: 2 * a, change(z)), change(2 * z), atol=1e-5)
    assert all(float(jnp.abs(leaf).max()) > 1e-3 for leaf in jax.tree.leaves(change(z)))


@BY_NAME
def test_one_particle_costs_its_columns_only_but_gives_the_same_parameters(space):
    _, sub, z = _start(space)
    centre = space.expand(sub, z)
    delta = jax.random.normal(jax.random.key(3), z.shape)
    for p in range(z.shape[0]):
        whole = space.expand(sub, z.at[p].add(delta[p]))
        _close(jax.jit(space.expand_one)(sub, centre, jnp.int32(p), delta[p]), whole, atol=5e-6)


@BY_NAME
def test_many_candidates_are_the_single_ones(space):
    _, sub, z = _start(space)
    which = jnp.asarray([0, 0, 1, 0, z.shape[0] - 1, 1], jnp.int32)
    delta = jax.random.normal(jax.random.key(3), (6, DIM))
    many = jax.jit(space.expand_many)(sub, sub.base, which, delta)
    for i in range(6):
        one = space.expand_one(sub, sub.base, which[i], delta[i])
        _close(jax.tree.map(lambda leaf, i=i: leaf[i], many), one)


@BY_NAME
def test_absorb_leaves_the_parameters_and_zeroes_the_coordinates(space):
    _, sub, z = _start(space)
    folded, zero = space.absorb(sub, z)
    np.testing.assert_array_equal(zero, 0 * z)
    _close(space.expand(folded, zero), space.expand(sub, z))
    assert _distance(folded.base, sub.base) > 1e-2


@BY_NAME
def test_redraw_leaves_the_parameters_and_changes_the_map(space):
    _, sub, z = _start(space)
    folded, zero = space.absorb(sub, z)
    fresh = jax.jit(space.redraw)(jax.random.key(9), folded)
    _close(space.expand(fresh, zero), space.expand(sub, z))
    moved = _distance(space.expand(fresh, z), space.expand(folded, z))
    assert (moved > 1e-2) == space.random
    assert jax.tree.structure(fresh) == jax.tree.structure(sub)


@pytest.mark.parametrize("store_bytes", [subspace.STORE_BYTES, 0])
def test_projection_has_unit_variance(store_bytes):
    """z of s standard normals moves every weight by a variable of variance 1: entries are N(0, 1/s)."""
    space = subspace.projection(2, store_bytes=store_bytes)
    params = {"w": jnp.zeros((60, 50))}
    size = space.size(params)
    assert size == 2 * (60 + 50)
    sub = space.init(jax.random.key(0), params)
    change = space.expand(sub, jax.random.normal(jax.random.key(1), (size,)))["w"]
    assert float(jnp.std(change)) == pytest.approx(1, abs=0.15)
    column = space.expand(sub, jnp.eye(size)[7])["w"]
    assert float(jnp.var(column)) == pytest.approx(1 / size, rel=0.1)


def test_projection_sizes_and_cap():
    shapes = [(16, 4), (16,), (2, 16), (2,)]
    assert subspace.projection_sizes(shapes, 4) == [80, 16, 72, 2]
    assert subspace.projection_sizes(shapes, 4, cap=94) == [40, 16, 36, 2]
    assert subspace.projection_sizes(shapes, 4, cap=24) == [3, 16, 2, 2]
    assert subspace.projection_sizes(shapes, 4, cap=5) == [1, 16, 1, 2]


def test_vectors_keep_their_own_coordinates():
    space = SPACES["projection"]
    params, sub, z = _start(space)
    leaves = jax.tree.leaves(params)
    sizes = subspace.projection_sizes([leaf.shape for leaf in leaves], 2)
    start = 0
    for before, after, size in zip(leaves, jax.tree.leaves(space.expand(sub, z)), sizes, strict=True):
        if before.ndim != 2:
            np.testing.assert_allclose((after - before).ravel(), z.ravel()[start : start + size], atol=1e-6)
        start += size


def test_factored_rows_are_orthonormal_and_the_change_has_the_rank():
    space = subspace.factored(2)
    params = {"w": jnp.zeros((7, 6))}
    sub = space.init(jax.random.key(0), params)
    np.testing.assert_allclose(sub.basis[0] @ sub.basis[0].T, np.eye(2), atol=1e-6)
    change = space.expand(sub, jnp.arange(14.0))["w"]
    assert np.linalg.matrix_rank(np.asarray(change), tol=1e-4) == 2


def test_large_maps_are_drawn_from_keys_not_stored():
    params = {"w": jax.ShapeDtypeStruct((1000, 1000), jnp.float32)}
    key = jax.eval_shape(lambda: jax.random.key(0))
    small = jax.eval_shape(lambda k: subspace.projection(1, cap=8).init(k, {"w": jnp.zeros((1000, 1000))}), key)
    large = jax.eval_shape(lambda k: subspace.projection(1).init(k, {"w": jnp.zeros((1000, 1000))}), key)
    assert subspace.projection(1).size(params) == 2000
    assert small.basis[0].shape == (8, 10**6)
    assert large.basis[0].shape == ()


def test_dtype_of_leaves_is_kept():
    params = {"a": jnp.ones((3, 2), jnp.bfloat16), "b": jnp.ones(3, jnp.float32)}
    for space in (subspace.full(), subspace.projection(1), subspace.factored(1), subspace.global_block(4)):
        sub = space.init(jax.random.key(0), params)
        out = space.expand(sub, jnp.ones(space.size(params)))
        assert jax.tree.map(jnp.result_type, out) == jax.tree.map(jnp.result_type, params)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: subspace.projection(0), "projection: rank was 0, expected"),
        (lambda: subspace.projection(1, cap=0), "projection: cap was 0, expected"),
        (lambda: subspace.factored(-1), "factored: rank was -1, expected"),
        (lambda: subspace.global_block(0), "global_block: size was 0, expected"),
        (lambda: subspace.full().init(jax.random.key(0), {"n": jnp.arange(3)}), "dtype int32, expected floating"),
        (lambda: subspace.full().init(jax.random.key(0), {}), "no entries"),
    ],
)
def test_bad_arguments_are_one_clear_line(call, message):
    with pytest.raises(ValueError, match=message):
        call()
