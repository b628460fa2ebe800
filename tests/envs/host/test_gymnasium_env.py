"""Gymnasium environments as a HostEnv: the same as by hand, whatever ran before, and one line for what cannot be."""

import sys
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from support.host_play import Player, assert_same, by_hand

from polystep_rl.envs import check_env, make, make_any, registry
from polystep_rl.envs.host.gymnasium_env import GymnasiumEnv, make_single
from polystep_rl.machine import limit_cores, usable_cores
from polystep_rl.types import HostEnv

SEEDS = range(100, 109)
# id -> (package, steps)
SIMULATORS = {
    "CartPole-v1": ("gymnasium", 60),
    "Pendulum-v1": ("gymnasium", 30),
    "LunarLander-v3": ("Box2D", 200),
    "BipedalWalker-v3": ("Box2D", 150),
    "support.odd:walker": ("Box2D", 150),
    "Hopper-v5": ("mujoco", 100),
    "HalfCheetah-v5": ("mujoco", 30),
}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its warnings into a file here


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("env_id", SIMULATORS)
def test_a_pool_gives_the_episodes_that_gymnasium_gives(env_id, workers):
    """Whichever lane plays an episode, whatever ran before on it, with any lanes sent and received in any order."""
    package, steps = SIMULATORS[env_id]
    pytest.importorskip(package)
    env = GymnasiumEnv(env_id, max_episode_steps=steps, workers=workers)
    own = int if isinstance(env.spec.action_space, spaces.Discrete) else np.asarray
    pool = env.lanes(width=3, groups=2, seed=0)
    played = Player(env, pool, SEEDS).play()
    assert pool.faults == 0
    # Once more on the same lanes, in another order.
    again = Player(env, pool, SEEDS, order=1).play()
    pool.close()
    pool.close()
    assert_same(played, by_hand(env, SEEDS, own))
    assert_same(played, again)


@pytest.mark.parametrize("workers", [0, 2])
def test_unusual_spaces_pass_through_a_pool(workers):
    env = GymnasiumEnv("support.odd:Nested", max_episode_steps=4, workers=workers)
    assert env.spec.observation_space.shape == (9,) and env.spec.action_space == spaces.MultiDiscrete([2, 3])
    pool = env.lanes(3, 1, 0)
    played = Player(env, pool, range(5)).play()
    pool.close()
    start = np.array([[1, 7]])
    assert_same(played, by_hand(env, range(5), lambda action: (action[None] + start).astype(np.int64)))
    assert all(len(episode) == 5 and episode[-1][3] for episode in played.values())


def test_spec_says_what_gymnasium_says():
    env = GymnasiumEnv("CartPole-v1")
    assert isinstance(env, HostEnv) and env.simulator == "gymnasium" and env.crn
    assert env.spec.id == "CartPole-v1" and env.spec.horizon == 500 and env.spec.reward_threshold == 475
    assert env.spec.action_space == spaces.Discrete(2)
    assert env.spec.observation_space == gymnasium.make("CartPole-v1").observation_space


@pytest.mark.parametrize(
    "env_id, kwargs, steps, horizon, length",
    [
        ("CartPole-v1", {}, 4, 4, 4),
        ("Pendulum-v1", {}, 300, 300, 300),  # longer than its own 200
        ("support.odd:Counter", {"length": 20}, 7, 7, 7),
        ("support.odd:limited", {}, None, 5, 5),
        ("support.odd:test/Counter-v0", {"length": 20}, None, 6, 6),
    ],
)
def test_episodes_are_truncated_at_the_horizon(env_id, kwargs, steps, horizon, length):
    env = GymnasiumEnv(env_id, kwargs, max_episode_steps=steps)
    assert env.spec.horizon == horizon
    played = Player(env, env.lanes(1, 1, 0), [0]).play()
    assert len(played[0]) - 1 == length and played[0][-1][2:] == (False, True)


def test_wrappers_are_put_on_in_order_with_their_arguments():
    wrappers = [
        "RescaleAction(min_action=-1, max_action=1)",
        "support.odd:AddOne(extra=-2.5)",
        "support.odd:AddOne",
    ]
    env = GymnasiumEnv("Pendulum-v1", wrappers=wrappers)
    assert np.array_equal(env.spec.action_space.high, [1])
    single = make_single("Pendulum-v1", wrappers=wrappers, render_mode="rgb_array")
    assert single.render_mode == "rgb_array"
    plain = gymnasium.make("Pendulum-v1")
    single.reset(seed=1), plain.reset(seed=1)
    obs, reward, *_ = single.step(np.array([0.25], np.float32))
    expected, other, *_ = plain.step(np.array([0.5], np.float32))
    assert np.allclose(obs, expected) and reward == pytest.approx(other - 1.5)
    single.close()


def test_env_kwargs_reach_the_environment():
    assert (
        len(Player(env := GymnasiumEnv("support.odd:Counter", {"length": 3}, (), 9), env.lanes(1, 1, 0), [0]).play()[0])
        == 4
    )


def test_an_exception_in_an_environment_is_one_line():
    env = GymnasiumEnv("support.odd:Faulty", max_episode_steps=9)
    message = r"^environment support.odd:Faulty failed in step: ArithmeticError: the joint is broken$"
    with pytest.raises(RuntimeError, match=message) as error:
        Player(env, env.lanes(2, 1, 0), [0]).play()
    assert isinstance(error.value.__cause__, ArithmeticError)
    env = GymnasiumEnv("support.odd:WrongSize", max_episode_steps=9)
    with pytest.raises(RuntimeError, match=r"failed in reset: ValueError: the observation has 1 numbers"):
        Player(env, env.lanes(2, 1, 0), [0]).play()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_pool_is_sent_and_received_in_turn(workers):
    pool = GymnasiumEnv("CartPole-v1", workers=workers).lanes(2, 1, 0)
    with pytest.raises(ValueError, match="group 0 was not sent"):
        pool.recv(0)
    reset = np.array([0]), np.zeros(1, np.int32), np.array([3])
    pool.send(0, *reset)
    with pytest.raises(ValueError, match="sent twice"):
        pool.send(0, *reset)
    assert pool.recv(0).obs.shape == (1, 4)
    nobody = np.zeros(0, int)
    pool.send(0, nobody, np.zeros(0, np.int32), nobody)
    assert pool.recv(0).obs.shape == (0, 4)
    pool.close()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"env_id": "Cartpole-v1"}, r"unknown environment 'Cartpole-v1': did you mean CartPole-v1 or "),
        ({"env_id": "lunarlander"}, r"did you mean LunarLander-v3"),
        ({"env_id": "xyzzy"}, r"unknown environment 'xyzzy': Gymnasium has no id like it .*'module:ClassName'"),
        ({"env_id": "ALE/Nothing-v5"}, r"unknown environment 'ALE/Nothing-v5'"),
        ({"env_id": "no_such_module:Env"}, r"cannot import environment 'no_such_module:Env': No module named"),
        ({"env_id": ":Env"}, r"must look like 'module:ClassName'"),
        ({"env_id": "support.odd:Countr"}, r"has no 'Countr' and registers .*; did you mean Counter\?"),
        ({"env_id": "support.odd:NUMBER"}, r"is a int, not a class or a function"),
        ({"env_id": "builtins:dict"}, r"is a dict, not a gymnasium.Env"),
        (
            {"env_id": "support.odd:needs_a_package"},
            r"needs a package that is not installed: Foo .*`pip install foo`",
        ),
        ({"env_id": "support.odd:Counter"}, r"has no time limit of its own: give one with `max_episode_steps`"),
        ({"env_id": "CartPole-v1", "env_kwargs": {"a": 1}}, r"cannot be made from these arguments: .*'a'"),
        (
            {"env_id": "support.odd:Counter", "env_kwargs": {"a": 1}},
            r"cannot be made from these arguments: .*'a'",
        ),
        ({"env_id": "LunarLander-v3", "env_kwargs": {"gravity": 3.0}}, r"cannot be made: AssertionError: gravity"),
        ({"env_id": "CartPole-v1", "env_kwargs": {"a": object()}}, r"env_kwargs must be plain values .*object"),
        ({"env_id": "CartPole-v1", "max_episode_steps": 0}, r"max_episode_steps must be at least 1, got 0"),
        ({"env_id": "CartPole-v1", "workers": -1}, r"workers must be at least 0"),
        ({"env_id": "Pendulum-v1", "wrappers": ["ClipAction"]}, r"is not bounded; expected finite low and high"),
        ({"env_id": "CartPole-v1", "wrappers": ["FlatenObservation"]}, r"did you mean FlattenObservation"),
        (
            {"env_id": "CartPole-v1", "wrappers": ["support.odd:Nothing"]},
            r"unknown wrapper 'support.odd:Nothing'",
        ),
        ({"env_id": "CartPole-v1", "wrappers": ["no_such:Wrapper"]}, r"cannot import wrapper 'no_such:Wrapper'"),
        ({"env_id": "CartPole-v1", "wrappers": ["RescaleAction"]}, r"cannot be put on: TypeError"),
        ({"env_id": "CartPole-v1", "wrappers": ["TimeLimit(5)"]}, r"must look like 'Name' or 'Name\(key=value"),
        ({"env_id": "CartPole-v1", "wrappers": ["TimeLimit(max_episode_steps=open('x'))"]}, r"with literal values"),
        ({"env_id": "CartPole-v1", "wrappers": ["TimeLimit("]}, r"must look like"),
        ({"env_id": "CartPole-v1", "wrappers": ["NormalizeObservation"]}, r"keeps statistics across episodes"),
    ],
)
def test_what_cannot_be_made_is_said_in_one_line(arguments, message):
    if arguments["env_id"].startswith("LunarLander"):
        pytest.importorskip("Box2D")
    with pytest.raises(ValueError, match=message) as error:
        GymnasiumEnv(**arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "env_id, module, extra", [("Hopper-v5", "mujoco", "mujoco"), ("LunarLander-v3", "Box2D", "box2d")]
)
def test_a_missing_simulator_names_what_to_install(env_id, module, extra, monkeypatch):
    for name in [name for name in sys.modules if name.startswith(("gymnasium.envs.mujoco", "gymnasium.envs.box2d"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=rf"needs a package that .*pip install 'polystep-rl\[{extra}\]'") as error:
        GymnasiumEnv(env_id)
    assert "\n" not in str(error.value)


def test_sizes_of_a_pool_are_checked():
    with pytest.raises(ValueError, match="width and groups must be at least 1, got 0 and 1"):
        GymnasiumEnv("CartPole-v1").lanes(0, 1, 0)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_checker_finds_what_outlives_a_reset(workers):
    check_env(GymnasiumEnv("support.odd:Counter", max_episode_steps=9, workers=workers))
    with pytest.raises(ValueError, match=r"observation 0 differs .*: something outlives reset"):
        check_env(GymnasiumEnv("support.odd:Remembers", max_episode_steps=9, workers=workers))


def test_auto_finds_a_function_with_arguments_and_jax_refuses_it():
    env = make_any("support.odd:sized", env_kwargs={"size": 3}, max_episode_steps=9, workers="0")
    assert isinstance(env, GymnasiumEnv)
    with pytest.raises(ValueError, match="^'support.odd:Counter' is a gymnasium.Env, .* give `simulator` gymnasium$"):
        make("support.odd:Counter")


def test_an_environment_that_ends_the_program_is_a_failure_in_this_process_too():
    env = GymnasiumEnv("support.odd:Faulty", {"how": "sys.exit"}, max_episode_steps=9)
    pool = env.lanes(2, 1, 0)
    with pytest.raises(RuntimeError, match="failed in step: SystemExit: enough"):
        Player(env, pool, range(2)).play()
    pool.close()


def test_workers_and_threads_keep_to_the_cores_that_are_given(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {3, 5, 6, 7}, raising=False)
    try:
        limit_cores(2)
        assert usable_cores() == [3, 5] and registry._worker_count("auto") == 2
        limit_cores(None)
        assert usable_cores() == [3, 5, 6, 7] and registry._worker_count("auto") == 4
    finally:
        limit_cores(None)
    monkeypatch.setattr(registry, "os", SimpleNamespace(name="nt"))  # has no worker processes
    assert registry._worker_count("auto") == 0
