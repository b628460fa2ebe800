"""MuJoCo Playground's tasks on MJX as functional environments (``pip install 'polystep-rl[humanoid]'``).

The same tasks as EnvPool's, by the same names and options, but in JAX: fast on a GPU, a few steps a second on a CPU.
Nothing is downloaded: robots come without their meshes (``playground_models``). Other than Playground's own wrappers
this one neither resets by itself nor changes the state that it is given.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from polystep_rl.envs.robots.locomotion import PRIVILEGED, measured
from polystep_rl.envs.robots.playground_models import KEPT, without_visuals
from polystep_rl.errors import did_you_mean
from polystep_rl.types import Array, EnvSpec, Key, PyTree, Step

MISSING = "MuJoCo Playground is not installed: pip install 'polystep-rl[humanoid]'"
IMPLEMENTATIONS = ("jax", "warp")


@functools.cache
def playground_ids() -> frozenset[str]:
    """Ids of Playground's tasks; none where it is not installed. Imports it, which takes seconds."""
    if importlib.util.find_spec("mujoco_playground") is None:
        return frozenset()
    from mujoco_playground import registry

    return frozenset(registry.ALL_ENVS)


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Make Playground read its own models, without visuals, and clone no repository."""
    from mujoco_playground._src import mjx_env

    def update_assets(assets: dict[str, Any], path: Any, glob: str = "*", recursive: bool = False) -> None:
        folder = Path(str(path))
        for file in sorted(folder.glob(glob)) if folder.is_dir() else ():
            if file.is_dir() and recursive:
                update_assets(assets, file, glob, recursive)
            elif file.suffix == ".xml":
                assets[file.name] = without_visuals(file.read_text(encoding="utf-8")).encode()
            elif file.suffix in KEPT:
                assets[file.name] = file.read_bytes()

    replaced = {"ensure_menagerie_exists": lambda: None, "update_assets": update_assets}
    before = {name: getattr(mjx_env, name) for name in replaced}
    try:
        for name, function in replaced.items():
            setattr(mjx_env, name, function)
        yield
    finally:
        for name, function in before.items():
            setattr(mjx_env, name, function)


def _anywhere(leaf: Any) -> Any:
    """An array of MJX's model without a device, so that programs for several devices can hold it."""
    return jnp.asarray(np.asarray(leaf)) if isinstance(leaf, jax.Array) else leaf


@contextlib.contextmanager
def _without_devices(made: dict[Any, Any]) -> Iterator[None]:
    """MJX's empty data without its device, made once, in the first reset, for programs of several devices."""
    from mujoco import mjx

    def make_data(model: Any, *args: Any, **kwargs: Any) -> Any:
        call = (id(model), args, tuple(sorted(kwargs.items())))
        if call not in made:
            with jax.ensure_compile_time_eval():
                made[call] = jax.tree.map(np.asarray, original(model, *args, **kwargs))
        return jax.tree.map(jnp.asarray, made[call])

    original = mjx.make_data
    mjx.make_data = make_data
    try:
        yield
    finally:
        mjx.make_data = original


def config_path(config: Mapping[str, Any], option: str) -> tuple[str, int | None]:
    """Where an option of EnvPool's, or of Playground's own, is in Playground's nested configuration.

    Returns:
        The dotted path, and the index in the range that is there (None: there is no range). ``push_enable`` is
        ``push_config.enable``, ``alive_scale`` ``reward_config.scales.alive``, and ``lin_vel_x_max`` ``lin_vel_x``, 1.

    Raises:
        KeyError: there is none.
    """
    paths = dict(_leaves(config))
    name, index = option, None
    if option not in paths and option.endswith(("_min", "_max")):
        name, index = option[:-4], int(option.endswith("_max"))
    group, _, rest = name.partition("_")
    candidates = [
        name,
        f"reward_config.{name}",
        f"reward_config.scales.{name.removesuffix('_scale')}",
        f"{group}_config.{rest}",
        f"{group}_config.{rest}_range",
        f"{group}_config.scales.{rest}",
    ]
    if option == "max_episode_steps":
        candidates = ["episode_length"]
    for path in candidates:
        if path in paths and (index is None or isinstance(paths[path], (list, tuple))):
            return path, index
    raise KeyError(option)


def _leaves(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


class PlaygroundEnv:
    """One of MuJoCo Playground's tasks: ``PlaygroundEnv("G1JoystickFlatTerrain", push_enable=False)``.

    Args:
        task: Playground's name.
        impl: MJX's implementation, ``jax`` or, on an NVIDIA GPU where ``warp-lang`` is installed, ``warp``.
        options: of the task, by EnvPool's names (``lin_vel_x_max=0.5``) or Playground's (``"push_config.enable"``).

    Raises:
        ValueError: one line, for an unknown task or option.
    """

    def __init__(self, task: str, impl: str = "jax", **options: Any) -> None:
        if not playground_ids():
            raise ValueError(MISSING)
        if task not in playground_ids():
            hint = did_you_mean(task, playground_ids(), "give another `simulator`", most=3, quoted=False)
            raise ValueError(f"Playground has no task {task!r}: {hint}")
        if impl not in IMPLEMENTATIONS:
            raise ValueError(f"impl={impl!r}: expected one of {', '.join(IMPLEMENTATIONS)}")
        from mujoco_playground import registry

        config = registry.get_default_config(task)
        overrides = _overrides(task, config.to_dict(), {**options, "impl": impl})
        with _offline():
            self._env = registry.load(task, config=config, config_overrides=overrides)
        self._env._mjx_model = jax.tree.map(_anywhere, self._env._mjx_model)
        self._empty: dict[Any, Any] = {}
        self._like = jax.eval_shape(self._begin, jax.random.key(0))
        size = self._like.obs["state"].shape if isinstance(self._like.obs, Mapping) else self._like.obs.shape
        observation = spaces.Box(-np.inf, np.inf, size, np.float32)
        action = spaces.Box(-1.0, 1.0, (self._env.action_size,), np.float32)
        self.spec = EnvSpec(task, observation, action, int(config.episode_length), None)

    def reset(self, key: Key) -> tuple[PyTree, Array]:
        """See types.Env."""
        state = self._begin(key)
        return self._same_types(state), _seen(state.obs)

    def step(self, state: PyTree, action: Array) -> Step:
        """See types.Env. ``metrics`` has the terms of the reward, and what ``locomotion.measured`` reads."""
        copy = state.replace(info=dict(state.info), metrics=dict(state.metrics))  # Playground writes into them
        new = self._env.step(copy, action)
        metrics = dict(new.metrics)
        if isinstance(new.obs, Mapping) and PRIVILEGED in new.obs:
            metrics |= measured(self.spec.id, new.obs[PRIVILEGED])
        done = jnp.asarray(new.done, bool)
        return Step(self._same_types(new), _seen(new.obs), new.reward, done, jnp.zeros((), bool), metrics)

    def _begin(self, key: Key) -> PyTree:
        with _without_devices(self._empty):
            return self._env.reset(key)

    def _same_types(self, state: PyTree) -> PyTree:
        """Convert every leaf to its type after a reset, so that a loop can carry it."""

        def cast(x: Any, like: Any) -> Any:
            return x if jnp.issubdtype(like.dtype, jax.dtypes.prng_key) else jnp.asarray(x, like.dtype)

        return jax.tree.map(cast, state, self._like)


def _seen(obs: Any) -> Array:
    """The part of an observation that a policy sees."""
    return jnp.asarray(obs["state"] if isinstance(obs, Mapping) else obs, jnp.float32)


def _overrides(task: str, config: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Convert options to Playground's dotted overrides."""
    paths = dict(_leaves(config))
    found: dict[str, Any] = {}
    for option, value in options.items():
        try:
            path, index = config_path(config, option)
        except KeyError:
            if option == "impl":
                continue  # a task that has a single one
            hint = did_you_mean(option, paths, f"it has {', '.join(paths)}", cutoff=0.4)
            raise ValueError(f"Playground's {task} has no option {option!r}: {hint}") from None
        if index is not None:
            value = [*found.get(path, paths[path])][:index] + [value] + [*found.get(path, paths[path])][index + 1 :]
        found[path] = value
    return found
