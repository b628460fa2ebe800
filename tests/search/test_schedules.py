"""Schedules against the vectors and against their definitions."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from polystep_rl.search import schedules

VECTORS = json.loads((Path(__file__).parents[1] / "data" / "polystep_step.json").read_text())["schedules"]


def _make(case):
    if case["kind"] == "linear":
        return schedules.linear(case["init"], case["target"], case["decay"])
    return schedules.cosine(case["init"], case["target"], case["total_steps"])


@pytest.mark.parametrize("case", VECTORS, ids=lambda c: c["kind"])
@pytest.mark.parametrize(("x64", "tolerance"), [(True, 1e-9), (False, 1e-4)])
def test_values_equal_the_vectors(case, x64, tolerance):
    with jax.enable_x64(x64):
        steps = jnp.arange(len(case["values"]), dtype=jnp.int32) * 7
        values = np.asarray(jax.jit(jax.vmap(_make(case)))(steps))
    np.testing.assert_allclose(values, case["values"], rtol=0, atol=tolerance)


def test_linear_may_rise():
    schedule = schedules.linear(0.1, 1.0, 0.4)
    np.testing.assert_allclose([schedule(t) for t in range(5)], [0.1, 0.5, 0.9, 1.0, 1.0], atol=1e-6)


def test_cosine_restarts_at_every_period_and_shrinks():
    schedule = schedules.cosine_restarts(2.0, 0.5, period=10, shrink=0.5)
    once = schedules.cosine(2.0, 0.5, 10)
    np.testing.assert_allclose([schedule(t) for t in range(10)], [once(t) for t in range(10)], atol=1e-6)
    np.testing.assert_allclose([schedule(t) for t in (10, 20, 30)], [1.25, 0.875, 0.6875], atol=1e-6)


def test_power_decays_to_its_target():
    schedule = schedules.power(1.0, 0.5, target=0.2, time_scale=3.0)
    np.testing.assert_allclose([schedule(0), schedule(9)], [1.0, 0.2 + 0.8 / 2], atol=1e-6)
    assert float(schedule(10**7)) == pytest.approx(0.2, abs=1e-3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: schedules.linear(1, 0, 0), "linear: decay was 0, expected a number above 0"),
        (lambda: schedules.cosine(1, 0, 0), "cosine: total_steps was 0, expected a number above 0"),
        (lambda: schedules.cosine_restarts(1, 0, -1), "cosine_restarts: period was -1, expected"),
        (lambda: schedules.power(1, -1.0), "power: exponent was -1.0, expected"),
    ],
)
def test_bad_arguments_are_one_clear_line(call, message):
    with pytest.raises(ValueError, match=message):
        call()
