"""EnvPool's C++ simulators as a host environment.

EnvPool has no reset with a seed: every lane draws its episodes from a stream of its own, seeded when the pool is made.
For common random numbers the lanes are therefore made anew for every wave of episodes (milliseconds a lane where a
model must be loaded). Without them (``crn=False``) one pool lives on, candidates meet different episodes, and a resumed
run meets others than one that was not stopped.
"""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from polystep_rl.envs.robots.locomotion import PRIVILEGED, measured
from polystep_rl.envs.robots.playground_models import ROBOTS, tree_without_visuals
from polystep_rl.errors import did_you_mean
from polystep_rl.machine import usable_cores
from polystep_rl.types import MAX_RESET_SEED, TERM, EnvSpec, Ticks

PLAYGROUND = "MuJoCoPlayground/"  # a second name of every task that comes from there
OURS = ("num_envs", "batch_size", "num_threads", "seed", "env_seed")  # options that the pool of lanes sets itself


@functools.cache
def envpool_ids() -> frozenset[str]:
    """Ids that EnvPool knows; none where it is not installed."""
    try:
        import envpool
    except ImportError:
        return frozenset()
    return frozenset(envpool.list_all_envs())


def envpool_id(env_id: str) -> str:
    """EnvPool's id of a task; Playground's names, which have no version, get EnvPool's first version."""
    versioned = f"{env_id}-v1"
    return versioned if PLAYGROUND + versioned in envpool_ids() else env_id


def _leaves(space: spaces.Space) -> list[tuple[tuple[str, ...], spaces.Box]]:
    """Boxes of an observation space with the keys that lead to them, in alphabetical order."""
    if isinstance(space, spaces.Box):
        return [((), space)]
    if isinstance(space, spaces.Dict):
        return [((name, *path), box) for name in sorted(space.spaces) for path, box in _leaves(space[name])]
    raise ValueError(f"the observation space must be a Box or a Dict of Boxes, not {space}")


def _make_spec(env_id: str, **options: Any) -> Any:
    """EnvPool's specification of a task; ValueError, in one line, where it has none, or lacks a library for it."""
    import envpool

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the precision of bounds, once per feature
        try:
            return envpool.make_spec(env_id, **options)
        except Exception as error:
            given, said = f" from {options}" if options else "", " ".join(str(error).split())[:300]
            raise ValueError(f"EnvPool's {env_id} cannot be made{given}: {said}") from None


class _State(NamedTuple):
    """Places of a state's parts in the list of arrays that EnvPool returns for a batch of lanes."""

    obs: tuple[int, ...]  # what policies see, in the order of `_leaves`
    privileged: int | None
    reward: int
    done: int
    truncated: int
    terms: dict[str, int]  # of the reward, by name

    @classmethod
    def of(cls, keys: list[str], paths: list[tuple[str, ...]]) -> _State:
        """Find the parts among EnvPool's names, such as ``obs:state`` and ``info:reward_alive``."""
        places = {key: place for place, key in enumerate(keys)}
        whole = next(key for key in keys if key.startswith("obs"))  # a dictionary of one is left out around it
        seen = [places["obs:" + ".".join(path) if path else whole] for path in paths]
        terms = {key.removeprefix("info:reward_"): i for key, i in places.items() if key.startswith("info:reward_")}
        privileged = places.get(f"obs:{PRIVILEGED}")
        return cls(tuple(seen), privileged, places["reward"], places["done"], places["trunc"], terms)


class EnvPoolEnv:
    """One of EnvPool's environments: ``EnvPoolEnv("Hopper-v5", {"reset_noise_scale": 0.0})``.

    Raises:
        ValueError: one line, for an unknown id or option, or spaces that no policy fits.
    """

    simulator = "envpool"
    measures = True
    tells = False  # whether ticks carry the metrics

    def __init__(
        self,
        env_id: str,
        env_kwargs: Mapping[str, Any] | None = None,
        max_episode_steps: int | None = None,
        crn: bool = True,
    ) -> None:
        self.crn = crn
        if not envpool_ids():
            raise ValueError(
                "EnvPool is not installed: pip install 'polystep-rl[envpool]', or give `simulator` gymnasium"
            )
        self._id = envpool_id(env_id)
        if self._id not in envpool_ids():
            hint = did_you_mean(env_id, envpool_ids(), "give `simulator` gymnasium", most=3, quoted=False)
            raise ValueError(f"EnvPool has no environment {env_id!r}: {hint}")
        self._options = dict(env_kwargs or {})
        if max_episode_steps is not None:
            self._options["max_episode_steps"] = max_episode_steps
        probe = _make_spec(self._id)
        known = probe.config._asdict()
        for name in self._options:
            if name in OURS:
                raise ValueError(
                    f"EnvPool's option {name!r} cannot be given: lanes and seeds are set by the evaluation"
                )
            if name not in known:
                hint = did_you_mean(name, known, f"it has {', '.join(sorted(known))}")
                raise ValueError(f"EnvPool's {env_id} has no option {name!r}: {hint}")
        if self.of_playground and self._id.removeprefix(PLAYGROUND).startswith(ROBOTS):
            self._options.setdefault("base_path", tree_without_visuals(known["base_path"]))
        probe = _make_spec(self._id, **self._options)
        paths, observation = self._observation(env_id, self._seen(probe.observation_space))
        self._action_space, action = _action_space(env_id, probe.action_space)
        self.state = _State.of(list(probe._state_keys), paths)
        config = probe.config._asdict()
        threshold = config.get("reward_threshold")
        self.spec = EnvSpec(env_id, observation, action, int(config["max_episode_steps"]), threshold)

    def measuring(self) -> EnvPoolEnv:
        """The same environment with ticks that carry the inputs of `locomotion.measured`."""
        env = copy.copy(self)
        env.tells = True
        return env

    @property
    def of_playground(self) -> bool:
        """Whether the task is one of Playground's, whose steps take long."""
        return self._id.startswith(PLAYGROUND) or PLAYGROUND + self._id in envpool_ids()

    def _seen(self, space: spaces.Space) -> spaces.Space:
        """The part of the observations that policies see."""
        if self.of_playground and isinstance(space, spaces.Dict) and PRIVILEGED in space.spaces:
            return spaces.Dict({name: part for name, part in space.spaces.items() if name != PRIVILEGED})
        return space

    @staticmethod
    def _observation(env_id: str, space: spaces.Space) -> tuple[list[tuple[str, ...]], spaces.Box]:
        try:
            leaves = _leaves(space)
        except ValueError as error:
            raise ValueError(f"EnvPool's {env_id}: {error}") from None
        low, high = (
            np.concatenate([np.broadcast_to(getattr(box, side), box.shape).ravel() for _, box in leaves])
            for side in ("low", "high")
        )
        with np.errstate(over="ignore"):
            low, high = low.astype(np.float32), high.astype(np.float32)
        return [path for path, _ in leaves], spaces.Box(low, high, dtype=np.float32)

    def lanes(self, width: int, groups: int, seed: int) -> EnvPoolLanes:
        """A new pool of ``groups`` x ``width`` lanes; without ``crn``, ``seed`` decides all their episodes.

        On a single core nothing is simulated while the policy acts, so all lanes are one group there and the policy
        acts half as often; not without ``crn``, where the groups decide the episodes.
        """
        if self.crn and len(usable_cores()) == 1:
            width, groups = width * groups, 1
        return EnvPoolLanes(self, width, groups, seed)


def _action_space(env_id: str, space: Any) -> tuple[Any, spaces.Discrete | spaces.Box]:
    """EnvPool's own action space, and the space that a policy acts in."""
    if isinstance(space, spaces.Discrete):
        return space, spaces.Discrete(int(space.n))
    if isinstance(space, spaces.Box) and space.is_bounded() and np.issubdtype(space.dtype, np.floating):
        low, high = (side.astype(np.float32).ravel() for side in (space.low, space.high))
        return space, spaces.Box(low, high, dtype=np.float32)
    raise ValueError(f"EnvPool's {env_id}: the action space must be Discrete or a bounded Box, not {space}")


class EnvPoolLanes:
    """``groups`` pools of ``width`` lanes each, so that one is simulated while another is waited for.

    It drives them by the three calls beneath EnvPool's own ``send``, ``recv`` and ``reset``, whose dictionaries take
    longer than most of the steps. A test compares the two.
    """

    faults = 0
    last_fault = ""

    def __init__(self, env: EnvPoolEnv, width: int, groups: int, seed: int) -> None:
        self.width, self.groups, self.together = width, groups, env.crn
        self._env, self._space = env, env._action_space
        self._pools: list[Any] = [None] * groups
        self._place = np.tile(np.arange(width, dtype=np.int32), (groups, 1))  # of a lane in its pool
        if not env.crn:
            seeds = np.random.SeedSequence(seed).generate_state(groups).astype(np.int64) % MAX_RESET_SEED
            self._pools = [self._make(width, seed=int(s)) for s in seeds]
        # A new lane begins, and one that has finished an episode goes on, with a reset, whatever it is sent.
        self._over = np.ones((groups, width), bool)
        self._sent: list[tuple[np.ndarray, np.ndarray]] = [(np.zeros(0, int), np.zeros(0, bool))] * groups
        self._begun: list[np.ndarray | None] = [None] * groups
        self._metrics: dict[str, tuple[int, ...]] = {}  # shapes of what ticks carry, of one lane

    def _make(self, lanes: int, **seeds: Any) -> Any:
        import envpool

        # Groups share the cores: threads beyond them only contend, which CartPole shows most (scripts/bench/host.py).
        # Where a step takes long, a group has all of them while the policy acts for another (scripts/bench/g1.py).
        share = 1 if self._env.of_playground else self.groups
        threads = min(lanes, -(-len(usable_cores()) // share))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the libraries that it imports
            return envpool.make(
                self._env._id,
                env_type="gymnasium",
                num_envs=lanes,
                num_threads=threads,
                **seeds,
                **self._env._options,
            )

    def send(self, group: int, lanes: np.ndarray, actions: np.ndarray, seeds: np.ndarray) -> None:
        """See types.Lanes. Raises ValueError where lanes that are reset together are not."""
        begin = seeds >= 0
        if self.together and begin.any():
            if not begin.all():
                raise ValueError("lanes with common random numbers begin together: some were sent a step")
            self._pools[group] = None  # the old one goes before the new one comes
            self._pools[group] = self._make(len(lanes), env_seed=seeds.tolist())
            self._place[group, lanes] = np.arange(len(lanes))
            self._over[group] = True
        pool, over = self._pools[group], self._over[group]
        cut = begin & ~over[lanes]  # in the middle of an episode that nobody wants: reset at once, which is rare
        self._sent[group] = (lanes, cut)
        place = self._place[group, lanes]
        self._begun[group] = None
        if cut.any():
            pool._reset(place[cut])
            self._begun[group] = self._seen(pool._recv())
        if not cut.all():
            pool._send([place[~cut], place[~cut], self._native(actions[~cut])])

    def recv(self, group: int) -> Ticks:
        """See types.Lanes."""
        lanes, cut = self._sent[group]
        k, kept = len(lanes), ~cut
        begun = self._begun[group]
        if begun is None:
            state, lost = self._pools[group]._recv(), np.zeros(k, bool)
            ticks = Ticks(self._seen(state), *self._ended(state), lost, self._measured(state))
            self._metrics = {name: values.shape[1:] for name, values in ticks.metrics.items()}
        else:
            terminated, truncated, lost = (np.zeros(k, bool) for _ in range(3))
            metrics = {name: np.full((k, *shape), np.nan) for name, shape in self._metrics.items()}
            ticks = Ticks(np.zeros((k, begun.shape[1]), np.float32), np.zeros(k), terminated, truncated, lost, metrics)
            ticks.obs[cut] = begun
            if kept.any():
                state = self._pools[group]._recv()
                ticks.obs[kept] = self._seen(state)
                ticks.reward[kept], ticks.terminated[kept], ticks.truncated[kept] = self._ended(state)
                for name, values in self._measured(state).items():
                    metrics[name][kept] = values
        self._over[group][lanes] = ticks.terminated | ticks.truncated
        return ticks

    def _seen(self, state: list[np.ndarray]) -> np.ndarray:
        """Observations of a batch of k lanes as policies see them: (k, o) float32."""
        parts = [np.asarray(state[i], np.float32).reshape(len(state[i]), -1) for i in self._env.state.obs]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def _ended(self, state: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rewards, and which lanes were terminated and which truncated, each (k,)."""
        at = self._env.state
        return state[at.reward].astype(np.float64), state[at.done] & ~state[at.truncated], state[at.truncated]

    def _measured(self, state: list[np.ndarray]) -> dict[str, np.ndarray]:
        """Measurements beside the observation, if they were asked for."""
        at = self._env.state
        if not self._env.tells or at.privileged is None:
            return {}
        terms = {TERM + name: state[i] for name, i in at.terms.items()}
        return measured(self._env.spec.id, state[at.privileged]) | terms

    def _native(self, actions: np.ndarray) -> np.ndarray:
        """Convert a policy's actions to EnvPool's."""
        if isinstance(self._space, spaces.Discrete):
            return (actions + int(self._space.start)).astype(np.int32)
        low, high = self._space.low, self._space.high
        shaped = actions.reshape(-1, *low.shape).astype(np.float64)
        shaped = np.where(np.isnan(shaped), low / 2 + high / 2, shaped)  # a simulator never meets NaN
        return np.clip(shaped, low, high).astype(self._space.dtype)

    def close(self) -> None:
        self._pools = [None] * self.groups
