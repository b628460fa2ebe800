"""``check_env`` tests whether an environment keeps the contract of ``polystep_rl.types.Env``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from polystep_rl.types import Array, Env, EnvSpec, HostEnv, Key, Lanes, PyTree, Step

STEPS = 16  # of random actions that are tried
HOST_STEPS = 200  # on the host, at most
LANES = 3  # environments in the vmapped trial
TOLERANCE = 1e-4  # relative and absolute, between eager, jitted and vmapped results: compilers reorder arithmetic


def check_env(env: Env | HostEnv, key: Key | None = None) -> None:
    """Try an environment with random actions; raise ValueError, one line, for the first broken rule.

    Checked: the spec; shapes and dtypes of observation, reward, ``terminated`` and ``truncated``; observations within
    the space; finite values; a state whose structure never changes (so that it can be scanned); the same key and the
    same action give the same result; jitted and vmapped over trailing axes give what the plain call gives.
    """
    if isinstance(env, HostEnv):
        check_host_env(env)
        return
    if not isinstance(env, Env):
        raise ValueError(f"an environment needs spec, reset and step (types.Env), got {type(env).__name__}")
    _check_spec(env.spec)
    reset_key, action_key = jax.random.split(jax.random.key(0) if key is None else key)
    actions = _sample_actions(env.spec, action_key, STEPS)

    state, obs = _check_reset(env, reset_key)
    for action in actions:
        step = _call("step", env.step, state, action)
        _check_step(env.spec, state, step)
        _compare("step of the same state and action", step, "again", env.step(state, action))
        _compare("jitted step", _call("jitted step", jax.jit(env.step), state, action), "the plain step", step)
        if bool(step.terminated) or bool(step.truncated):
            break
        state = step.state
    _check_vmap(env, reset_key, actions)
    _check_scan(env, reset_key, actions)


def check_host_env(env: HostEnv) -> None:
    """Check an environment on the host: finite observations of the right size, finite rewards, and, where it
    takes seeds, the same episode for the same seed and actions, on every lane and whatever was played there before."""
    _check_spec(env.spec)
    lanes = env.lanes(2, 1, 0)
    try:
        before = _play(env, lanes, (7, 8))
        after = _play(env, lanes, (7, 7))
    except RuntimeError as error:
        raise ValueError(str(error)) from error
    finally:
        lanes.close()
    if not env.crn:
        return
    for episode, on in ((after[1], "another lane"), (before[0], "the same lane, which had played nothing before")):
        for step, (one, other) in enumerate(zip(after[0], episode, strict=False)):
            for name, a, b in zip(("observation", "reward", "terminated", "truncated"), one, other, strict=True):
                if not np.array_equal(a, b):
                    raise ValueError(
                        f"{env.spec.id}: after reset(seed=7) and the same actions, {name} {step} differs from that on "
                        f"{on}, {_brief(np.stack([a, b]))}: something outlives reset, or draws from elsewhere"
                    )


def _play(env: HostEnv, lanes: Lanes, seeds: tuple[int, int]) -> list[list[tuple[np.ndarray, ...]]]:
    """Play two lanes, reset with two seeds and sent the same actions, until their episodes end."""
    space = env.spec.action_space
    space.seed(0)
    given: list[list[tuple[np.ndarray, ...]]] = [[], []]
    alive, begin = np.arange(2), np.array(seeds)
    for _ in range(1 + HOST_STEPS):
        action = space.sample()
        lanes.send(0, alive, np.stack([action] * len(alive)), begin[alive])
        ticks = lanes.recv(0)
        begin = np.full(2, -1)
        if ticks.lost.any():
            raise ValueError(f"{env.spec.id}: it failed: {lanes.last_fault or 'its simulator died'}")
        if ticks.obs.shape[1:] != env.spec.observation_space.shape or not np.isfinite(ticks.obs).all():
            raise ValueError(f"{env.spec.id}: an observation must be {env.spec.observation_space.shape} and finite")
        if not np.isfinite(ticks.reward).all():
            raise ValueError(f"{env.spec.id}: the reward must be finite, got {ticks.reward[0]}")
        for row, lane in enumerate(alive):
            given[lane].append((ticks.obs[row], ticks.reward[row], ticks.terminated[row], ticks.truncated[row]))
        alive = alive[~(ticks.terminated | ticks.truncated)]
        if not alive.size:
            break
    return given


def _check_spec(spec: EnvSpec) -> None:
    if not isinstance(spec, EnvSpec):
        raise ValueError(f"spec must be a types.EnvSpec, got {type(spec).__name__}")
    if not isinstance(spec.observation_space, spaces.Box):
        raise ValueError(f"spec.observation_space must be a Box, got {spec.observation_space!r}")
    if not isinstance(spec.action_space, spaces.Discrete | spaces.Box | spaces.MultiDiscrete):
        raise ValueError(f"spec.action_space must be Discrete, Box or MultiDiscrete, got {spec.action_space!r}")
    if isinstance(spec.action_space, spaces.Discrete) and spec.action_space.start != 0:
        raise ValueError(f"a Discrete action space must start at 0, got {spec.action_space!r}")
    if isinstance(spec.action_space, spaces.Box) and not spec.action_space.is_bounded():
        raise ValueError(f"a Box action space must be bounded on both sides, got {spec.action_space!r}")
    if isinstance(spec.action_space, spaces.Box) and len(spec.action_space.shape) != 1:
        raise ValueError(f"a Box action space must have one axis, got shape {spec.action_space.shape}")
    if isinstance(spec.horizon, bool) or not isinstance(spec.horizon, int) or spec.horizon < 1:
        raise ValueError(f"spec.horizon must be a positive int, got {spec.horizon!r}")


def _check_reset(env: Env, key: Key) -> tuple[PyTree, Array]:
    start = _call("reset", env.reset, key)
    if not isinstance(start, tuple) or len(start) != 2:
        raise ValueError(f"reset must return (state, obs), got {type(start).__name__}")
    _check_leaves("reset: state", start[0])
    _check_obs(env.spec, "reset", start[1])
    _compare("reset of the same key", start, "again", env.reset(key))
    _compare("jitted reset", _call("jitted reset", jax.jit(env.reset), key), "the plain reset", start)
    return start


def _check_step(spec: EnvSpec, before: PyTree, step: Step) -> None:
    if not isinstance(step, Step):
        raise ValueError(f"step must return a types.Step, got {type(step).__name__}")
    _check_leaves("step: state", step.state)
    if _signature(step.state) != _signature(before):
        raise ValueError(f"step: state must stay {_signature(before)}, got {_signature(step.state)}")
    _check_obs(spec, "step", step.obs)
    _check_scalar("reward", step.reward, jnp.floating)
    _check_scalar("terminated", step.terminated, jnp.bool_)
    _check_scalar("truncated", step.truncated, jnp.bool_)
    if not isinstance(step.metrics, dict):
        raise ValueError(f"step: metrics must be a dict of arrays (), got {type(step.metrics).__name__}")
    for name, value in step.metrics.items():
        if jnp.shape(value) != ():
            raise ValueError(f"step: metrics[{name!r}] must have shape (), got {jnp.shape(value)}")


def _check_leaves(what: str, tree: PyTree) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = what + jax.tree_util.keystr(path)
        if not isinstance(leaf, jax.Array):
            raise ValueError(f"{name} must be a JAX array, got {type(leaf).__name__}")
        if jnp.issubdtype(leaf.dtype, jnp.floating) and not np.isfinite(leaf).all():
            raise ValueError(f"{name} must be finite, got {np.asarray(leaf)}")


def _check_obs(spec: EnvSpec, where: str, obs: Array) -> None:
    space = spec.observation_space
    _check_leaves(f"{where}: obs", obs)
    if obs.shape != space.shape:
        raise ValueError(f"{where}: obs must have shape {space.shape} as in the spec, got {obs.shape}")
    if obs.dtype not in (space.dtype, jnp.result_type(float)):
        raise ValueError(f"{where}: obs must have dtype {space.dtype} as in the spec, got {obs.dtype}")
    values = np.asarray(obs)
    outside = (values < space.low - TOLERANCE) | (values > space.high + TOLERANCE)
    if outside.any():
        where_out = int(np.flatnonzero(outside)[0])
        low, high, value = space.low.flat[where_out], space.high.flat[where_out], values.flat[where_out]
        raise ValueError(f"{where}: obs[{where_out}] must be within [{low}, {high}] as in the spec, got {value}")


def _check_scalar(name: str, value: Array, kind: Any) -> None:
    kind_name = "bool" if kind is jnp.bool_ else "float"
    if not isinstance(value, jax.Array) or value.shape != () or not jnp.issubdtype(value.dtype, kind):
        given = f"{value.dtype}{value.shape}" if isinstance(value, jax.Array) else type(value).__name__
        raise ValueError(f"step: {name} must be an array {kind_name}(), got {given}")
    if kind is jnp.floating and not np.isfinite(value):
        raise ValueError(f"step: {name} must be finite, got {np.asarray(value)}")


def _check_vmap(env: Env, key: Key, actions: Array) -> None:
    """Check lanes in the trailing axis, the layout of the rollout."""
    keys = jax.random.split(key, LANES)
    lane_actions = jnp.stack([actions[i % len(actions)] for i in range(LANES)], axis=-1)
    states, obs = _call("vmapped reset", jax.vmap(env.reset, out_axes=-1), keys)
    steps = _call("vmapped step", jax.vmap(env.step, in_axes=-1, out_axes=-1), states, lane_actions)
    for i in range(LANES):
        state, first = env.reset(keys[i])
        lane = jax.tree.map(lambda leaf, i=i: leaf[..., i], (states, obs, steps))
        _compare("vmapped reset", lane[:2], "the plain reset", (state, first))
        _compare("vmapped step", lane[2], "the plain step", env.step(state, lane_actions[..., i]))


def _check_scan(env: Env, key: Key, actions: Array) -> None:
    def advance(state: PyTree, action: Array) -> tuple[PyTree, None]:
        return env.step(state, action).state, None

    _call("scanned step", lambda: jax.lax.scan(advance, env.reset(key)[0], actions))


def _sample_actions(spec: EnvSpec, key: Key, count: int) -> Array:
    space = spec.action_space
    if isinstance(space, spaces.Discrete):
        return jax.random.randint(key, (count,), 0, int(space.n))
    if isinstance(space, spaces.MultiDiscrete):
        return jax.random.randint(key, (count, *space.nvec.shape), 0, jnp.asarray(space.nvec))
    assert isinstance(space, spaces.Box)
    low, high = jnp.asarray(space.low), jnp.asarray(space.high)
    return (low + (high - low) * jax.random.uniform(key, (count, *space.shape))).astype(jnp.float32)


def _signature(tree: PyTree) -> str:
    """Structure, shapes and dtypes in one line."""
    leaves = [
        f"{jax.tree_util.keystr(path) or 'state'}: {leaf.dtype}{leaf.shape}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]
    return f"{type(tree).__name__}({', '.join(leaves)})"


def _compare(name: str, given: PyTree, other_name: str, expected: PyTree) -> None:
    structure: Any = jax.tree.structure(given)
    if structure != jax.tree.structure(expected):
        raise ValueError(f"{name} must have the structure of {other_name}, {_signature(expected)}, got another")
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(given), jax.tree.leaves(expected), strict=True):
        x, y = _plain(a), _plain(b)
        if x.shape != y.shape or not np.allclose(x, y, rtol=TOLERANCE, atol=TOLERANCE):
            what = jax.tree_util.keystr(path)
            raise ValueError(f"{name} must give the same {what} as {other_name}, got {_brief(x)} and {_brief(y)}")


def _plain(leaf: Array) -> np.ndarray:
    return np.asarray(jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf)


def _brief(values: np.ndarray) -> str:
    return np.array2string(values, threshold=6).replace("\n", "")


def _call(name: str, function: Callable[..., Any], *args: Any) -> Any:
    try:
        return function(*args)
    except Exception as error:
        first_line = str(error).partition("\n")[0]
        raise ValueError(f"{name} failed, {type(error).__name__}: {first_line}") from error
