"""SAC and TD3, and environments of any make: the deployed policy is ours, it learns, and the budget is kept."""

import math
import tempfile

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("stable_baselines3")

import gymnasium  # noqa: E402
from gymnasium import spaces  # noqa: E402
from support.sb3 import make_static, ours  # noqa: E402

from polystep_rl.baselines.arithmetic import Static  # noqa: E402
from polystep_rl.baselines.sb3 import train as sb3  # noqa: E402
from polystep_rl.baselines.sb3.network import REACH_LIMIT, QuantisedNetwork  # noqa: E402
from polystep_rl.policies import mlp_policy, precision  # noqa: E402
from polystep_rl.types import PolicySpec  # noqa: E402

LOW, HIGH = (-2.0, 0.5), (1.0, 0.75)  # neither symmetric nor of one size
SHORT = {"learning_starts": 100, "batch_size": 32, "buffer_size": 2000, "critic": (16,), "learning_rate": 5e-3}
SETTINGS = {
    "sac": {**SHORT, "train_freq": 2},
    "td3": {**SHORT, "train_freq": 2, "action_noise": 0.2},
    "ppo": {"n_steps": 64, "n_envs": 2, "batch_size": 64, "learning_rate": 5e-3},
}
BOX_ALGORITHMS = ["sac", "td3"]


class Match(gymnasium.Env):
    """One step: the reward is minus the squared distance to a known action, in units of half the box; best return 0."""

    observation_space = spaces.Box(-1.0, 1.0, (3,), np.float64)
    action_space = spaces.Box(np.array(LOW, np.float32), np.array(HIGH, np.float32))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.obs = self.np_random.uniform(-1, 1, 3)
        return self.obs, {}

    @staticmethod
    def target(obs):
        """(n, 2) in units of half the box, from (n, 3); never at the bounds."""
        return np.stack([0.8 * np.tanh(2 * obs[:, 0] - obs[:, 1]), -0.6 * np.tanh(obs[:, 2])], axis=1)

    @classmethod
    def rewards(cls, obs, actions):
        low, high = np.array(LOW), np.array(HIGH)
        return -np.sum(((actions - low) / (high - low) * 2 - 1 - cls.target(obs)) ** 2, axis=1)

    def step(self, action):
        assert self.action_space.contains(np.asarray(action, np.float32))
        return self.obs, float(self.rewards(self.obs[None], action[None])[0]), True, False, {}


def match(name="float32", hidden=(16,), **kwargs):
    return PolicySpec(3, hidden, name, "box", 2, LOW, HIGH, (0.0, 0.1, 0.0), (0.6, 0.5, 0.6), **kwargs)


def train(algo, spec=None, gradients="ste", steps=400, on_evaluation=None, **kwargs):
    spec = spec or match()
    options = {"settings": SETTINGS.get(algo, {}), "seed": 3, "eval_freq": 200, "make_env": Match, **kwargs}
    report = on_evaluation or (lambda *_: False)
    shape = {"gradients": gradients, "total_timesteps": steps, "on_evaluation": report}
    return sb3.train_sb3(algo, "Match", spec, make_static(spec), **shape, **options)


def trained_model(algo, spec, gradients="ste", steps=400):
    arguments = (spec, make_static(spec), gradients, SETTINGS[algo], 1, Match)
    model = sb3.make_model(algo, "Match", *arguments)
    before = model.policy.network.latents()
    model.learn(steps, log_interval=None)
    return model, before


def observations(count=5000):
    rng = np.random.default_rng(0)
    obs = rng.normal(size=(count, 3)) * 10.0 ** rng.uniform(-2, 1.5, (count, 1))
    odd = rng.choice([np.nan, np.inf, -np.inf, 1e30, 0.0], size=obs.shape)
    return np.where(rng.random(obs.shape) < 0.01, odd, obs).astype(np.float32)


SPECS = {
    **{name: match(name) for name in precision.PRECISIONS},
    "linear": match(hidden=()),
    "linear int8": match("int8", ()),
    **{f"relu {name}": match(name, activation="relu") for name in ("float32", "int8", "int8-act")},
    "clip": match(squash="clip"),
}


@pytest.mark.parametrize("kind", SPECS)
@pytest.mark.parametrize("algo", BOX_ALGORITHMS)
def test_sb3_predicts_what_the_exported_policy_does(algo, kind):
    spec, obs = SPECS[kind], observations()
    model, before = trained_model(algo, spec)
    latents = model.policy.network.latents()
    assert {key: layer["w"].shape for key, layer in latents.items()} == {
        str(i): (m, k) for i, (k, m) in enumerate(precision.layer_sizes(spec))
    }
    assert all(np.abs(latents[i]["w"] - before[i]["w"]).max() > 1e-3 for i in latents)  # all layers have moved
    got, want = model.predict(obs, deterministic=True)[0], ours(spec, latents, obs)
    assert got.shape == want.shape == (len(obs), 2) and np.all(np.std(want, axis=0) > 0.01)
    single = model.predict(obs[0], deterministic=True)[0]
    if spec.precision in precision.INTEGER_PRECISIONS:
        np.testing.assert_array_equal(got, want)
        np.testing.assert_array_equal(single, want[0])
    elif spec.precision == "float32":
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)
    else:  # a unit on the edge of rounding may fall to either side
        assert np.mean(np.abs(got - want) > 1e-4) < 2e-3


@pytest.mark.parametrize("kind", SPECS)
@pytest.mark.parametrize("algo", BOX_ALGORITHMS)
def test_training_sees_the_deployed_action(algo, kind):
    """Without noise, the actor whose gradient is followed gives the deployed action, in units of half the box."""
    spec, obs = SPECS[kind], observations()
    obs = obs[np.isfinite(obs).all(axis=1)]
    policy = trained_model(algo, spec)[0].policy
    quiet = {"deterministic": True} if algo == "sac" else {}
    with torch.no_grad():
        action = policy.actor(torch.from_numpy(obs), **quiet).numpy()
    middle, half = (np.array(HIGH) + LOW) / 2, (np.array(HIGH) - LOW) / 2
    want = (policy.predict(obs, deterministic=True)[0] - middle) / half
    limit = 1.0 - REACH_LIMIT if algo == "sac" and (spec.squash == "clip" or policy.network.integer) else 0.0
    np.testing.assert_allclose(action, want, rtol=0, atol=limit + 2e-5)


@pytest.mark.parametrize("algo", BOX_ALGORITHMS)
@pytest.mark.parametrize("name", ["float32", "int8", "binary"])
def test_it_learns_a_known_action(algo, name):
    """Random actions return -1.06 on average here, the best constant one -0.43, the best of all 0."""
    settings = {"learning_starts": 200, "batch_size": 128, "critic": (64,), "buffer_size": 5000, "linear_decay": True}
    settings |= {"train_freq": 4, "gradient_steps": 3, "gamma": 0.0, "learning_rate": 5e-3}
    settings |= {"ent_coef": 0.01} if algo == "sac" else {}
    spec = match(name, (32,) if name == "binary" else (16,))
    params = train(algo, spec, steps=2000, settings=settings, eval_freq=2000).params
    obs = np.random.default_rng(1).uniform(-1, 1, (2000, 3))
    mean = Match.rewards(obs, ours(spec, params, obs.astype(np.float32))).mean()
    assert mean > (-0.3 if name == "binary" else -0.05)


@pytest.mark.parametrize("algo", BOX_ALGORITHMS)
@pytest.mark.parametrize("name", ["int8", "binary"])
def test_without_estimators_no_latent_changes(algo, name):
    model, before = trained_model(algo, match(name), "none")
    jax.tree.map(np.testing.assert_array_equal, model.policy.network.latents(), before)


@pytest.mark.parametrize("name", ["int8", "binary"])
def test_a_saturated_action_has_a_gradient(name):
    spec = match(name)
    net = QuantisedNetwork(spec, make_static(spec), "ste", default_init=True)
    with torch.no_grad():
        net.biases[1].fill_(2.0)
    obs = torch.zeros(1, 3)
    reach, mean = net.reach(net.hidden(obs)), net.mean(net.hidden(obs))
    assert reach.tolist() == [[1.0, 1.0]] and mean.tolist() == [[pytest.approx(math.atanh(REACH_LIMIT), rel=1e-5)] * 2]
    for value in (reach, mean):
        net.zero_grad()
        value.sum().backward()
        assert net.biases[1].grad.min() > 0


@pytest.mark.parametrize("algo", BOX_ALGORITHMS)
def test_only_the_actor_is_deployed_and_critics_see_normalised_observations(algo):
    model = trained_model(algo, match("int8"))[0]
    policy = model.policy
    actor = {id(p) for p in policy.network.parameters()}
    assert not actor & {id(p) for p in policy.critic.parameters()}
    assert [layer.in_features for layer in policy.critic.qf0 if hasattr(layer, "in_features")] == [3 + 2, 16]
    obs = torch.tensor([[0.6, 1e9, 0.0]])
    seen = policy.critic.extract_features(obs, policy.critic.features_extractor)
    torch.testing.assert_close(seen, torch.tensor([[1.0, 10.0, 0.0]]))
    assert policy.critic_target.features_extractor(obs).tolist() == seen.tolist()


@pytest.mark.parametrize("algo", ["ppo", *BOX_ALGORITHMS])
def test_target_networks_begin_at_the_given_policy(algo):
    """Otherwise a random actor would teach the critics."""
    spec = match("int8")
    model = sb3.make_model(algo, "Match", spec, make_static(spec), "ste", SETTINGS[algo], 1, Match)
    start = mlp_policy(spec).init(jax.random.key(5))
    sb3.begin_at(model, start)
    obs = torch.tensor(observations(50), dtype=torch.float32)
    policy = model.policy
    assert np.allclose(policy.network.latents()["0"]["w"], start["0"]["w"])
    if hasattr(policy, "actor_target"):
        assert torch.equal(policy.actor_target(obs), policy.actor(obs))
    assert hasattr(policy, "actor_target") == (algo == "td3")


@pytest.mark.parametrize("algo", BOX_ALGORITHMS)
@pytest.mark.parametrize(("total", "n_envs"), [(600, 1), (599, 4), (601, 3)])
def test_the_budget_is_kept_and_reports_come_in_time(algo, total, n_envs):
    calls, made = [], []

    def make_env():
        made.append(Match())
        return made[-1]

    def report(steps, params, metrics):
        calls.append((steps, params, metrics))

    options = {"settings": {**SETTINGS[algo], "n_envs": n_envs}, "eval_freq": 150}
    result = train(algo, match("int8"), steps=total, make_env=make_env, on_evaluation=report, **options)
    assert len(made) == n_envs
    assert total - n_envs < result.env_steps <= total
    points = [math.ceil(m / n_envs) * n_envs for m in range(150, result.env_steps, 150)]
    assert [steps for steps, *_ in calls] == [p for p in points if p < result.env_steps] + [result.env_steps]
    jax.tree.map(np.testing.assert_array_equal, calls[-1][1], result.params)
    assert result.episodes == result.env_steps == len(result.train_returns)  # episodes of one step
    rounds = [s for s in range(2 * n_envs, result.env_steps + 1, 2 * n_envs) if s > SHORT["learning_starts"]]
    assert result.updates == calls[-1][2]["updates"] == len(rounds)


@pytest.mark.parametrize("gradients", ["ste", "ptq"])
@pytest.mark.parametrize("algo", BOX_ALGORITHMS)
def test_the_same_seed_gives_the_same_parameters(algo, gradients):
    first, second = (train(algo, match("int8"), gradients) for _ in range(2))
    other = train(algo, match("int8"), gradients, seed=4)
    jax.tree.map(np.testing.assert_array_equal, first.params, second.params)
    np.testing.assert_array_equal(first.train_returns, second.train_returns)
    assert not np.array_equal(first.params["0"]["w"], other.params["0"]["w"])
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(first.params))


@pytest.mark.parametrize("algo", BOX_ALGORITHMS)
@pytest.mark.parametrize("name", ["int8", "binary"])
def test_float_training_ends_in_a_policy_of_the_precision(algo, name):
    result, floats = train(algo, match(name), "ptq"), train(algo, match(), "none")
    np.testing.assert_array_equal(result.train_returns, floats.train_returns)  # trained as the float policy
    assert ours(match(name), result.params, np.zeros((5, 3), np.float32)).shape == (5, 2)


def test_the_callback_stops_training():
    result = train("sac", on_evaluation=lambda steps, *_: steps >= 200)
    assert result.interrupted and result.env_steps == 200


@pytest.mark.parametrize("settings", [{}, {"ent_coef": None}, {"ent_coef": 0.2}])
def test_the_entropy_coefficient_adapts_unless_given(settings):
    model = sb3.make_model("sac", "Match", match(), Static(), "none", {**SHORT, **settings}, 0, Match)
    assert (model.ent_coef_optimizer is None) == (settings.get("ent_coef") is not None)


def test_ppo_with_normalised_rewards_reports_raw_returns():
    settings = {**SETTINGS["ppo"], "normalize_reward": True, "log_std_init": -1.0}
    arguments = (match(), Static(), "none", settings, 3, Match)
    model = sb3.make_model("ppo", "Match", *arguments)
    assert model.policy.log_std.tolist() == [-1.0, -1.0] and model.env.norm_reward and not model.env.norm_obs
    result, plain = (train("ppo", settings={**settings, "normalize_reward": norm}, steps=128) for norm in (True, False))
    np.testing.assert_allclose(result.train_returns, plain.train_returns)  # a rollout, before the first update
    assert not np.array_equal(result.params["0"]["w"], plain.params["0"]["w"])


@pytest.mark.parametrize("critic", [(), (8,), (8, 4)])
def test_ppo_has_a_critic_of_any_size(critic):
    model = sb3.make_model("ppo", "Match", match(), Static(), "none", {**SETTINGS["ppo"], "critic": critic}, 3, Match)
    model.learn(128, log_interval=None)
    layers = [layer for layer in model.policy.mlp_extractor.critic if hasattr(layer, "in_features")]
    assert [layer.in_features for layer in (*layers, model.policy.value_net)] == [3, *critic]


class Square(Match):
    observation_space = spaces.Box(-1.0, 1.0, (3, 1), np.float64)


class Several(Match):
    action_space = spaces.MultiDiscrete([[2, 2]])


CARTPOLE = PolicySpec(4, (8,), "float32", "discrete", 2, (), (), (0.0,) * 4, (1.0,) * 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"algo": "sac", "spec": CARTPOLE}, "SAC needs a Box action space: use PPO or DQN"),
        ({"algo": "td3", "spec": CARTPOLE}, "TD3 needs a Box action space: use PPO or DQN"),
        (
            {"algo": "dqn", "spec": CARTPOLE._replace(head="multidiscrete", groups=(1, 1)), "settings": {}},
            "DQN cannot train",
        ),
        ({"settings": {"taus": 1}}, "unknown sac setting 'taus': did you mean 'tau'?"),
        ({"settings": {"use_sde": True}}, "unknown sac setting 'use_sde'"),
        ({"settings": {"train_freq": (1, "episode")}}, "train_freq counts env steps"),
        ({"make_env": Square}, r"Match has observations \(3, 1\) and 2 box actions; the policy expects \(3,\)"),
        ({"make_env": Several}, r"Match has the action space MultiDiscrete\(\[\[2 2\]\]\); expected"),
        ({"spec": match()._replace(action_high=(1.0, 0.5001))}, r"actions with high \[1.0, 0.75\]; the policy's is"),
    ],
)
def test_mistakes_are_one_line(change, message):
    with pytest.raises(ValueError, match=message) as error:
        train(**{"algo": "sac", **change})
    assert "\n" not in str(error.value)


def test_nothing_is_left_in_the_folder_for_temporary_files(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    train("ppo", steps=128)
    assert list(tmp_path.iterdir()) == []
