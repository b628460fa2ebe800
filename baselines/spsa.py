"""SPSA: a gradient from pairs of costs at c + sigma z and c - sigma z (Spall 1992, doi:10.1109/9.119632).

    g = mean over pairs of (C+ - C-) / (2 sigma) z

For Rademacher z this is Spall's estimate (1 / z_i = z_i), for Gaussian z the one of MeZO (arXiv:2305.17333). As in
MeZO a perturbation is never stored: a candidate is a seed and a side, and z is drawn again wherever it is needed.

The seeds, the sides and the step along an estimated gradient also serve EGGROLL and the hill climber.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from polystep_rl.baselines import weights as shapings
from polystep_rl.baselines.optimisers import Settings, adam, schedule
from polystep_rl.types import Array, Info, Key, Params, Proposal, PyTree, Strategy

Draw = Callable[[Key, tuple[int, ...], jnp.dtype], Array]


def _rademacher(key: Key, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
    return jax.random.rademacher(key, shape, dtype)


def gaussian(key: Key, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
    """N(0, 1) entries."""
    return jax.random.normal(key, shape, dtype)


DISTRIBUTIONS: dict[str, Draw] = {"rademacher": _rademacher, "gaussian": gaussian}


class Members(NamedTuple):
    """Compact candidates, O(n) whatever the parameters. Members 2i and 2i + 1 are the two sides of pair i."""

    seed: Array  # (n,) uint32  of the generation, the same for all
    number: Array  # (n,) int32  which perturbation of the generation
    sign: Array  # (n,) int32  +1 or -1; 0 is the centre


class DescentState(NamedTuple):
    """State of a search along estimated gradients."""

    step: Array  # () int32, generations told
    key: Key  # all perturbations are drawn from it, a seed and a number
    centre: Params
    optimizer: PyTree  # state of the optax transformation


def schedule_of(name: str, sigma: float | optax.Schedule) -> optax.Schedule:
    """Return a schedule unchanged and a number as a constant schedule. Raises ValueError for a number not above 0."""
    if callable(sigma):
        return sigma
    if not sigma > 0:
        raise ValueError(f"{name}: sigma was {sigma!r}, expected a number above 0")
    return optax.constant_schedule(sigma)


def checked(name: str, params: Params) -> Params:
    """Return the parameters as arrays of their own dtype. ValueError if there are none, or a leaf is no float."""
    leaves = jax.tree.leaves(params)
    if sum(jnp.size(leaf) for leaf in leaves) == 0:
        raise ValueError(f"{name}: the parameters have no entries, expected at least one")
    for leaf in leaves:
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise ValueError(f"{name}: a leaf has dtype {jnp.result_type(leaf)}, expected floating-point parameters")
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf)), params)


def perturbation_key(key: Key, member: Members) -> Key:
    """Key of one member's perturbation (leaves of `member` without axis); both sides of a pair share it."""
    return jax.random.fold_in(jax.random.fold_in(key, member.seed), member.number)


def noise(draw: Draw, key: Key, params: Params) -> Params:
    """A perturbation like the parameters, every leaf from a key of its own."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(tree, [draw(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves, strict=True)])


def ask_pairs(pairs: int, key: Key) -> Proposal:
    """Members (2 pairs,) of a generation: +, -, +, -, ..."""
    seed = jnp.broadcast_to(jax.random.bits(key, (), jnp.uint32), (2 * pairs,))
    member = jnp.arange(2 * pairs, dtype=jnp.int32)
    return Proposal(Members(seed, member // 2, 1 - 2 * (member % 2)), ())


def start(name: str, optimizer: optax.GradientTransformation, key: Key, params: Params) -> DescentState:
    """The state before the first generation."""
    centre = checked(name, params)
    return DescentState(jnp.zeros((), jnp.int32), key, centre, optimizer.init(centre))


def norm(tree: PyTree) -> Array:
    """Euclidean norm of all entries together."""
    return jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)))


def spread(cost: Array) -> Info:
    """Best, mean and worst of a generation's costs (n,), for the log."""
    return {"cost_best": jnp.min(cost), "cost_mean": jnp.mean(cost), "cost_worst": jnp.max(cost)}


def descend(
    optimizer: optax.GradientTransformation, state: DescentState, gradient: Params
) -> tuple[DescentState, Info]:
    """Hand an estimate of the cost's gradient to an optimiser that minimises, and move the centre."""
    updates, inner = optimizer.update(gradient, state.optimizer, state.centre)
    centre = jax.tree.map(lambda a, b: (a + b).astype(a.dtype), state.centre, updates)
    info = {"step_norm": norm(updates), "gradient_norm": norm(gradient)}
    return DescentState(state.step + 1, state.key, centre, inner), info


class _Spsa(NamedTuple):
    """The checked parts of the strategy."""

    pairs: int
    sigma: optax.Schedule
    optimizer: optax.GradientTransformation
    draw: Draw
    shaping: shapings.Shaping
    standardise: bool


def _decode(search: _Spsa, state: DescentState, members: Members) -> Params:
    sigma = search.sigma(state.step)

    def one(member: Members) -> Params:
        z = noise(search.draw, perturbation_key(state.key, member), state.centre)
        return jax.tree.map(lambda c, e: c + (member.sign * sigma).astype(c.dtype) * e, state.centre, z)

    return jax.vmap(one)(members)


def _tell(search: _Spsa, state: DescentState, proposal: Proposal, cost: Array) -> tuple[DescentState, Info]:
    sigma = search.sigma(state.step)
    weight = search.shaping(cost)
    difference = weight[0::2] - weight[1::2]  # (pairs,)
    if search.standardise:
        # The side called + is arbitrary, so the differences are known to have mean 0: their deviation is about 0.
        scale = jnp.sqrt(jnp.mean(jnp.square(difference)))
        difference = difference / jnp.where(scale > 0, scale, 1.0)
    coefficient = difference / (2 * sigma * search.pairs)

    def add(total: Params, pair: tuple[Members, Array]) -> tuple[Params, None]:
        z = noise(search.draw, perturbation_key(state.key, pair[0]), state.centre)
        return jax.tree.map(lambda t, e: t + pair[1].astype(t.dtype) * e, total, z), None

    plus = jax.tree.map(lambda leaf: leaf[0::2], proposal.candidates)
    # One pair at a time: memory stays at a few times the parameters, however many pairs.
    gradient, _ = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, state.centre), (plus, coefficient))
    state, info = descend(search.optimizer, state, gradient)
    return state, {**info, "sigma": jnp.asarray(sigma), **spread(cost)}


def spsa(
    pairs: int = 16,
    sigma: float | optax.Schedule = 0.1,
    optimizer: optax.GradientTransformation | None = None,
    distribution: str = "rademacher",
    shaping: shapings.Shaping = shapings.centred,
    standardise: bool = False,
) -> Strategy:
    """Simultaneous perturbation as a Strategy: 2 `pairs` candidates, memory O(D) besides those decoded at once.

    By default the estimate has the units of cost per parameter: multiplying the cost by ten multiplies the gradient by
    ten. Adam hardly notices; for plain SGD set `standardise`, or a shaping.

    Args:
        pairs: evaluations at c + sigma z and c - sigma z, at least 1.
        sigma: half the distance of a pair per coordinate, above 0, or a schedule over generations.
        optimizer: minimises, from the estimated gradient; None is `optax.adam(0.05)`.
        distribution: of z, "rademacher" or "gaussian".
        shaping: costs (2 pairs,) to weights (2 pairs,); `centred` keeps the estimate unbiased for a quadratic.
        standardise: divide the differences (pairs,) by their root mean square. With one pair only the sign of the
            difference is left.

    Returns:
        a Strategy whose candidates are `Members`. `tell` reports step_norm, gradient_norm, sigma,
        cost_best/mean/worst.

    Raises:
        ValueError: a setting out of range, or, from init, parameters that are not floating point.
    """
    if pairs < 1:
        raise ValueError(f"spsa: pairs was {pairs!r}, expected at least 1")
    if distribution not in DISTRIBUTIONS:
        raise ValueError(f"spsa: distribution was {distribution!r}, expected one of {', '.join(DISTRIBUTIONS)}")
    schedule = schedule_of("spsa", sigma)
    optimizer = optax.adam(0.05) if optimizer is None else optimizer
    search = _Spsa(pairs, schedule, optimizer, DISTRIBUTIONS[distribution], shaping, standardise)
    return Strategy(
        init=partial(start, "spsa", optimizer),
        ask=lambda key, state: ask_pairs(pairs, key),
        decode=partial(_decode, search),
        tell=partial(_tell, search),
        params=lambda state: state.centre,
    )


def build(settings: Settings) -> Strategy:
    """SPSA from plain settings. ValueError for an odd population."""
    population = settings["population"]
    if population % 2:
        raise ValueError(f"population={population}: expected an even number, the candidates come in pairs")
    return spsa(population // 2, schedule(settings, "sigma"), adam(settings), settings["distribution"])


def shift(state: DescentState, change: Params) -> DescentState:
    """Add a change to the centre, and leave everything else as it is.

    Args:
        state: a state of spsa or eggroll.
        change: a pytree like the parameters.
    """
    return state._replace(centre=jax.tree.map(jnp.add, state.centre, change))
