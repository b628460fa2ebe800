"""Searches in turns: each is what it would be alone, the best goes on, and local optima are escaped from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from polystep_rl.search import polystep as ps
from polystep_rl.search import subspace
from polystep_rl.search.observing import observing
from polystep_rl.search.racing import racing
from polystep_rl.search.wrappers import averaged
from polystep_rl.types import Moments

KEY = jax.random.key(0)
STARTS, GENERATIONS = 3, 4
RACE = STARTS * GENERATIONS


def search():
    geometry = ps.Geometry(dim=4, step_radius=ps.scheduled(lambda step: 1.0 / (1 + step)))
    return averaged(ps.polystep(subspace.global_block(4), geometry, redraw_every=1), 0.5)


def start(key=KEY):
    return {"0": {"w": jax.random.normal(key, (2, 3)), "b": jnp.zeros(2)}}


def cost(params):
    """Of n candidates (n,)."""
    return sum(jnp.abs(x - 0.3).sum(axis=tuple(range(1, x.ndim))) for x in jax.tree.leaves(params))


def told(strategy, state, generation):
    """The state after a generation, and what was logged."""
    proposal = strategy.ask(jax.random.fold_in(KEY, generation), state)
    state, info = strategy.tell(state, proposal, cost(strategy.decode(state, proposal.candidates)))
    seen = Moments(jnp.float32(5), jnp.full(3, generation, jnp.float32), jnp.full(3, 2.0 * generation))
    return strategy.observe(state, seen), info


def assert_equal(one, two):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


def test_every_search_is_what_it_is_alone_and_the_best_goes_on():
    """Its generations are those of its turns, and all after the race where it won."""
    own = observing(search(), Moments(jnp.float32(1), jnp.zeros(3), jnp.ones(3)))
    race = racing(own, STARTS, GENERATIONS)
    state, turns = race.init(KEY, start()), []
    for generation in range(RACE + 5):
        state, info = told(race, state, generation)
        turns.append(int(info["start"]))
    winner = turns[-1]
    assert turns == [*range(STARTS)] * GENERATIONS + [winner] * 5
    for index, key in enumerate(jax.random.split(KEY, STARTS)):
        alone = own.init(key, start())
        for generation in np.flatnonzero(np.array(turns) == index):
            alone, _ = told(own, alone, int(generation))
        assert_equal(jax.tree.map(lambda leaf, i=index: leaf[i], state.inner), alone)
        if index == winner:
            assert_equal(race.params(state), own.params(alone))


def test_the_one_with_the_lowest_cost_wins_and_stays():
    """Costs are given: the second is ahead at the end, not the third; what comes after the race does not count."""
    given = {0: 5.0, 1: 4.0, 2: 1.0, 3: 5.0, 4: 1.0, 5: 9.0, 6: 30.0, 7: 30.0}
    race = racing(search(), 3, 2)
    state = race.init(KEY, start())
    ahead = []
    for generation, value in given.items():
        proposal = race.ask(jax.random.fold_in(KEY, generation), state)
        state, info = race.tell(state, proposal, jnp.full(8, value))
        ahead.append(int(jnp.argmin(state.scores)))
        assert int(info["start"]) == (generation % 3 if generation < 6 else 1)
    assert ahead == [0, 1, 2, 2, 2, 1, 1, 1]  # 2.5 of the second, 5 of the third


def test_a_race_ends_in_the_better_of_two_basins_more_often():
    """Two equally wide basins, from the ridge between them: a search alone ends in the good one every other time."""

    def both(params):
        x = params["0"]["w"][:, 0, 0]
        return jnp.where(x > 0, jnp.abs(x - 2), 1 + jnp.abs(x + 2))

    def ends(strategy, generations):
        def one(key):
            state = strategy.init(key, {"0": {"w": jnp.zeros((2, 3)), "b": jnp.zeros(2)}})

            def step(state, i):
                proposal = strategy.ask(jax.random.fold_in(key, i), state)
                noise = jax.random.normal(jax.random.fold_in(key, 1000 + i), (8,))
                costs = both(strategy.decode(state, proposal.candidates)) + 2 * noise * (i < STARTS)
                return strategy.tell(state, proposal, costs)[0], None

            state, _ = jax.lax.scan(step, state, jnp.arange(generations))
            return strategy.params(state)["0"]["w"][0, 0] > 0

        return float(jax.jit(jax.vmap(one))(jax.random.split(KEY, 256)).mean())

    geometry = ps.Geometry(
        dim=4, step_radius=ps.scheduled(lambda step: 1.0), probe_radius=ps.scheduled(lambda step: 0.5)
    )
    alone = ps.polystep(subspace.global_block(4), geometry, redraw_every=1)
    share, raced = ends(alone, 10), ends(racing(alone, 3, 5), 20)
    assert 0.3 < share < 0.8
    assert raced > 1 - (1 - share) ** 3 - 0.12 and raced > share + 0.1, (share, raced)


@pytest.mark.parametrize("starts, generations", [(1, 5), (2, 0)])
def test_ranges(starts, generations):
    with pytest.raises(ValueError, match=f"racing: {starts} starts of {generations} generations"):
        racing(search(), starts, generations)
