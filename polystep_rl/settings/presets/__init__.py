"""Settings by preset, environment and precision: a YAML file per algorithm, and what all of them share."""

import functools
import re
import reprlib
from importlib import resources
from typing import Any

import yaml

from polystep_rl.errors import ConfigError, in_brackets
from polystep_rl.settings.algorithms import ALGORITHMS, GRADIENT
from polystep_rl.settings.run import SEARCH_ONLY, TrainConfig, from_plain
from polystep_rl.types import PRECISIONS

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
    if policy not in PRECISIONS:
        expected = ", ".join(PRECISIONS)
        raise ConfigError(f"unknown policy {policy!r}{in_brackets(policy, PRECISIONS)}; expected {expected}")
    if not re.fullmatch(r"[A-Za-z][\w-]*", algo):
        raise ConfigError(f"unknown algorithm {reprlib.repr(algo)}{in_brackets(algo, ALGORITHMS)}")
    known = _presets(algo)
    if name not in PRESETS:
        raise ConfigError(f"unknown preset {name!r}{in_brackets(name, PRESETS)}; expected one of {', '.join(PRESETS)}")
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
