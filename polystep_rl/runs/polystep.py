"""PolyStep from its settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import optax

from polystep_rl.errors import ConfigError
from polystep_rl.search import polystep as ps
from polystep_rl.search import polytope, schedules, shaping, subspace, transport
from polystep_rl.search.wrappers import amortise, transformed, within
from polystep_rl.settings.algorithms import SearchConfig
from polystep_rl.types import Strategy

MAX_NUMBERS = 2**24  # coordinates of one particle's candidates; more is a slip of the finger


def _schedule(search: SearchConfig, init: float, final: float | None) -> optax.Schedule:
    if final is None or final == init:
        return schedules.constant(init)
    steps = search.schedule_generations
    if search.schedule == "linear":
        return schedules.linear(init, final, abs(init - final) / steps)
    if search.schedule == "cosine":
        return schedules.cosine(init, final, steps)
    if search.schedule == "cosine_restarts":
        return schedules.cosine_restarts(init, final, steps)
    return schedules.power(init, 0.5, final, steps)


def _radius(search: SearchConfig, init: float, final: float | None) -> ps.Radius:
    schedule = _schedule(search, init, final)
    if search.radii_times_epsilon:
        return lambda step, epsilon: schedule(step) * epsilon
    return ps.scheduled(schedule)


def _transformations(search: SearchConfig) -> list[optax.GradientTransformation]:
    """Transformations that the steps pass through in parameter space, in this order."""
    found = []
    if search.optimizer == "momentum":
        found.append(optax.trace(search.momentum))
    elif search.optimizer == "adam":
        rate = _schedule(search, search.learning_rate, search.learning_rate_final)
        found.append(optax.chain(optax.scale_by_adam(search.momentum), optax.scale_by_schedule(rate)))
    if search.weight_limit is not None:
        found.append(within(search.weight_limit))
    return found


def build_strategy(search: SearchConfig) -> Strategy:
    """The PolyStep that the settings describe. ConfigError for settings that do not fit together."""
    vertices = {"orthoplex": lambda d: 2 * d, "simplex": lambda d: d + 1, "cube": lambda d: 2 ** min(d, 64)}
    directions = vertices[search.polytope](search.particle_dim) * search.probes
    if directions * search.particle_dim > MAX_NUMBERS:
        raise ConfigError(
            f"particle_dim was {search.particle_dim} and probes {search.probes}, which makes {directions:.3g} "
            f"candidates per particle ({search.polytope}), too many; lower them"
        )
    space = {
        "full": subspace.full,
        "projection": lambda: subspace.projection(search.rank, search.subspace_size),
        "factored": lambda: subspace.factored(search.rank),
        "global": lambda: subspace.global_block(search.subspace_size),
    }[search.subspace]()
    plan = {
        "softmax": transport.softmax,
        "sinkhorn": transport.sinkhorn,
        "kl": lambda: transport.kl(search.kl_penalty),
    }[search.plan]()
    shape = getattr(shaping, search.shaping)
    geometry = ps.Geometry(
        dim=search.particle_dim,
        polytope=getattr(polytope, search.polytope),
        step_radius=_radius(search, search.step_radius, search.step_radius_final),
        probe_radius=_radius(search, search.probe_radius, search.probe_radius_final),
        num_probe=search.probes,
    )
    coupling = ps.Coupling(
        plan=plan,
        shaping=shaping.per_row(shape) if search.shape_per_particle else shape,
        epsilon=_schedule(search, search.epsilon, search.epsilon_final),
    )
    strategy = ps.polystep(space, geometry, coupling, redraw_every=search.redraw_every)
    transformations = _transformations(search)
    if transformations and search.amortise > 1:
        raise ConfigError("amortise excludes optimizer and weight_limit: leave it or them at the default")
    if search.amortise > 1:
        strategy = amortise(strategy, ps.shift, search.amortise)
    elif transformations:
        strategy = transformed(strategy, ps.shift, optax.chain(*transformations))
    return strategy


def build(settings: Mapping[str, Any]) -> Strategy:
    """PolyStep from plain settings."""
    return build_strategy(SearchConfig(**settings))
