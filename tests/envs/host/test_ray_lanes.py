"""Ray actors: the results of this process bit for bit, whatever dies on the way, and nothing is left behind."""

import contextlib
import os
import re
import signal
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from support.host_play import Player, assert_same, by_hand, tick
from support.processes import all_gone

from polystep_rl.envs import make_any
from polystep_rl.envs.host.gymnasium_env import GymnasiumEnv
from polystep_rl.envs.host.ray_cluster import join
from polystep_rl.envs.host.ray_lanes import RayLanes
from polystep_rl.policies import make_policy
from polystep_rl.rollout.host import HostEvaluator, HostLayout

pytest.importorskip("ray")

import ray

HERE = str(Path(__file__).resolve().parents[2])
LINUX = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
slow = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster():
    """A Ray of two CPUs, kept from test to test."""
    jax.block_until_ready(jax.numpy.zeros(1))  # JAX, once at work, warns of the forks by which Ray starts its programs
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
        connection = join("local")
    yield connection
    connection.leave()
    assert not ray.is_initialized()


@contextlib.contextmanager
def pool_of(env_id, width=3, groups=1, actors=2, hang_seconds=60.0, **kwargs):
    env = GymnasiumEnv(env_id, kwargs, max_episode_steps=30)
    pool = RayLanes(env.recipe, env.spec, width, groups, "local", actors, hang_seconds)
    try:
        yield env, pool
    finally:
        pool.close()


def pid_of(actor):
    return ray.get(actor.handle.__ray_call__.remote(lambda self: os.getpid()), timeout=100)


def ray_kill(actor):
    pid = pid_of(actor)
    ray.kill(actor.handle)
    assert all_gone([pid])  # until then it may still answer


def os_kill(actor):
    os.kill(pid_of(actor), signal.SIGKILL)


# --- whole generations ---------------------------------------------------------------------------------------------
def evaluate(env, n=5, episodes=3, before_recv=None):
    policy = make_policy(env.spec, (4,), "binary")
    candidates = jax.vmap(policy.init)(jax.random.split(jax.random.key(1), n))
    with HostEvaluator(env, policy, episodes, HostLayout(lanes=6), collect_moments=True) as evaluator:
        if before_recv is not None:
            pool = evaluator._pool(n * episodes)
            recv = pool.recv
            pool.recv = lambda group: (before_recv(pool), recv(group))[1]
        found = evaluator(jax.random.key(2), candidates, lambda x: x)
        return found, evaluator.faults


def assert_same_evaluation(left, right):
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_array_equal(a, b)


@slow
def test_costs_are_those_of_this_process(cluster):
    reference, _ = evaluate(make_any("CartPole-v1", "gymnasium", None, (), 60, "0"))
    env = make_any("CartPole-v1", "gymnasium", None, (), 60, "ray:local")
    found, faults = evaluate(env)
    assert faults == 0 and len(set(np.asarray(found.cost).tolist())) > 1
    assert_same_evaluation(found, reference)
    pool = env.lanes(6, 1, 0)
    assert isinstance(pool, RayLanes) and len(pool._actors) == 2  # as the cluster has CPUs
    pool.close()


@slow
@pytest.mark.parametrize("kill", [ray_kill, os_kill])
def test_a_generation_loses_nothing_when_actors_are_killed(cluster, kill):
    reference, _ = evaluate(make_any("CartPole-v1", "gymnasium", None, (), 60, "0"))
    received = []

    def before_recv(pool):
        received.append(0)
        if len(received) in (5, 20):
            kill(pool._actors[len(received) // 20])

    found, faults = evaluate(make_any("CartPole-v1", "gymnasium", None, (), 60, "ray:local"), before_recv=before_recv)
    assert faults == 2
    assert_same_evaluation(found, reference)


# --- faults --------------------------------------------------------------------------------------------------------
@slow
def test_killed_actors_lose_nothing_once_their_episodes_are_rerun(cluster):
    with pool_of("CartPole-v1", width=4, groups=2) as (env, pool):
        player = Player(env, pool, range(20))
        rng = np.random.default_rng(0)
        kills = []

        def kill():
            if len(kills) < 4 and rng.random() < 0.2:
                with contextlib.suppress(ray.exceptions.RayError):  # dead already, and nobody has noticed
                    (ray_kill, os_kill)[len(kills) % 2](pool._actors[rng.integers(2)])
                    kills.append(0)

        played = player.play(before_tick=kill)
        assert len(kills) == 4 and 2 <= pool.faults <= 4 and player.lost > 0
        assert pool.last_fault.startswith("the actor died: ") and "\n" not in pool.last_fault
        assert_same(played, by_hand(env, range(20), int))


FAULTS = {
    "raise": r"environment support.odd:Faulty failed in step: ArithmeticError: the joint is broken",
    "sys.exit": r"environment support.odd:Faulty failed in step: SystemExit: enough",
    "os._exit": r"the actor died: .*exit.*",
    "hang": r"no answer within 3 s",
}


@slow
@pytest.mark.parametrize("how", FAULTS)
def test_an_actor_that_fails_once_is_replaced(cluster, how, tmp_path):
    marker = str(tmp_path / "failed")
    patience = 3.0 if how == "hang" else 60.0
    with pool_of("support.odd:Faulty", 4, 2, hang_seconds=patience, how=how, marker=marker) as (env, pool):
        player = Player(env, pool, range(8))
        played = player.play()
        assert pool.faults == 1 and player.lost > 0
        assert re.fullmatch(FAULTS[how], pool.last_fault)
        assert_same(played, by_hand(env, range(8), lambda action: int(action) + 1))


@slow
def test_a_broken_environment_stops_after_five_with_its_own_message(cluster):
    """Though it resets and steps well each time until it fails."""
    message = rf"^environment support.odd:Faulty: an actor failed 5 times in a row, at last: {FAULTS['raise']}$"
    with pool_of("support.odd:Faulty", 2, 1, 1, how="raise") as (env, pool):
        with pytest.raises(RuntimeError, match=message):
            Player(env, pool, range(2)).play()
        assert pool.faults == 5 and not pool._actors[0].handle
        with pytest.raises(ValueError, match="closed"):
            tick(pool, 0, [0])


@slow
def test_an_environment_that_cannot_be_made_by_an_actor_stops_with_its_message(cluster):
    with pool_of("support.odd:Counter", 1, 1, 1) as (env, _):
        broken = env.recipe._replace(env_kwargs={"nonsense": 1})
        with pytest.raises(RuntimeError, match=r"5 times in a row, at last: .* cannot be made from these arguments: "):
            Player(env, RayLanes(broken, env.spec, 1, 1, "local", 1), [0]).play()


@slow
@pytest.mark.parametrize("length", [2, 1000])
def test_a_failure_now_and_then_is_no_broken_environment(cluster, length):
    """Whether the environment ends the episodes in between, or the caller after two steps."""
    with pool_of("support.odd:Counter", 1, 1, 1, length=length) as (_, pool):
        for _ in range(6):
            assert not tick(pool, 0, [0], seed=3).lost.any()
            ray_kill(pool._actors[0])
            assert tick(pool, 0, [0]).lost.all()
            tick(pool, 0, [0], seed=3), tick(pool, 0, [0])
            assert tick(pool, 0, [0]).terminated.all() == (length == 2)
        assert pool.faults == 6


@slow
def test_everything_that_a_dead_actor_held_is_lost_and_nothing_else(cluster):
    """Lanes 0 and 2 of both groups live in the first actor."""
    with pool_of("support.odd:Counter", 4, 2, 2, length=20) as (_, pool):
        for group in range(2):
            assert not tick(pool, group, range(4), seed=5).lost.any()
        pid = pid_of(pool._actors[0])
        os.kill(pid, signal.SIGSTOP)  # so that it cannot answer before it dies
        for group in range(2):
            pool.send(group, np.arange(3), np.ones(3, np.int32), np.full(3, -1))
        os.kill(pid, signal.SIGKILL)
        for group in range(2):
            ticks = pool.recv(group)
            assert ticks.lost.tolist() == [True, False, True]
            assert (ticks.obs[1] != 0).any() and not ticks.obs[[0, 2]].any() and not ticks.reward[[0, 2]].any()
        assert pool.faults == 1
        # Lane 2 of the second group begins anew; the first group's goes on as if nothing had happened, which is lost.
        assert tick(pool, 0, [2, 3]).lost.tolist() == [True, False]
        assert tick(pool, 1, [2, 3], seed=6).lost.tolist() == [False, False]
        assert tick(pool, 1, [2, 3]).lost.tolist() == [False, False]


@slow
def test_slow_is_not_hung(cluster):
    """A tick may take longer than the limit as long as lanes are stepped."""
    with pool_of("support.odd:Slow", 8, 1, 1, hang_seconds=1.5) as (_, pool):
        tick(pool, 0, range(8), seed=0)
        assert not tick(pool, 0, range(8)).lost.any() and pool.faults == 0


# --- actors --------------------------------------------------------------------------------------------------------
@slow
def test_groups_overlap_and_pools_do_not_wait_for_each_other(cluster):
    """Sending returns at once; actors beyond the CPUs of the cluster start all the same."""
    with (
        pool_of("support.odd:Slow", 1, 2, 2) as (_, first),
        pool_of("support.odd:Slow", 2, 2, 2) as (_, pool),
    ):
        tick(first, 0, [0], seed=1)
        tick(pool, 0, [0, 1], seed=1), tick(pool, 1, [0, 1], seed=1)
        start = time.monotonic()
        for group in range(2):
            pool.send(group, np.array([0]), np.ones(1, np.int32), np.array([-1]))
        assert time.monotonic() - start < 0.8
        assert pool.recv(1).obs[0, 1] == 1 and time.monotonic() - start >= 0.8
        assert pool.recv(0).obs[0, 1] == 1 and pool.faults == first.faults == 0


@slow
def test_an_actor_is_light_yet_finds_the_package(cluster):
    with pool_of("support.odd:Inside", 1, 1, 1) as (_, pool):
        light, package, one_thread = tick(pool, 0, [0], seed=0).obs[0].tolist()
        assert light, "JAX was imported by the actor itself"
        assert package and one_thread


OWN = """
from support.odd import Counter
class Writes(Counter):
    "Writes into its actions, as it may."
    from gymnasium import spaces
    action_space = spaces.MultiDiscrete([3, 3])
    def step(self, action):
        action *= 1
        return super().step(action)
    def _observe(self, action):
        import numpy as np
        return super()._observe(np.sum(action))
"""


@slow
def test_a_users_module_in_the_current_folder_is_found_and_may_write_into_actions(cluster, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    (tmp_path / "writes_here.py").write_text(OWN)
    with pool_of("writes_here:Writes") as (env, pool):
        assert_same(Player(env, pool, [1]).play(), by_hand(env, [1]))


@slow
@LINUX
def test_close_ends_actors_even_those_that_hang_and_leaves_the_cluster(cluster, capfd):
    with pool_of("support.odd:Faulty", how="hang", when=1) as (_, pool):
        tick(pool, 0, range(3), seed=0)
        pids = list(map(pid_of, pool._actors))
        for pid in pids:
            os.kill(pid, signal.SIGINT)  # Ctrl-C reaches everybody; it is not for them
        assert not tick(pool, 0, range(3), seed=0).lost.any() and pool.faults == 0
        pool.send(0, np.arange(3), np.ones(3, np.int32), np.full(3, -1))
    pool.close()
    assert all_gone(pids) and ray.is_initialized()
    assert capfd.readouterr().err == ""
