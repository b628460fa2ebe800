"""The contract of every wrapper of a strategy: what it does not change, it passes on."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from polystep_rl.baselines import eggroll, spsa
from polystep_rl.search import polystep as ps
from polystep_rl.search import subspace
from polystep_rl.search.observing import observing
from polystep_rl.search.racing import racing
from polystep_rl.search.wrappers import amortise, averaged, transformed, wrap
from polystep_rl.training.programs import has_structure
from polystep_rl.types import Moments, Strategy

KEY = jax.random.key(0)
START = {"0": {"w": jnp.ones((70, 60)), "b": jnp.zeros(70)}}  # more than what is built one by one
PRIOR = Moments(np.float32(1), np.zeros(3, np.float32), np.ones(3, np.float32))

SEARCHES: dict[str, tuple[Strategy, Callable]] = {
    "factored": (ps.polystep(subspace.factored(2), ps.Geometry(dim=4)), ps.shift),
    "full": (ps.polystep(subspace.full(), ps.Geometry(dim=2)), ps.shift),
    "eggroll": (eggroll.eggroll(4), spsa.shift),
}
WRAPPERS: dict[str, Callable[[Strategy, Callable], Strategy]] = {
    "transformed": lambda strategy, shift: transformed(strategy, shift, optax.trace(0.9)),
    "averaged": lambda strategy, shift: averaged(strategy, 0.9),
    "amortised": lambda strategy, shift: amortise(strategy, shift, 2),
    "racing": lambda strategy, shift: racing(strategy, 2, 1),
    "wrapped twice": lambda strategy, shift: averaged(transformed(strategy, shift, optax.identity()), 0.5),
}


class Takes:
    """As much of an evaluator as says that it takes candidates that are never built."""

    structured = True


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_structure_survives(search: str, wrapper: str) -> None:
    """The wrapper's candidates have the structure of the search's own, at the state that the search is in."""
    strategy, shift = SEARCHES[search]
    wrapped = WRAPPERS[wrapper](strategy, shift)
    state = jax.jit(wrapped.init)(KEY, START)
    assert wrapped.structure is not None and has_structure(wrapped, Takes(), state)
    candidates = jax.tree.map(lambda x: x[:3], wrapped.ask(KEY, state).candidates)
    built = wrapped.decode(state, candidates)["0"]
    structured = wrapped.structure(state, candidates)
    x = jax.random.normal(jax.random.key(1), (60, 3))
    leaves = {leaf.shape: i for i, leaf in enumerate(jax.tree.leaves(START))}
    own = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, -1), structured.own)  # candidates trail, as on lanes
    product = structured.product(leaves[(70, 60)], own, x)
    np.testing.assert_allclose(product, jnp.einsum("cmk,kc->mc", built["w"], x), atol=1e-3)
    np.testing.assert_allclose(structured.vector(leaves[(70,)], own), built["b"].T, atol=1e-5)


@pytest.mark.parametrize("search", SEARCHES)
def test_statistics_of_observations_have_no_structure(search: str) -> None:
    """Scales of observations are parameters there, and a policy that acts by structure has constant ones."""
    assert observing(SEARCHES[search][0], PRIOR).structure is None


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_no_structure_comes_from_nowhere(wrapper: str) -> None:
    strategy = ps.polystep(subspace.global_block(4), ps.Geometry(dim=4))
    assert strategy.structure is None and WRAPPERS[wrapper](strategy, ps.shift).structure is None


def test_what_a_wrapper_must_give() -> None:
    strategy, _ = SEARCHES["full"]
    with pytest.raises(TypeError, match="init, tell must be given"):
        wrap(strategy, lambda state: state)
    with pytest.raises(TypeError, match="observe must be given"):
        wrap(observing(strategy, PRIOR), lambda state: state, init=strategy.init, tell=strategy.tell)
    with pytest.raises(TypeError, match="lean"):
        wrap(strategy, lambda state: state, init=strategy.init, tell=strategy.tell, lean=True)
