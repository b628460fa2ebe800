"""Runs of the gradient methods: the same run folder, evaluator, held-out episodes and summary as any search."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import gymnasium
import jax
import numpy as np
from gymnasium import spaces

from polystep_rl.baselines.arithmetic import Static
from polystep_rl.envs.host.single import is_known, make_single
from polystep_rl.envs.host.spaces import flat_observations, policy_actions
from polystep_rl.errors import ConfigError
from polystep_rl.moments import RunningScales
from polystep_rl.policies import frozen, mlp_policy, precision, save_policy
from polystep_rl.policies.io import BEST_POLICY, POLICY
from polystep_rl.policies.quantisation.post_training import quantise as fit
from polystep_rl.records.folder import RunDir
from polystep_rl.runs.display import Display
from polystep_rl.runs.judging import centre_evaluator, evaluate_on_test, simulator_facts, summarise
from polystep_rl.runs.observer import interruptible
from polystep_rl.runs.opening import Destination, new_run, with_threshold
from polystep_rl.runs.parts import make_scaled_policy, prior_moments
from polystep_rl.runs.start import initial
from polystep_rl.runs.summary import summarised
from polystep_rl.runs.task import Task, its_own_error, keyword_arguments, make_env
from polystep_rl.settings.run import TrainConfig
from polystep_rl.training.state import EVAL_COLUMNS, streak_after, streams
from polystep_rl.types import INPUT, INTEGER_PRECISIONS, Env, Evaluation, HostEnv, Key, Params, Policy, PolicySpec

if TYPE_CHECKING:
    from polystep_rl.baselines.sb3.train import SB3Result


Evaluate = Callable[[Key, Params], Evaluation]


def static_numbers(spec: PolicySpec) -> Static:
    """The integers that define an int8 or binary policy, none for the others; and the quantiser of `--init`."""

    def quantise(params: Params, observations: np.ndarray) -> Params:
        own, layers = frozen(spec, params)  # with the input scales that the parameters carry, if any
        made = fit(own._replace(precision="float32"), layers, spec.precision, observations)
        offset, scale = (np.asarray(x, np.float32) for x in (made.spec.obs_offset, made.spec.obs_scale))
        scales = {"offset": offset, "scale": scale}
        return {**made.params, INPUT: scales}

    if spec.precision not in INTEGER_PRECISIONS:
        return Static(quantise=quantise)
    box = precision.action_plan(spec) if spec.head == "box" else None
    return Static(precision.plan(spec), precision.input_plan(spec), box, quantise)


class GradientObserver:
    """Evaluates the deployed policy at every report, writes metrics and policies, and shows the progress line."""

    def __init__(
        self, run: RunDir, env: Env | HostEnv, policy: Policy, config: TrainConfig, display: Display, evaluate: Evaluate
    ) -> None:
        self.run, self.policy, self.config = run, policy, config
        self.goal = with_threshold(config, env).stop_reward
        self.display, self.evaluate = display, evaluate
        self.keys = streams(config.seed)
        self.began, self.stop, self.reports, self.eval_env_steps = time.perf_counter(), False, 0, 0
        self.best_return, self.streak = -np.inf, 0
        self.best_params: Params | None = None

    def report(self, env_steps: int, params: Params, metrics: dict[str, float]) -> bool:
        """Take a report of `train_sb3`; true stops the run."""
        key = jax.random.fold_in(self.keys.evaluation, self.reports)
        result = jax.device_get(self.evaluate(key, params))
        found = summarise(result)
        self.reports, self.eval_env_steps = self.reports + 1, self.eval_env_steps + int(result.env_steps)
        if found["mean_return"] >= self.best_return:
            self.best_return, self.best_params = found["mean_return"], params
        values = (found["mean_return"], found["std_return"], found["mean_length"], self.eval_env_steps)
        train_return = metrics["rollout/ep_rew_mean"]
        seconds = time.perf_counter() - self.began
        self.run.log(
            self.reports,
            env_steps,
            {
                "rollout/ep_rew_mean": train_return if np.isfinite(train_return) else None,
                "train/episodes": int(metrics["episodes"]),
                "train/n_updates": int(metrics["updates"]),
                **dict(zip(EVAL_COLUMNS, map(float, values), strict=True)),
                "time/seconds": seconds,
            },
        )
        self.display(
            f"steps {env_steps:>10,}  {env_steps / seconds:>8,.0f}/s  training {train_return:>8.1f}  "
            f"eval {found['mean_return']:>8.1f}",
            env_steps,
            True,
        )
        self.streak = streak_after(self.streak, found["mean_return"], self.goal)
        return self.stop or self.streak >= 2 or self._out_of_time(seconds)

    def _out_of_time(self, seconds: float) -> bool:
        return self.config.wall_seconds is not None and seconds >= self.config.wall_seconds

    def stopped_by(self, interrupted: bool) -> str:
        """Why the run ended, in the words of `train`."""
        if not interrupted:
            return "total_timesteps"
        return "interrupt" if self.stop else "stop_reward" if self.streak >= 2 else "wall_seconds"


class _OwnErrors(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Turns what the environment raises into a SimulatorError of one line."""

    def reset(self, **kwargs: Any) -> Any:
        with its_own_error("reset"):
            return super().reset(**kwargs)

    def step(self, action: Any) -> Any:
        with its_own_error("step"):
            return super().step(action)


def _flat_env(task: Task) -> gymnasium.Env[Any, Any]:
    """Gymnasium's own environment of a task, with flat observations and actions: what stable-baselines3 trains on."""
    env: gymnasium.Env[Any, Any] = _OwnErrors(
        make_single(task.env, keyword_arguments(task.env_kwarg), task.wrapper, task.max_episode_steps)
    )
    space, convert = policy_actions(env.action_space)
    if space != env.action_space:
        env = gymnasium.wrappers.TransformAction(env, convert, space)
    if isinstance(env.observation_space, spaces.Box) and len(env.observation_space.shape) == 1:
        return env
    flat, flatten = flat_observations(env.observation_space)
    return gymnasium.wrappers.TransformObservation(env, flatten, flat)


def _training_env(env: Env | HostEnv, config: TrainConfig) -> tuple[Any, str]:
    """The environment of `train_sb3`, and its name: lanes of EnvPool where that is asked for, or where only it has the
    task, Gymnasium's own environments everywhere else."""
    task = Task.of(config)
    if simulator_facts(env)["simulator"] == "envpool" and (task.simulator == "envpool" or not is_known(task.env)):
        return make_env(task._replace(crn=False)), "envpool"  # lanes that live on
    return partial(_flat_env, task), "gymnasium"


def run_gradient(config: TrainConfig, to: Destination, display: Display, handle_interrupt: bool) -> dict[str, Any]:
    """Train with stable-baselines3; returns the summary of the run."""
    try:
        from polystep_rl.baselines.sb3.train import train_sb3
    except ModuleNotFoundError as error:
        raise ConfigError(f"`algo` {config.algo} needs {error.name}: pip install 'polystep-rl[baselines]'") from None
    if to.resume is not None:
        raise ConfigError(f"`resume`: a run of {config.algo} cannot be continued; start it anew")
    if config.total_timesteps is None or config.generations is not None:
        raise ConfigError(f"`algo` {config.algo} takes its budget in env steps: give `total_timesteps`")
    env = make_env(Task.of(config), config.workers)
    try:
        given = None if config.init is None else initial(env, config)
        policy = make_scaled_policy(env, config) if given is None else mlp_policy(given.spec)
        spec = policy.spec
        if spec.sides is not None or spec.weight_copies > 1 or spec.squash == "table" or spec.gain != 1:
            raise ConfigError(
                f"`init` {config.init}: a policy whose legs share a network, with several one-bit weights for each "
                f"input, or with a gain or a table of tanh has no gradients here; search on from it with `algo` "
                f"polystep, or start {config.algo} anew"
            )
    except ValueError as error:
        raise ConfigError(str(error)) from None
    training, simulator = _training_env(env, config)
    algo, _, gradients = config.algo.partition("-")
    running = algo == "ppo" and config.observation_scale == "running" and given is None
    key = streams(config.seed).evaluation
    with contextlib.ExitStack() as stack:
        run = new_run(dataclasses.replace(config, hidden=policy.spec.hidden), to)
        stack.callback(run.close)
        evaluate = stack.enter_context(centre_evaluator(env, policy, config.eval_episodes, key))
        observer = GradientObserver(run, env, policy, config, display, evaluate)
        with interruptible(observer, handle_interrupt):
            if given is not None:  # while nothing does better, it is the best
                observer.report(0, given.params, {"rollout/ep_rew_mean": np.nan, "episodes": 0, "updates": 0})
            result = train_sb3(
                algo,
                config.env,
                policy.spec,
                static_numbers(policy.spec),
                gradients=gradients or "none",
                settings=dataclasses.asdict(config.search),
                total_timesteps=config.total_timesteps,
                seed=config.seed,
                eval_freq=config.eval_freq,
                on_evaluation=observer.report,
                make_env=training,
                start=None if given is None else given.params,
                scales=RunningScales(prior_moments(env), config.observation_unit) if running else None,
            )
            return _finish(run, observer, env, result, simulator)


def _finish(
    run: RunDir, observer: GradientObserver, env: Env | HostEnv, result: SB3Result, train_simulator: str
) -> dict[str, Any]:
    """Evaluate what is deployed on held-out episodes, save the policies, and end the run unless it was interrupted."""
    config, policy = observer.config, observer.policy
    best = observer.best_params if observer.best_params is not None else result.params
    deployed = best if config.deploy == "best" else result.params
    evaluation = evaluate_on_test(env, policy, deployed, config.test_episodes, config.seed)
    for name, params, value in ((POLICY, result.params, None), (BEST_POLICY, best, observer.best_return)):
        meta = {**Task.of(config)._asdict(), **simulator_facts(env), "seed": config.seed}
        meta |= {"env_steps": result.env_steps, "eval_return": value}
        save_policy(run.path / name, policy.spec, params, meta)
    stopped_by = observer.stopped_by(result.interrupted)
    counts = {
        "env_steps": result.env_steps,
        "candidates": None,
        "episodes": result.episodes,
        "generations": None,
        "updates": result.updates,
        "eval_env_steps": observer.eval_env_steps,
        "wall_seconds": time.perf_counter() - observer.began,
    }
    best_return = float(observer.best_return)
    summary = summarised(env, run.path, stopped_by, evaluation, counts, best_return, train_simulator)
    if stopped_by != "interrupt":
        run.finish(summary)
    return summary
