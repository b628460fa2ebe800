"""Lanes of a host environment as stable-baselines3's VecEnv: their own episodes, and the values that PPO needs."""

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("stable_baselines3")

from gymnasium import spaces  # noqa: E402

from polystep_rl.baselines.arithmetic import Static  # noqa: E402
from polystep_rl.baselines.sb3 import train as sb3  # noqa: E402
from polystep_rl.baselines.sb3.lanes import MAX_LOSSES, LanesVecEnv  # noqa: E402
from polystep_rl.envs.envpool_env import EnvPoolEnv  # noqa: E402
from polystep_rl.envs.host.gymnasium_env import GymnasiumEnv  # noqa: E402
from polystep_rl.errors import SimulatorError  # noqa: E402
from polystep_rl.policies import mlp_policy  # noqa: E402
from polystep_rl.types import EnvSpec, HostEnv, PolicySpec, Ticks  # noqa: E402

SHORT = {"CartPole-v1": 12, "Pendulum-v1": 5}
CARTPOLE = PolicySpec(4, (16,), "float32", "discrete", 2, (), (), (0.0,) * 4, (1.0,) * 4)
PPO = {"n_envs": 8, "n_steps": 32, "batch_size": 64, "n_epochs": 4, "learning_rate": 5e-3}


@pytest.fixture(autouse=True)
def _quiet(recwarn):
    """EnvPool imports libraries that warn."""
    yield


def pool(env_id, **kwargs):
    pytest.importorskip("envpool")
    return EnvPoolEnv(env_id, max_episode_steps=SHORT[env_id], crn=False, **kwargs)


def sampled(env, steps, n, seed=0):
    env.spec.action_space.seed(seed)
    return [np.stack([env.spec.action_space.sample() for _ in range(n)]) for _ in range(steps)]


def by_hand(env, actions, n, seed):
    """Ticks of lanes that are stepped, and reset where an episode has ended: first observations, then (tick, obs)."""
    lanes = env.lanes(n, 1, seed)

    def tick(which, action, seeds):
        lanes.send(0, which, action, seeds)
        return lanes.recv(0)

    every = np.arange(n)
    obs = tick(every, actions[0], np.ones(n, np.int64)).obs
    first, found = obs.copy(), []
    for action in actions:
        ticks = tick(every, action, np.full(n, -1))
        ended = np.flatnonzero(ticks.terminated | ticks.truncated)
        obs = ticks.obs.copy()
        if ended.size:
            obs[ended] = tick(ended, action[ended], np.ones(len(ended), np.int64)).obs
        found.append((ticks, obs))
    lanes.close()
    return first, found


@pytest.mark.parametrize("env_id", SHORT)
def test_equals_lanes_that_are_driven_by_hand(env_id):
    n, actions = 4, sampled(pool(env_id), 40, 4)
    first, found = by_hand(pool(env_id), actions, n, 7)
    envs = LanesVecEnv(pool(env_id), n)
    envs.seed(7)
    np.testing.assert_array_equal(envs.reset(), first)
    returns, lengths, ends = np.zeros(n), np.zeros(n, int), {True: 0, False: 0}
    for action, (ticks, obs) in zip(actions, found, strict=True):
        seen, reward, done, infos = envs.step(action)
        np.testing.assert_array_equal(seen, obs)
        np.testing.assert_array_equal(reward, ticks.reward.astype(np.float32))
        np.testing.assert_array_equal(done, ticks.terminated | ticks.truncated)
        returns, lengths = returns + ticks.reward, lengths + 1
        for lane, info in enumerate(infos):
            cut = bool(ticks.truncated[lane] and not ticks.terminated[lane])
            assert info["TimeLimit.truncated"] == cut
            assert ("terminal_observation" in info) == ("episode" in info) == done[lane]
            if done[lane]:
                np.testing.assert_array_equal(info["terminal_observation"], ticks.obs[lane])
                assert not np.array_equal(info["terminal_observation"], seen[lane])
                assert (info["episode"]["r"], info["episode"]["l"]) == (returns[lane], lengths[lane])
                assert cut == (lengths[lane] == SHORT[env_id]) or env_id == "CartPole-v1"
                ends[cut] += 1
                returns[lane] = lengths[lane] = 0
    assert ends[True] > 5 and (ends[False] > 0) == (env_id == "CartPole-v1")  # which falls now and then
    envs.close()
    envs.close()


@pytest.mark.parametrize("make", [lambda: pool("Pendulum-v1"), lambda: GymnasiumEnv("Pendulum-v1", None, (), 5)])
def test_a_lane_depends_on_its_seed_and_its_own_actions(make):
    def play(actions, seed):
        envs = LanesVecEnv(make(), 3)
        envs.seed(seed)
        out = [envs.reset()] + [envs.step(action)[0] for action in actions]
        envs.close()
        return np.array(out)

    mine, others = (np.array(sampled(make(), 23, 3, seed)) for seed in (0, 1))
    others[:, 1] = mine[:, 1]
    first, again, beside, reseeded = play(mine, 4), play(mine, 4), play(others, 4), play(mine, 5)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first[:, 1], beside[:, 1])
    assert not np.array_equal(first[:, 0], beside[:, 0])
    starts = np.concatenate([run[::5].reshape(-1, 3) for run in (first, reseeded)])  # ten steps are two episodes
    assert len(np.unique(starts, axis=0)) == len(starts), "all episodes differ"


def test_a_reset_in_the_middle_of_an_episode_begins_anew():
    envs = LanesVecEnv(pool("Pendulum-v1"), 2)
    envs.seed(0)
    starts = [envs.reset()]
    for action in sampled(pool("Pendulum-v1"), 3, 2):
        envs.step(action)
    starts.append(envs.reset())
    assert not np.array_equal(*starts)
    done = [envs.step(action)[2] for action in sampled(pool("Pendulum-v1"), 5, 2)]
    assert np.array(done)[:, 0].tolist() == [False] * 4 + [True]
    envs.seed(0)
    np.testing.assert_array_equal(envs.reset(), starts[0])
    envs.close()


class Rewards:
    """Pays 1 a step for episodes of four, and observes (lane, step); ``fault``: lost, nan or raise."""

    simulator, crn, faults, together, groups = "gymnasium", True, 0, False, 1
    measures, last_fault = False, ""
    box = spaces.Box(-1, 1, (1,), np.float32)
    spec = EnvSpec("Rewards", spaces.Box(-9, 9, (2,), np.float32), box, 4, None)

    def __init__(self, fault=lambda tick, lane: None):
        self.fault, self.tick, self.closed = fault, 0, 0

    def measuring(self):
        return self

    def lanes(self, width, groups, seed):
        self.width, self.time = width, np.zeros(width, int)
        return self

    def send(self, group, lanes, actions, seeds):
        assert actions.dtype == np.float32 and actions.shape == (len(lanes), 1)
        self.sent, self.tick = (lanes, seeds), self.tick + 1
        self.time[lanes] = np.where(seeds >= 0, 0, self.time[lanes] + 1)

    def recv(self, group):
        lanes, seeds = self.sent
        faults = [self.fault(self.tick, lane) for lane in lanes]
        if "raise" in faults:
            raise RuntimeError("the joint\nis broken")
        reward = np.where(seeds >= 0, 0.0, 1.0)
        reward[[fault == "nan" for fault in faults]] = np.nan
        obs = np.stack([lanes, self.time[lanes]], axis=1).astype(np.float32)
        lost = np.array([fault == "lost" for fault in faults])
        obs[lost] = 0.0
        return Ticks(obs, reward, self.time[lanes] == 4, np.zeros(len(lanes), bool), lost)

    def close(self):
        self.closed += 1


def test_episodes_are_cut_at_the_horizon_even_where_the_simulator_goes_on():
    env = Rewards()
    env.spec = env.spec._replace(horizon=3)
    envs = LanesVecEnv(env, 2)
    envs.reset()
    found = [envs.step(np.zeros((2, 1))) for _ in range(6)]
    assert [done.all() for _, _, done, _ in found] == [False, False, True] * 2
    info = found[2][3][1]
    assert info["TimeLimit.truncated"] and info["episode"]["l"] == 3 and info["terminal_observation"].tolist() == [1, 3]
    envs.close()


@pytest.mark.parametrize("how", ["lost", "nan"])
def test_an_episode_that_is_lost_ends_where_it_was_last_seen(how):
    envs = LanesVecEnv(Rewards(lambda tick, lane: how if (tick, lane) == (4, 1) else None), 3)  # its third step
    action = np.zeros((3, 1))
    envs.reset()
    for _ in range(2):
        assert not envs.step(action)[2].any()
    obs, reward, done, infos = envs.step(action)
    assert done.tolist() == [False, True, False] and reward.tolist() == [1, 0, 1]
    assert infos[1]["TimeLimit.truncated"] and infos[1]["terminal_observation"].tolist() == [1, 2]
    assert "episode" not in infos[1] and obs.tolist() == [[0, 3], [1, 0], [2, 3]]
    _, _, done, infos = envs.step(action)
    assert done.tolist() == [True, False, True] and infos[0]["episode"]["r"] == 4
    for _ in range(3):
        _, _, done, infos = envs.step(action)
    assert done.tolist() == [False, True, False]
    assert infos[1]["episode"]["r"] == infos[1]["episode"]["l"] == 4
    envs.close()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda tick, lane: "nan" if lane == 1 else None, f"lost {MAX_LOSSES} times in a row: its simulator died"),
        (lambda tick, lane: "lost" if lane == 1 else None, f"lost {MAX_LOSSES} times in a row: its simulator died"),
        (lambda tick, lane: "raise" if tick == 7 else None, "^the joint is broken$"),
    ],
)
def test_simulators_that_fail_end_in_one_line(fault, message):
    env = Rewards(fault)
    with pytest.raises(SimulatorError, match=message) as error:
        sb3.train_sb3("ppo", "Rewards", rewards_spec(), Static(), **arguments(env))
    assert "\n" not in str(error.value) and env.closed == 1


def rewards_spec():
    return PolicySpec(2, (4,), "float32", "box", 1, (-1.0,), (1.0,), (0.0, 0.0), (1.0, 1.0))


def arguments(env, steps=512, seed=3, on_evaluation=lambda *_: False, **settings):
    return {
        **{"gradients": "none", "settings": {**PPO, **settings}, "total_timesteps": steps, "seed": seed},
        **{"eval_freq": 256, "on_evaluation": on_evaluation, "make_env": env},
    }


def test_a_lost_episode_does_not_count_and_training_goes_on():
    env = Rewards(lambda tick, lane: "lost" if tick % 50 == 0 and lane == 2 else None)
    result = sb3.train_sb3("ppo", "Rewards", rewards_spec(), Static(), **arguments(env))
    assert set(result.train_returns) == {4.0} and result.env_steps == 512
    assert 0 < 512 // 4 - result.episodes <= 4 and env.closed == 1 and isinstance(env, HostEnv)


def test_ppo_counts_the_value_of_what_was_cut_and_nothing_of_what_is_over():
    """Without learning, rewards of the rollout are 1, and 1 + gamma V(last observation) where the limit has cut."""
    settings = {**PPO, "n_envs": 4, "n_steps": 64, "learning_rate": 0.0}
    env = pool("CartPole-v1")
    model = sb3.make_model("ppo", "CartPole-v1", CARTPOLE, Static(), "none", settings, 1, env)
    expected, step_wait = [], model.env.step_wait

    def seen():
        obs, reward, done, infos = step_wait()
        more = np.zeros(4, np.float32)
        for lane in np.flatnonzero(done):
            if infos[lane]["TimeLimit.truncated"]:
                last = torch.as_tensor(infos[lane]["terminal_observation"][None])
                more[lane] = 0.98 * model.policy.predict_values(last).item()
        expected.append((1 + more, done))
        return obs, reward, done, infos

    model.gamma, model.env.step_wait = 0.98, seen
    model.learn(256, log_interval=None)
    rewards, done = (np.array(x) for x in zip(*expected, strict=True))
    np.testing.assert_allclose(model.rollout_buffer.rewards, rewards, rtol=1e-5)
    np.testing.assert_array_equal(model.rollout_buffer.episode_starts[1:], done[:-1])
    assert len(np.unique(rewards[done])) > 10 and (rewards[done] == 1).any() and (rewards[~done] == 1).all()
    model.env.close()


@pytest.mark.parametrize("algo", ["ppo", "dqn"])
def test_the_same_seed_gives_the_same_policy_and_the_budget_is_kept(algo):
    settings = {"learning_starts": 50, "train_freq": 8, "batch_size": 32, "n_envs": 4} if algo == "dqn" else PPO

    def train(seed, calls=None):
        def report(steps, *_):
            calls.append(steps) if calls is not None else None

        given = {**arguments(pool("CartPole-v1"), 700, seed, report), "settings": settings}
        return sb3.train_sb3(algo, "CartPole-v1", CARTPOLE, Static(), **given)

    calls, n = [], settings["n_envs"]
    first, second, other = train(3, calls), train(3), train(4)
    assert first.env_steps == 700 // n * n and calls == [256, 512, first.env_steps]
    jax.tree.map(np.testing.assert_array_equal, first.params, second.params)
    np.testing.assert_array_equal(first.train_returns, second.train_returns)
    assert first.train_returns.max() == 12 and not np.array_equal(first.params["0"]["w"], other.params["0"]["w"])


def test_ppo_learns_catch_which_only_envpool_has():
    pytest.importorskip("envpool")
    env = EnvPoolEnv("Catch-v0", crn=False)
    spec = PolicySpec(50, (32,), "float32", "discrete", 3, (), (), (0.0,) * 50, (1.0,) * 50)
    settings = {**PPO, "n_envs": 16, "batch_size": 128, "gamma": 0.95, "linear_decay": True}
    given = {**arguments(env, 20_000), "settings": settings}
    result = sb3.train_sb3("ppo", "Catch-v0", spec, Static(), **given)
    assert result.train_returns[:100].mean() < -0.2 and result.train_returns[-100:].mean() > 0.6  # 1 is the best
    act, lanes, every = jax.jit(jax.vmap(mlp_policy(spec).act, in_axes=(None, 0))), LanesVecEnv(env, 64), []
    obs = lanes.reset()
    for _ in range(20):
        obs, _, _, infos = lanes.step(np.asarray(act(result.params, obs)))
        every += [info["episode"]["r"] for info in infos if "episode" in info]
    assert len(every) >= 64 and np.mean(every) > 0.8
    lanes.close()


def test_lanes_that_begin_together_are_refused():
    pytest.importorskip("envpool")
    envs = LanesVecEnv(EnvPoolEnv("CartPole-v1"), 2)
    with pytest.raises(ValueError, match="CartPole-v1: lanes that can only begin together"):
        envs.reset()
    with pytest.raises(AttributeError):
        envs.get_attr("gravity")
