"""From candidates to costs: population evaluation on JAX devices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from polystep_rl.moments import merge_moments
from polystep_rl.processes import joined_parts
from polystep_rl.rollout.population import Episodes, RolloutConfig, rollout
from polystep_rl.rollout.score import MAX_STEPS, Horizon, Penalty, check_episodes, outcome
from polystep_rl.rollout.sharding import everywhere, mesh_of, pad, repeated, spread
from polystep_rl.types import Array, Env, Evaluation, Evaluator, Key, Params, Policy, PyTree, Structured

DEFAULT_MAX_BYTES = 256 * 2**20


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


@dataclass(frozen=True, eq=False)
class DeviceEvaluator:
    """Evaluator for a functional environment: n candidates x ``episodes`` episodes, common random numbers.

    The candidates are split over the devices (their episodes, where there are fewer candidates than devices); on each
    of them they are decoded, deployed and rolled out in chunks that respect ``layout.max_bytes``. Episode j of every
    candidate starts from the same reset key.

    Raises:
        ValueError: fewer than one episode or step; from a call, more steps than int32 can count.
    """

    env: Env
    policy: Policy
    episodes: int  # per candidate, at least 1
    layout: Layout = Layout()
    collect_moments: bool = False  # also return moments of the observations of live steps
    penalty: Penalty = Penalty()  # in the cost, not in the returns
    horizon: Horizon = Horizon()  # cuts episodes where that is sooner than the environment's own limit

    on_host: ClassVar[bool] = False
    faults: ClassVar[int] = 0

    def __post_init__(self) -> None:
        check_episodes(self.episodes, self.horizon)

    @property
    def structured(self) -> bool:
        """Whether it takes candidates that are never built."""
        return self.policy.act_structured is not None

    @property
    def grows(self) -> bool:
        """Whether episodes or the penalty change while the budget is spent."""
        return self.horizon.grows or self.penalty.grows

    def close(self) -> None:
        """Give back nothing: there are no simulators."""

    def __call__(
        self, key: Key, candidates: PyTree, decode: Callable[[PyTree], Params], spent: Array | float = 0.0
    ) -> Evaluation:
        """Evaluate candidates (see `types.Evaluator`).

        What ``decode`` needs it brings along as a ``jax.tree_util.Partial``, whose arguments travel to every device.
        """
        n, episodes, mesh = jax.tree.leaves(candidates)[0].shape[0], self.episodes, mesh_of(self.layout.devices)
        self._check_steps(n)
        limit = jnp.asarray(self.horizon.at(spent, self.env.spec.horizon), jnp.int32)
        keys = jax.random.split(key, episodes)
        # Few candidates, such as the centre: their episodes are split instead. Moments would count the padding.
        by_episode = n < mesh.size <= episodes and not self.collect_moments
        shards = mesh.size if n >= mesh.size or by_episode else 1
        portion = _Portion(candidates, jnp.ones(n, bool))
        if by_episode:
            keys = keys[repeated(episodes, shards)]
        else:
            portion = jax.tree.map(lambda x: pad(x, shards), portion)
        decode = decode if isinstance(decode, Partial) else Partial(decode)
        axes = (None, *((None, 0) if by_episode else (0, None)), None)
        given = (decode, portion, keys, limit)
        if shards > 1:
            parts = spread(self._roll_out, mesh, axes)(*everywhere(given, mesh))
        else:
            parts = spread(self._roll_out, mesh, None)(*given)
        returns, lengths = (joined_parts(x, n, episodes) for x in (parts.returns, parts.lengths))
        moments = merge_moments(parts.obs_moments)
        return outcome(returns, lengths, self.penalty, spent, moments)._replace(lane_steps=parts.lane_steps.sum())

    def _roll_out(self, decode: Callable[[PyTree], Params], part: _Portion, keys: Key, limit: Array) -> Episodes:
        """The episodes of some candidates, in equal chunks one after the other where not all fit into memory."""
        n, size = part.real.shape[0], chunk_size(decode, self.policy, part.candidates, self.layout.max_bytes)
        if size < n:
            return _in_chunks(lambda chunk: self._roll_out(decode, chunk, keys, limit), part, n, size)
        policy, deployed = _ready(self.policy, decode(part.candidates))
        count, over = part.real.sum(), self.horizon.over
        return rollout(self.env, policy, deployed, keys, self.layout.rollout, self.collect_moments, count, limit, over)

    def _check_steps(self, n: int) -> None:
        longest = int(self.horizon.at(1.0, self.env.spec.horizon))
        if n * self.episodes * longest > MAX_STEPS:
            raise ValueError(
                f"{n:,} candidates x {self.episodes:,} episodes of up to {longest:,} steps are too many: expected at "
                f"most {MAX_STEPS:,} steps in all; give fewer episodes"
            )


def evaluate_params(evaluate: Evaluator, key: Key, params: Params) -> Evaluation:
    """Evaluate one parameter set with an evaluator (leaves without a candidate axis): Evaluation with n = 1."""
    return evaluate(key, jax.tree.map(lambda x: x[None], params), lambda x: x)


def _ready(policy: Policy, candidates: Params | Structured) -> tuple[Policy, PyTree]:
    """The policy that acts on lanes, and what each candidate brings along for it, leaves (c, ...)."""
    if not isinstance(candidates, Structured):
        return policy, jax.vmap(policy.deploy)(candidates)
    act = policy.act_structured
    if act is None:
        raise ValueError(f"a {policy.spec.precision} policy cannot act by the structure of candidates: decode them")
    return policy._replace(act_deployed=lambda own, obs: act(candidates, own, obs)), candidates.own


def chunk_size(decode: Callable, policy: Policy, part: PyTree, max_bytes: int) -> int:
    """Candidates whose decoded and deployed parameters fit into max_bytes, at least one."""
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype), part)

    def made(candidates: PyTree) -> PyTree:
        found = decode(candidates)
        return found.own if isinstance(found, Structured) else (found, jax.vmap(policy.deploy)(found))

    shapes = jax.eval_shape(made, one)
    per_candidate = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes))
    return max(1, max_bytes // max(1, per_candidate))


def _in_chunks(run: Callable[[_Portion], Episodes], part: _Portion, n: int, size: int) -> Episodes:
    """Run n candidates in equal chunks of at most ``size``, one after the other."""
    size = -(-n // -(-n // size))
    stacked = jax.tree.map(lambda x: pad(x, size).reshape(-1, size, *x.shape[1:]), part)
    out = jax.lax.map(run, stacked)
    flat = lambda x: x.reshape(-1, *x.shape[2:])[:n]  # noqa: E731
    return Episodes(flat(out.returns), flat(out.lengths), merge_moments(out.obs_moments), out.lane_steps.sum())
