"""The same policies and states on two devices: what must be equal, and how far apart the rest is.

*Laws*: integer policies act the same, bit for bit, on the same observations; costs do not depend on the number of
lanes; one step of the simulator from the same state deviates by rounding only. *Reported*: whole episodes. Simulators
are chaotic, and devices differ in the last bit of a sine or an exponential, so after some steps an integer policy may
see another observation, and an episode may go another way: the share that is the same is no law.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from polystep_rl.envs import make
from polystep_rl.policies import make_policy
from polystep_rl.rollout.device import DeviceEvaluator, Layout
from polystep_rl.rollout.population import RolloutConfig
from polystep_rl.types import Env, Policy

INTEGER = ("int8", "binary")
STEP_TOLERANCE = 1e-3  # of an observation or reward after one step, over max(1, its size)
STEPS = 100  # of an episode, of which states are compared
EPISODES = 4
LANES = (64, 640, 4096)


class Found(NamedTuple):
    """Both devices' outcomes; the first is the reference."""

    precision: str
    actions: tuple[np.ndarray, np.ndarray]  # (..., s) on the same observations
    step_deviation: float
    returns: tuple[np.ndarray, np.ndarray]  # (n, r)
    lengths: tuple[np.ndarray, np.ndarray]  # (n, r)
    lane_costs: dict[int, np.ndarray]  # of the second device, (n,) by number of lanes


def broken(found: Found) -> list[str]:
    """The laws that do not hold, a line each."""
    lines = []
    first, second = found.actions
    if found.precision in INTEGER and not np.array_equal(first, second):
        lines.append(f"{int((first != second).sum())} of {first.size} actions differ on the same observations")
    if not found.step_deviation <= STEP_TOLERANCE:  # NaN, too
        lines.append(f"a step deviates by {found.step_deviation:.2e}, more than {STEP_TOLERANCE}")
    (lanes, costs), *others = found.lane_costs.items()
    for other, given in others:
        if not np.array_equal(costs, given):
            lines.append(f"{int((costs != given).sum())} of {costs.size} costs differ on {lanes} and {other} lanes")
    return lines


def summary(found: Found) -> dict[str, Any]:
    """What goes into the record."""
    (a, b), (la, lb) = found.returns, found.lengths
    apart = np.abs(a.mean(1) - b.mean(1)) / np.maximum(1, np.abs(a.mean(1)))
    return {
        "precision": found.precision,
        "actions": int(found.actions[0].size),
        "same_actions": float((found.actions[0] == found.actions[1]).mean()),
        "action_deviation": float(np.abs(found.actions[0] - found.actions[1]).max()),
        "step_deviation": found.step_deviation,
        "episodes": int(a.size),
        "same_episodes": int(((a == b) & (la == lb)).sum()),
        "cost_deviation": {"median": float(np.median(apart)), "max": float(apart.max())},
        "lanes": list(found.lane_costs),
        "broken": broken(found),
    }


def compare(env_id: str, precision: str, devices: tuple[jax.Device, jax.Device], candidates: int) -> Found:
    """Random policies with 16 hidden units on both devices."""
    env = make(env_id)
    policy = make_policy(env.spec, (16,), precision)
    with jax.default_device(devices[0]):
        params = jax.vmap(policy.init)(jax.random.split(jax.random.key(1), candidates))
        deployed = jax.jit(jax.vmap(policy.deploy, out_axes=-1))(params)
        visited = jax.device_get(jax.jit(lambda d: _visited(env, policy, d, candidates))(deployed))
    given = jax.device_get((params, deployed))
    runs = [_on(device, env, policy, *given, visited, LANES[0]) for device in devices]
    acted, stepped, outcomes = zip(*runs, strict=True)
    lane_costs = {LANES[0]: outcomes[1].cost}
    for lanes in LANES[1:]:
        lane_costs[lanes] = _evaluated(devices[1], env, policy, given[0], lanes).cost
    apart = (np.abs(a - b) / np.maximum(1, np.abs(a)) for a, b in zip(*stepped, strict=True))
    return Found(
        precision,
        acted,
        max(float(x.max()) for x in apart),
        tuple(out.returns for out in outcomes),
        tuple(out.lengths for out in outcomes),
        lane_costs,
    )


def _visited(env: Env, policy: Policy, deployed: Any, candidates: int) -> tuple[Any, Any, Any]:
    """States and observations before every step, and actions, (..., n, t): after an episode's end as well."""
    state, obs = jax.vmap(env.reset, out_axes=-1)(jax.random.split(jax.random.key(2), candidates))

    def step(carry: tuple[Any, jax.Array], _: None) -> tuple[tuple[Any, jax.Array], Any]:
        action = policy.act_deployed(deployed, carry[1])
        out = jax.vmap(env.step, in_axes=-1, out_axes=-1)(carry[0], action)
        return (out.state, out.obs), (*carry, action)

    _, seen = jax.lax.scan(step, (state, obs), None, length=STEPS)
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, -1), seen)


def _on(device: jax.Device, env: Env, policy: Policy, params: Any, deployed: Any, visited: Any, lanes: int) -> Any:
    """Actions, what a step gives, and an evaluation, on one device; all start from the same numbers."""
    state, obs, taken = jax.device_put(visited, device)
    own = jax.tree.map(lambda x: x[..., None], jax.device_put(deployed, device))
    action = jax.jit(policy.act_deployed)(own, obs)
    flat = lambda x: x.reshape(*x.shape[:-2], -1)  # noqa: E731
    out = jax.jit(jax.vmap(env.step, in_axes=-1, out_axes=-1))(jax.tree.map(flat, state), flat(taken))
    return jax.device_get((action, (out.obs, out.reward), _evaluated(device, env, policy, params, lanes)))


def _evaluated(device: jax.Device, env: Env, policy: Policy, params: Any, lanes: int) -> Any:
    evaluator = DeviceEvaluator(env, policy, EPISODES, Layout(RolloutConfig(lanes), (device,)))
    with jax.default_device(device):
        given = jax.device_put(params, device)
        return jax.device_get(jax.jit(lambda p: evaluator(jax.random.key(3), p, lambda x: x))(given))
