"""Probes: the hand-written best policy earns the closed form, and other policies earn what the docstrings say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from polystep_rl import envs

EPISODES = 4096

# id -> (best policy, another policy, the other one's mean return)
POLICIES = {
    "probe/Bandit-v0": (lambda obs: jnp.int32(1), lambda obs: jnp.int32(0), 0.0),
    "probe/ContextualBandit-v0": (lambda obs: (obs[0] > 0).astype(jnp.int32), lambda obs: jnp.int32(1), 0.0),
    "probe/DelayedReward-v0": (lambda obs: (obs[0] > 0).astype(jnp.int32), lambda obs: jnp.int32(0), 0.5),
    "probe/Target-v0": (lambda obs: jnp.stack([-obs[1] / 2, obs[0] / 2]), lambda obs: jnp.zeros(2), -1 / 6),
    "probe/Integrator-v0": (lambda obs: -obs, lambda obs: jnp.zeros(1), -4 / 3),
}


def mean_return(env, policy):
    """Over EPISODES episodes, each until it terminates or reaches its horizon."""

    def episode(key):
        def advance(carry, _):
            state, obs, alive, total = carry
            step = env.step(state, policy(obs))
            total = total + jnp.where(alive, step.reward, 0)
            return (step.state, step.obs, alive & ~step.terminated, total), alive

        state, obs = env.reset(key)
        (*_, alive, total), lived = jax.lax.scan(advance, (state, obs, True, 0.0), length=env.spec.horizon)
        return total, alive, lived.sum()

    total, alive, length = jax.jit(jax.vmap(episode))(jax.random.split(jax.random.key(0), EPISODES))
    assert (length == env.spec.horizon).all()
    return float(total.mean()), bool(alive.any())


@pytest.mark.parametrize("env_id", POLICIES)
def test_best_return_is_reached_and_not_by_others(env_id):
    env = envs.make(env_id)
    best, other, other_return = POLICIES[env_id]
    got, alive = mean_return(env, best)
    np.testing.assert_allclose(got, env.best_return, atol=0.02)
    assert alive == (env_id == "probe/Integrator-v0")  # the only one that ends by truncation
    np.testing.assert_allclose(mean_return(env, other)[0], other_return, atol=0.05)


def test_every_probe_is_tested():
    assert set(POLICIES) == {env_id for env_id in envs.registered_ids() if env_id.startswith("probe/")}


def test_delay_is_an_argument():
    env = envs.make("probe/DelayedReward-v0", delay=9)
    assert env.spec.horizon == 9
    assert mean_return(env, POLICIES["probe/DelayedReward-v0"][0])[0] == env.best_return
    with pytest.raises(ValueError, match="delay must be at least 1 step, got 0"):
        envs.make("probe/DelayedReward-v0", delay=0)
