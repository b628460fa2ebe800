"""Both ways to hand out pairs, that of a CPU and that of a GPU, do the same."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from polystep_rl.envs import make
from polystep_rl.policies import make_policy
from polystep_rl.rollout import lanes as lanes_module
from polystep_rl.rollout import population as rollout_module
from polystep_rl.rollout.lanes import LaneStates, Loop
from polystep_rl.rollout.population import RolloutConfig, rollout
from polystep_rl.types import Array
from polystep_rl.xla import outlined

WIDTH, PAIRS = 48, 200


def take(item: Array) -> LaneStates:
    """LaneStates that tell which item they took."""
    number = item.astype(jnp.float32)
    state = {"a": jnp.stack([number, -number]), "b": item % 3 == 0}
    return LaneStates(item, jnp.ones(item.shape, bool), state, number[None] / 2, 0 * number, 0 * item)


def weights_of(pair: Array) -> dict[str, Array]:
    return {"w": jnp.stack([pair, 2 * pair, 3 * pair]).astype(jnp.float32), "b": (pair + 1).astype(jnp.uint32)}


def stands(rng: np.random.Generator, taken: int, share_alive: float) -> tuple[Loop, dict[str, Array]]:
    """A rollout under way: some lanes live, some have just finished, some wait, and wait in vain."""
    pair = rng.permutation(max(taken, WIDTH))[:WIDTH]
    pair = np.where(pair < taken, pair, PAIRS)  # without one
    alive = (rng.random(WIDTH) < share_alive) & (pair < PAIRS)
    lanes = take(jnp.asarray(pair, jnp.int32))
    ret, length = rng.normal(size=WIDTH).astype(np.float32), rng.integers(1, 500, WIDTH).astype(np.int32)
    lanes = lanes._replace(alive=jnp.asarray(alive), ret=jnp.asarray(ret), length=jnp.asarray(length))
    results = jnp.zeros(PAIRS), jnp.zeros(PAIRS, jnp.int32)
    counts = (jnp.float32(x) for x in rng.integers(0, 1000, 3))
    return Loop(lanes, (), jnp.int32(taken), *results, *counts), weights_of(lanes.pair)


@pytest.mark.parametrize("share_alive", [0.0, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("taken, todo", [(0, PAIRS), (0, 0), (60, PAIRS), (60, 62), (60, 60), (PAIRS, PAIRS)])
def test_one_by_one_is_all_at_once(taken: int, todo: int, share_alive: float) -> None:
    rng = np.random.default_rng(taken + todo + int(100 * share_alive))
    loop, own = stands(rng, taken, share_alive)
    given = (loop, own, jnp.int32(todo))
    kernel = outlined(partial(lanes_module._one_by_one, take=take, weights_of=weights_of), kernel=True)
    one_by_one, own_one = jax.jit(kernel)(*given)
    at_once, own_all = jax.jit(partial(lanes_module._at_once, take=take, weights_of=weights_of))(*given)
    jax.tree.map(np.testing.assert_array_equal, one_by_one, at_once)
    working = np.asarray(at_once.lanes.alive)  # nobody reads the weights of the others
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[..., working], b[..., working]), own_one, own_all)

    before, after = loop.lanes, at_once.lanes
    finished = ~np.asarray(before.alive) & (np.asarray(before.pair) < PAIRS)
    np.testing.assert_array_equal(at_once.returns[before.pair[finished]], before.ret[finished])
    assert at_once.ended - loop.ended == finished.sum()
    assert at_once.living - loop.living == before.length[finished].sum()
    idle = WIDTH - int(before.alive.sum())
    new = min(idle, todo - taken)
    assert at_once.next_item == taken + new
    fresh = np.asarray(after.alive & ~before.alive)
    np.testing.assert_array_equal(np.asarray(after.pair)[fresh], taken + np.arange(new))
    np.testing.assert_array_equal(after.state["a"][:, fresh], take(jnp.asarray(after.pair)[fresh]).state["a"])


def test_a_rollout_returns_the_same_either_way(monkeypatch: pytest.MonkeyPatch) -> None:
    env = make("CartPole-v1")
    policy = make_policy(env.spec, (8,), "binary")
    deployed = jax.vmap(policy.deploy)(jax.vmap(policy.init)(jax.random.split(jax.random.key(0), 40)))
    keys = jax.random.split(jax.random.key(1), 5)
    config = RolloutConfig(32, tail=16)
    expected = jax.jit(lambda d: rollout(env, policy, d, keys, config, True))(deployed)

    def hand_over(loop, own, source, weights_of):
        return lanes_module._at_once(loop, own, source.todo, take=source.take, weights_of=weights_of)

    monkeypatch.setattr(rollout_module, "hand_over", hand_over)
    given = jax.jit(lambda d: rollout(env, policy, d, keys, config, True))(deployed)
    jax.tree.map(np.testing.assert_array_equal, given, expected)
