"""Every algorithm of evosax as a Strategy (written against evosax 0.3.2, which minimises fitness, as we do cost).

The keys: a generation's ask key is split once; evosax's `ask` gets the first half, its `tell` the second. With the
same keys and costs the centre is the one that evosax driven by hand has (tested).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp
import optax

from polystep_rl.baselines.optimisers import Settings, adam, schedule
from polystep_rl.errors import did_you_mean
from polystep_rl.types import Array, Info, Key, Params, Proposal, Strategy

Make = Callable[[Params], Any]  # a solution -> an evosax algorithm
Prepare = Callable[[Params], tuple[Any, Any]]  # a solution -> the algorithm and its Params
Schedule = Callable[[Any], Any]

# What cannot be driven by one population of ask and tell, and why.
REFUSED = {
    "SV_CMA_ES": "keeps several populations",
    "SV_Open_ES": "keeps several populations",
    "PersistentES": "evaluates pieces of an episode",
    "NoiseReuseES": "evaluates pieces of an episode",
}


class EvosaxState(NamedTuple):
    """State of a wrapped algorithm."""

    inner: Any  # evosax's state
    first: Params  # leaves (n, ...): the population to evaluate first; (0, ...) where the algorithm draws its own
    generation: Array  # () int32
    like: Params  # the starting point: evosax needs its structure


class _Aux(NamedTuple):
    inner: Any  # evosax's state after its ask
    tell_key: Key


def class_names() -> tuple[str, ...]:
    """Names of evosax's algorithms that can be wrapped."""
    return tuple(sorted(set(_classes()) - set(REFUSED)))


@functools.cache
def _classes() -> dict[str, type]:
    from evosax.algorithms.distribution_based import distribution_based_algorithms as distributions
    from evosax.algorithms.population_based import population_based_algorithms as populations

    classes = [*distributions.values(), *populations.values()]
    return {cls.__name__: cls for cls in classes}


def find_class(name: str) -> type:
    """The evosax algorithm of a class name. Raises ValueError, naming the closest one, if there is none."""
    if name in REFUSED:
        raise ValueError(f"evosax's {name} {REFUSED[name]}, which a Strategy does not; choose another algorithm")
    if name not in _classes():
        hint = did_you_mean(name, class_names(), f"expected one of {', '.join(class_names())}")
        raise ValueError(f"evosax has no algorithm {name!r}: {hint}")
    return _classes()[name]


def evosax_strategy(
    name: str,
    population: int,
    sigma: float | Schedule | None = None,
    optimizer: optax.GradientTransformation | None = None,
    options: Mapping[str, float] | None = None,
    attributes: Mapping[str, Any] | None = None,
) -> Strategy:
    """An evosax algorithm as a Strategy.

    The centre is the mean of the search distribution; algorithms that have none (genetic algorithms, PSO, differential
    evolution) deploy their best member, and begin with a Gaussian population of deviation `sigma` (1 if not given)
    around the starting point.

    Args:
        name: its class name, such as "CMA_ES".
        population: candidates in a generation.
        sigma: initial standard deviation, or a schedule over generations where the algorithm takes one.
        optimizer: applied to the centre's update, where the algorithm takes one.
        options: values of the algorithm's own Params, by name.
        attributes: values of attributes that are set after the algorithm was made, such as its elite_ratio.

    Raises:
        ValueError: an unknown name, or a setting that the algorithm does not have.
    """
    cls = find_class(name)
    if population < 2:
        raise ValueError(f"population={population}: expected at least 2 candidates")
    takes = inspect.signature(cls).parameters
    given: dict[str, Any] = {}
    fields: dict[str, Any] = dict(options or {})
    members = not hasattr(cls, "get_mean")
    if optimizer is not None:
        if "optimizer" not in takes:
            raise ValueError(f"{name} has no optimizer to set: leave the learning rate out")
        given["optimizer"] = optimizer
    if sigma is not None and "std_schedule" in takes:
        given["std_schedule"] = sigma if callable(sigma) else optax.constant_schedule(sigma)
    spread = sigma if isinstance(sigma, (int, float)) else 1.0

    def make(like: Params) -> Any:
        if "sampling_fn" in takes:  # random search; `ask` adds the starting point, which this must not close over
            origin = _zeros(like)
            given["sampling_fn"] = lambda key: _around(key, origin, spread)
        try:
            algorithm = cls(population, _zeros(like), **given)
        except AssertionError as error:
            raise ValueError(f"{name}: {error}") from None
        for attribute, value in (attributes or {}).items():
            if not hasattr(algorithm, attribute):
                raise ValueError(f"evosax's {name} has no {attribute}")
            setattr(algorithm, attribute, value)
        if algorithm.population_size != population:
            raise ValueError(f"{name} needs a population of {algorithm.population_size}, not {population}")
        return algorithm

    def settings(algorithm: Any) -> Any:
        params = algorithm.default_params
        own = dict(fields)
        if isinstance(sigma, (int, float)) and hasattr(params, "std_init"):
            own.setdefault("std_init", sigma)
        unknown = [field for field in own if not hasattr(params, field)]
        if unknown:
            known = ", ".join(sorted(vars(params))) or "none"
            raise ValueError(f"{name} has no option {unknown[0]!r}; its options: {known}")
        return params.replace(**{field: jnp.asarray(value, jnp.float32) for field, value in own.items()})

    made = functools.partial(_made, make, {})

    def prepared(like: Params) -> tuple[Any, Any]:
        with jax.ensure_compile_time_eval():
            algorithm = made(like)
            return algorithm, settings(algorithm)

    return _strategy(prepared, members, "sampling_fn" in takes, spread, population)


def _made(make: Make, known: dict, like: Params) -> Any:
    """One algorithm object per structure: evosax's methods are compiled once per object."""
    leaves, structure = jax.tree.flatten(like)
    key = (structure, tuple((x.shape, str(x.dtype)) for x in leaves))
    if key not in known:
        known[key] = make(like)
    return known[key]


def _zeros(like: Params) -> Params:
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)


def _around(key: Key, centre: Params, spread: float) -> Params:
    """A Gaussian point of deviation `spread` around another."""
    leaves, structure = jax.tree.flatten(centre)
    keys = jax.random.split(key, len(leaves))
    points = [x + spread * jax.random.normal(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, points)


def _strategy(prepared: Prepare, members: bool, shifted: bool, spread: float, n: int) -> Strategy:
    """The five functions. `members`: it has no mean; `shifted`: it draws around the origin, not the start."""

    def init(key: Key, params: Params) -> EvosaxState:
        params = jax.tree.map(jnp.asarray, params)
        algorithm, own = prepared(params)
        init_key, first_key = jax.random.split(key)
        if members:
            first = jax.vmap(lambda k: _around(k, params, spread))(jax.random.split(first_key, n))
            inner = algorithm.init(init_key, first, jnp.zeros(n), own)
        else:
            first = jax.tree.map(lambda x: jnp.zeros((0, *x.shape), x.dtype), params)
            inner = algorithm.init(init_key, params, own)
        return EvosaxState(_strong(inner), first, jnp.zeros((), jnp.int32), params)

    def ask(key: Key, state: EvosaxState) -> Proposal:
        algorithm, own = prepared(state.like)
        ask_key, tell_key = jax.random.split(key)
        population, inner = algorithm.ask(ask_key, state.inner, own)
        inner = _as(inner, state.inner)
        if shifted:
            population = jax.tree.map(jnp.add, population, state.like)
        if members:  # evosax takes the first population together with its fitness
            first = state.generation == 0
            population = jax.tree.map(lambda new, old: jnp.where(first, old, new), population, state.first)
            inner = jax.tree.map(lambda new, old: jnp.where(first, old, new), inner, state.inner)
        return Proposal(population, _Aux(inner, tell_key))

    def tell(state: EvosaxState, proposal: Proposal, cost: Array) -> tuple[EvosaxState, Info]:
        algorithm, own = prepared(state.like)
        inner, tell_key = proposal.aux
        after = _as(algorithm.tell(tell_key, proposal.candidates, cost, inner, own)[0], state.inner)
        if members:
            begun = _as(algorithm.init(tell_key, proposal.candidates, cost, own), state.inner)
            after = jax.tree.map(lambda a, b: jnp.where(state.generation == 0, b, a), after, begun)
        new = state._replace(inner=after, generation=state.generation + 1)
        return new, _info(centre(state), centre(new), after)

    def centre(state: EvosaxState) -> Params:
        algorithm, _ = prepared(state.like)
        if not members:
            return algorithm.get_mean(state.inner)
        best = algorithm.get_best_solution(state.inner)
        return jax.tree.map(lambda b, x: jnp.where(state.generation == 0, x, b), best, state.like)

    return Strategy(init, ask, lambda state, candidates: candidates, tell, centre)


def _strong(tree: Any) -> Any:
    """Python scalars and weakly typed arrays as arrays of their own type: a loop's carry must keep its types."""
    return jax.tree.map(lambda x: jax.lax.convert_element_type(jnp.asarray(x), jnp.asarray(x).dtype), tree)


def _as(tree: Any, like: Any) -> Any:
    return jax.tree.map(lambda x, y: jnp.asarray(x).astype(y.dtype), tree, like)


def _info(before: Params, after: Params, inner: Any) -> Info:
    moved = jax.tree.map(lambda a, b: jnp.sum((a - b) ** 2), after, before)
    info = {"step_norm": jnp.sqrt(sum(jax.tree.leaves(moved)))}
    std = getattr(inner, "std", None)
    return info if std is None else {**info, "sigma": jnp.mean(std)}


# --- by name, from settings --------------------------------------------------------------------------------------
def open_es(settings: Settings) -> Strategy:
    """OpenAI-ES (arXiv:1703.03864): antithetic, centred ranks, Adam."""
    return evosax_strategy("Open_ES", settings["population"], schedule(settings, "sigma"), adam(settings))


def cma_es(settings: Settings) -> Strategy:
    """CMA-ES (Hansen and Ostermeier 2001)."""
    return evosax_strategy("CMA_ES", settings["population"], settings["sigma"])


def sep_cma_es(settings: Settings) -> Strategy:
    """CMA-ES with a diagonal covariance (Ros and Hansen 2008)."""
    return evosax_strategy("Sep_CMA_ES", settings["population"], settings["sigma"])


def snes(settings: Settings) -> Strategy:
    """Separable natural evolution strategy (arXiv:1106.4487)."""
    rate = optax.sgd(settings["learning_rate"])
    return evosax_strategy("SNES", settings["population"], settings["sigma"], rate)


def pgpe(settings: Settings) -> Strategy:
    """Policy gradients with parameter-based exploration (Sehnke et al. 2010), with Adam."""
    return evosax_strategy("PGPE", settings["population"], settings["sigma"], optax.adam(settings["learning_rate"]))


def ars(settings: Settings) -> Strategy:
    """Augmented random search (arXiv:1803.07055): plain descent along the best directions."""
    descent = optax.sgd(schedule(settings, "learning_rate"))
    elite = {"elite_ratio": settings["elite_ratio"]}
    return evosax_strategy("ARS", settings["population"], schedule(settings, "sigma"), descent, attributes=elite)


def random_search(settings: Settings) -> Strategy:
    """The best of independent draws around the start."""
    return evosax_strategy("RandomSearch", settings["population"], settings["sigma"])


def any_class(name: str, settings: Settings) -> Strategy:
    """An algorithm by the name of its class in evosax; `options` is a sequence of "name=value".

    Raises:
        ValueError: an unknown name, one that cannot be wrapped, or settings that do not fit.
    """
    rate = settings.get("learning_rate")
    optimizer = None if rate is None else optax.adam(rate)
    options = dict(_option(text) for text in settings.get("options", ()))
    return evosax_strategy(name, settings["population"], settings.get("sigma"), optimizer, options)


def shift(state: EvosaxState, change: Params) -> EvosaxState:
    """Add a change to the centre of open_es or ars, and leave everything else as it is.

    Args:
        state: a state of the strategy.
        change: a pytree like the parameters.
    """
    flat, _ = jax.flatten_util.ravel_pytree(change)  # as evosax keeps its mean
    return state._replace(inner=state.inner.replace(mean=state.inner.mean + flat))


def _option(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError:
        raise ValueError(f"option {text!r}: expected name=number, such as std_lr=0.1") from None
