"""Plans against the vectors, and their laws."""

import json
import math
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.cases import mostly_slow

from polystep_rl.search import polystep, polytope, shaping, transport

STEPS = json.loads((Path(__file__).parents[1] / "data" / "polystep_step.json").read_text())["steps"]
PLANS = {
    "softmax": (transport.softmax(), shaping.none),
    "softmax_mean": (transport.softmax(), shaping.mean),
    "softmax_max": (transport.softmax(), shaping.max),
    "sinkhorn_mean": (transport.sinkhorn(), shaping.mean),
    "kl_0.5_mean": (transport.kl(0.5), shaping.mean),
}
ALL = [transport.softmax(), transport.kl(0.3), transport.sinkhorn()]


def _cost(seed=0, particles=4, vertices=6):
    return np.random.default_rng(seed).uniform(0, 3, (particles, vertices))


def _solve(plan, cost, epsilon, duals=None):
    cost = jnp.asarray(cost)
    start = plan.init(*cost.shape, cost.dtype) if duals is None else duals
    return jax.jit(plan.solve)(cost, jnp.asarray(epsilon, cost.dtype), start)


def test_the_file_holds_what_is_tested():
    assert len(STEPS) == 5
    assert all(set(step["plans"]) == set(PLANS) for step in STEPS)


@cache
def _solved(index, x64):
    """Every plan of one step of the file, in one compilation: name -> (plan, new positions, iterations)."""
    step = STEPS[index]

    def solve(x, rotation, raw_cost, epsilon, radius):
        template = jnp.asarray(getattr(polytope, step["polytope"])(x.shape[1]), x.dtype)
        u = polytope.directions(rotation, template)
        out = {"vertices": x[:, None] + radius * u}
        for name, (plan, shape) in PLANS.items():
            cost = shape(raw_cost.mean(-1))
            made, _, report = plan.solve(cost, epsilon, plan.init(*cost.shape, cost.dtype))
            weight, _ = transport.weights(made)
            moved = x + polystep.barycentric_displacement(weight, u, radius)
            out[name] = (made, moved, report["solver_iterations"])
        return out

    with jax.enable_x64(x64):
        names = ("x", "rotation", "raw_cost", "epsilon", "step_radius")
        made = jax.jit(solve)(*(jnp.asarray(step[name], jnp.float64 if x64 else jnp.float32) for name in names))
        return jax.tree.map(np.asarray, made)


@pytest.mark.parametrize(("x64", "tolerance"), [(True, 1e-9), (False, 1e-4)])
@pytest.mark.parametrize("index", mostly_slow(range(len(STEPS)), lambda index: index < 3))
@pytest.mark.parametrize("name", PLANS)
def test_plan_and_new_positions_equal_the_vectors(index, name, x64, tolerance):
    expected, solved = STEPS[index], _solved(index, x64)
    made, moved, iterations = solved[name]
    assert made.dtype == (np.float64 if x64 else np.float32)
    np.testing.assert_allclose(solved["vertices"], expected["vertices"], rtol=0, atol=tolerance)
    np.testing.assert_allclose(made, expected["plans"][name]["plan"], rtol=0, atol=tolerance)
    np.testing.assert_allclose(moved, expected["plans"][name]["x_new"], rtol=0, atol=tolerance)
    assert iterations < 500


@pytest.mark.parametrize("plan", ALL)
def test_weights_are_rows_of_a_stochastic_matrix(plan):
    weight, moves = transport.weights(_solve(plan, _cost(), 0.2)[0])
    assert moves.all()
    assert (np.asarray(weight) >= 0).all()
    np.testing.assert_allclose(np.asarray(weight).sum(1), 1, atol=1e-6)


@pytest.mark.parametrize("plan", ALL)
def test_a_constant_added_to_all_costs_changes_nothing(plan):
    with jax.enable_x64(True):
        one, other = _solve(plan, _cost(), 0.2)[0], _solve(plan, _cost() + 7.0, 0.2)[0]
    np.testing.assert_allclose(one, other, atol=1e-9)


@pytest.mark.parametrize("epsilon", [1e-6, 0.0])
def test_softmax_without_epsilon_is_the_argmin(epsilon):
    cost = _cost()
    weight, _ = transport.weights(_solve(transport.softmax(), cost, epsilon)[0])
    np.testing.assert_allclose(weight, np.eye(cost.shape[1])[cost.argmin(1)], atol=1e-6)


@pytest.mark.parametrize("plan", ALL)
def test_large_epsilon_gives_equal_weights(plan):
    weight, moves = transport.weights(_solve(plan, _cost(), 1e7)[0])
    np.testing.assert_allclose(weight, 1 / 6, atol=1e-6)
    assert float(transport.effective_sample_size(weight, moves)) == pytest.approx(6, abs=1e-4)


@pytest.mark.parametrize("epsilon", [1.0, 0.1, 0.05])
def test_sinkhorn_keeps_both_marginals(epsilon):
    with jax.enable_x64(True):
        plan, _, report = _solve(transport.sinkhorn(max_iterations=5000), _cost(), epsilon)
    np.testing.assert_allclose(np.asarray(plan).sum(0), 1 / 6, rtol=1e-6)
    np.testing.assert_allclose(np.asarray(plan).sum(1), 1 / 4, rtol=1e-12)
    assert float(report["column_error"]) < 1e-6


def test_penalty_interpolates_between_softmax_and_sinkhorn():
    with jax.enable_x64(True):
        ends = [_solve(p, _cost(), 0.2)[0] for p in (transport.softmax(), transport.sinkhorn())]
        penalties = [0.0, 1e-9, 0.01, 0.1, 1.0, 10.0, 1e7, math.inf]
        solved = [_solve(transport.kl(p, max_iterations=5000), _cost(), 0.2) for p in penalties]
    np.testing.assert_allclose(solved[0][0], ends[0], atol=1e-12)
    np.testing.assert_allclose(solved[1][0], ends[0], atol=1e-7)
    np.testing.assert_allclose(solved[-2][0], ends[1], atol=1e-6)
    np.testing.assert_allclose(solved[-1][0], ends[1], atol=1e-12)
    violation = [float(report["column_error"]) for _, _, report in solved[1:-1]]
    assert (np.diff(violation) < 0).all(), violation


@pytest.mark.parametrize("plan", [transport.kl(0.3), transport.sinkhorn()])
def test_warm_started_duals_save_iterations(plan):
    cost = _cost()
    made, duals, cold = _solve(plan, cost, 0.1)
    again, _, warm = _solve(plan, cost, 0.1, duals)
    assert int(cold["solver_iterations"]) > 10
    assert int(warm["solver_iterations"]) <= 2
    np.testing.assert_allclose(made, again, atol=1e-6)


def test_the_report_tells_of_no_convergence():
    _, _, report = _solve(transport.sinkhorn(max_iterations=3), _cost(), 0.02)
    assert int(report["solver_iterations"]) == 3
    assert float(report["solver_residual"]) > 1e-2


def test_float32_stops_where_rounding_stops_it():
    _, _, report = _solve(transport.sinkhorn(max_iterations=5000), 50 * _cost(), 1.0)
    assert int(report["solver_iterations"]) < 5000


def test_rows_without_mass_or_alive_flag_stay():
    plan = jnp.asarray([[0.2, 0.3], [0.0, 0.0], [0.1, 0.4], [jnp.nan, 0.1]])
    weight, moves = transport.weights(plan, alive=jnp.asarray([True, True, False, True]))
    np.testing.assert_array_equal(moves, [True, False, False, False])
    np.testing.assert_allclose(weight, [[0.4, 0.6], [0, 0], [0, 0], [0, 0]], atol=1e-6)
    assert float(transport.effective_sample_size(weight, moves)) == pytest.approx(1 / 0.52, rel=1e-5)
    assert float(transport.effective_sample_size(weight * 0, moves & False)) == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: transport.kl(-1.0), r"kl: penalty was -1.0, expected a number in \[0, inf\]"),
        (lambda: transport.kl(math.nan), "penalty was nan"),
        (lambda: transport.sinkhorn(tolerance=0.0), "tolerance was 0.0"),
        (lambda: transport.sinkhorn(max_iterations=0), "max_iterations was 0"),
    ],
)
def test_bad_arguments_are_one_clear_line(call, message):
    with pytest.raises(ValueError, match=message):
        call()
