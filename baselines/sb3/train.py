"""PPO, DQN, SAC and TD3 of stable-baselines3, whose deployed policy is exactly one of our policies.

The actor (PPO, SAC, TD3) or the Q-network (DQN) is a `QuantisedNetwork`; critics are ordinary float networks, since
they are not deployed. Training uses Gymnasium's own environment, so that no dynamics of ours can favour anyone, or
where Gymnasium has no such task the lanes of another simulator.
Importing this module needs torch and stable-baselines3 (the extra ``baselines``); importing the package does not.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import DQN, PPO, SAC, TD3
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.type_aliases import TrainFrequencyUnit
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from polystep_rl.baselines.arithmetic import InputScales, Static
from polystep_rl.baselines.sb3.lanes import LanesVecEnv
from polystep_rl.baselines.sb3.network import QuantisedNetwork
from polystep_rl.baselines.sb3.policies import (
    QuantisedActorCriticPolicy,
    QuantisedDQNPolicy,
    QuantisedSACPolicy,
    QuantisedTD3Policy,
)
from polystep_rl.baselines.sb3.watch import Watch
from polystep_rl.errors import did_you_mean
from polystep_rl.types import HostEnv, Params, PolicySpec

ALGORITHMS: dict[str, Any] = {"ppo": PPO, "dqn": DQN, "sac": SAC, "td3": TD3}
HEADS = {"ppo": ("discrete", "multidiscrete", "box"), "dqn": ("discrete",), "sac": ("box",), "td3": ("box",)}
GRADIENTS = ("none", "ste", "ptq")
OURS = {  # settings that are not constructor arguments
    "ppo": ("n_envs", "linear_decay", "critic", "log_std_init", "normalize_reward"),
    "dqn": ("n_envs", "linear_decay"),
    "sac": ("n_envs", "linear_decay", "critic"),
    "td3": ("n_envs", "linear_decay", "critic"),
}
TAKEN = (
    *("self", "policy", "env", "policy_kwargs", "seed", "device", "verbose", "_init_setup_model"),
    *("use_sde", "sde_sample_freq", "use_sde_at_warmup"),  # exploration that our networks do not have
)

MakeEnv = Callable[[], gymnasium.Env] | HostEnv
# (env steps, deployed latents, metrics) -> stop?
OnEvaluation = Callable[[int, Params, dict[str, float]], bool]


class SB3Result(NamedTuple):
    """Result of a training run."""

    params: Params  # the latents to deploy: {"0": {"w": (m, k), "b": (m,)}, ...}, NumPy float32
    env_steps: int  # at most total_timesteps, short of it by less than n_envs unless interrupted
    episodes: int
    updates: int  # optimiser steps
    train_returns: np.ndarray  # (episodes,) returns of the training episodes, exploration included
    train_steps: np.ndarray  # (episodes,) env steps at which they ended
    interrupted: bool  # the callback asked to stop


POLICIES: dict[str, Any] = {
    "ppo": QuantisedActorCriticPolicy,
    "dqn": QuantisedDQNPolicy,
    "sac": QuantisedSACPolicy,
    "td3": QuantisedTD3Policy,
}


def make_model(
    algo: str,
    env_id: str,
    spec: PolicySpec,
    static: Static,
    gradients: str,
    settings: Mapping[str, Any],
    seed: int,
    make_env: MakeEnv | None = None,
) -> Any:
    """Make the stable-baselines3 model that `train_sb3` trains, from the same arguments.

    Raises:
        ValueError: an unknown algorithm, gradient mode or setting, an algorithm that cannot have the policy's actions,
            or an environment whose spaces the policy does not fit.
    """
    if algo not in ALGORITHMS:
        raise ValueError(f"unknown algorithm {algo!r}: expected one of {', '.join(ALGORITHMS)}")
    if gradients not in GRADIENTS:
        raise ValueError(f"unknown gradients {gradients!r}: expected one of {', '.join(GRADIENTS)}")
    _check_head(algo, spec.head)
    if gradients == "ptq":
        if static.quantise is None:
            raise ValueError("gradients 'ptq' needs a quantiser in the static numbers")
        spec, static = spec._replace(precision="float32"), Static()
    arguments = _arguments(algo, settings, spec.action_size)
    extra: dict[str, Any] = {name: arguments.pop(name) for name in ("critic", "log_std_init") if name in arguments}
    if "critic" in extra and algo != "ppo":
        extra["net_arch"] = {"pi": [], "qf": list(extra.pop("critic"))}
    n_envs, rewards = int(arguments.pop("n_envs", 1)), bool(arguments.pop("normalize_reward", False))
    env = _environments(env_id, n_envs, spec, make_env or (lambda: gymnasium.make(env_id)))
    if rewards:
        gamma = float(arguments.get("gamma", 0.99))
        env = VecNormalize(env, norm_obs=False, norm_reward=True, gamma=gamma)
    mode = "none" if gradients == "ptq" else gradients

    def network() -> QuantisedNetwork:
        return QuantisedNetwork(spec, static, mode, values=algo == "dqn", default_init=algo != "ppo")

    kwargs = {"network": network, **extra}
    model = ALGORITHMS[algo](POLICIES[algo], env, policy_kwargs=kwargs, seed=seed, device="cpu", **arguments)
    model.set_logger(Logger(None, []))  # its own would leave a folder in the system's for temporary files
    if mode == "ste":
        optimizer = (model.actor if hasattr(model, "actor") else model.policy).optimizer
        optimizer.register_step_post_hook(lambda *_: model.policy.network.project())
    return model


def _check_head(algo: str, head: str) -> None:
    if head in HEADS[algo]:
        return
    if algo == "dqn" and head == "box":
        raise ValueError("DQN needs a Discrete action space: use PPO, SAC or TD3 for a Box")
    if HEADS[algo] == ("box",):
        raise ValueError(f"{algo.upper()} needs a Box action space: use PPO or DQN for a Discrete one")
    raise ValueError(f"{algo.upper()} cannot train {head} actions here: expected {' or '.join(HEADS[algo])}")


def _arguments(algo: str, settings: Mapping[str, Any], actions: int) -> dict[str, Any]:
    """Constructor arguments and our own settings, from settings. ValueError for a name that is neither."""
    names = (*inspect.signature(ALGORITHMS[algo].__init__).parameters, *OURS[algo])
    known = [name for name in names if name not in TAKEN]
    for name in settings:
        if name not in known:
            raise ValueError(f"unknown {algo} setting {name!r}: {did_you_mean(str(name), known, cutoff=0.0)}")
    arguments = dict(settings)
    for name in ("learning_rate", "clip_range") if arguments.pop("linear_decay", False) else ():
        if name in arguments:
            arguments[name] = _linear(float(arguments[name]))
    if isinstance(arguments.get("action_noise"), (int, float)):
        deviation = np.full(actions, float(arguments["action_noise"]))
        arguments["action_noise"] = NormalActionNoise(np.zeros(actions), deviation)
    if algo == "sac" and arguments.get("ent_coef", "auto") is None:
        arguments["ent_coef"] = "auto"
    return arguments


def begin_at(model: Any, start: Params) -> None:
    """Set the latents of a model of `make_model`, and copy them to its target network, if it has one."""
    model.policy.network.load(start)
    for online, target in (("actor", "actor_target"), ("q_net", "q_net_target")):
        if hasattr(model.policy, target):
            getattr(model.policy, target).load_state_dict(getattr(model.policy, online).state_dict())


def _linear(start: float) -> Callable[[float], float]:
    return lambda progress_remaining: progress_remaining * start


def _environments(env_id: str, n_envs: int, spec: PolicySpec, make_env: MakeEnv) -> VecEnv:
    """Make environments side by side and check them against the policy: SB3 would fail late, or train another."""
    if n_envs < 1:
        raise ValueError(f"n_envs {n_envs}: expected at least 1")
    if isinstance(make_env, HostEnv):
        envs: VecEnv = LanesVecEnv(make_env, n_envs)
    else:
        envs = DummyVecEnv([lambda: Monitor(make_env())] * n_envs)
    obs, action = envs.observation_space, envs.action_space
    size, head, groups = _head(env_id, action)
    if obs.shape != (spec.obs_size,) or (size, head, groups) != (spec.action_size, spec.head, spec.groups):
        raise ValueError(
            f"{env_id} has observations {obs.shape} and {size} {head} actions; the policy expects "
            f"({spec.obs_size},) and {spec.action_size} {spec.head}"
        )
    if isinstance(action, spaces.Box):
        for name, theirs, ours in (("low", action.low, spec.action_low), ("high", action.high, spec.action_high)):
            if not np.array_equal(theirs, np.asarray(ours, theirs.dtype)):
                raise ValueError(f"{env_id} has actions with {name} {theirs.tolist()}; the policy's is {list(ours)}")
    return envs


def _head(env_id: str, action: gymnasium.Space) -> tuple[int, str, tuple[int, ...]]:
    """Outputs, head and groups of a policy for an action space."""
    if isinstance(action, spaces.Discrete):
        return int(action.n), "discrete", ()
    if isinstance(action, spaces.MultiDiscrete) and action.nvec.ndim == 1:
        return int(action.nvec.sum()), "multidiscrete", tuple(action.nvec.tolist())
    if isinstance(action, spaces.Box) and len(action.shape) == 1:
        return action.shape[0], "box", ()
    raise ValueError(f"{env_id} has the action space {action}; expected a Discrete, a flat MultiDiscrete or a flat Box")


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
    make_env: MakeEnv | None = None,
    start: Params | None = None,
    scales: InputScales | None = None,
) -> SB3Result:
    """Train a policy by gradients.

    Args:
        algo: ``ppo``, ``dqn`` (Discrete actions), ``sac`` or ``td3`` (Box actions).
        env_id: a Gymnasium environment; with ``make_env``, a name for messages.
        spec: the policy to deploy.
        static: its static numbers (`Static`).
        gradients: ``none`` (as they come), ``ste`` (straight through), or ``ptq``: float32 in training, quantised
            whenever it is reported and at the end.
        settings: arguments of the SB3 constructor, and ``n_envs``, ``linear_decay`` (``learning_rate`` and
            ``clip_range`` fall linearly to 0), ``critic`` (hidden units of a critic; not DQN); for PPO
            ``log_std_init`` (Box) and ``normalize_reward`` (by the deviation of discounted returns, as VecNormalize
            does). ``action_noise`` is a standard deviation in units of half the box; SAC's ``ent_coef`` of None is
            SB3's ``auto``.
        total_timesteps: env steps, summed over the environments; never exceeded.
        seed: of weights, environments and exploration. SB3 seeds the global generators of NumPy and torch with it.
        eval_freq: env steps between reports.
        on_evaluation: called at the first count of env steps at or above every multiple of eval_freq and at the end,
            with env steps, the latents to deploy and metrics (``rollout/ep_rew_mean``: mean return of the last 100
            training episodes, NaN before the first; ``episodes``; ``updates``). It returns True to stop.
        make_env: makes one new environment, with flat observations; default ``gymnasium.make(env_id)``. Or a host
            environment, of which ``n_envs`` lanes are trained on (see `LanesVecEnv`).
        start: latents of the policy to start from; random ones by default.
        scales: observation statistics that grow with the observations of training, for PPO: fixed within a rollout,
            and deployed with the policy ("input" in its latents). Default: the input scales of the specification.

    Raises:
        ValueError: see `make_model`; a budget below one step of every environment; or scales with another algorithm.
        SimulatorError: the lanes of a host environment cannot go on.
    """
    if scales is not None and algo != "ppo":
        raise ValueError(f"growing input scales with {algo}: its replay buffer mixes old and new; only PPO has them")
    model = make_model(algo, env_id, spec, static, gradients, settings, seed, make_env)
    if start is not None:
        begin_at(model, start)
    n_envs = model.n_envs
    if total_timesteps < n_envs or eval_freq < 1:
        raise ValueError(f"total_timesteps {total_timesteps} and eval_freq {eval_freq}: too few for {n_envs} envs")
    last = total_timesteps // n_envs * n_envs
    if algo != "ppo" and model.train_freq.unit != TrainFrequencyUnit.STEP:
        raise ValueError("train_freq counts env steps here: episodes would not keep the budget")
    rollout = n_envs * int(model.n_steps if algo == "ppo" else model.train_freq.frequency)

    def deployed() -> Params:
        latents = model.policy.network.latents()
        if gradients != "ptq" or static.quantise is None:
            return latents
        return static.quantise(latents, np.concatenate(tuple(watch.seen)))

    def report(steps: int, metrics: dict[str, float]) -> bool:
        return bool(on_evaluation(steps, deployed(), metrics))

    watch = Watch(last, rollout, eval_freq, report, scales)
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
