"""Templates against the vectors, and the law of the rotations."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from polystep_rl.search import polytope

VECTORS = json.loads((Path(__file__).parents[1] / "data" / "polystep_step.json").read_text())


@pytest.mark.parametrize("case", VECTORS["polytopes"], ids=lambda c: f"{c['kind']}-{c['dim']}")
def test_template_equals_the_vector(case):
    made = getattr(polytope, case["kind"])(case["dim"])
    np.testing.assert_allclose(made, case["vertices"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("make", [polytope.orthoplex, polytope.simplex, polytope.cube])
@pytest.mark.parametrize("dim", [1, 2, 3, 7])
def test_vertices_are_distinct_unit_vectors_that_sum_to_zero(make, dim):
    vertices = make(dim)
    np.testing.assert_allclose(np.linalg.norm(vertices, axis=1), 1, atol=1e-12)
    np.testing.assert_allclose(vertices.sum(0), 0, atol=1e-12)
    assert len(np.unique(vertices.round(9), axis=0)) == len(vertices)


def test_simplex_is_regular():
    gram = polytope.simplex(6) @ polytope.simplex(6).T
    np.testing.assert_allclose(gram[~np.eye(7, dtype=bool)], -1 / 6, atol=1e-12)


@pytest.mark.parametrize("dim", [1, 2, 3, 8])
def test_rotations_are_orthogonal_with_determinant_one(dim):
    with jax.enable_x64(True):
        rotation = np.asarray(polytope.haar(jax.random.key(0), 50, dim, jnp.float64))
    np.testing.assert_allclose(
        rotation @ rotation.swapaxes(1, 2), np.broadcast_to(np.eye(dim), rotation.shape), atol=1e-12
    )
    np.testing.assert_allclose(np.linalg.det(rotation), 1, atol=1e-12)


def test_rotation_of_one_dimension_is_the_identity():
    np.testing.assert_array_equal(polytope.haar(jax.random.key(3), 4, 1), np.ones((4, 1, 1)))


@pytest.mark.parametrize("dim", [2, 3, 5])
def test_rotations_are_haar(dim):
    """Haar on SO(d): E R = 0, E R_ij^2 = 1/d, E tr(R)^2 = 1 for d > 2 and 2 for d = 2."""
    count = 20_000
    rotation = np.asarray(polytope.haar(jax.random.key(1), count, dim))
    np.testing.assert_allclose(rotation.mean(0), 0, atol=4 / np.sqrt(count))
    np.testing.assert_allclose((rotation**2).mean(0), 1 / dim, atol=4 / np.sqrt(count))
    trace = np.trace(rotation, axis1=1, axis2=2)
    assert (trace**2).mean() == pytest.approx(2 if dim == 2 else 1, abs=12 / np.sqrt(count))


def test_direction_is_rotation_times_vertex():
    rotation = polytope.haar(jax.random.key(2), 3, 4)
    vertices = polytope.simplex(4)
    u = polytope.directions(rotation, jnp.asarray(vertices, jnp.float32))
    np.testing.assert_allclose(u[2, 1], np.asarray(rotation[2]) @ vertices[1], atol=1e-6)


@pytest.mark.parametrize("make", [polytope.orthoplex, polytope.simplex, polytope.cube])
@pytest.mark.parametrize("dim", [0, -1, 2.5])
def test_bad_dimension_is_one_clear_line(make, dim):
    with pytest.raises(ValueError, match=f"{make.__name__}: particle dimension was {dim}, expected") as error:
        make(dim)
    assert "\n" not in str(error.value)


def test_cube_refuses_more_vertices_than_fit():
    with pytest.raises(ValueError, match="at most 16"):
        polytope.cube(17)
