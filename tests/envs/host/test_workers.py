"""Worker processes: what dies is replaced and nothing is lost, what is broken stops, and nothing is left behind."""

import contextlib
import gc
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from support.host_play import Player, assert_same, by_hand, tick
from support.processes import alive, all_gone

from polystep_rl.envs.host.gymnasium_env import GymnasiumEnv
from polystep_rl.envs.host.workers import WorkerLanes

HERE = str(Path(__file__).resolve().parents[2])
LINUX = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")


@contextlib.contextmanager
def pool_of(env_id, width=3, groups=1, workers=2, hang_seconds=60.0, **kwargs):
    env = GymnasiumEnv(env_id, kwargs, max_episode_steps=30)
    pool = WorkerLanes(env.recipe, env.spec, width, groups, workers, hang_seconds)
    try:
        yield env, pool
    finally:
        pool.close()


def pids_of(pool):
    return [worker.process.pid for worker in pool._workers]


@pytest.mark.parametrize("order", range(2))
def test_killed_workers_lose_nothing_once_their_episodes_are_rerun(order):
    with pool_of("CartPole-v1", width=4, groups=2) as (env, pool):
        player = Player(env, pool, range(30), order)
        rng = np.random.default_rng(order)
        kills = []

        def kill():
            if len(kills) < 4 and rng.random() < 0.2:
                kills.append(pids_of(pool)[rng.integers(2)])
                os.kill(kills[-1], signal.SIGKILL)

        played = player.play(before_tick=kill)
        assert len(kills) == 4 and 1 <= pool.faults <= 4 and player.lost > 0
        assert pool.last_fault == "killed by signal 9 (SIGKILL)"
        assert_same(played, by_hand(env, range(30), int))


FAULTS = {
    "raise": r"environment support.odd:Faulty failed in step: ArithmeticError: the joint is broken",
    "sys.exit": r"environment support.odd:Faulty failed in step: SystemExit: enough",
    "os._exit": r"exited with status 3",
    "segfault": r"killed by signal 11 \(SIGSEGV\)",
    "hang": r"no answer within 3 s",
}


@pytest.mark.parametrize("how", FAULTS)
def test_a_worker_that_fails_once_is_replaced(how, tmp_path):
    marker = str(tmp_path / "failed")
    patience = 3.0 if how == "hang" else 60.0
    with pool_of("support.odd:Faulty", 4, 2, hang_seconds=patience, how=how, marker=marker) as (env, pool):
        player = Player(env, pool, range(8))
        played = player.play()
        assert pool.faults == 1 and player.lost > 0
        assert re.fullmatch(FAULTS[how], pool.last_fault)
        assert_same(played, by_hand(env, range(8), lambda action: int(action) + 1))


@pytest.mark.parametrize("how", ["raise", "segfault", pytest.param("hang", marks=pytest.mark.slow)])
def test_a_broken_environment_stops_after_five_with_its_own_message(how):
    """Though it resets and steps well each time until it fails."""
    message = rf"^environment support.odd:Faulty: a worker failed 5 times in a row, at last: {FAULTS[how]}$"
    with pool_of("support.odd:Faulty", 2, 1, 1, hang_seconds=3.0, how=how) as (env, pool):
        with pytest.raises(RuntimeError, match=message):
            Player(env, pool, range(2)).play()
        assert pool.faults == 5 and all_gone(pids_of(pool))


def test_an_environment_that_cannot_be_made_in_a_worker_stops_with_its_message():
    with pool_of("support.odd:Counter", 1, 1, 1) as (env, pool):
        broken = env.recipe._replace(env_kwargs={"nonsense": 1})
        with pytest.raises(RuntimeError, match=r"5 times in a row, at last: .* cannot be made from these arguments: "):
            Player(env, WorkerLanes(broken, env.spec, 1, 1, 1), [0]).play()


@pytest.mark.parametrize("length", [2, 1000])
def test_a_failure_now_and_then_is_no_broken_environment(length):
    """Whether the environment ends the episodes in between, or the caller after two steps."""
    with pool_of("support.odd:Counter", 1, 1, 1, length=length) as (_, pool):
        for _ in range(6):
            assert not tick(pool, 0, [0], seed=3).lost.any()
            os.kill(pids_of(pool)[0], signal.SIGKILL)
            assert tick(pool, 0, [0]).lost.all()
            tick(pool, 0, [0], seed=3), tick(pool, 0, [0])
            assert tick(pool, 0, [0]).terminated.all() == (length == 2)
        assert pool.faults == 6


def test_resets_alone_are_no_episodes():
    """Whoever never gets to a second step is broken, however often it is reset."""
    with pool_of("support.odd:Counter", 1, 1, 1, length=1000) as (_, pool):
        for count in range(5):
            tick(pool, 0, [0], seed=3), tick(pool, 0, [0], seed=4), tick(pool, 0, [0])
            os.kill(pids_of(pool)[0], signal.SIGKILL)
            if count < 4:
                assert tick(pool, 0, [0]).lost.all()
        with pytest.raises(RuntimeError, match="5 times in a row"):
            tick(pool, 0, [0])


def test_slow_is_not_hung():
    """A tick may take longer than the limit as long as lanes are stepped."""
    with pool_of("support.odd:Slow", 8, 1, 1, hang_seconds=2.0) as (_, pool):
        tick(pool, 0, range(8), seed=0)
        assert not tick(pool, 0, range(8)).lost.any() and pool.faults == 0


def test_everything_that_a_dead_worker_held_is_lost_and_nothing_else():
    """Lanes 0 and 2 of both groups live in the first worker."""
    with pool_of("support.odd:Counter", 4, 2, 2, length=20) as (_, pool):
        for group in range(2):
            assert not tick(pool, group, range(4), seed=5).lost.any()
        os.kill(pids_of(pool)[0], signal.SIGSTOP)  # so that it cannot answer before it dies
        for group in range(2):
            pool.send(group, np.arange(3), np.ones(3, np.int32), np.full(3, -1))
        os.kill(pids_of(pool)[0], signal.SIGKILL)
        for group in range(2):
            ticks = pool.recv(group)
            assert ticks.lost.tolist() == [True, False, True]
            assert (ticks.obs[1] != 0).any() and not ticks.obs[[0, 2]].any() and not ticks.reward[[0, 2]].any()
        assert pool.faults == 1
        # Lane 2 of the second group begins anew; the first group's goes on as if nothing had happened, which is lost.
        assert tick(pool, 0, [2, 3]).lost.tolist() == [True, False]
        assert tick(pool, 1, [2, 3], seed=6).lost.tolist() == [False, False]
        assert tick(pool, 1, [2, 3]).lost.tolist() == [False, False]


def test_a_lane_that_was_not_sent_when_its_worker_died_is_lost_later():
    with pool_of("support.odd:Counter", 4, 1, 2, length=20) as (_, pool):
        tick(pool, 0, range(4), seed=5)
        os.kill(pids_of(pool)[0], signal.SIGKILL)
        assert tick(pool, 0, [0, 1]).lost.tolist() == [True, False]
        late = tick(pool, 0, [2, 3])
        assert late.lost.tolist() == [True, False] and not late.obs[0].any()
        assert pool.faults == 1


def test_groups_overlap():
    """Sending returns at once, and the commands of two groups are worked off in order."""
    with pool_of("support.odd:Slow", 1, 2, 1) as (_, pool):
        tick(pool, 0, [0], seed=1), tick(pool, 1, [0], seed=1)
        start = time.monotonic()
        for group in range(2):
            pool.send(group, np.array([0]), np.ones(1, np.int32), np.array([-1]))
        assert time.monotonic() - start < 0.3
        assert pool.recv(1).obs[0, 1] == 1 and time.monotonic() - start >= 0.8
        assert pool.recv(0).obs[0, 1] == 1


def test_a_worker_is_light_yet_finds_the_package():
    with pool_of("support.odd:Inside", 1, 1, 1) as (_, pool):
        light, package, one_thread = tick(pool, 0, [0], seed=0).obs[0].tolist()
        assert light, "JAX was imported by the worker itself"
        assert package and one_thread


def test_a_users_module_in_the_current_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    (tmp_path / "mine_here.py").write_text("from support.odd import Counter as Mine\n")
    with pool_of("mine_here:Mine") as (env, pool):
        assert_same(Player(env, pool, [1]).play(), by_hand(env, [1], lambda action: int(action) + 1))


@LINUX
def test_close_leaves_nothing_behind():
    open_files = len(os.listdir("/proc/self/fd"))
    with pool_of("CartPole-v1") as (_, pool):
        tick(pool, 0, range(3), seed=0)
        pids = pids_of(pool)
        assert all(map(alive, pids))
    pool.close()
    assert all_gone(pids, 0) and len(os.listdir("/proc/self/fd")) == open_files
    with pytest.raises(ValueError, match="closed"):
        tick(pool, 0, [0])


@LINUX
def test_a_pool_that_is_forgotten_closes_itself():
    with pool_of("CartPole-v1") as (env, _):
        forgotten = WorkerLanes(env.recipe, env.spec, 2, 1, 2)
        pids = pids_of(forgotten)
        del forgotten
        gc.collect()
        assert all_gone(pids, 0)


@LINUX
def test_close_ends_a_worker_that_hangs():
    with pool_of("support.odd:Faulty", how="hang", when=1) as (_, pool):
        tick(pool, 0, range(3), seed=0)
        pool.send(0, np.arange(3), np.ones(3, np.int32), np.full(3, -1))
        pids = pids_of(pool)
    assert all_gone(pids, 0)


PARENT = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background of a shell
import numpy as np
sys.path.insert(0, sys.argv[1])
from polystep_rl.envs.host.gymnasium_env import GymnasiumEnv
env = GymnasiumEnv("support.odd:Faulty", {"how": sys.argv[2], "when": 1}, max_episode_steps=9, workers=3)
pool = env.lanes(3, 1, 0)
pool.send(0, np.arange(3), np.zeros(3, np.int32), np.zeros(3, int))
pool.recv(0)
pool.send(0, np.arange(2), np.zeros(2, np.int32), np.full(2, -1))  # two hang, one waits for a command
print(*(worker.process.pid for worker in pool._workers), flush=True)
time.sleep(60)
"""


@LINUX
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("how", ["hang", "spin"])
def test_workers_die_with_their_parent(end, how):
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, HERE, how], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as parent:
        try:
            pids = [int(pid) for pid in parent.stdout.readline().split()]
            assert len(pids) == 3 and all(map(alive, pids))
            parent.send_signal(end)
            assert all_gone(pids)
            _, errors = parent.communicate(timeout=10)
        finally:
            parent.kill()
    assert "Traceback" not in errors.replace("Traceback", "", end == signal.SIGINT), errors


def test_ctrl_c_leaves_workers_alone(capfd):
    with pool_of("CartPole-v1") as (_, pool):
        tick(pool, 0, range(3), seed=0)
        for pid in pids_of(pool):
            assert os.getpgid(pid) != os.getpgid(0)
            os.kill(pid, signal.SIGINT)
        assert not tick(pool, 0, range(3)).lost.any() and pool.faults == 0
    assert capfd.readouterr().err == ""
