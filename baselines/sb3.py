"""PPO and DQN of stable-baselines3, whose deployed policy is exactly one of our policies.

The actor (PPO) or the Q-network (DQN) is a `QuantisedNetwork`; the critic of PPO is an ordinary float network, since it
is not deployed. Training uses Gymnasium's own environment, so that no dynamics of ours can favour anyone. Importing
this module needs torch and stable-baselines3 (the extra ``baselines``); importing the package does not.
"""

from __future__ import annotations

import difflib
import inspect
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork
from torch import Tensor, nn

from polystep_rl.baselines.ptq import Static, quantise
from polystep_rl.baselines.quantised_torch import QuantisedNetwork
from polystep_rl.types import Params, PolicySpec

ALGORITHMS: dict[str, Any] = {"ppo": PPO, "dqn": DQN}
GRADIENTS = ("none", "ste", "ptq")
CALIBRATION = 4096  # most recent training observations that post-training quantisation sees
RETURNS_WINDOW = 100  # episodes in rollout/ep_rew_mean, as in stable-baselines3
CRITIC_CLIP = 10.0  # the critic's normalised observations are cut here, as in stable-baselines3's VecNormalize
OURS = ("n_envs", "linear_decay", "critic")  # settings that are not constructor arguments
TAKEN = ("self", "policy", "env", "policy_kwargs", "seed", "device", "verbose", "_init_setup_model")

# (env steps, deployed latents, metrics) -> stop?
OnEvaluation = Callable[[int, Params, dict[str, float]], bool]


class SB3Result(NamedTuple):
    """What a training run leaves behind."""

    params: Params  # the latents to deploy: {"0": {"w": (m, k), "b": (m,)}, ...}, NumPy float32
    env_steps: int  # at most total_timesteps, short of it by less than n_envs unless interrupted
    episodes: int
    updates: int  # optimiser steps
    train_returns: np.ndarray  # (episodes,) returns of the training episodes, exploration included
    train_steps: np.ndarray  # (episodes,) env steps at which they ended
    interrupted: bool  # the callback asked to stop


class _ActorCritic(nn.Module):
    """What `ActorCriticPolicy` calls mlp_extractor: our network beside a tanh network up to its last hidden layer."""

    def __init__(self, actor: QuantisedNetwork, critic: Sequence[int]) -> None:
        super().__init__()
        self.actor = actor
        layers: list[nn.Module] = []
        for fan_in, fan_out in zip((actor.spec.obs_size, *critic[:-1]), critic, strict=True):
            linear = nn.Linear(fan_in, fan_out)
            nn.init.orthogonal_(linear.weight, gain=np.sqrt(2.0))
            nn.init.zeros_(linear.bias)
            layers += [linear, nn.Tanh()]
        self.critic = nn.Sequential(*layers)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return self.forward_actor(features), self.forward_critic(features)

    def forward_actor(self, features: Tensor) -> Tensor:
        return self.actor(features)

    def forward_critic(self, features: Tensor) -> Tensor:
        return self.critic(self.actor.normalised(features).clamp(-CRITIC_CLIP, CRITIC_CLIP))


class QuantisedActorCriticPolicy(ActorCriticPolicy):
    """PPO's policy: our network gives logits, or the mean of a normal action; deterministic actions are ours."""

    def __init__(
        self, *args: Any, network: Callable[[], QuantisedNetwork], critic: Sequence[int] = (64, 64), **kwargs: Any
    ) -> None:
        self._network, self._critic = network, tuple(critic)
        super().__init__(*args, **kwargs)

    def _build(self, lr_schedule: Callable[[float], float]) -> None:
        network = self._network()
        self.mlp_extractor = _ActorCritic(network, self._critic)
        self.action_net = nn.Identity()  # the network has its own head
        self.value_net = nn.Linear(self._critic[-1], 1)
        nn.init.orthogonal_(self.value_net.weight)
        nn.init.zeros_(self.value_net.bias)
        if isinstance(self.action_space, spaces.Box):
            self.log_std = nn.Parameter(torch.full(self.action_space.shape, float(self.log_std_init)))
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)

    @property
    def network(self) -> QuantisedNetwork:
        return self.mlp_extractor.actor

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        if not deterministic:
            return super()._predict(observation, deterministic=False)
        return self.network.act(self.extract_features(observation))


class _QuantisedQNetwork(QNetwork):
    """DQN's network with ours in place of the multilayer perceptron; greedy actions are ours."""

    def __init__(self, *args: Any, network: Callable[[], QuantisedNetwork], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.q_net = network()

    def _predict(self, observation: Any, deterministic: bool = True) -> Tensor:
        return self.q_net.act(self.extract_features(observation, self.features_extractor))


class QuantisedDQNPolicy(DQNPolicy):
    """DQN's policy: Q-network and target network are ours."""

    def __init__(self, *args: Any, network: Callable[[], QuantisedNetwork], **kwargs: Any) -> None:
        self._network = network
        super().__init__(*args, **kwargs)

    def make_q_net(self) -> QNetwork:
        arguments = self._update_features_extractor(self.net_args, features_extractor=None)
        return _QuantisedQNetwork(network=self._network, **arguments).to(self.device)

    @property
    def network(self) -> QuantisedNetwork:
        return self.q_net.q_net


def make_model(
    algo: str, env_id: str, spec: PolicySpec, static: Static, gradients: str, settings: Mapping[str, Any], seed: int
) -> Any:
    """The stable-baselines3 model that `train_sb3` trains; the arguments are its own.

    Raises:
        ValueError: an unknown algorithm, gradient mode or setting, DQN with a Box action, or an environment whose
            spaces the policy does not fit.
    """
    if algo not in ALGORITHMS:
        raise ValueError(f"unknown algorithm {algo!r}: expected one of {', '.join(ALGORITHMS)}")
    if gradients not in GRADIENTS:
        raise ValueError(f"unknown gradients {gradients!r}: expected one of {', '.join(GRADIENTS)}")
    if algo == "dqn" and spec.head != "discrete":
        raise ValueError("DQN needs a Discrete action space: use PPO for a Box")
    if gradients == "ptq":
        spec, static = spec._replace(precision="float32"), Static()
    arguments = _arguments(algo, settings)
    n_envs, decay = int(arguments.pop("n_envs", 1)), bool(arguments.pop("linear_decay", False))
    extra = {"critic": tuple(arguments.pop("critic", (64, 64)))} if algo == "ppo" else {}
    for name in ("learning_rate", "clip_range") if decay else ():
        if name in arguments:
            arguments[name] = _linear(float(arguments[name]))
    mode = "none" if gradients == "ptq" else gradients
    model = ALGORITHMS[algo](
        QuantisedActorCriticPolicy if algo == "ppo" else QuantisedDQNPolicy,
        _environments(env_id, n_envs, spec),
        policy_kwargs={"network": lambda: QuantisedNetwork(spec, static, mode, values=algo == "dqn"), **extra},
        seed=seed,
        device="cpu",
        **arguments,
    )
    network = model.policy.network
    if mode == "ste":
        model.policy.optimizer.register_step_post_hook(lambda *_: network.project())
    return model


def _arguments(algo: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    known = [name for name in (*inspect.signature(ALGORITHMS[algo].__init__).parameters, *OURS) if name not in TAKEN]
    for name in settings:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.0)[0]
            raise ValueError(f"unknown {algo} setting {name!r}: did you mean {close!r}?")
    return dict(settings)


def _linear(start: float) -> Callable[[float], float]:
    return lambda progress_remaining: progress_remaining * start


def _environments(env_id: str, n_envs: int, spec: PolicySpec) -> DummyVecEnv:
    """Gymnasium's environments, checked against the policy: SB3 would fail late, or train something else."""
    if n_envs < 1:
        raise ValueError(f"n_envs {n_envs}: expected at least 1")
    envs = DummyVecEnv([lambda: Monitor(gymnasium.make(env_id))] * n_envs)
    obs, action = envs.observation_space, envs.action_space
    size, head = (int(action.n), "discrete") if isinstance(action, spaces.Discrete) else (action.shape[0], "box")
    if obs.shape != (spec.obs_size,) or (size, head) != (spec.action_size, spec.head):
        raise ValueError(
            f"{env_id} has observations {obs.shape} and {size} {head} actions; the policy expects "
            f"({spec.obs_size},) and {spec.action_size} {spec.head}"
        )
    return envs


class _Watch(BaseCallback):
    """Counts, reports at every multiple of eval_freq, and stops exactly at the budget."""

    def __init__(
        self, last: int, rollout: int, eval_freq: int, report: Callable[[int, dict[str, float]], bool]
    ) -> None:
        super().__init__()
        self.last, self.rollout, self.eval_freq, self.report = last, rollout, eval_freq, report
        self.returns: list[float] = []
        self.ends: list[int] = []
        self.updates = 0
        self.interrupted = False
        self.seen: deque[np.ndarray] = deque()

    def _init_callback(self) -> None:
        self.seen = deque(maxlen=max(1, CALIBRATION // self.training_env.num_envs))
        self.model.policy.optimizer.register_step_post_hook(self._count)

    def _count(self, *_: Any) -> None:
        self.updates += 1

    def metrics(self) -> dict[str, float]:
        recent = self.returns[-RETURNS_WINDOW:]
        mean = float(np.mean(recent)) if recent else float("nan")
        return {"rollout/ep_rew_mean": mean, "episodes": float(len(self.returns)), "updates": float(self.updates)}

    def _on_step(self) -> bool:
        steps, n_envs = self.num_timesteps, self.training_env.num_envs
        self.seen.append(self.locals["new_obs"])
        for info in self.locals["infos"]:
            if "episode" in info:
                self.returns.append(float(info["episode"]["r"]))
                self.ends.append(steps)
        if steps >= self.last:  # a complete rollout is still learned from; the rest of another would break the budget
            return self.last % self.rollout == 0
        if steps // self.eval_freq > (steps - n_envs) // self.eval_freq:
            self.interrupted = self.report(steps, self.metrics())
        return not self.interrupted


def train_sb3(
    algo: str,
    env_id: str,
    spec: PolicySpec,
    static: Static,
    *,
    gradients: str,
    settings: Mapping[str, Any],
    total_timesteps: int,
    seed: int,
    eval_freq: int,
    on_evaluation: OnEvaluation,
) -> SB3Result:
    """Train a policy by gradients.

    Args:
        algo: ``ppo`` or ``dqn``.
        env_id: a Gymnasium environment.
        spec: the policy to deploy.
        static: its static numbers (`Static`).
        gradients: ``none`` (as they come), ``ste`` (straight through), or ``ptq``: float32 in training, quantised
            whenever it is reported and at the end.
        settings: arguments of the SB3 constructor, and ``n_envs``, ``linear_decay`` (``learning_rate`` and
            ``clip_range`` fall linearly to 0) and ``critic`` (hidden units of PPO's critic).
        total_timesteps: env steps, summed over the environments; never exceeded.
        seed: of weights, environments and exploration. SB3 seeds the global generators of NumPy and torch with it.
        eval_freq: env steps between reports.
        on_evaluation: called at the first count of env steps at or above every multiple of eval_freq and at the end,
            with env steps, the latents to deploy and metrics (``rollout/ep_rew_mean``: mean return of the last 100
            training episodes, NaN before the first; ``episodes``; ``updates``). It returns True to stop.

    Raises:
        ValueError: see `make_model`; or a budget below one step of every environment.
    """
    model = make_model(algo, env_id, spec, static, gradients, settings, seed)
    n_envs = model.n_envs
    if total_timesteps < n_envs or eval_freq < 1:
        raise ValueError(f"total_timesteps {total_timesteps} and eval_freq {eval_freq}: too few for {n_envs} envs")
    last = total_timesteps // n_envs * n_envs
    rollout = n_envs * int(model.n_steps if algo == "ppo" else settings.get("train_freq", 4))

    def deployed() -> Params:
        latents = model.policy.network.latents()
        return quantise(latents, spec, static, np.concatenate(tuple(watch.seen))) if gradients == "ptq" else latents

    watch = _Watch(last, rollout, eval_freq, lambda steps, metrics: bool(on_evaluation(steps, deployed(), metrics)))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the networks are tiny: more threads are slower, and their sums are not reproducible
    try:
        model.learn(last, callback=watch, log_interval=None)
        if not watch.interrupted:
            watch.interrupted = watch.report(model.num_timesteps, watch.metrics())
        returns, ends = np.array(watch.returns, np.float64), np.array(watch.ends, np.int64)
        steps = int(model.num_timesteps)
        return SB3Result(deployed(), steps, len(returns), watch.updates, returns, ends, watch.interrupted)
    finally:
        torch.set_num_threads(threads)
        model.env.close()
