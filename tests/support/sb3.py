"""Networks, models and runs of stable-baselines3 that are small enough to test; import it after torch was found."""

import jax
import numpy as np
import torch

from polystep_rl.baselines.arithmetic import Static
from polystep_rl.baselines.sb3 import train as sb3
from polystep_rl.baselines.sb3.network import QuantisedNetwork
from polystep_rl.policies import mlp_policy, precision
from polystep_rl.policies.quantisation.layerwise import layerwise
from polystep_rl.types import PolicySpec

PPO = {"n_envs": 4, "n_steps": 64, "batch_size": 64, "n_epochs": 4, "learning_rate": 5e-3}
DQN = {"learning_starts": 50, "train_freq": 8, "gradient_steps": 2, "batch_size": 32, "buffer_size": 2000}
SETTINGS = {"ppo": PPO, "dqn": {**DQN, "learning_rate": 5e-3, "target_update_interval": 40}}
ZOO = {
    **{"n_envs": 8, "n_steps": 32, "batch_size": 256, "n_epochs": 20, "learning_rate": 1e-3, "clip_range": 0.2},
    **{"gae_lambda": 0.8, "gamma": 0.98, "linear_decay": True},
}


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
