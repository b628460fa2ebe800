"""A trained policy, what it does in its environment, and the observations that its exports are tested on."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from polystep_rl.analysis.stats import mean_interval
from polystep_rl.envs.facts import control_dt, observation_names
from polystep_rl.errors import ConfigError
from polystep_rl.machine import git_commit, package_versions
from polystep_rl.policies import mlp_policy
from polystep_rl.policies.export import bundle
from polystep_rl.policies.export.vectors import Comparer, random_observations
from polystep_rl.rollout.episodes import Played, play
from polystep_rl.runs.load import load_run
from polystep_rl.runs.start import given_policy, is_foreign, quantised
from polystep_rl.runs.task import Task, make_env
from polystep_rl.training.state import streams
from polystep_rl.types import Env, HostEnv, Params, PolicySpec

VECTORS = 1024


ON_POLICY_EPISODES = 8  # that half of the vectors are drawn from


class Trained(NamedTuple):
    """A policy to export."""

    spec: PolicySpec
    params: Params
    meta: dict[str, Any]
    seed: int
    env: Env | HostEnv | None  # None where it is not known
    env_id: str | None


def read(path: Path, which: str | None = None, precision: str | None = None, env: str | None = None) -> Trained:
    """The policy of a run, of a file of ours, or of others, quantised where that is asked.

    Raises:
        ConfigError: nothing of that name, or options that do not fit it.
        ValueError: damaged or foreign files.
    """
    if path.suffix == ".zip" or (not path.is_dir() and is_foreign(path)):
        if env is None:
            raise ConfigError(f"{path}: does not say for which environment it is; name it with `env`")
        spec, params = given_policy(path)
        meta: dict[str, Any] = {"env": env, "source": path.name}
        task, seed = Task(env), 0
    else:
        loaded = load_run(path, which)
        spec, params, meta, task, seed = loaded.policy.spec, loaded.params, loaded.meta, loaded.task, loaded.seed
        if env is not None and env != task.env:
            raise ConfigError(f"`env` {env}: {path} is a policy for {task.env}; leave it out")
    made = make_env(task)
    if precision is not None and precision != spec.precision:
        if spec.precision != "float32":
            raise ConfigError(f"`policy` {precision}: {path} is {spec.precision}; only a float32 policy is quantised")
        initial = quantised(made, spec, params, precision)
        spec, params = initial.spec, initial.params
        meta = {**meta, "quantised": initial.report, "eval_return": None}
    return Trained(spec, params, meta, seed, made, task.env)


class Reference:
    """The policy as it was trained: JAX."""

    def __init__(self, spec: PolicySpec, params: Params) -> None:
        policy = mlp_policy(spec)
        deployed = policy.deploy(jax.tree.map(jnp.asarray, params))
        self.spec = spec
        self._act = jax.jit(lambda obs: policy.act_deployed(deployed, obs))

    def act(self, obs: np.ndarray) -> np.ndarray:
        """Actions (n, entries) for observations (n, o)."""
        padded = np.zeros((1 << max(0, len(obs) - 1).bit_length(), obs.shape[1]), np.float32)  # few shapes to compile
        padded[: len(obs)] = obs
        found = np.asarray(self._act(padded.T))[..., : len(obs)]
        return found[:, None] if found.ndim == 1 else np.ascontiguousarray(found.T)


def in_environment(spec: PolicySpec, actions: np.ndarray) -> np.ndarray:
    """Actions (n, entries) as environments take them: (n,) of a discrete head."""
    return actions[:, 0] if spec.head == "discrete" else actions


def rolled(given: Trained, act: Any, episodes: int, part: int = 0) -> Played:
    """Episodes of a controller in the environment of a policy, from the test stream of its seed."""
    assert given.env is not None
    key = jax.random.fold_in(streams(given.seed).test, 1 + part)
    return play(given.env, lambda obs: in_environment(given.spec, act(obs)), episodes, key)


def described(given: Trained, name: str, returns: np.ndarray | None = None) -> dict[str, Any]:
    """The whole description of a policy (see `bundle.describe`)."""
    names = observation_names(given.env_id or "", given.spec.obs_size)
    meta = {**given.meta, "name": name, "git_commit": git_commit(), "packages": package_versions()}
    meta.setdefault("seed", given.seed)
    if returns is not None:
        meta["return"] = {
            "mean": float(returns.mean()),
            "interval": [*mean_interval(returns)],
            "episodes": len(returns),
        }
    return bundle.describe(given.spec, meta, names, control_dt(given.env_id or ""))


def vectors(given: Trained, count: int = VECTORS) -> bundle.Vectors:
    """Half of them met by the policy, half drawn at random; the actions are those of JAX."""
    reference, rng = Reference(given.spec, given.params), np.random.default_rng(given.seed)
    met = rolled(given, reference.act, ON_POLICY_EPISODES).obs
    met = met[rng.permutation(len(met))[: count // 2]]
    obs = np.concatenate([met, random_observations(given.spec, count - len(met), rng)])
    obs = obs[rng.permutation(len(obs))]
    actions = reference.act(obs)
    settled = Comparer(given.spec, given.params).settled(obs, actions)
    return bundle.Vectors(obs[settled], actions[settled])
