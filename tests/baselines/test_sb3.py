"""PPO and DQN of stable-baselines3: the deployed policy is ours, the budget is kept, gradients do what they say."""

import math

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("stable_baselines3")

import gymnasium  # noqa: E402

from polystep_rl.baselines.arithmetic import Static  # noqa: E402
from polystep_rl.baselines.sb3 import train as sb3  # noqa: E402
from polystep_rl.baselines.sb3.network import QuantisedNetwork, straight_through  # noqa: E402
from polystep_rl.policies import mlp_policy, precision  # noqa: E402
from polystep_rl.policies.quantisation.layerwise import layerwise  # noqa: E402
from polystep_rl.types import PolicySpec  # noqa: E402

PPO = {"n_envs": 4, "n_steps": 64, "batch_size": 64, "n_epochs": 4, "learning_rate": 5e-3}
DQN = {"learning_starts": 50, "train_freq": 8, "gradient_steps": 2, "batch_size": 32, "buffer_size": 2000}
SETTINGS = {"ppo": PPO, "dqn": {**DQN, "learning_rate": 5e-3, "target_update_interval": 40}}
ZOO = {
    **{"n_envs": 8, "n_steps": 32, "batch_size": 256, "n_epochs": 20, "learning_rate": 1e-3, "clip_range": 0.2},
    **{"gae_lambda": 0.8, "gamma": 0.98, "linear_decay": True},
}


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def cartpole(name, hidden=(16,)):
    return PolicySpec(4, hidden, name, "discrete", 2, (), (), (0.0, 0.1, 0.0, -0.1), (0.1, 0.6, 0.1, 0.9))


def pendulum(name, hidden=(16,)):
    return PolicySpec(3, hidden, name, "box", 1, (-2.0,), (2.0,), (0.0, 0.0, 0.0), (0.7, 0.7, 3.0))


def make_static(spec):
    def quantise(params, observations):
        return layerwise(spec._replace(precision="float32"), params, spec, observations)

    static = Static(quantise=quantise)
    if spec.precision not in precision.INTEGER_PRECISIONS:
        return static
    box = precision.action_plan(spec) if spec.head == "box" else None
    return static._replace(plans=precision.plan(spec), inputs=precision.input_plan(spec), box=box)


def network(spec, gradients="ste", seed=0, **kwargs):
    torch.manual_seed(seed)
    return QuantisedNetwork(spec, make_static(spec), gradients, **kwargs)


def train(algo, spec, env_id="CartPole-v1", gradients="ste", steps=600, on_evaluation=None, **kwargs):
    options = {"settings": SETTINGS.get(algo, {}), "seed": 3, "eval_freq": 200, **kwargs}
    report = on_evaluation or (lambda *_: False)
    return sb3.train_sb3(
        algo,
        env_id,
        spec,
        make_static(spec),
        gradients=gradients,
        total_timesteps=steps,
        on_evaluation=report,
        **options,
    )


def trained_model(algo, env_id, spec):
    model = sb3.make_model(algo, env_id, spec, make_static(spec), "ste", SETTINGS[algo], seed=1)
    model.learn(768, log_interval=None)
    buffer = model.rollout_buffer.observations if algo == "ppo" else model.replay_buffer.observations[:500]
    return model, buffer.reshape(-1, spec.obs_size)


def observations(spec, seen, count=10_000):
    """Half normal ones from narrow to wide, half around those of training, and a few that are not finite."""
    rng = np.random.default_rng(0)
    scale, half = np.asarray(spec.obs_scale), count // 2
    wide = np.asarray(spec.obs_offset) + scale * rng.normal(size=(half, len(scale))) * 10.0 ** rng.uniform(
        -2, 1.5, (half, 1)
    )
    near = seen[rng.integers(len(seen), size=half)] + 0.05 * scale * rng.normal(size=(half, len(scale)))
    obs = np.concatenate([wide, near])
    odd = rng.choice([np.nan, np.inf, -np.inf, 1e30, 0.0], size=obs.shape)
    return np.where(rng.random(obs.shape) < 0.01, odd, obs).astype(np.float32)


def ours(spec, latents, obs):
    return np.asarray(jax.jit(jax.vmap(mlp_policy(spec).act, in_axes=(None, 0)))(latents, obs))


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


@pytest.mark.parametrize("name", ["int8", "binary"])
@pytest.mark.parametrize("values", [False, True])
def test_scale_and_offset_do_not_change_the_order(name, values):
    spec = cartpole(name, (16, 16))
    net = network(spec, values=values)
    obs = torch.from_numpy(observations(spec, np.zeros((1, 4))))
    with torch.no_grad():
        net.log_scale.fill_(1.7)
        if values:
            net.offset.fill_(-2.0)
        raw, out = net.raw(obs), net(obs)
    expected = raw / precision.plan(spec)[-1].bias_unit * math.exp(1.7) + (-20.0 if values else 0.0)
    torch.testing.assert_close(out, expected)
    assert torch.equal(raw, torch.round(raw)) and torch.equal(net.act(obs), out.argmax(1))


def test_straight_through_has_the_exact_value_of_one_and_the_gradient_of_the_other():
    soft = torch.tensor([1e7 / 3, 0.1, -0.2], requires_grad=True)
    out = straight_through(torch.tensor([3.0, -0.7, 0.3]), soft * 2)
    assert out.tolist() == torch.tensor([3.0, -0.7, 0.3]).tolist()
    out.sum().backward()
    assert soft.grad.tolist() == [2, 2, 2]


@pytest.mark.parametrize(("name", "head"), [("int8", "d"), ("binary", "d"), ("int8", "box"), ("binary", "box")])
def test_without_estimators_nothing_of_an_integer_policy_has_a_gradient(name, head):
    spec = pendulum(name) if head == "box" else cartpole(name)
    obs = torch.randn(64, spec.obs_size)
    for gradients in ("none", "ste"):
        net = network(spec, gradients)
        (net(obs) ** 2).sum().add(sum(p.sum() * 0 for p in net.parameters())).backward()
        moved = [bool(p.grad.abs().max() > 0) for p in (*net.weights, *net.biases)]
        assert all(moved) if gradients == "ste" else not any(moved)
        assert net.log_scale is None or net.log_scale.grad.abs() > 0


@pytest.mark.parametrize("name", ["int8-act", "binary-act"])
def test_without_estimators_only_the_last_float_layer_has_a_gradient(name):
    net = network(cartpole(name), "none")
    (net(torch.randn(64, 4)) ** 2).sum().backward()
    first, last = net.weights[0].grad, net.weights[1].grad
    assert (first is None or not first.any()) and last.abs().max() > 0


@pytest.mark.parametrize("algo", ["ppo", "dqn"])
@pytest.mark.parametrize("name", ["int8", "binary"])
def test_training_without_estimators_changes_no_latent(algo, name):
    seen = []
    result = train(algo, cartpole(name), gradients="none", on_evaluation=lambda _, p, __: seen.append(p))
    assert result.updates > 20 and len(seen) == 3
    for params in (*seen, result.params):
        jax.tree.map(np.testing.assert_array_equal, params, seen[0])


def test_the_straight_through_gradient_is_that_of_the_float_policy_where_nothing_saturates():
    spec = cartpole("int8", (8,))._replace(obs_offset=(0.0,) * 4)  # zero points are rounded
    net = network(spec)
    first, last = precision.plan(spec)
    rng = np.random.default_rng(0)
    obs = np.asarray(spec.obs_offset) + np.asarray(spec.obs_scale) * rng.integers(-40, 40, (256, 4)) / 32  # no ties
    coefficients = torch.from_numpy(rng.normal(size=(256, 2)))
    with torch.no_grad():
        for weight, size in zip(net.weights, (4, 8), strict=True):
            weight.copy_(torch.from_numpy(rng.integers(-16, 17, weight.shape) / 32) / math.sqrt(size))
    (net(torch.from_numpy(obs.astype(np.float32))) * coefficients).sum().backward()

    w = [weight.detach().double().requires_grad_() for weight in net.weights]
    b = [bias.detach().double().requires_grad_() for bias in net.biases]
    x = torch.from_numpy((obs - spec.obs_offset) / np.asarray(spec.obs_scale))
    hidden = (x @ w[0].T + b[0]) * (first.bias_unit * first.mult / 2**first.shift)
    assert hidden.abs().max() < 126
    y = (hidden / precision.HIDDEN_RMS["tanh"]) @ w[1].T + b[1]
    (y * net.log_scale.exp().item() * coefficients).sum().backward()
    for mine, reference in zip((*net.weights, *net.biases), (*w, *b), strict=True):
        # the last weights see hidden integers that are rounded in the forward pass; the others no rounding at all
        error, rounded = (mine.grad - reference.grad).norm() / reference.grad.norm(), mine is net.weights[1]
        assert error < (0.06 if rounded else 1e-5)


@pytest.mark.parametrize("name", ["int8", "binary"])
def test_gradients_of_a_linear_integer_policy_are_exactly_the_inputs(name):
    spec = cartpole(name, ())
    net = network(spec)
    x = torch.tensor([[0.25, -1.0, 0.5, 0.125]])
    obs = x * torch.tensor(spec.obs_scale) + torch.tensor(spec.obs_offset)
    net(obs)[0, 0].backward()
    torch.testing.assert_close(net.weights[0].grad[0], x[0] * net.log_scale.exp().detach(), rtol=0, atol=2e-3)
    assert not net.weights[0].grad[1].any()


def test_gradients_stop_where_units_saturate_and_latents_are_kept_in_range():
    net = network(cartpole("int8", (1,)))
    with torch.no_grad():
        net.biases[0].fill_(3.0)  # 3 deviations: the unit is at 127
    net(torch.zeros(1, 4)).sum().backward()
    assert not net.weights[0].grad.any() and net.weights[1].grad.any()
    for name, limit in (("int8", 127 / 32), ("binary", 1.0)):
        net = network(cartpole(name))
        with torch.no_grad():
            net.weights[0].fill_(100.0)
            net.biases[1].fill_(-100.0)
        net.project()
        latents = net.latents()
        np.testing.assert_allclose(latents["0"]["w"], limit, rtol=1e-6)
        np.testing.assert_allclose(latents["1"]["b"], -4.0, rtol=0.05)


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
