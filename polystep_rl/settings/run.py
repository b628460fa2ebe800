"""The settings of a run as data, and as plain values that YAML and JSON hold."""

from __future__ import annotations

import dataclasses
import math
import reprlib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
import yaml

from polystep_rl.errors import ConfigError, SettingsFileError, in_brackets
from polystep_rl.settings.algorithms import GRADIENT, AlgorithmSettings, SearchConfig, settings_class
from polystep_rl.settings.checks import Config, Count, NotNegative, Positive, Range
from polystep_rl.types import MAX_SEED, Precision

MAX_GROWING = 2**31 - 1  # the fraction of the budget that is spent is counted in int32


@dataclass(frozen=True)
class TrainConfig(Config):
    """Train a policy.

    Every default comes from the preset of the algorithm, environment and precision; --show-config prints them.
    """

    env: str = "CartPole-v1"
    """Environment id, or module:ClassName of your own."""
    algo: str = "polystep"
    """The algorithm: polystep, open_es, cma_es, eggroll, ppo, ..., or the class name of one of evosax's."""
    policy: Annotated[Precision, tyro.conf.arg(aliases=("--precision",))] = "binary"
    """Precision of the policy."""
    preset: str = "tuned"
    """Where defaults come from: tuned, compare (for short budgets, see docs/compare.md), repair (from a given policy;
    the default with --init), or paper (as published)."""
    seed: Annotated[int, Range(least=0, most=MAX_SEED)] = 0
    """Seed of everything."""
    hidden: tuple[Count, ...] = (16,)
    """Units of the hidden layers; none is a linear policy."""
    weight_copies: Count = 1
    """With a binary policy: one-bit weights for each input of a layer; 4 sum to one of -4, -2, 0, 2 and 4."""
    structure: Annotated[Literal["none", "gait"], tyro.conf.arg(aliases=("--sides",))] = "none"
    """gait: both legs of a walking robot share one network, which sees its own leg's phase; none: a plain network."""
    simulator: Literal["auto", "jax", "envpool", "gymnasium"] = "auto"
    """The simulator: auto takes the first of the others that has the environment. Gradient methods train in Gymnasium
    where it has the task, unless envpool is given."""
    env_kwarg: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """A keyword argument of the environment, as name=value; may be given several times."""
    wrapper: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Wrappers (of Gymnasium only), innermost first: a name in gymnasium.wrappers or module:Class, with arguments as
    Name(key=value)."""
    max_episode_steps: Count | None = None
    """Steps after which an episode is cut; the environment's own limit by default."""
    crn: bool = True
    """Common random numbers: all candidates of a generation meet the same episodes. Without them EnvPool is faster
    where episodes are short; the other simulators always have them."""
    workers: str = "auto"
    """Where Gymnasium steps: 0 in this process, a number of worker processes, auto (one per core), or ray."""
    train_env_kwarg: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """As --env-kwarg, in training only: an easier task, such as lin_vel_x_max=0.5; what is reported keeps its own. On
    EnvPool and Gymnasium a number may move while the budget of env steps is spent: push_magnitude_max=0:2."""
    train_horizon: Count | None = None
    """Steps after which an episode of training is cut; what is reported runs to the environment's own limit."""
    train_horizon_final: Count | None = None
    """With --train-horizon: what it grows to, geometrically, as the budget of env steps is spent."""
    step_penalty: float = 0.0
    """Subtracted from every step's reward in training, not in what is reported: an alive bonus, for one. One below 0
    pays for living."""
    step_penalty_final: float | None = None
    """The value that --step-penalty moves to, linearly, as the budget of env steps is spent."""
    train_end: str | None = None
    """End an episode of training, not of what is reported, where a metric of the environment falls below a number:
    height<0.5."""
    observation_scale: Literal["episodes", "bounds", "none", "running"] = "episodes"
    """Input scales: from episodes of random actions, from the bounds of the observation space, none, or running
    statistics of all observations that training acted on (population searches and PPO; the others keep the first)."""
    init: str | None = None
    """Start at this policy instead of a random one, quantised first to --policy: a run folder, a policy file, a model
    of stable-baselines3 (.zip) or a foreign MLP. Its layers and input scales are kept."""
    init_widen: Count = 1
    """With --init and a binary policy: hidden units for each of the given policy's."""
    starts: Count = 1
    """Searches that take turns at first, each with its own directions and statistics; the best goes on alone."""
    start_generations: Count = 10
    """With --starts: generations of each of them until then."""
    init_scale: NotNegative = 1.0
    """Multiplies the random start of the search."""
    observation_unit: Positive = 1.0
    """Multiplies the input scales; below 1, an integer policy resolves more finely over a smaller range."""
    total_timesteps: Count | None = 1_000_000
    """Budget in living env steps of training rollouts, all candidates counted."""
    generations: Count | None = None
    """Budget in generations."""
    wall_seconds: Annotated[float, Range(above=0, infinite=True)] | None = None
    """Budget in seconds, those before a resume included."""
    eval_freq: Count = 50_000
    """Env steps between evaluations of the centre."""
    eval_episodes: Count = 256
    """Held-out episodes in an evaluation."""
    test_episodes: Count = 256
    """Fresh episodes of the final report, from a stream that training never draws from."""
    stop_reward: float | None = None
    """Stop when two evaluations in a row return at least this."""
    stop_at_threshold: bool = False
    """Stop at the environment's own reward threshold."""
    deploy: Literal["best", "last"] = "best"
    """The policy of the final report: the best centre of the evaluations, or the last one, whatever they said."""
    search: AlgorithmSettings = field(default_factory=SearchConfig)

    def __post_init__(self) -> None:
        """Raise ConfigError for a value out of range, or one that has no use beside another."""
        super().__post_init__()
        _check_together(self)

    @classmethod
    def prepared(cls, values: Mapping[str, Any]) -> tuple[dict[str, Any], Mapping[str, Any]]:
        """As `Config.prepared`; the algorithm's own settings are of its class, and may be left out."""
        hints, values = super().prepared(values)
        return hints | {"search": settings_class(str(values.get("algo", "polystep")))}, {"search": {}, **values}


# Only a population search has these; a gradient method is one run on the environment's own episodes and rewards.
SEARCH_ONLY = (
    *("structure", "weight_copies", "train_env_kwarg", "train_horizon", "train_horizon_final", "train_end"),
    *("step_penalty", "step_penalty_final", "starts", "start_generations"),
)


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
    wanted = settings_class(config.algo)
    if type(config.search) is not wanted:
        got = type(config.search).__name__
        raise ConfigError(f"search was {got} with {config.algo}, expected {wanted.__name__}; `preset` gives it")
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


def from_plain(cls: type[Config], values: Any, where: str = "configuration") -> Any:
    """A configuration from YAML values, checked against the types of its fields.

    Raises:
        ConfigError: an unknown name (the closest one is suggested), or a value of the wrong type.
    """
    return cls(**_arguments(cls, values, where))


def _arguments(cls: type[Config], values: Any, where: str) -> dict[str, Any]:
    """The fields of a configuration, each of its type; whether they are in range is checked when it is made."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: expected a mapping of settings, got {reprlib.repr(values)}")
    hints, values = cls.prepared(values)
    for name in values:
        if name not in hints:
            raise ConfigError(f"{where}: unknown setting {reprlib.repr(name)}{in_brackets(str(name), hints)}")
    return {name: _checked(hints[name], value, f"{where}: {name}") for name, value in values.items()}


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
        kinds = options if origin in (types.UnionType, typing.Union) else (origin or hint,)
        value = float(value) if float in kinds and type(value) is int else value
        good = type(value) in [type(None) if kind is None else kind for kind in kinds]
    if not good:
        if origin is Literal:
            expected = " or ".join(map(str, options))
        elif origin in (types.UnionType, typing.Union):
            expected = " | ".join("None" if kind is type(None) else kind.__name__ for kind in options)
        else:
            expected = getattr(hint, "__name__", str(hint))
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
    """The configuration of a run folder's config.yaml; SettingsFileError if it is not one."""
    try:
        values = read_config(path)
    except OSError as error:
        raise SettingsFileError(f"{path}: cannot be read ({error.strerror or error}); check the path") from error
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise SettingsFileError(f"{path}: damaged, or not the settings of a run ({type(error).__name__})") from error
    try:
        arguments = _arguments(TrainConfig, values, str(path))
    except ConfigError as error:
        raise SettingsFileError(str(error)) from None
    return TrainConfig(**arguments)


def config_text(config: Mapping[str, Any]) -> bytes:
    """A configuration as ``read_config`` takes it, with YAML's mark at its end."""
    return yaml.safe_dump(config, sort_keys=False, explicit_end=True).encode()


def read_config(path: Path) -> Any:
    """Read a ``config.yaml``. ValueError, YAMLError or RecursionError if that is damaged; OSError.

    A text that was cut off is often YAML still, with fewer settings: the mark at the end tells.
    """
    text = path.read_text(encoding="utf-8")
    if not text.rstrip().endswith("\n..."):
        raise ValueError("it has no end")
    return yaml.safe_load(text)
