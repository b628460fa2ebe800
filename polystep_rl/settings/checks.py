"""Which numbers a configuration may hold, each by itself and beside the others."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from polystep_rl.errors import ConfigError
from polystep_rl.settings.algorithms import GRADIENT
from polystep_rl.settings.run import SEARCH_ONLY, TrainConfig

# The smallest values; None is not looked at.
_AT_LEAST = {
    **dict.fromkeys(("subspace_size", "rank", "particle_dim", "probes", "schedule_generations"), 1),
    **dict.fromkeys(("amortise", "episodes", "hidden", "total_timesteps", "generations", "eval_freq"), 1),
    **dict.fromkeys(("eval_episodes", "test_episodes", "n_envs", "n_steps", "batch_size", "n_epochs"), 1),
    **dict.fromkeys(("buffer_size", "train_freq", "gradient_steps", "target_update_interval"), 1),
    **dict.fromkeys(("seed", "redraw_every", "momentum", "kl_penalty", "epsilon_final", "learning_starts"), 0),
    **dict.fromkeys(("ent_coef", "vf_coef", "gamma", "gae_lambda", "learning_rate_final"), 0),
    **dict.fromkeys(("exploration_fraction", "exploration_final_eps", "averaging", "init_scale"), 0),
    **dict.fromkeys(("max_episode_steps", "train_horizon", "train_horizon_final", "init_widen"), 1),
    **dict.fromkeys(("starts", "start_generations", "policy_delay", "critic", "weight_copies"), 1),
    **dict.fromkeys(("action_noise", "target_policy_noise", "target_noise_clip"), 0),
    "population": 2,
}
_AT_MOST = dict.fromkeys(
    ("elite_ratio", "tau", "gamma", "gae_lambda", "exploration_fraction", "exploration_final_eps"), 1
)
_ABOVE_ZERO = {"epsilon", "step_radius", "step_radius_final", "probe_radius", "probe_radius_final", "sigma"}
_ABOVE_ZERO |= {"elite_ratio", "learning_rate", "wall_seconds", "observation_unit", "sigma_final", "clip_range"}
_ABOVE_ZERO |= {"max_grad_norm", "weight_limit"}
_INFINITE_OK = {"kl_penalty", "wall_seconds"}
MAX_GROWING = 2**31 - 1  # the share of the budget that is spent is counted in int32
MAX_SEED = 2**32 - 1  # beyond it, jax.random.key gives the same stream to many seeds


def check_ranges(config: Any) -> None:
    """Raise ConfigError, naming the setting, for the first number that is out of range or has no use beside another."""
    if isinstance(config, TrainConfig):
        _check_together(config)
    for entry in dataclasses.fields(config):
        value = getattr(config, entry.name)
        if dataclasses.is_dataclass(value):
            check_ranges(value)
        for number in value if isinstance(value, tuple) else (value,):
            if type(number) in (int, float):
                _check_range(entry.name, number)


def _check_together(config: TrainConfig) -> None:
    """Raise ConfigError for settings that do nothing without, or with, another one."""
    if config.init is None and config.init_widen > 1:
        said = "it widens a given policy; set hidden instead"
        raise ConfigError(f"init_widen was {config.init_widen} without init: {said}")
    if config.algo in GRADIENT:
        for entry in dataclasses.fields(config):
            value = getattr(config, entry.name)
            if entry.name in SEARCH_ONLY and value != entry.default:
                raise ConfigError(
                    f"{entry.name} was {value} with {config.algo}, which is one run on the environment's own episodes "
                    "and rewards; leave it out, or make it a wrapper"
                )
    train_end(config.train_end)
    for final, needed in (
        ("train_horizon_final", ("train_horizon", "total_timesteps")),
        ("step_penalty_final", ("total_timesteps",)),
    ):
        if getattr(config, final) is None:
            continue
        for name in needed:
            if getattr(config, name) is None:
                raise ConfigError(f"{final} was {getattr(config, final)} without {name}: give both")
        if (config.total_timesteps or 0) > MAX_GROWING:
            raise ConfigError(
                f"total_timesteps was {config.total_timesteps}, expected at most {MAX_GROWING} with {final}"
            )


def train_end(text: str | None) -> tuple[str | None, float]:
    """The metric and the bound of "height<0.5". ConfigError for anything else."""
    if text is None:
        return None, 0.0
    metric, sign, bound = (part.strip() for part in text.partition("<"))
    try:
        least = float(bound)
    except ValueError:
        least = math.nan
    if not metric or not sign or not math.isfinite(least):
        raise ConfigError(f"train_end was {text!r}, expected a metric and a number, such as height<0.5")
    return metric, least


def _check_range(name: str, value: float) -> None:
    if math.isnan(value) or (math.isinf(value) and name not in _INFINITE_OK):
        raise ConfigError(f"{name} was {value}, expected a finite number")
    if name in _ABOVE_ZERO and not value > 0:
        raise ConfigError(f"{name} was {value}, expected a number above 0")
    if value < _AT_LEAST.get(name, -math.inf):
        raise ConfigError(f"{name} was {value}, expected at least {_AT_LEAST[name]}")
    if value > _AT_MOST.get(name, math.inf):
        raise ConfigError(f"{name} was {value}, expected at most {_AT_MOST[name]}")
    if name == "seed" and value > MAX_SEED:
        raise ConfigError(f"seed was {value}, expected at most {MAX_SEED}")
    if name in ("momentum", "averaging") and value >= 1:
        raise ConfigError(f"{name} was {value}, expected a number below 1")
