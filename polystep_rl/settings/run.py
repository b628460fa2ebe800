"""The settings of a run as data, and the presets they start from."""

from __future__ import annotations

import dataclasses
import difflib
import functools
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

from polystep_rl.records.folder import read_config
from polystep_rl.settings.algorithms import GRADIENT, SETTINGS, SearchConfig, Settings, settings_class

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
    weight_copies: int = 1
    """With a binary policy: one-bit weights for each input of a layer; 4 sum to one of -4, -2, 0, 2 and 4."""
    structure: Literal["none", "gait"] = "none"
    """gait: both legs of a walking robot share one network, which sees its own leg's phase; none: a plain network."""
    simulator: Literal["auto", "jax", "envpool", "gymnasium"] = "auto"
    """What simulates: auto takes the first of the others that has the environment. Gradient methods train in Gymnasium
    where it has the task, unless envpool is given."""
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
    train_env_kwarg: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """As --env-kwarg, in training only: an easier task, such as lin_vel_x_max=0.5; what is reported keeps its own. On
    EnvPool and Gymnasium a number may move while the budget of env steps is spent: push_magnitude_max=0:2."""
    train_horizon: int | None = None
    """Steps after which an episode of training is cut; what is reported runs to the environment's own limit."""
    train_horizon_final: int | None = None
    """With --train-horizon: what it grows to, geometrically, as the budget of env steps is spent."""
    step_penalty: float = 0.0
    """Subtracted from every step's reward in training, not in what is reported: an alive bonus, for one. One below 0
    pays for living."""
    step_penalty_final: float | None = None
    """What --step-penalty moves to, linearly, as the budget of env steps is spent."""
    train_end: str | None = None
    """End an episode of training, not of what is reported, where a metric of the environment falls below a number:
    height<0.5."""
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
SEARCH_ONLY = (
    *("structure", "weight_copies", "train_env_kwarg", "train_horizon", "train_horizon_final", "train_end"),
    *("step_penalty", "step_penalty_final", "starts", "start_generations"),
)
PRESETS = ("tuned", "compare", "repair", "paper")


@functools.cache
def _presets(algo: str) -> dict[str, Any]:
    """The presets of an algorithm, all modes of it: name -> environment -> precision -> settings; {} if it has none."""
    try:
        text = (resources.files("polystep_rl.settings") / "presets" / f"{algo.partition('-')[0]}.yaml").read_text(
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
        merged = {key: value for key, value in merged.items() if key not in SEARCH_ONLY}
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
