"""The settings of a run as data, and the presets they start from."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import reprlib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml

Precision = Literal["float32", "int8", "binary", "int8-act", "binary-act"]


class ConfigError(ValueError):
    """A setting that cannot be used: one line with what was given and what is expected."""


@dataclass(frozen=True)
class SearchConfig:
    """PolyStep's settings. A `*_final` of None means constant."""

    subspace: Literal["full", "projection", "factored", "global"] = "global"
    """What is searched: every parameter, per-layer random projections, low-rank factors, or one random block."""
    subspace_size: int = 8
    """Coordinates of a global block; for projection, the cap on their total."""
    rank: int = 4
    """Rank of projection (coordinates per layer) and factored."""
    redraw_every: int = 1
    """Generations between redraws of a random subspace; 0 is never."""
    particle_dim: int = 4
    """Coordinates in a particle."""
    polytope: Literal["orthoplex", "simplex", "cube"] = "orthoplex"
    """Where a particle looks: 2d, d+1 or 2^d directions."""
    probes: int = 1
    """Probes along each direction."""
    plan: Literal["softmax", "sinkhorn", "kl"] = "softmax"
    """How costs become weights."""
    kl_penalty: float = 1.0
    """lambda of the kl plan: 0 is softmax, infinity Sinkhorn."""
    shaping: Literal["none", "mean", "max", "standardised", "centred_ranks"] = "centred_ranks"
    """How costs are scaled before the plan."""
    shape_per_particle: bool = True
    """Scale every particle's costs by themselves instead of all together."""
    epsilon: float = 0.4
    """Entropic regularisation, in units of the shaped cost."""
    epsilon_final: float | None = None
    step_radius: float = 1.0
    """Length of the way to a vertex, in parameter units."""
    step_radius_final: float | None = None
    probe_radius: float = 2.0
    """Length of the probe beyond which a vertex is judged; probes sit at k/(K+1) of it."""
    probe_radius_final: float | None = None
    radii_times_epsilon: bool = False
    """Multiply both radii by the current epsilon, as the paper does with constant radii."""
    schedule: Literal["linear", "cosine", "cosine_restarts", "power"] = "cosine"
    """How the three values above move to their *_final."""
    schedule_generations: int = 100
    """Generations the schedule takes."""
    optimizer: Literal["identity", "momentum", "adam"] = "identity"
    """What the step passes through."""
    momentum: float = 0.9
    """Decay of momentum, and of Adam's first moment."""
    learning_rate: float = 0.1
    """Adam's step, in parameter units."""
    amortise: int = 1
    """Steps per evaluated generation; all but the first reuse past displacements."""
    episodes: int = 2
    """Episodes per candidate."""


@dataclass(frozen=True)
class TrainConfig:
    """Train a policy by PolyStep.

    Every default comes from the preset of the environment and precision; --show-config prints them.
    """

    env: str = "CartPole-v1"
    """Environment id, or module:ClassName of your own."""
    algo: Literal["polystep"] = "polystep"
    """The search."""
    policy: Precision = "binary"
    """Precision of the policy."""
    preset: str = "tuned"
    """Where defaults come from: tuned, or paper (the published settings)."""
    seed: int = 0
    """Seed of everything."""
    hidden: tuple[int, ...] = (16,)
    """Units of the hidden layers; none is a linear policy."""
    observation_scale: Literal["episodes", "bounds", "none"] = "episodes"
    """Input scales: from episodes of random actions, from the bounds of the observation space, or none."""
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
    search: SearchConfig = field(default_factory=SearchConfig)


@functools.cache
def _presets() -> dict[str, Any]:
    return yaml.safe_load((resources.files("polystep_rl") / "presets.yaml").read_text(encoding="utf-8"))


def preset(env: str, policy: str, name: str = "tuned") -> TrainConfig:
    """The settings that a preset gives for an environment and a precision.

    ``presets.yaml`` holds, per preset name, settings for ``any`` environment and per environment id; in each, ``all``
    precisions and then the precision's own; later ones win.

    Raises:
        ConfigError: an unknown preset, or one without settings for this environment.
    """
    if policy not in typing.get_args(Precision):
        expected = ", ".join(typing.get_args(Precision))
        raise ConfigError(
            f"unknown policy {policy!r}{_suggest(policy, typing.get_args(Precision))}; expected {expected}"
        )
    known = _presets()
    if name not in known:
        raise ConfigError(f"unknown preset {name!r}{_suggest(name, known)}; expected one of {', '.join(known)}")
    entries = known[name]
    if env not in entries and "any" not in entries:
        raise ConfigError(f"preset {name!r} has no settings for {env!r}, only for {', '.join(entries)}")
    merged: dict[str, Any] = {"env": env, "policy": policy, "preset": name}
    for group in (entries.get("any", {}), entries.get(env, {})):
        for part in (group.get("all", {}), group.get(policy, {})):
            search = {**merged.get("search", {}), **part.get("search", {})}
            merged = {**merged, **part, "search": search}
    return from_plain(TrainConfig, merged)


def from_plain(cls: type, values: Mapping[str, Any], where: str = "configuration") -> Any:
    """A configuration from YAML values, checked against the types of its fields.

    Raises:
        ConfigError: an unknown name (the closest one is suggested), or a value of the wrong type.
    """
    hints = typing.get_type_hints(cls)
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: expected a mapping of settings, got {reprlib.repr(values)}")
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
        good = isinstance(value, (list, tuple)) and all(type(x) is options[0] for x in value)
        value = tuple(value) if good else value
    else:
        kinds = options if origin is types.UnionType else (hint,)
        value = float(value) if float in kinds and type(value) is int else value
        good = type(value) in [type(None) if kind is None else kind for kind in kinds]
    if not good:
        expected = " or ".join(map(str, options)) if origin is Literal else getattr(hint, "__name__", str(hint))
        raise ConfigError(f"{where} was {reprlib.repr(value)}, expected {expected}")
    return value


# The smallest values; None is not looked at.
_AT_LEAST = {
    **dict.fromkeys(("subspace_size", "rank", "particle_dim", "probes", "schedule_generations"), 1),
    **dict.fromkeys(("amortise", "episodes", "hidden", "total_timesteps", "generations", "eval_freq"), 1),
    **dict.fromkeys(("eval_episodes", "test_episodes"), 1),
    **dict.fromkeys(("seed", "redraw_every", "momentum", "kl_penalty", "epsilon_final"), 0),
}
_ABOVE_ZERO = {"epsilon", "step_radius", "step_radius_final", "probe_radius", "probe_radius_final"}
_ABOVE_ZERO |= {"learning_rate", "wall_seconds", "observation_unit"}
_INFINITE_OK = {"kl_penalty", "wall_seconds"}
MAX_SEED = 2**32 - 1  # beyond it, jax.random.key gives the same stream to many seeds


def check_ranges(config: Any) -> None:
    """Raise ConfigError, naming the setting, for the first number that is out of range."""
    for entry in dataclasses.fields(config):
        value = getattr(config, entry.name)
        if dataclasses.is_dataclass(value):
            check_ranges(value)
        for number in value if isinstance(value, tuple) else (value,):
            if type(number) in (int, float):
                _check_range(entry.name, number)


def _check_range(name: str, value: float) -> None:
    if math.isnan(value) or (math.isinf(value) and name not in _INFINITE_OK):
        raise ConfigError(f"{name} was {value}, expected a finite number")
    if name in _ABOVE_ZERO and not value > 0:
        raise ConfigError(f"{name} was {value}, expected a number above 0")
    if value < _AT_LEAST.get(name, -math.inf):
        raise ConfigError(f"{name} was {value}, expected at least {_AT_LEAST[name]}")
    if name == "seed" and value > MAX_SEED:
        raise ConfigError(f"seed was {value}, expected at most {MAX_SEED}")
    if name == "momentum" and value >= 1:
        raise ConfigError(f"momentum was {value}, expected a number below 1")


def _suggest(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def to_plain(config: Any) -> dict[str, Any]:
    """A configuration as YAML and JSON can hold it; `from_plain` reads it back."""
    plain = dataclasses.asdict(config)
    return {key: list(value) if isinstance(value, tuple) else value for key, value in plain.items()}


def to_yaml(config: Any) -> str:
    """A configuration as YAML text."""
    return yaml.safe_dump(to_plain(config), sort_keys=False)


def load_yaml(path: Path) -> TrainConfig:
    """The configuration of a run folder's config.yaml; ConfigError if it is not one."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error}); check the path") from error
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: damaged, or not the settings of a run ({type(error).__name__})") from error
    return from_plain(TrainConfig, values, str(path))
