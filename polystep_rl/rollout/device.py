"""From candidates to costs: population evaluation on JAX devices."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.tree_util import Partial

from polystep_rl.moments import merge_moments
from polystep_rl.processes import joined_shares
from polystep_rl.rollout.population import Episodes, RolloutConfig, rollout
from polystep_rl.rollout.score import MAX_STEPS, Horizon, Penalty, check_episodes, outcome
from polystep_rl.types import Array, Env, Evaluation, Evaluator, Key, Params, Policy, PyTree, Structured

DEFAULT_MAX_BYTES = 256 * 2**20
AXIS = "candidates"  # of the mesh of devices


class Layout(NamedTuple):
    """Where and in what portions a population is evaluated.

    None of it changes a return, a length or a cost; the moments of the observations are sums in another order, and
    differ in their last bits.
    """

    rollout: RolloutConfig = RolloutConfig()
    devices: tuple[jax.Device, ...] | None = None  # None: all devices of the default backend
    max_bytes: int = DEFAULT_MAX_BYTES  # bound on the parameters of candidates that exist at once, per device


class _Portion(NamedTuple):
    """Some candidates, of which those at the end may be padding up to equal portions."""

    candidates: PyTree  # leaves (c, ...)
    real: Array  # (c,) bool


class MadeOf(NamedTuple):
    """What a device evaluator was made of; the evaluator tells, as ``made_of``."""

    env: Env
    policy: Policy
    episodes: int
    layout: Layout
    collect_moments: bool
    penalty: Penalty
    horizon: Horizon


def device_evaluator(
    env: Env,
    policy: Policy,
    episodes: int,
    layout: Layout = Layout(),
    collect_moments: bool = False,
    penalty: Penalty = Penalty(),
    horizon: Horizon = Horizon(),
) -> Evaluator:
    """Evaluator for a functional environment: n candidates x ``episodes`` episodes, common random numbers.

    The candidates are split over the devices (their episodes, where there are fewer candidates than devices); on each
    of them they are decoded, deployed and rolled out in chunks that respect ``layout.max_bytes``. Episode j of every
    candidate starts from the same reset key. What ``decode`` needs it must bring along as a ``jax.tree_util.Partial``,
    whose arguments travel to every device. ``penalty`` is in the cost, not in the returns. ``horizon`` cuts episodes
    where that is sooner than the environment's own limit; where one of the two changes, a call takes the share of the
    budget that is spent, too.
    """
    check_episodes(episodes, horizon)
    mesh = Mesh(np.array(layout.devices or jax.devices()), (AXIS,))

    def evaluate(
        key: Key, candidates: PyTree, decode: Callable[[PyTree], Params], share: Array | float = 0.0
    ) -> Evaluation:
        limit = jnp.asarray(horizon.at(share, env.spec.horizon), jnp.int32)
        keys = jax.random.split(key, episodes)
        n = jax.tree.leaves(candidates)[0].shape[0]
        longest = int(horizon.at(1.0, env.spec.horizon))
        if n * episodes * longest > MAX_STEPS:
            raise ValueError(
                f"{n:,} candidates x {episodes:,} episodes of up to {longest:,} steps are too many: expected at most "
                f"{MAX_STEPS:,} steps in all; give fewer episodes"
            )
        # Few candidates, such as the centre: their episodes are split instead. Moments would count the padding.
        by_episode = n < mesh.size <= episodes and not collect_moments
        shards = mesh.size if n >= mesh.size or by_episode else 1
        portion = _Portion(candidates, jnp.ones(n, bool))
        if by_episode:  # the padding is some episodes once more
            keys = keys[np.arange(-(-episodes // shards) * shards) % episodes]
        else:
            portion = jax.tree.map(lambda x: pad(x, shards), portion)

        def run(decode: Callable[[PyTree], Params], portion: _Portion, keys: Key, limit: Array) -> Episodes:
            act, deployed = _ready(policy, decode(portion.candidates))
            return rollout(
                env, act, deployed, keys, layout.rollout, collect_moments, portion.real.sum(), limit, horizon.over
            )

        def shard(decode: Callable[[PyTree], Params], part: _Portion, keys: Key, limit: Array) -> Episodes:
            size = chunk_size(decode, policy, part.candidates, layout.max_bytes)
            out = _in_chunks(lambda portion: run(decode, portion, keys, limit), part, size)
            return gathered(out) if shards > 1 else jax.tree.map(lambda x: x[None], out)

        given = (decode if isinstance(decode, Partial) else Partial(decode), portion, keys, limit)
        if shards > 1:
            split, whole = PartitionSpec(AXIS), PartitionSpec()
            # What proposes candidates runs on every device, rather than being split and sent around.
            given = jax.lax.with_sharding_constraint(given, NamedSharding(mesh, whole))
            shard = jax.shard_map(
                shard,
                mesh=mesh,
                in_specs=(whole, *((whole, split) if by_episode else (split, whole)), whole),
                out_specs=whole,
                check_vma=False,
            )
        parts = shard(*given)
        returns, lengths = (joined_shares(x, n, episodes) for x in (parts.returns, parts.lengths))
        moments = merge_moments(parts.obs_moments)
        return outcome(returns, lengths, penalty, share, moments)._replace(lane_steps=parts.lane_steps.sum())

    evaluate.made_of = MadeOf(env, policy, episodes, layout, collect_moments, penalty, horizon)  # type: ignore[attr-defined]
    evaluate.structured = policy.act_structured is not None  # type: ignore[attr-defined]
    evaluate.grows = horizon.grows or penalty.grows  # type: ignore[attr-defined]
    return evaluate


def evaluate_params(evaluate: Evaluator, key: Key, params: Params) -> Evaluation:
    """Evaluate one parameter set with an evaluator (leaves without a candidate axis): Evaluation with n = 1."""
    return evaluate(key, jax.tree.map(lambda x: x[None], params), lambda x: x)


def _ready(policy: Policy, candidates: Params | Structured) -> tuple[Policy, PyTree]:
    """What acts on lanes, and what each candidate brings along for it, leaves (c, ...)."""
    if not isinstance(candidates, Structured):
        return policy, jax.vmap(policy.deploy)(candidates)
    act = policy.act_structured
    if act is None:
        raise ValueError(f"a {policy.spec.precision} policy cannot act by the structure of candidates: decode them")
    return policy._replace(act_deployed=lambda own, obs: act(candidates, own, obs)), candidates.own


def gathered(out: Episodes) -> Episodes:
    """The outcomes of all devices, on each of them: leaves (devices, ...). Called within shard_map.

    They travel as one array of 32-bit words: what a small population waits for is how often devices meet.
    """
    words = jax.tree.map(lambda x: jax.lax.bitcast_convert_type(x, jnp.uint32), out)
    flat, unflatten = ravel_pytree(words)
    parts = jax.vmap(unflatten)(jax.lax.all_gather(flat, AXIS))
    return jax.tree.map(lambda x, like: jax.lax.bitcast_convert_type(x, like.dtype), parts, out)


def pad(x: Array, multiple: int, axis: int = 0) -> Array:
    """Zeros at the end of an axis, up to a multiple."""
    extra = list(x.shape)
    extra[axis] = -x.shape[axis] % multiple
    return jnp.concatenate([x, jnp.zeros(extra, x.dtype)], axis) if extra[axis] else x


def chunk_size(decode: Callable, policy: Policy, part: PyTree, max_bytes: int) -> int:
    """Candidates whose decoded and deployed parameters fit into max_bytes, at least one."""
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype), part)

    def made(candidates: PyTree) -> PyTree:
        found = decode(candidates)
        return found.own if isinstance(found, Structured) else (found, jax.vmap(policy.deploy)(found))

    shapes = jax.eval_shape(made, one)
    per_candidate = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes))
    return max(1, max_bytes // max(1, per_candidate))


def _in_chunks(run: Callable[[_Portion], Episodes], part: _Portion, size: int) -> Episodes:
    """Run equal chunks one after the other; a single chunk runs as it is."""
    n = jax.tree.leaves(part)[0].shape[0]
    if size >= n:
        return run(part)
    chunks = -(-n // size)
    size = -(-n // chunks)
    stacked = jax.tree.map(lambda x: pad(x, size).reshape(-1, size, *x.shape[1:]), part)
    out = jax.lax.map(run, stacked)
    flat = lambda x: x.reshape(-1, *x.shape[2:])[:n]  # noqa: E731
    return Episodes(flat(out.returns), flat(out.lengths), merge_moments(out.obs_moments), out.lane_steps.sum())
