"""The settings of a run as data, and the presets they start from."""

from __future__ import annotations

import dataclasses
import reprlib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
import yaml

from polystep_rl.errors import ConfigError, _suggest
from polystep_rl.settings.algorithms import SearchConfig, Settings, settings_class

Precision = Literal["float32", "int8", "binary", "int8-act", "binary-act"]


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


def _config_text(config: Mapping[str, Any]) -> bytes:
    """A configuration as ``read_config`` takes it, with YAML's mark at its end."""
    return yaml.safe_dump(config, sort_keys=False, explicit_end=True).encode()


def read_config(path: Path) -> Any:
    """What a ``config.yaml`` holds. ValueError, YAMLError or RecursionError if that is damaged; OSError.

    A text that was cut off is often YAML still, with fewer settings: the mark at the end tells.
    """
    text = path.read_text(encoding="utf-8")
    if not text.rstrip().endswith("\n..."):
        raise ValueError("it has no end")
    return yaml.safe_load(text)
