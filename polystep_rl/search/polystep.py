"""PolyStep: a population search that moves particles to the weighted mean of their polytope's vertices.

Source: arXiv:2605.01928; the update is that of arXiv:2309.15970. One generation, for particles x_p of d coordinates:

    u_pv = R_p v                                    directions, R_p Haar on SO(d)
    candidate (p, v, k) = x_p + rho_probe k/(K+1) u_pv,  all other particles at rest
    C_pv = mean_k cost                              then shaped, then turned into a plan T
    x_p <- sum_v w_pv (x_p + rho_step u_pv),        w_pv = T_pv / sum_v T_pv

The displacement is folded into the base parameters at once, so the coordinates are zero between generations.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from polystep_rl.search import polytope as polytopes
from polystep_rl.search import schedules, shaping, subspace, transport
from polystep_rl.types import Array, Info, Key, Params, Proposal, PyTree, Strategy, Structured

Radius = Callable[[Array, Array], Array]  # (generation () int32, epsilon ()) -> radius ()


def times_epsilon(factor: float) -> Radius:
    """A constant radius: it is multiplied by the current epsilon.

    Raises:
        ValueError: factor not above 0.
    """
    if not factor > 0:
        raise ValueError(f"times_epsilon: factor was {factor!r}, expected a number above 0")
    return lambda step, epsilon: factor * epsilon


def scheduled(schedule: optax.Schedule) -> Radius:
    """A scheduled radius: taken as it is, whatever epsilon."""
    return lambda step, epsilon: jnp.asarray(schedule(step))


class Geometry(NamedTuple):
    """Which candidates are asked for, and how far a step goes."""

    dim: int = 8  # d, coordinates in a particle (the paper: 8 in a subspace, 2 in full space)
    polytope: polytopes.Polytope = polytopes.orthoplex
    step_radius: Radius = times_epsilon(0.1)
    probe_radius: Radius = times_epsilon(1.5)
    num_probe: int = 1  # K


class Coupling(NamedTuple):
    """How costs become weights."""

    plan: transport.Plan = transport.softmax()
    shaping: shaping.Shaping = shaping.mean
    epsilon: optax.Schedule = schedules.constant(0.5)  # entropic regularisation, in units of the shaped cost


class Candidates(NamedTuple):
    """Compact candidates: the centre with one particle moved. n = P V K, the probe varying fastest."""

    particle: Array  # (n,) int32
    delta: Array  # (n, d)


class Aux(NamedTuple):
    """Carries to tell what it needs from ask."""

    directions: Array  # (P, V, d)
    epsilon: Array  # ()
    step_radius: Array  # ()
    probe_radius: Array  # ()


class PolyStepState(NamedTuple):
    """Everything needed to go on; arrays and typed keys of fixed shapes."""

    step: Array  # () int32, generations told
    key: Key  # for the subspaces to come
    subspace: subspace.SubState  # its base is the centre
    duals: Array  # of the plan's columns
    transform: PyTree  # state of the optax transformation


class _Search(NamedTuple):
    """The parts, checked."""

    subspace: subspace.Subspace
    geometry: Geometry
    coupling: Coupling
    transform: optax.GradientTransformation
    redraw_every: int


def descent(optimiser: optax.GradientTransformation) -> optax.GradientTransformation:
    """Make an optimiser that minimises (optax.sgd, optax.adam) usable as PolyStep's transform.

    The transform is fed the displacement and its output is added to the coordinates; an optimiser expects a gradient,
    which points the other way. `scale_by_*` transformations need no wrapping.
    """
    return optax.chain(optax.scale(-1.0), optimiser)


def heavy_ball(warmup: int, start: float = 0.5, end: float = 0.95) -> optax.GradientTransformation:
    """Momentum on the displacement, its coefficient warmed linearly from start to end over `warmup` generations.

    The count starts anew with every redrawn subspace, like all state of a transformation.
    """
    return optax.inject_hyperparams(optax.trace)(decay=optax.linear_schedule(start, end, warmup))


def _vertices(search: _Search, dtype: jnp.dtype) -> Array:
    return jnp.asarray(search.geometry.polytope(search.geometry.dim), dtype)  # (V, d)


def _zero_coordinates(search: _Search, params: Params) -> Array:
    """(P, d) zeros in the dtype of the parameters; s is padded up to a multiple of d."""
    particles = -(-search.subspace.size(params) // search.geometry.dim)
    return jnp.zeros((particles, search.geometry.dim), jnp.result_type(*jax.tree.leaves(params)))


def _init(search: _Search, key: Key, params: Params) -> PolyStepState:
    subspace.check_params(params)
    params = jax.tree.map(jnp.asarray, params)
    draw, later = jax.random.split(key)
    z = _zero_coordinates(search, params)
    vertices = _vertices(search, z.dtype).shape[0]
    return PolyStepState(
        step=jnp.zeros((), jnp.int32),
        key=later,
        subspace=search.subspace.init(draw, params),
        duals=search.coupling.plan.init(z.shape[0], vertices, z.dtype),
        transform=search.transform.init(z),
    )


def _ask(search: _Search, key: Key, state: PolyStepState) -> Proposal:
    geometry = search.geometry
    z = _zero_coordinates(search, state.subspace.base)
    particles, dim = z.shape
    rotation = polytopes.haar(key, particles, dim, z.dtype)
    u = polytopes.directions(rotation, _vertices(search, z.dtype))  # (P, V, d)
    epsilon = jnp.asarray(search.coupling.epsilon(state.step), z.dtype)
    step_radius = jnp.asarray(geometry.step_radius(state.step, epsilon), z.dtype)
    probe_radius = jnp.asarray(geometry.probe_radius(state.step, epsilon), z.dtype)
    fraction = jnp.arange(1, geometry.num_probe + 1, dtype=z.dtype) / (geometry.num_probe + 1)  # k / (K + 1)
    delta = probe_radius * fraction[None, None, :, None] * u[:, :, None, :]  # (P, V, K, d)
    particle = jnp.broadcast_to(jnp.arange(particles, dtype=jnp.int32)[:, None, None], delta.shape[:3])
    candidates = Candidates(particle.ravel(), delta.reshape(-1, dim))
    return Proposal(candidates, Aux(u, epsilon, step_radius, probe_radius))


def _decode(search: _Search, state: PolyStepState, candidates: Candidates) -> Params:
    sub = state.subspace
    return search.subspace.expand_many(sub, sub.base, candidates.particle, candidates.delta)


def _structure(search: _Search, state: PolyStepState, candidates: Candidates) -> Structured:
    sub, structure = state.subspace, search.subspace.structure
    return structure(sub, sub.base, candidates.particle, candidates.delta)  # type: ignore[misc]


def barycentric_displacement(weight: Array, u: Array, step_radius: Array) -> Array:
    """sum_v w_pv (x_p + rho u_pv) - x_p for rows of weights that sum to 1 (or to 0: no displacement).

    Args:
        weight: (P, V).
        u: (P, V, d) unit directions.
        step_radius: () rho.

    Returns:
        (P, d).
    """
    return step_radius * jnp.einsum("pv,pvi->pi", weight, u, precision=jax.lax.Precision.HIGHEST)


def _move(search: _Search, state: PolyStepState, displacement: Array) -> PolyStepState:
    """Transform the displacement, fold it into the base, and every few generations draw another subspace."""
    update, transform = search.transform.update(displacement, state.transform, jnp.zeros_like(displacement))
    sub, z = search.subspace.absorb(state.subspace, update)
    step = state.step + 1
    if search.subspace.random and search.redraw_every:
        # The old coordinates mean nothing in the new subspace, so neither does momentum along them.
        sub, transform = jax.lax.cond(
            step % search.redraw_every == 0,
            lambda: (search.subspace.redraw(jax.random.fold_in(state.key, step), sub), search.transform.init(z)),
            lambda: (sub, transform),
        )
    return state._replace(step=step, subspace=sub, transform=transform)


def _tell(search: _Search, state: PolyStepState, proposal: Proposal, cost: Array) -> tuple[PolyStepState, Info]:
    aux: Aux = proposal.aux
    particles, vertices, _ = aux.directions.shape
    raw = jnp.asarray(cost, aux.directions.dtype).reshape(particles, vertices, search.geometry.num_probe)
    raw = jnp.mean(raw, axis=2)  # (P, V)
    shaped = search.coupling.shaping(raw)
    plan, duals, report = search.coupling.plan.solve(shaped, aux.epsilon, state.duals)
    weight, moves = transport.weights(plan, alive=jnp.any(jnp.isfinite(raw), axis=1))
    displacement = barycentric_displacement(weight, aux.directions, aux.step_radius)
    info = {
        "ess": transport.effective_sample_size(weight, moves),
        "displacement": jnp.mean(jnp.linalg.norm(displacement, axis=1)) / aux.step_radius,  # in step radii, 0 to 1
        "cost_best": jnp.min(cost),
        "cost_mean": jnp.mean(cost),
        "cost_worst": jnp.max(cost),
        "epsilon": aux.epsilon,
        "step_radius": aux.step_radius,
        "probe_radius": aux.probe_radius,
        **report,
    }
    return _move(search, state._replace(duals=duals), displacement), info


def shift(state: PolyStepState, change: Params) -> PolyStepState:
    """Add a change to the centre and leave everything else as it is.

    Args:
        state: a state of PolyStep.
        change: a pytree like the parameters.
    """
    base = jax.tree.map(lambda a, b: (a + b).astype(a.dtype), state.subspace.base, change)
    return state._replace(subspace=state.subspace._replace(base=base))


def polystep(
    space: subspace.Subspace | None = None,
    geometry: Geometry | None = None,
    coupling: Coupling | None = None,
    transform: optax.GradientTransformation | None = None,
    redraw_every: int = 5,
) -> Strategy:
    """The search of arXiv:2605.01928 as a Strategy.

    Args:
        space: what is searched; None is `subspace.full()`.
        geometry: particle dimension, polytope, radii, probes; None is `Geometry()`.
        coupling: plan, cost shaping, epsilon; None is `Coupling()`.
        transform: what the barycentric displacement (P, d) passes through before it is added; None is
            `optax.identity()`, the paper's step. `optax.trace`, `optax.scale_by_adam` and the like fit as they are,
            optimisers that minimise through `descent`. Its state starts anew with every redrawn subspace.
        redraw_every: generations between redraws of a random subspace; 0 is never.

    Returns:
        a Strategy whose candidates are `Candidates` with n = P V K. `tell` takes cost (n,), lower is better, and
        reports ess (mean over particles of 1 / sum w^2, 1 to V), displacement (mean length over step radius),
        cost_best/mean/worst, epsilon, step_radius, probe_radius, solver_iterations, solver_residual, column_error.

    Raises:
        ValueError: a particle dimension, number of probes or redraw interval out of range, or, from init, parameters
            that are not floating point.
    """
    space = subspace.full() if space is None else space
    geometry = Geometry() if geometry is None else geometry
    coupling = Coupling() if coupling is None else coupling
    if geometry.num_probe < 1:
        raise ValueError(f"polystep: num_probe was {geometry.num_probe!r}, expected at least 1")
    if redraw_every < 0:
        raise ValueError(f"polystep: redraw_every was {redraw_every!r}, expected 0 (never) or more")
    geometry.polytope(geometry.dim)  # raises for a dimension it cannot do
    search = _Search(space, geometry, coupling, transform or optax.identity(), redraw_every)
    return Strategy(
        init=partial(_init, search),
        ask=partial(_ask, search),
        decode=partial(_decode, search),
        tell=partial(_tell, search),
        params=lambda state: state.subspace.base,
        structure=None if space.structure is None else partial(_structure, search),
    )
