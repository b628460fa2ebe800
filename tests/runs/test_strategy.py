"""Settings become the strategy that they describe."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from polystep_rl.errors import ConfigError
from polystep_rl.runs.polystep import _schedule, build_strategy
from polystep_rl.settings.run import SearchConfig
from polystep_rl.types import Info, Params

PARAMS = {"0": {"w": jnp.ones((6, 4)), "b": jnp.zeros(6)}, "1": {"w": jnp.ones((2, 6)), "b": jnp.zeros(2)}}  # 44


def two_generations(search: SearchConfig) -> tuple[int, list[Info], Params]:
    """Candidates a generation, the reports of two of them, and the parameters after."""
    strategy = build_strategy(search)

    @jax.jit
    def generation(key: Any, state: Any) -> Any:
        proposal = strategy.ask(key, state)
        params = strategy.decode(state, proposal.candidates)
        cost = sum(jnp.sum(x**2, axis=tuple(range(1, x.ndim))) for x in jax.tree.leaves(params))
        state, info = strategy.tell(state, proposal, cost)
        return state, info, cost

    state, infos, cost = jax.jit(strategy.init)(jax.random.key(0), PARAMS), [], jnp.zeros(0)
    for key in jax.random.split(jax.random.key(1), 2):
        state, info, cost = generation(key, state)
        infos.append(jax.device_get(info))
    return cost.shape[0], infos, strategy.params(state)


@pytest.mark.parametrize(
    "search, candidates",
    [
        (SearchConfig(subspace="full", particle_dim=4, optimizer="adam"), 11 * 8),
        (SearchConfig(subspace="global", subspace_size=8, particle_dim=8, polytope="simplex", probes=2), 9 * 2),
        (
            SearchConfig(
                subspace="projection", rank=4, subspace_size=24, particle_dim=8, plan="sinkhorn", optimizer="momentum"
            ),
            None,
        ),
        (SearchConfig(subspace="factored", rank=2, particle_dim=3, polytope="cube", plan="kl", shaping="mean"), None),
    ],
    ids=lambda x: x.subspace if isinstance(x, SearchConfig) else "",
)
def test_parts_fit_together(search: SearchConfig, candidates: int | None) -> None:
    n, _, params = two_generations(search)
    assert candidates is None or n == candidates
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(params))
    assert any(not np.array_equal(a, b) for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(PARAMS), strict=True))


@pytest.mark.parametrize("schedule", ["linear", "cosine", "cosine_restarts", "power"])
def test_schedules_start_at_their_value_and_fall(schedule: Any) -> None:
    values = [float(_schedule(SearchConfig(schedule=schedule, schedule_generations=4), 2.0, 0.3)(t)) for t in (0, 1, 2)]
    assert values[0] == pytest.approx(2.0)
    assert 2.0 > values[1] > values[2] > 0.3
    constant = _schedule(SearchConfig(schedule=schedule), 2.0, None)
    assert constant(0) == constant(50) == 2.0


def test_radii_times_epsilon() -> None:
    search = SearchConfig(
        epsilon=2.0,
        epsilon_final=0.5,
        schedule_generations=1,
        radii_times_epsilon=True,
        step_radius=0.1,
        probe_radius=1.5,
    )
    _, infos, _ = two_generations(search)
    for info, epsilon in zip(infos, (2.0, 0.5), strict=True):
        np.testing.assert_allclose(
            [info["step_radius"], info["probe_radius"]], [0.1 * epsilon, 1.5 * epsilon], rtol=1e-5
        )


def test_amortised_steps_are_reported() -> None:
    assert all(info["reused"] > 0 for info in two_generations(SearchConfig(amortise=3))[1])


@pytest.mark.parametrize(
    "change, said",
    [
        ({"particle_dim": 0}, "particle_dim was 0, expected at least 1"),
        ({"polytope": "cube", "particle_dim": 17}, "cube: particle dimension was 17, expected at most 16"),
        ({"polytope": "cube", "particle_dim": 1000}, "particle_dim was 1000"),
        ({"particle_dim": 10**9}, "particle_dim was 1000000000"),
        ({"probes": 10**12}, "probes 1000000000000"),
        ({"probes": 0}, "probes was 0, expected at least 1"),
        ({"epsilon": math.nan}, "epsilon was nan, expected a finite number"),
        ({"epsilon": math.inf}, "epsilon was inf, expected a finite number"),
        ({"epsilon": 0.0}, "epsilon was 0.0, expected a number above 0"),
        ({"epsilon_final": -0.1}, "epsilon_final was -0.1, expected at least 0"),
        ({"step_radius": -1.0}, "step_radius was -1.0, expected a number above 0"),
        ({"probe_radius_final": math.nan}, "probe_radius_final was nan, expected a finite number"),
        ({"plan": "kl", "kl_penalty": -1.0}, "kl_penalty was -1.0, expected at least 0"),
        ({"rank": 0, "subspace": "factored"}, "rank was 0, expected at least 1"),
        ({"subspace_size": 0}, "subspace_size was 0, expected at least 1"),
        ({"redraw_every": -1}, "redraw_every was -1, expected at least 0"),
        ({"schedule_generations": 0}, "schedule_generations was 0, expected at least 1"),
        ({"amortise": 0}, "amortise was 0, expected at least 1"),
        ({"episodes": 0}, "episodes was 0, expected at least 1"),
        ({"learning_rate": math.inf}, "learning_rate was inf, expected a finite number"),
        ({"momentum": 1.0}, "momentum was 1.0, expected a number below 1"),
        ({"weight_limit": 0.0}, "weight_limit was 0.0, expected a number above 0"),
        ({"weight_limit": 1.0, "amortise": 2}, "amortise excludes optimizer and weight_limit"),
    ],
    ids=str,
)
def test_settings_out_of_range(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError) as error:
        build_strategy(dataclasses.replace(SearchConfig(), **change))
    assert said in str(error.value) and "\n" not in str(error.value)
    assert isinstance(error.value, ConfigError) or change.get("particle_dim") == 17
