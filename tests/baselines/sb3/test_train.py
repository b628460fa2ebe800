"""PPO and DQN of stable-baselines3: the deployed policy is ours, the budget is kept, gradients do what they say."""

import math

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("stable_baselines3")

import gymnasium  # noqa: E402
from support.sb3 import (  # noqa: E402
    PPO,
    SETTINGS,
    ZOO,
    cartpole,
    make_static,
    observations,
    ours,
    pendulum,
    train,
    trained_model,
)

from polystep_rl.baselines.sb3 import train as sb3  # noqa: E402
from polystep_rl.policies import mlp_policy, precision  # noqa: E402
from polystep_rl.types import PolicySpec  # noqa: E402


def margins(spec, latents, obs):
    """Relative distance of the two largest float32 logits, computed in float64."""
    x = np.clip((obs.astype(np.float64) - spec.obs_offset) / np.asarray(spec.obs_scale), -1e6, 1e6)
    x = np.where(np.isnan(obs), 0.0, x)
    for index in range(len(latents)):
        w, b = latents[str(index)]["w"].astype(np.float64), latents[str(index)]["b"]
        x = (np.tanh(x) if index else x) @ w.T / math.sqrt(w.shape[1]) + b
    top = np.sort(x, axis=1)[:, -2:]
    return (top[:, 1] - top[:, 0]) / np.abs(top).max(axis=1)


@pytest.mark.parametrize("name", precision.PRECISIONS)
@pytest.mark.parametrize("algo", ["ppo", "dqn"])
def test_sb3_predicts_what_the_exported_policy_does(algo, name):
    spec = cartpole(name)
    model, seen = trained_model(algo, "CartPole-v1", spec)
    latents = model.policy.network.latents()
    initial = sb3.make_model(algo, "CartPole-v1", spec, make_static(spec), "ste", SETTINGS[algo], seed=1)
    before = initial.policy.network.latents()
    assert all(np.abs(latents[i]["w"] - before[i]["w"]).max() > 1e-3 for i in latents)  # all layers have moved
    obs = observations(spec, seen)
    got, want = model.predict(obs, deterministic=True)[0], ours(spec, latents, obs)
    differ = got != want
    assert len(np.unique(want)) == 2
    if name in precision.INTEGER_PRECISIONS:
        assert not differ.any()
        return
    assert differ.mean() < 1e-3
    if name == "float32":
        assert np.all(margins(spec, latents, obs[differ]) < 1e-5)


@pytest.mark.parametrize("name", precision.PRECISIONS)
def test_box_actions(name):
    spec = pendulum(name)
    model, seen = trained_model("ppo", "Pendulum-v1", spec)
    obs = observations(spec, seen)
    got, want = (
        model.predict(obs, deterministic=True)[0],
        ours(spec, model.policy.network.latents(), obs),
    )
    assert got.shape == want.shape == (len(obs), 1) and np.std(want) > 0.01
    if name in precision.INTEGER_PRECISIONS:
        np.testing.assert_array_equal(got, want)
        mean = model.policy.get_distribution(torch.from_numpy(obs)).mode()
        np.testing.assert_array_equal(mean.detach().numpy(), want)
    else:
        assert np.mean(np.abs(got - want) > 1e-4) < 1e-3


class Bits(gymnasium.Env):
    """Pays a point for telling the sign of the first number, and one for that of the second among three."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.MultiDiscrete([2, 3])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time, self.now = 0, self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return self.now, {}

    def step(self, action):
        assert self.action_space.contains(action), action
        reward = float(action[0] == (self.now[0] > 0)) + float(action[1] == (self.now[1] > 0))
        self.time, self.now = self.time + 1, self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return self.now, reward, False, self.time == 8, {}


@pytest.mark.parametrize("name", precision.PRECISIONS)
def test_ppo_learns_multidiscrete_actions_and_predicts_what_the_exported_policy_does(name):
    unit = (0.0, 0.0), (0.5, 0.5)
    spec = PolicySpec(2, (16,), name, "multidiscrete", 5, (), (), *unit, (2, 3))
    settings = {**PPO, "gamma": 0.5}
    model = sb3.make_model("ppo", "Bits", spec, make_static(spec), "ste", settings, seed=1, make_env=Bits)
    model.learn(8000, log_interval=None)
    assert np.mean([episode["r"] for episode in model.ep_info_buffer]) > 13  # of 16; 6.7 by chance
    obs = observations(spec, model.rollout_buffer.observations.reshape(-1, 2))
    got, want = model.predict(obs, deterministic=True)[0], ours(spec, model.policy.network.latents(), obs)
    assert got.shape == want.shape == (len(obs), 2) and len(np.unique(want, axis=0)) >= 4
    assert np.mean(got != want) == 0 if name in precision.INTEGER_PRECISIONS else np.mean(got != want) < 1e-3


@pytest.mark.parametrize("algo", ["ppo", "dqn"])
@pytest.mark.parametrize("name", ["int8", "binary"])
def test_training_without_estimators_changes_no_latent(algo, name):
    seen = []
    result = train(algo, cartpole(name), gradients="none", on_evaluation=lambda _, p, __: seen.append(p))
    assert result.updates > 20 and len(seen) == 3
    for params in (*seen, result.params):
        jax.tree.map(np.testing.assert_array_equal, params, seen[0])


@pytest.mark.parametrize("algo", ["ppo", "dqn"])
@pytest.mark.parametrize(("total", "n_envs"), [(1000, 4), (999, 4), (512, 1), (515, 3), (1024, 4)])
def test_the_budget_is_kept_and_reports_come_in_time(algo, total, n_envs):
    calls, settings = [], {**SETTINGS[algo], "n_envs": n_envs}
    if algo == "ppo" and n_envs != 4:
        settings["batch_size"] = settings["n_steps"] = 48
    result = train(
        algo,
        cartpole("int8"),
        steps=total,
        settings=settings,
        eval_freq=150,
        on_evaluation=lambda steps, params, metrics: calls.append((steps, params, metrics)) or False,
    )
    assert 0.98 * total <= result.env_steps <= total and result.env_steps > total - n_envs
    points = [math.ceil(m / n_envs) * n_envs for m in range(150, result.env_steps, 150)]
    assert [steps for steps, *_ in calls] == [p for p in points if p < result.env_steps] + [result.env_steps]
    jax.tree.map(np.testing.assert_array_equal, calls[-1][1], result.params)
    assert result.episodes == len(result.train_returns) == len(result.train_steps) > 5 and result.updates > 0
    assert np.all(np.diff(result.train_steps) >= 0) and result.train_steps[-1] <= result.env_steps
    assert result.train_returns.sum() <= result.env_steps  # CartPole pays 1 a step
    metrics = calls[-1][2]
    assert metrics["rollout/ep_rew_mean"] == pytest.approx(result.train_returns[-100:].mean())
    assert (metrics["episodes"], metrics["updates"]) == (result.episodes, result.updates)
    assert not result.interrupted


def test_a_complete_last_rollout_is_learned_from():
    assert train("ppo", cartpole("int8"), steps=512).updates == 2 * 4 * 4  # rollouts, epochs, minibatches
    assert train("ppo", cartpole("int8"), steps=508).updates == 4 * 4


@pytest.mark.parametrize("algo", ["ppo", "dqn"])
def test_the_callback_stops_training(algo):
    result = train(algo, cartpole("int8"), on_evaluation=lambda steps, *_: steps >= 400)
    assert result.interrupted and result.env_steps == 400


@pytest.mark.parametrize("gradients", ["ste", "ptq"])
@pytest.mark.parametrize("algo", ["ppo", "dqn"])
def test_the_same_seed_gives_the_same_parameters(algo, gradients):
    first, second = (train(algo, cartpole("int8"), gradients=gradients) for _ in range(2))
    other = train(algo, cartpole("int8"), gradients=gradients, seed=4)
    jax.tree.map(np.testing.assert_array_equal, first.params, second.params)
    np.testing.assert_array_equal(first.train_returns, second.train_returns)
    assert not np.array_equal(first.params["0"]["w"], other.params["0"]["w"])
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(first.params))


@pytest.mark.parametrize("name", ["int8", "binary", "int8-act", "binary-act"])
def test_float_training_ends_in_a_policy_of_the_precision(name):
    reports = []
    result = train("ppo", cartpole(name), gradients="ptq", on_evaluation=lambda s, p, m: reports.append(p))
    floats = train("ppo", cartpole("float32"), gradients="none")
    np.testing.assert_array_equal(result.train_returns, floats.train_returns)  # trained as the float policy
    assert ours(cartpole(name), result.params, np.zeros((5, 4), np.float32)).shape == (5,)
    jax.tree.map(np.testing.assert_array_equal, reports[-1], result.params)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"algo": "a2c"}, "unknown algorithm 'a2c': expected one of ppo, dqn"),
        ({"gradients": "magic"}, "unknown gradients 'magic': expected one of none, ste, ptq"),
        ({"settings": {"n_step": 8}}, "unknown ppo setting 'n_step': did you mean 'n_steps'?"),
        ({"env_id": "Acrobot-v1"}, r"Acrobot-v1 has observations \(6,\) and 3 discrete actions"),
        ({"algo": "dqn", "spec": pendulum("int8"), "env_id": "Pendulum-v1"}, "DQN needs a Discrete action space"),
        (
            {"make_env": Bits},
            r"observations \(2,\) and 5 multidiscrete actions; the policy expects \(4,\) and 2 discrete",
        ),
        ({"steps": 3}, "too few for 4 envs"),
    ],
)
def test_mistakes_are_one_line(change, message):
    with pytest.raises(ValueError, match=message) as error:
        train(**{"algo": "ppo", "spec": cartpole("int8"), **change})
    assert "\n" not in str(error.value)


def test_linear_decay_reaches_the_schedules():
    settings = {**PPO, "linear_decay": True, "clip_range": 0.3}
    model = sb3.make_model("ppo", "CartPole-v1", cartpole("int8"), make_static(cartpole("int8")), "ste", settings, 0)
    assert model.lr_schedule(0.5) == pytest.approx(2.5e-3) and model.clip_range(0.5) == pytest.approx(0.15)


def deployed_return(spec, params, episodes=10):
    act = jax.jit(mlp_policy(spec).act)
    env, total = gymnasium.make("CartPole-v1"), 0.0
    for seed in range(episodes):
        obs, done = env.reset(seed=seed)[0], False
        while not done:
            obs, reward, terminated, truncated, _ = env.step(int(act(params, obs)))
            total, done = total + reward, terminated or truncated
    return total / episodes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "gradients"), [("float32", "none"), ("int8", "ste"), ("binary-act", "ste"), ("int8", "ptq")]
)
def test_ppo_learns_cartpole(name, gradients):
    result = train("ppo", cartpole(name), gradients=gradients, steps=25_000, settings=ZOO, eval_freq=25_000, seed=0)
    assert result.train_returns[-20:].mean() > 150
    assert deployed_return(cartpole(name), result.params) > 150


@pytest.mark.slow
def test_ppo_without_estimators_does_not_learn_cartpole():
    result = train("ppo", cartpole("int8"), gradients="none", steps=25_000, settings=ZOO, eval_freq=25_000, seed=0)
    assert result.train_returns[-100:].mean() < 100
    assert deployed_return(cartpole("int8"), result.params) < 150
