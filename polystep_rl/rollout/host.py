"""Population evaluation on host simulators: n candidates x r episodes over a pool of lanes.

A lane that finishes its episode starts the next (candidate, episode) pair at once. Groups of lanes take turns: while
the policy acts for one, the simulator steps the others. What a pair returns, and what it adds to the observation
moments, depends on the pair alone (where resets honour their seed): never on the lane, on the number of lanes, or on
simulators that died on the way, whose episodes are run again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.tree_util import Partial

from polystep_rl.moments import merge
from polystep_rl.processes import Part, everyone, joined_parts, part_of, processes
from polystep_rl.rollout.bookkeeping import Ledger, SimulatorError
from polystep_rl.rollout.device import DEFAULT_MAX_BYTES, chunk_size
from polystep_rl.rollout.host_policy import Forward, forward_of
from polystep_rl.rollout.order import WIDTH, padded
from polystep_rl.rollout.score import Horizon, Penalty, check_episodes
from polystep_rl.types import MAX_RESET_SEED, Evaluation, HostEnv, Key, Lanes, Moments, Params, Policy, PyTree


class HostLayout(NamedTuple):
    """Where and in what portions a population is evaluated."""

    lanes: int = 512  # at most, all groups together
    groups: int = 2  # that take turns
    max_bytes: int = DEFAULT_MAX_BYTES  # bound on the parameters of candidates that exist at once


class _Group:
    """The lanes of one group, and what they are at."""

    def __init__(self, width: int, obs_size: int) -> None:
        self.pair = np.full(width, -1)  # candidate * r + episode; -1 where the lane has no work
        self.fresh = np.zeros(width, bool)  # the next tick is a reset
        self.obs = np.zeros((padded(width), obs_size), np.float32)
        self.candidate = np.full(len(self.obs), -1, np.int32)  # whose weights a lane has; -1: nobody's yet
        self.weights: PyTree | None = None
        self.sent = np.zeros(0, int)  # lanes that are under way


class HostEvaluator:
    """Evaluator for a host environment: n candidates x ``episodes`` episodes over a pool of simulator lanes.

    Episode j of every candidate starts from the same seed where the environment honours seeds (``env.crn``). Close it
    to give the simulators back.

    Args:
        env: the environment, such as ``envs.make_any("Hopper-v5")`` gives.
        policy: the policy; ``policy.act_deployed`` is called on all lanes of a group at once.
        episodes: per candidate, at least 1.
        layout: lanes, groups and memory.
        collect_moments: also return moments of the observations of living steps.
        seed: of simulators that cannot be seeded at a reset.
        penalty: what the cost counts every step worse than its reward; the returns do not.
        horizon: where an episode is cut, where that is sooner than the environment's own limit; where one of the two
            changes, a call takes the share of the budget that is spent, too.

    Raises:
        ValueError: fewer than one episode or step.
        SimulatorError: from a call, where the simulators cannot go on.
    """

    on_host = True

    def __init__(
        self,
        env: HostEnv,
        policy: Policy,
        episodes: int,
        layout: HostLayout = HostLayout(),
        collect_moments: bool = False,
        seed: int = 0,
        penalty: Penalty = Penalty(),
        horizon: Horizon = Horizon(),
    ) -> None:
        check_episodes(episodes, horizon)
        if horizon.metric is not None and not env.measures:
            raise ValueError(f"{env.spec.id} on {env.simulator} measures nothing: an episode cannot end on a metric")
        self.env: HostEnv = env if horizon.metric is None else env.measuring()
        self.policy, self.episodes, self.layout = policy, episodes, layout
        self.collect_moments, self.seed, self.penalty = collect_moments, seed, penalty
        self.horizon = horizon
        self._lanes: Lanes | None = None
        self._faults = self._all_faults = 0

    @property
    def structured(self) -> bool:
        """Whether it takes candidates that are never built."""
        return self.policy.act_structured is not None

    @property
    def grows(self) -> bool:
        """Whether episodes or the penalty change while the budget is spent."""
        return self.horizon.grows or self.penalty.grows

    @property
    def faults(self) -> int:
        """Simulators that died and were replaced so far, in all processes as of the last evaluation."""
        return self._all_faults if processes() > 1 else self._own_faults()

    def _own_faults(self) -> int:
        return self._faults + (self._lanes.faults if self._lanes else 0)

    def close(self) -> None:
        if self._lanes is not None:
            self._faults += self._lanes.faults
            self._lanes.close()
            self._lanes = None

    def __enter__(self) -> HostEvaluator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __call__(
        self, key: Key, candidates: PyTree, decode: Callable[[PyTree], Params], spent: Any = 0.0
    ) -> Evaluation:
        decode = decode if isinstance(decode, Partial) else Partial(decode)
        seeds = np.asarray(jax.random.randint(key, (self.episodes,), 0, MAX_RESET_SEED), np.int64)
        n = jax.tree.leaves(candidates)[0].shape[0]
        part_here = part_of(n, self.episodes, jax.process_index(), processes())
        own = jax.tree.map(lambda x: x[part_here.candidates], candidates)
        limit = self.horizon.at(spent, self.env.spec.horizon)
        parts = self._outcomes(decode, own, seeds[part_here.episodes], limit)
        returns, lengths, moments = self._together(part_here, parts, n)
        cost, bad = _finite_cost(returns - float(self.penalty.at(spent)) * lengths)
        return Evaluation(cost, returns, lengths, lengths.sum(), moments, bad)  # type: ignore[arg-type]

    def _outcomes(self, decode: Partial, candidates: PyTree, seeds: np.ndarray, limit: Any) -> list[Ledger]:
        """Roll out some candidates and episodes, a chunk after the other."""
        n, parts = jax.tree.leaves(candidates)[0].shape[0], []
        if n == 0 or len(seeds) == 0:
            return []
        size = min(n, chunk_size(decode, self.policy, candidates, self.layout.max_bytes))
        try:
            for first in range(0, n, size):
                part = jax.tree.map(lambda x, first=first: x[first : first + size], candidates)
                parts.append(self._roll_out(forward_of(self.policy, decode, part), seeds, limit))
        except BaseException:
            self.close()  # its lanes are in the middle of something
            raise
        return parts

    def _together(self, share: Part, parts: list[Ledger], n: int) -> tuple[np.ndarray, np.ndarray, Moments]:
        """Returns and lengths (n, r) and the moments of all processes, of the outcomes of this one."""
        found = np.zeros((2, *share.shape))
        if parts:
            returns = np.concatenate([ledger.returns.reshape(-1, ledger.episodes) for ledger in parts])
            lengths = np.concatenate([ledger.lengths.reshape(-1, ledger.episodes) for ledger in parts])
            found[:, : len(returns), : returns.shape[1]] = returns, lengths
        nothing = Ledger(0, 1, np.asarray(self.policy.spec.obs_offset, np.float64), False)
        own = functools.reduce(merge, (ledger.moments() for ledger in parts or [nothing]))
        tables, moments, faults = everyone((found, own, np.int64(self._own_faults())))
        self._all_faults = int(faults.sum())
        returns, lengths = (joined_parts(tables[:, i], n, self.episodes) for i in range(2))
        merged = functools.reduce(merge, (jax.tree.map(lambda x, i=i: x[i], moments) for i in range(len(faults))))
        return returns, lengths.astype(np.int32), merged

    def _pool(self, pairs: int) -> Lanes:
        if self._lanes is None:
            groups = max(1, min(self.layout.groups, pairs // WIDTH))
            width = -(-min(self.layout.lanes, pairs) // groups)
            # Where resets do not honour seeds, every process has episodes of its own.
            self._lanes = asked(self.env.lanes, width, groups, (self.seed + jax.process_index()) % MAX_RESET_SEED)
        return self._lanes

    def _roll_out(self, forward: Forward, seeds: np.ndarray, limit: Any) -> Ledger:
        n = jax.tree.leaves(forward.deployed)[0].shape[0]
        lanes = self._pool(n * len(seeds))
        offset = np.asarray(self.policy.spec.obs_offset, np.float64)
        ledger = Ledger(n, len(seeds), offset, self.collect_moments)
        groups = [_Group(lanes.width, len(offset)) for _ in range(lanes.groups)]
        for index, group in enumerate(groups):
            self._send(lanes, index, group, ledger, forward, seeds)
        while any(group.sent.size for group in groups):
            for index, group in enumerate(groups):
                if group.sent.size:
                    self._receive(lanes, index, group, ledger, limit)
                    self._send(lanes, index, group, ledger, forward, seeds)
        return ledger

    def _receive(self, lanes: Lanes, index: int, group: _Group, ledger: Ledger, limit: Any) -> None:
        ticks = asked(lanes.recv, index)
        sent = group.sent
        group.obs[sent] = ticks.obs
        stepped = ~group.fresh[sent]
        pair = group.pair[sent]
        if ticks.lost.any():
            for lane in sent[ticks.lost]:
                ledger.again(int(group.pair[lane]), lanes.last_fault or "its simulator died")
            group.pair[sent[ticks.lost]] = -1
            stepped &= ~ticks.lost
        moved = pair[stepped]
        ledger.returns[moved] += ticks.reward[stepped]
        ledger.lengths[moved] += 1
        cut = (ledger.lengths[pair] >= limit) | self.horizon.over(ticks.metrics)
        ended = stepped & (ticks.terminated | ticks.truncated | cut)
        group.pair[sent[ended]] = -1
        group.fresh[sent] = False

    def _send(
        self,
        lanes: Lanes,
        index: int,
        group: _Group,
        ledger: Ledger,
        forward: Forward,
        seeds: np.ndarray,
    ) -> None:
        idle = np.flatnonzero(group.pair < 0)[: ledger.left]
        changed = False
        if idle.size > 0 and not (lanes.together and (group.pair >= 0).any()):
            group.pair[idle] = ledger.begin(group.candidate[idle].tolist())
            group.fresh[idle] = True
            candidates = group.pair[idle] // len(seeds)
            changed = bool((candidates != group.candidate[idle]).any())
            group.candidate[idle] = candidates
        group.sent = sent = np.flatnonzero(group.pair >= 0)
        if not sent.size:
            return
        fresh, pair = group.fresh[sent], group.pair[sent]
        if changed:
            group.weights, actions = forward.gather_and_act(forward.deployed, group.candidate, group.obs)
        else:
            actions = forward.act(group.weights, group.obs)
        if ledger.collect:
            ledger.saw(pair[~fresh], group.obs[sent[~fresh]])  # while the policy acts
        begin = np.where(fresh, seeds[pair % len(seeds)], -1)
        asked(lanes.send, index, sent, np.asarray(actions)[sent], begin)


def asked(call: Callable[..., Any], *args: Any) -> Any:
    """Ask a pool for something; what it fails with is its own error."""
    try:
        return call(*args)
    except RuntimeError as error:
        raise SimulatorError(str(error)) from error


def _finite_cost(returns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`evaluate.finite_cost` in double precision, then float32: (n, r) -> cost (n,), count ()."""
    bad_return = ~np.isfinite(returns)
    with np.errstate(invalid="ignore"):
        cost = -returns.mean(axis=1)
    bad = ~np.isfinite(cost)
    worst = cost[~bad].max() if not bad.all() else 0.0
    return np.where(bad, worst, cost).astype(np.float32), np.asarray(bad_return.sum(), np.int32)
