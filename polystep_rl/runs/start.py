"""Starts a search at a given policy, quantised first where another precision is wanted."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from polystep_rl.errors import ConfigError
from polystep_rl.policies import frozen, make_policy, mlp_policy, quantise, read_policy
from polystep_rl.policies.convert import ForeignMLP, from_foreign, load_foreign
from polystep_rl.policies.io import FORMAT, find_policy
from polystep_rl.rollout.calibration import observations
from polystep_rl.runs.task import CALIBRATION_SEED
from polystep_rl.settings.algorithms import GRADIENT
from polystep_rl.settings.run import TrainConfig
from polystep_rl.types import Env, HostEnv, Params, PolicySpec

FILE = "init_policy"  # in the run folder: where the search started, after quantisation
EPISODES = 16  # of the float policy, that a quantiser is calibrated on
MOST = 20_000  # observations of them


class Initial(NamedTuple):
    """Where a search starts."""

    spec: PolicySpec
    params: Params
    given: tuple[PolicySpec, Params]  # before quantisation
    report: dict[str, Any]  # of the quantiser: what it chose and measured; empty where nothing was quantised


def given_policy(path: Path) -> tuple[PolicySpec, Params]:
    """The policy in a run folder, a policy file of ours, a model of stable-baselines3 (.zip), or a foreign MLP.

    Raises:
        ConfigError: nothing there, or a missing package.
        ValueError: a file that does not hold a policy (one line).
    """
    if not path.exists() and not path.with_suffix(".json").exists():
        raise ConfigError(f"`init` {path}: no such run folder or policy file; check the path")
    if path.suffix == ".zip":
        try:
            from polystep_rl.baselines.sb3.import_model import read_sb3
        except ModuleNotFoundError as error:
            raise ConfigError(f"`init` {path} needs {error.name}: pip install 'polystep-rl[baselines]'") from None
        return from_foreign(ForeignMLP(**read_sb3(path)))
    if path.is_dir():
        path = find_policy(path)
    if is_foreign(path):
        return from_foreign(load_foreign(path))
    saved = read_policy(path)
    return frozen(saved.spec, saved.params)


def is_foreign(path: Path) -> bool:
    """Whether a description is not in our own format."""
    try:
        described = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False  # `read_policy` says what is wrong
    return not (isinstance(described, dict) and described.get("format") == FORMAT)


def initial(env: Env | HostEnv, config: TrainConfig) -> Initial:
    """The start of the search that ``config.init`` names, in the precision that ``config.policy`` names.

    Raises:
        ConfigError: a policy that does not fit the environment, or cannot be quantised.
    """
    assert config.init is not None
    spec, params = given_policy(Path(config.init))
    _check_fits(env, spec, config.init)
    if spec.precision == config.policy:
        if config.init_widen > 1:
            raise ConfigError(f"`init_widen` {config.init_widen}: {config.init} is {spec.precision} already, and kept")
        return Initial(spec, params, (spec, params), {})
    if spec.precision != "float32":
        raise ConfigError(
            f"`init` {config.init}: it is {spec.precision}; only a float32 policy becomes {config.policy}"
        )
    copies = config.weight_copies if config.policy == "binary" else 1
    free = config.algo not in GRADIENT  # which have no such heads
    return quantised(env, spec, params, config.policy, config.init_widen, copies, free)


def quantised(
    env: Env | HostEnv,
    spec: PolicySpec,
    params: Params,
    precision: str,
    widen: int = 1,
    copies: int = 1,
    free_head: bool = True,
) -> Initial:
    """A float32 policy in another precision, calibrated on episodes of its own; arguments as those of `quantise`."""
    policy = mlp_policy(spec)
    act = functools.partial(policy.act_deployed, policy.deploy(params))
    rows = observations(env, jax.random.key(CALIBRATION_SEED), EPISODES, act)
    if len(rows) > MOST:
        rows = np.random.default_rng(CALIBRATION_SEED).permutation(rows)[:MOST]
    made = quantise(spec, params, precision, rows, widen, weight_copies=copies, free_head=free_head)
    report = {"chosen": made.chosen, "measured": made.measured, "observations": len(rows)}
    return Initial(made.spec, made.params, (spec, params), report)


def _check_fits(env: Env | HostEnv, spec: PolicySpec, path: str) -> None:
    """ConfigError unless a policy has the observations and actions of an environment."""
    wanted = make_policy(env.spec, (), "float32").spec
    for name in ("obs_size", "head", "action_size", "groups"):
        if getattr(spec, name) != getattr(wanted, name):
            raise ConfigError(
                f"`init` {path}: its {name} is {getattr(spec, name)}, {env.spec.id} needs {getattr(wanted, name)}"
            )
    if not np.allclose(spec.action_low + spec.action_high, wanted.action_low + wanted.action_high):
        raise ConfigError(f"`init` {path}: its actions have other bounds than those of {env.spec.id}")


def saved_start(config: TrainConfig, resume: Path | None) -> TrainConfig:
    """The settings of a resumed run with the start that it has saved: it may have been quantised, or moved since."""
    saved = None if resume is None else resume / f"{FILE}.json"
    if config.init is None or saved is None or not saved.exists():
        return config
    return dataclasses.replace(config, init=str(saved), init_widen=1)
