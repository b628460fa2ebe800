"""The hill climber: to the best candidate, but only if it beats the centre."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from polystep_rl.baselines.hill_climbing import hill_climbing

X = jnp.linspace(-1, 1, 6)


def _asked(**settings):
    strategy = hill_climbing(5, **settings)
    state = strategy.init(jax.random.key(0), X)
    proposal = strategy.ask(jax.random.key(1), state)
    return strategy, state, proposal, strategy.decode(state, proposal.candidates)


def test_the_centre_is_the_first_candidate_and_the_others_are_gaussian_steps():
    strategy = hill_climbing(4001, 0.5)
    state = strategy.init(jax.random.key(0), X)
    members = strategy.decode(state, strategy.ask(jax.random.key(1), state).candidates)
    np.testing.assert_array_equal(members[0], X)
    z = (members[1:] - X) / 0.5
    assert float(jnp.abs(z.mean(0)).max()) < 5 / np.sqrt(4000)
    assert float(jnp.abs(z.std(0) - 1).max()) < 5 / np.sqrt(2 * 4000)


@pytest.mark.parametrize("best", range(1, 5))
def test_the_best_candidate_becomes_the_centre(best):
    strategy, state, proposal, members = _asked()
    told, info = strategy.tell(state, proposal, jnp.asarray([2.0, 3, 1.5, 4, 9]).at[best].set(1.0))
    np.testing.assert_allclose(strategy.params(told), members[best], rtol=1e-6)
    assert float(info["improved"]) == 1
    assert float(info["step_norm"]) == pytest.approx(float(jnp.linalg.norm(members[best] - X)), rel=1e-5)


@pytest.mark.parametrize("costs", [[1.0, 1, 1, 1, 1], [1.0, 2, 1, 3, 1], [1.0, np.nan, -np.inf, np.inf, 2]])
def test_ties_and_broken_candidates_keep_the_centre(costs):
    strategy, state, proposal, _ = _asked()
    told, info = strategy.tell(state, proposal, jnp.asarray(costs))
    np.testing.assert_array_equal(strategy.params(told), X)
    assert float(info["improved"]) == 0 and float(info["step_norm"]) == 0


def test_a_broken_centre_is_left_for_a_finite_candidate():
    strategy, state, proposal, members = _asked()
    told, _ = strategy.tell(state, proposal, jnp.asarray([np.nan, 5.0, 4.0, 6.0, 5.0]))
    np.testing.assert_allclose(strategy.params(told), members[2], rtol=1e-6)


def test_the_cost_of_the_centre_never_rises():
    strategy = hill_climbing(8, 0.3)
    state = strategy.init(jax.random.key(0), X)
    costs = [float(jnp.sum(X**2))]
    for number in range(30):
        proposal = strategy.ask(jax.random.key(number), state)
        cost = jnp.sum(strategy.decode(state, proposal.candidates) ** 2, axis=1)
        state = strategy.tell(state, proposal, cost)[0]
        costs.append(float(jnp.sum(strategy.params(state) ** 2)))
    assert (np.diff(costs) <= 1e-6).all()
    assert costs[-1] < 0.5 * costs[0]


def test_only_the_order_of_the_costs_matters():
    strategy, state, proposal, _ = _asked()
    costs = jnp.asarray([2.0, 3, 1, 4, 0.5])
    one, other = (strategy.params(strategy.tell(state, proposal, c)[0]) for c in (costs, jnp.exp(3 * costs)))
    np.testing.assert_array_equal(one, other)


def test_sigma_follows_its_schedule_and_adapts_within_bounds():
    strategy = hill_climbing(2, optax.exponential_decay(0.4, 1, 0.5), grow=10.0, shrink=0.1)
    state = strategy.init(jax.random.key(0), X)
    tell = jax.jit(strategy.tell)
    seen = []
    for costs in [[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]:
        proposal = strategy.ask(jax.random.key(1), state)
        state, info = tell(state, proposal, jnp.asarray(costs))
        seen.append(float(info["sigma"]))
    np.testing.assert_allclose(seen, [0.4, 0.2 * 10, 0.1], rtol=1e-6)
    for _ in range(8):
        state, _ = tell(state, proposal, jnp.asarray([0.0, 1.0]))
    assert float(state.scale) == pytest.approx(1e-3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: hill_climbing(1), "hill_climbing: population was 1, expected at least 2"),
        (lambda: hill_climbing(sigma=-1.0), "hill_climbing: sigma was -1.0, expected a number above 0"),
        (lambda: hill_climbing(grow=0.9), "grow was 0.9, expected at least 1"),
        (lambda: hill_climbing(shrink=0.0), "shrink was 0.0, expected a number above 0"),
        (lambda: hill_climbing(shrink=1.1), "shrink was 1.1, expected a number above 0 and at most 1"),
    ],
)
def test_bad_settings_are_one_clear_line(call, message):
    with pytest.raises(ValueError, match=message):
        call()
