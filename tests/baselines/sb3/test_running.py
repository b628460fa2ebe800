"""PPO with running statistics of the observations: the deployed policy reads in the units that follow from them."""

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("stable_baselines3")

import gymnasium  # noqa: E402
from gymnasium import spaces  # noqa: E402

from polystep_rl.baselines.sb3 import train as sb3  # noqa: E402
from polystep_rl.baselines.sb3.network import QuantisedNetwork  # noqa: E402
from polystep_rl.moments import RunningScales  # noqa: E402
from polystep_rl.policies import frozen, mlp_policy  # noqa: E402
from polystep_rl.runs.gradient import static_numbers  # noqa: E402
from polystep_rl.types import Moments, PolicySpec  # noqa: E402

PRIOR = Moments(*(np.asarray(x, np.float32) for x in (1e-4, [0.0, 0.0], [1e-4, 1e-4])))  # mean 0, deviation 1
CENTRE, WIDTH = np.array([500.0, -3000.0]), np.array([40.0, 2.0])  # far from what the prior says


class Far(gymnasium.Env):
    """One step: 1 for the side of its centre that the second feature is on, else 0; best return 1."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.side = int(self.np_random.integers(2))
        drawn = self.np_random.uniform(0.2, 1.0, 2) * np.array([self.np_random.choice([-1, 1]), 2 * self.side - 1])
        self.obs = CENTRE + WIDTH * drawn
        return self.obs, {}

    def step(self, action):
        return self.obs, float(action == self.side), True, False, {}


def far(precision="float32"):
    return PolicySpec(2, (8,), precision, "discrete", 2, (), (), (0.0, 0.0), (1.0, 1.0))


def train(spec, scales, gradients="ste", algo="ppo", steps=4096):
    seen = []
    settings = {"n_envs": 8, "n_steps": 64, "batch_size": 128, "learning_rate": 0.01} if algo == "ppo" else {}
    result = sb3.train_sb3(
        algo,
        "Far",
        spec,
        static_numbers(spec),
        gradients=gradients,
        settings=settings,
        total_timesteps=steps,
        seed=1,
        eval_freq=512,
        on_evaluation=lambda steps, params, metrics: bool(seen.append((params, metrics["rollout/ep_rew_mean"]))),
        make_env=Far,
        scales=scales,
    )
    return result, seen


@pytest.mark.parametrize("precision", ["float32", "int8", "binary", "int8-act", "binary-act"])
def test_new_scales_act_as_the_policy_that_carries_them(precision):
    spec = far(precision)
    torch.manual_seed(0)
    network = QuantisedNetwork(spec, static_numbers(spec), "ste")
    network.scale_inputs(CENTRE, WIDTH)
    params = network.latents()
    obs = (CENTRE + 3 * WIDTH * np.random.default_rng(0).normal(size=(5000, 2))).astype(np.float32)
    frozen_spec, layers = frozen(spec, params)
    theirs = network.act(torch.from_numpy(obs)).numpy()
    for policy, latents in ((mlp_policy(spec), params), (mlp_policy(frozen_spec), layers)):
        ours = np.asarray(jax.jit(jax.vmap(policy.act, in_axes=(None, 0)))(latents, obs))
        assert np.mean(ours == theirs) == 1.0 if precision in ("int8", "binary") else np.mean(ours == theirs) > 0.999
    assert 0.05 < theirs.mean() < 0.95  # not one action for all


def test_scales_are_those_of_all_observations_before_the_last_rollout():
    class Recorded(RunningScales):
        rows = []

        def add(self, obs):
            self.rows.append(np.array(obs))
            super().add(obs)

    result, _ = train(far(), Recorded(PRIOR), steps=3 * 512)
    rows = np.concatenate(Recorded.rows)
    assert len(rows) == 3 * 512
    expected = RunningScales(PRIOR)
    expected.add(rows[: 2 * 512])  # in one piece
    for name, value in expected.scales().items():
        np.testing.assert_allclose(result.params["input"][name], value, rtol=1e-6)
    assert not np.allclose(expected.scales()["offset"], PRIOR.mean)


@pytest.mark.parametrize(("precision", "gradients"), [("float32", "none"), ("int8", "ste"), ("int8", "ptq")])
def test_learns_what_the_first_scales_hide(precision, gradients):
    result, seen = train(far(precision), RunningScales(PRIOR), gradients, steps=8192)
    blind, fixed = train(far(precision), None, gradients, steps=8192)
    assert "input" in result.params
    assert ("input" in blind.params) == (gradients == "ptq")  # the quantiser says which scales it chose
    assert seen[-1][1] > 0.95  # mean training return; exploration included
    assert fixed[-1][1] < 0.75
    spec, layers = frozen(far(precision), result.params)
    env, obs, sides = Far(), [], []
    for seed in range(300):
        obs.append(env.reset(seed=seed)[0])
        sides.append(env.side)
    actions = jax.vmap(mlp_policy(spec).act, in_axes=(None, 0))(layers, np.array(obs, np.float32))
    assert np.mean(np.asarray(actions) == np.array(sides)) > 0.97


def test_a_replay_buffer_refuses_them():
    with pytest.raises(ValueError, match="growing input scales with dqn"):
        train(far(), RunningScales(PRIOR), algo="dqn")


def test_observations_that_are_not_finite_are_left_out():
    scales = RunningScales(PRIOR)
    scales.add(np.array([[np.nan, 1.0], [2.0, np.inf]]))
    assert all(np.array_equal(a, b) for a, b in zip(scales.moments, PRIOR, strict=True))
    scales.add(np.array([[np.nan, 1.0], [5.0, 5.0]]))
    assert scales.moments.weight == pytest.approx(1 + 1e-4)
