"""From settings and files to the parts of a run; shared by the commands."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple, cast

import jax

from polystep_rl.envs.robots.locomotion import gait_sides
from polystep_rl.errors import ConfigError
from polystep_rl.policies import make_policy, mlp_policy
from polystep_rl.rollout.calibration import observation_scale, random_action_moments
from polystep_rl.rollout.host import HostEvaluator
from polystep_rl.rollout.score import Horizon, Penalty
from polystep_rl.rollout.stages import Stages
from polystep_rl.runs.judging import make_evaluator
from polystep_rl.runs.start import Initial, initial
from polystep_rl.runs.strategy import episodes_per_candidate, make_strategy
from polystep_rl.runs.task import CALIBRATION_SEED, Task, make_env, on_host, training_envs
from polystep_rl.search.observing import observing
from polystep_rl.search.racing import racing
from polystep_rl.settings.run import TrainConfig, train_end
from polystep_rl.training.state import Streams, streams
from polystep_rl.types import Env, Evaluator, HostEnv, Moments, Params, Policy, Strategy


class Parts(NamedTuple):
    """Everything that training needs, made from a configuration."""

    env: Env | HostEnv
    policy: Policy
    strategy: Strategy
    initial: Initial | None  # the policy that the search starts at, where one is given
    start: Params
    evaluate: Evaluator  # candidates, on training episodes
    evaluate_centre: Evaluator  # the point to deploy, on held-out episodes
    keys: Streams

    def close(self) -> None:
        """Give back the simulators."""
        self.evaluate.close()
        self.evaluate_centre.close()


def make_parts(config: TrainConfig) -> Parts:
    """Build everything that a configuration describes. ConfigError for settings that do not fit together."""
    common = dataclasses.replace(config, **_of_one_run(config))
    shared = _shared_parts(common)
    if on_host(shared.env):  # its pool belongs to one run
        evaluators = _evaluators(shared.env, shared.policy, config)
    else:
        evaluators = _shared_evaluators(shared.env, shared.policy, common)
    keys = streams(config.seed)
    if shared.initial is None:
        start = jax.tree.map(lambda x: config.init_scale * x, shared.policy.init(keys.policy))
    else:
        start = shared.initial.params
    return Parts(*shared, start, *evaluators, keys)


def _of_one_run(config: TrainConfig) -> dict[str, Any]:
    """Settings that change no program, each at a fixed value: the seed, budgets and what is reported."""
    defaults = {entry.name: entry.default for entry in dataclasses.fields(TrainConfig)}
    names = ("generations", "wall_seconds", "eval_freq", "stop_reward", "stop_at_threshold", "test_episodes", "deploy")
    budget = None if config.total_timesteps is None else 1  # some settings need to have one
    return {name: defaults[name] for name in names} | {"seed": 0, "preset": "tuned", "total_timesteps": budget}


class _Shared(NamedTuple):
    """Parts that all seeds share: the same functions, so that they are compiled once."""

    env: Env | HostEnv
    policy: Policy
    strategy: Strategy
    initial: Initial | None


@functools.lru_cache(maxsize=2)
def _shared_parts(config: TrainConfig) -> _Shared:
    env = make_env(Task.of(config), config.workers)
    try:
        strategy = make_strategy(config.algo, config.search)
        given = None if config.init is None else initial(env, config)
        if given is not None:  # it brings its own input scales, and keeps them
            policy = mlp_policy(given.spec)
        else:
            policy = make_scaled_policy(env, config)
            if config.observation_scale == "running":
                strategy = observing(strategy, prior_moments(env), config.observation_unit)
        if config.starts > 1:
            strategy = racing(strategy, config.starts, config.start_generations)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return _Shared(env, policy, strategy, given)


def _evaluators(env: Env | HostEnv, policy: Policy, config: TrainConfig) -> tuple[Evaluator, Evaluator]:
    """Make the evaluators of candidates and of the centre."""
    keys, running = streams(config.seed), config.observation_scale == "running" and config.init is None
    try:
        episodes = episodes_per_candidate(config.search)
        horizon = Horizon(config.train_horizon, config.train_horizon_final, *train_end(config.train_end))
        penalty = Penalty(config.step_penalty, config.step_penalty_final)
        parts = [
            make_evaluator(training, policy, episodes, keys.episodes, running, penalty, horizon)
            for training in training_envs(env, config)
        ]
        evaluate = parts[0] if len(parts) == 1 else Stages(cast(list[HostEvaluator], parts))
        return evaluate, make_evaluator(env, policy, config.eval_episodes, keys.evaluation)
    except ValueError as error:
        raise ConfigError(str(error)) from None


_shared_evaluators: Any = functools.lru_cache(maxsize=2)(_evaluators)


def prior_moments(env: Env | HostEnv) -> Moments:
    """Moments that running statistics of observations begin with: of episodes of random actions."""
    return random_action_moments(env, jax.random.key(CALIBRATION_SEED))


def make_scaled_policy(env: Env | HostEnv, config: TrainConfig) -> Policy:
    """The policy that a configuration describes, its input scales measured. ValueError where the spaces do not fit."""
    sides = gait_sides(config.env) if config.structure == "gait" else None
    build = functools.partial(
        make_policy, env.spec, config.hidden, config.policy, sides=sides, weight_copies=config.weight_copies
    )
    build()  # says so before anything is measured
    calibration = jax.random.key(CALIBRATION_SEED)
    mode = "episodes" if config.observation_scale == "running" else config.observation_scale
    offset, scale = observation_scale(env, calibration, mode, config.observation_unit)
    return build(offset, scale)
