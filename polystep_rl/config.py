"""The settings of a run as data, and the presets they start from."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import re
import reprlib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
import yaml

from polystep_rl.rundir import read_config
from polystep_rl.settings import GRADIENT, SETTINGS, SearchConfig, Settings, settings_class

Precision = Literal["float32", "int8", "binary", "int8-act", "binary-act"]


class ConfigError(ValueError):
    """A setting that cannot be used: one line with what was given and what is expected."""


@dataclass(frozen=True)
class TrainConfig:
    """Train a policy.

    Every default comes from the preset of the algorithm, environment and precision; --show-config prints them.
    """

    env: str = "CartPole-v1"
    """Environment id, or module:ClassName of your own."""
    algo: str = "polystep"
    """The algorithm: polystep, open_es, cma_es, eggroll, ppo, ..., or the class name of one of evosax's."""
    policy: Precision = "binary"
    """Precision of the policy."""
    preset: str = "tuned"
    """Where defaults come from: tuned, compare (for short budgets, see docs/compare.md), repair (from a given policy;
    the default with --init), or paper (as published)."""
    seed: int = 0
    """Seed of everything."""
    hidden: tuple[int, ...] = (16,)
    """Units of the hidden layers; none is a linear policy."""
    structure: Literal["none", "gait"] = "none"
    """gait: both legs of a walking robot share one network, which sees its own leg's phase; none: a plain network."""
    simulator: Literal["auto", "jax", "envpool", "gymnasium"] = "auto"
    """What simulates: auto takes the first of the others that has the environment."""
    env_kwarg: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """A keyword argument of the environment, as name=value; may be given several times."""
    wrapper: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Wrappers (of Gymnasium only), innermost first: a name in gymnasium.wrappers or module:Class, with arguments as
    Name(key=value)."""
    max_episode_steps: int | None = None
    """Steps after which an episode is cut; the environment's own limit by default."""
    crn: bool = True
    """Common random numbers: all candidates of a generation meet the same episodes. Without them EnvPool is faster
    where episodes are short; the other simulators always have them."""
    workers: str = "auto"
    """Where Gymnasium steps: 0 in this process, a number of worker processes, auto (one per core), or ray."""
    train_horizon: int | None = None
    """Steps after which an episode of training is cut; what is reported runs to the environment's own limit."""
    train_horizon_final: int | None = None
    """With --train-horizon: what it grows to, geometrically, as the budget of env steps is spent."""
    step_penalty: float = 0.0
    """Subtracted from every step's reward in training, not in what is reported: an alive bonus, for one."""
    observation_scale: Literal["episodes", "bounds", "none", "running"] = "episodes"
    """Input scales: from episodes of random actions, from the bounds of the observation space, none, or running
    statistics of all observations that training acted on (population searches and PPO; the others keep the first)."""
    init: str | None = None
    """Start at this policy instead of a random one, quantised first to --policy: a run folder, a policy file, a model
    of stable-baselines3 (.zip) or a foreign MLP. Its layers and input scales are kept."""
    init_widen: int = 1
    """With --init and a binary policy: hidden units for each of the given policy's."""
    starts: int = 1
    """Searches that take turns at first, each with its own directions and statistics; the best goes on alone."""
    start_generations: int = 10
    """With --starts: generations of each of them until then."""
    init_scale: float = 1.0
    """Multiplies the random start of the search."""
    observation_unit: float = 1.0
    """Multiplies the input scales; below 1, an integer policy resolves more finely over a smaller range."""
    total_timesteps: int | None = 1_000_000
    """Budget in living env steps of training rollouts, all candidates counted."""
    generations: int | None = None
    """Budget in generations."""
    wall_seconds: float | None = None
    """Budget in seconds, those before a resume included."""
    eval_freq: int = 50_000
    """Env steps between evaluations of the centre."""
    eval_episodes: int = 256
    """Held-out episodes in an evaluation."""
    test_episodes: int = 256
    """Fresh episodes of the final report, from a stream that training never draws from."""
    stop_reward: float | None = None
    """Stop when two evaluations in a row return at least this."""
    stop_at_threshold: bool = False
    """Stop at the environment's own reward threshold."""
    deploy: Literal["best", "last"] = "best"
    """What the final report evaluates: the best centre of the evaluations, or the last one, whatever they said."""
    search: Settings = field(default_factory=SearchConfig)


# What only a population search has; a gradient method is one run on the environment's own episodes and rewards.
_SEARCH_ONLY = ("structure", "train_horizon", "train_horizon_final", "step_penalty", "starts", "start_generations")
PRESETS = ("tuned", "compare", "repair", "paper")


@functools.cache
def _presets(algo: str) -> dict[str, Any]:
    """The presets of an algorithm, all modes of it: name -> environment -> precision -> settings; {} if it has none."""
    try:
        text = (resources.files("polystep_rl") / "presets" / f"{algo.partition('-')[0]}.yaml").read_text(
            encoding="utf-8"
        )
    except OSError:
        return {}
    return yaml.safe_load(text)


def preset(env: str, policy: str, name: str = "tuned", algo: str = "polystep") -> TrainConfig:
    """The settings that a preset gives for an environment and a precision.

    ``presets/<algorithm>.yaml`` holds, per preset name, settings for ``any`` environment and per environment id; in
    each, ``all`` precisions and then the precision's own; later ones win, and ``common.yaml`` comes first. An
    algorithm without `tuned` takes its `compare` for it; what neither has keeps the algorithm's defaults.

    Raises:
        ConfigError: an unknown preset, or one without settings for this environment.
    """
    if policy not in typing.get_args(Precision):
        expected = ", ".join(typing.get_args(Precision))
        raise ConfigError(
            f"unknown policy {policy!r}{_suggest(policy, typing.get_args(Precision))}; expected {expected}"
        )
    if not re.fullmatch(r"[A-Za-z][\w-]*", algo):
        raise ConfigError(f"unknown algorithm {reprlib.repr(algo)}{_suggest(algo, SETTINGS)}")
    known = _presets(algo)
    if name not in PRESETS:
        raise ConfigError(f"unknown preset {name!r}{_suggest(name, PRESETS)}; expected one of {', '.join(PRESETS)}")
    if name == "paper" and name not in known:
        raise ConfigError(f"algorithm {algo!r} has no preset {name!r}, only {', '.join(known) or 'its defaults'}")
    fallbacks = {"repair": ("tuned", "compare"), "tuned": ("compare",)}.get(name, ())
    entries: dict[str, Any] = next((known[x] for x in (name, *fallbacks) if x in known), {})
    if name == "paper" and env not in entries:
        raise ConfigError(f"preset {name!r} has no settings for {env!r}, only for {', '.join(entries)}")
    merged: dict[str, Any] = {"env": env, "algo": algo, "policy": policy, "preset": name}
    common = _presets("common").get(name, {})
    for group in (common.get(env, {}), entries.get("any", {}), entries.get(env, {})):
        for part in (group.get("all", {}), group.get(policy, {})):
            search = {**merged.get("search", {}), **part.get("search", {})}
            merged = {**merged, **part, "search": search}
    if algo in GRADIENT:
        merged = {key: value for key, value in merged.items() if key not in _SEARCH_ONLY}
    return from_plain(TrainConfig, merged)


def from_plain(cls: type, values: Mapping[str, Any], where: str = "configuration") -> Any:
    """A configuration from YAML values, checked against the types of its fields.

    Raises:
        ConfigError: an unknown name (the closest one is suggested), or a value of the wrong type.
    """
    hints = typing.get_type_hints(cls)
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: expected a mapping of settings, got {reprlib.repr(values)}")
    if cls is TrainConfig:
        hints["search"] = settings_class(str(values.get("algo", "polystep")))
        values = {"search": {}, **values}
    for name in values:
        if name not in hints:
            raise ConfigError(f"{where}: unknown setting {reprlib.repr(name)}{_suggest(str(name), hints)}")
    return cls(**{name: _checked(hints[name], value, f"{where}: {name}") for name, value in values.items()})


def _checked(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return from_plain(typing.cast(type, hint), value, where)
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        good = value in options
    elif origin is tuple:
        good = isinstance(value, (list, tuple)) and all(_is(x, options[0]) for x in value)
        value = tuple(value) if good else value
    else:
        kinds = options if origin is types.UnionType else (origin or hint,)
        value = float(value) if float in kinds and type(value) is int else value
        good = type(value) in [type(None) if kind is None else kind for kind in kinds]
    if not good:
        expected = " or ".join(map(str, options)) if origin is Literal else getattr(hint, "__name__", str(hint))
        raise ConfigError(f"{where} was {reprlib.repr(value)}, expected {expected}")
    return value


def _is(value: Any, hint: Any) -> bool:
    return value in typing.get_args(hint) if typing.get_origin(hint) is Literal else type(value) is hint


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
    **dict.fromkeys(("starts", "start_generations", "policy_delay", "critic"), 1),
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
            if entry.name in _SEARCH_ONLY and value != entry.default:
                raise ConfigError(
                    f"{entry.name} was {value} with {config.algo}, which is one run on the environment's own episodes "
                    "and rewards; leave it out, or make it a wrapper"
                )
    if config.train_horizon_final is None:
        return
    for name in ("train_horizon", "total_timesteps"):
        if getattr(config, name) is None:
            raise ConfigError(f"train_horizon_final was {config.train_horizon_final} without {name}: give both")
    if (config.total_timesteps or 0) > MAX_GROWING:
        raise ConfigError(
            f"total_timesteps was {config.total_timesteps}, expected at most {MAX_GROWING} where episodes grow"
        )


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


def _suggest(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def to_plain(config: Any) -> dict[str, Any]:
    """A configuration as YAML and JSON can hold it; `from_plain` reads it back."""
    plain = dataclasses.asdict(config)
    return {key: list(value) if isinstance(value, tuple) else value for key, value in plain.items()}


def completed(plain: Mapping[str, Any]) -> dict[str, Any]:
    """A run's configuration as this version writes it: what is newer than the run has its default.

    Raises:
        ConfigError: settings that this version does not have.
    """
    return to_plain(from_plain(TrainConfig, plain))


def to_yaml(config: Any) -> str:
    """A configuration as YAML text."""
    return yaml.safe_dump(to_plain(config), sort_keys=False)


def load_yaml(path: Path) -> TrainConfig:
    """The configuration of a run folder's config.yaml; ConfigError if it is not one."""
    try:
        values = read_config(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error}); check the path") from error
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: damaged, or not the settings of a run ({type(error).__name__})") from error
    return from_plain(TrainConfig, values, str(path))
