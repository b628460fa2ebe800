"""The few types everything is made of. No logic lives here.

Axis letters, the same everywhere: ``n`` candidates, ``r`` episodes per candidate, ``t`` time, ``P`` particles,
``V`` vertices, ``K`` probes, ``d`` particle dimension, ``s`` subspace dimension, ``D`` parameters,
``o`` observation, ``a`` action, ``L`` simulator lanes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, get_args, runtime_checkable

import numpy as np

if TYPE_CHECKING:  # whoever runs a deployed policy imports these types, and has neither
    import jax
    from gymnasium import spaces

    Array = jax.Array
    Key = jax.Array  # a typed key, as made by jax.random.key(seed)
else:
    Array = Key = Any
PyTree = Any
Params = PyTree
State = PyTree
Info = dict[str, Array]


# Precisions of a policy; those of `INTEGER_PRECISIONS` are defined by integer arithmetic.
Precision = Literal["float32", "int8", "binary", "int8-act", "binary-act"]
PRECISIONS: tuple[str, ...] = get_args(Precision)
INTEGER_PRECISIONS = ("int8", "binary")
QMAX = 127  # int8 is used symmetrically: -128 never occurs
INPUT_UNIT = 32  # integer value of the normalised observation x = 1
WEIGHT_UNIT = 32  # integer value of the int8 weight latent 1
# Beside the layers among the parameters of a policy: {"offset": (o,), "scale": (o,)}, its own input scales.
INPUT = "input"

MAX_SEED = 2**32 - 1  # of a run; beyond it, jax.random.key gives the same stream to many seeds
MAX_RESET_SEED = 2**31 - 1  # of a simulator, at a reset


# --- search ------------------------------------------------------------------------------------------------------
class Moments(NamedTuple):
    """Mergeable first and second moments of observations (Welford; Chan, Golub and LeVeque 1979)."""

    weight: Array  # ()  number of observations
    mean: Array  # (o,)
    m2: Array  # (o,)  sum of squared deviations


class Proposal(NamedTuple):
    """Candidates that a strategy wants evaluated in this generation."""

    candidates: PyTree  # every leaf (n, ...); compact form, turned into parameters by Strategy.decode
    aux: PyTree  # what tell needs


class Structured(NamedTuple):
    """Candidates as changes of low rank to a centre that they share: none of them is ever built.

    What ``product`` and ``vector`` are given of ``own`` has its candidates on trailing axes, (..., *b), which
    broadcast with those of the inputs. A leaf is known by its position among the flattened parameters.
    """

    own: PyTree  # what each candidate has for itself, leaves (c, ...)
    product: Callable[[int, PyTree, Array], Array]  # (leaf (m, k), own, x (k, *b)) -> (W + dW) x, (m, *b)
    vector: Callable[[int, PyTree], Array]  # (leaf (m,), own) -> (m, *b)


class Strategy(NamedTuple):
    """A population search as pure functions (PolyStep and every evolution strategy).

    ``ask`` may return its candidates in a compact form (PolyStep: which particle moved, and by how much), so that
    ``decode`` can build the parameters of one chunk at a time and (n, D) copies never exist at once.
    """

    init: Callable[[Key, Params], State]
    ask: Callable[[Key, State], Proposal]  # does not change the state
    decode: Callable[[State, PyTree], Params]  # candidates with leaves (c, ...) -> parameters with leaves (c, ...)
    tell: Callable[[State, Proposal, Array], tuple[State, Info]]  # cost: (n,), lower is better
    params: Callable[[State], Params]  # the point to deploy: the centre, never the luckiest candidate
    # (state, moments of the generation's observations) -> state, after tell; None: a search that keeps no statistics
    observe: Callable[[State, Moments], State] | None = None
    # `decode` without building parameters, where candidates have a structure that allows it
    structure: Callable[[State, PyTree], Structured] | None = None


class Evaluation(NamedTuple):
    """The outcome of rolling out n candidates for r episodes each."""

    cost: Array  # (n,)   -returns.mean(1), made finite: the only sign flip in the code base
    returns: Array  # (n, r)
    lengths: Array  # (n, r)  int32
    env_steps: Array  # ()     steps of living episodes only: the one meaning of "env steps" for every method
    obs_moments: Moments  # over living steps; count 0 where they were not collected
    nonfinite: Array  # ()     returns that were NaN or infinite
    lane_steps: Array | None = None  # () float, steps simulated, idle lanes included; None where that is not counted


class Evaluator(Protocol):
    """Turns candidates into costs: a frozen recipe on JAX devices, or a pool of simulators on the host."""

    @property
    def on_host(self) -> bool:
        """Whether it runs on the host, and cannot be part of a compiled program."""
        ...

    @property
    def grows(self) -> bool:
        """Whether episodes or costs change while the budget is spent."""
        ...

    @property
    def structured(self) -> bool:
        """Whether it also takes `Strategy.structure` for ``decode``: candidates that are never built."""
        ...

    @property
    def faults(self) -> int:
        """Simulators that died and were replaced so far; 0 where there are none."""
        ...

    def __call__(
        self,
        key: Key,
        candidates: PyTree,
        decode: Callable[[PyTree], Any],
        spent: Any = 0.0,
    ) -> Evaluation:
        """Roll out every candidate.

        Args:
            key: of the episodes, which all candidates share.
            candidates: leaves (n, ...), in the compact form that ``decode`` reads.
            decode: candidates with leaves (c, ...) -> parameters with leaves (c, ...), or `Structured`.
            spent: fraction of the budget that is spent, 0 to 1.
        """
        ...

    def close(self) -> None:
        """Give back the simulators, where there are any; closing twice is no error."""
        ...

    def __hash__(self) -> int:
        """By identity: what is compiled for an evaluator is kept for it."""
        ...


# --- environments ------------------------------------------------------------------------------------------------
TERM = "reward/"  # names the terms of the reward among the metrics: each times its scale, a second


class Step(NamedTuple):
    """Result of one step of an environment: named, never a positional tuple."""

    state: PyTree
    obs: Array  # (o,) or the shape in the spec
    reward: Array  # ()
    terminated: Array  # ()  bool: the task ended here
    truncated: Array  # ()  bool: the environment cut the episode short; the horizon is applied by the rollout
    metrics: dict[str, Array]  # named diagnostics, such as the terms of the reward


class EnvSpec(NamedTuple):
    """The facts about an environment that policies and rollouts need."""

    id: str
    observation_space: spaces.Box
    action_space: spaces.Discrete | spaces.Box | spaces.MultiDiscrete
    horizon: int  # steps after which an episode is truncated (Gymnasium's max_episode_steps)
    reward_threshold: float | None  # mean return at which the task counts as solved, where one is defined


@runtime_checkable
class Env(Protocol):
    """Pure JAX: one environment, unbatched, no auto-reset; randomness after reset is carried in the state."""

    spec: EnvSpec

    def reset(self, key: Key) -> tuple[PyTree, Array]:
        """Draw a start: returns (state, obs)."""
        ...

    def step(self, state: PyTree, action: Array) -> Step:
        """Advance by one control step."""
        ...


class Ticks(NamedTuple):
    """Results of k lanes after each has been reset or stepped once, in the order in which they were sent."""

    obs: np.ndarray  # (k, o) float32; after a reset the first observation of the episode
    reward: np.ndarray  # (k,) float64, 0 after a reset
    terminated: np.ndarray  # (k,) bool
    truncated: np.ndarray  # (k,) bool
    lost: np.ndarray  # (k,) bool: the lane's simulator died and was replaced; its episode must begin anew
    metrics: dict[str, np.ndarray] = {}  # named diagnostics, each (k, ...), of simulators that were asked for them


class Lanes(Protocol):
    """A pool of simulator lanes in ``groups`` groups of ``width`` lanes, each group sent and received by itself.

    A group is sent at most once before it is received. Lanes that are not sent stay as they are.
    """

    groups: int
    width: int
    faults: int  # simulators that died and were replaced so far
    last_fault: str  # why the simulator that was replaced last had died; "" where none was
    together: bool  # the lanes of a group can only be reset all at once, when none of them is in an episode

    def send(self, group: int, lanes: np.ndarray, actions: np.ndarray, seeds: np.ndarray) -> None:
        """Start one tick of some lanes of a group; returns at once.

        Args:
            group: 0 to groups - 1.
            lanes: (k,) int, increasing, 0 to width - 1.
            actions: (k,) int32 (Discrete), (k, a) float32 (Box) or (k, a) int32 (MultiDiscrete).
            seeds: (k,) int64; at least 0: reset with this seed (and ignore the action), -1: step.
        """
        ...

    def recv(self, group: int) -> Ticks:
        """Wait for that tick."""
        ...

    def close(self) -> None:
        """Give back processes and memory; closing twice is no error."""
        ...


@runtime_checkable
class HostEnv(Protocol):
    """An environment that is not written in JAX: it is stepped on the host, many lanes at once."""

    spec: EnvSpec  # flat Box observations; Discrete from 0, bounded flat Box or MultiDiscrete actions
    simulator: str  # gymnasium | envpool
    crn: bool  # whether a reset honours its seed, so that all candidates can meet the same episodes
    measures: bool  # whether ticks can bring metrics

    def lanes(self, width: int, groups: int, seed: int) -> Lanes:
        """A new pool of ``groups`` x ``width`` lanes, or of as many in fewer groups where taking turns does not pay.

        ``seed`` is that of simulators that cannot be seeded at a reset.
        """
        ...

    def measuring(self) -> HostEnv:
        """The same environment, whose ticks bring all that it measures; itself where that is nothing."""
        ...


# --- policies ----------------------------------------------------------------------------------------------------
class Sides(NamedTuple):
    """Sides of a body that share one network: it runs once for each of S sides, on what that side sees.

    A side sees k observations x and its gait phase (c, s), as the k + 2 (k + 1) features x, c, c x, s, s x; x has the
    input scales of the first side's observations.
    """

    inputs: tuple[tuple[int, ...], ...]  # (S, k)  which observation each x of a side is
    input_signs: tuple[tuple[int, ...], ...]  # (S, k)  1, or -1 where a mirrored side sees it the other way round
    phase: tuple[tuple[int, int], ...]  # (S, 2)  the observations that are the cosine and the sine of its phase
    outputs: tuple[tuple[int, ...], ...]  # (S, m)  which action each output is; of several outputs, the sum
    output_signs: tuple[tuple[int, ...], ...]  # (S, m)  1 or -1


class PolicySpec(NamedTuple):
    """Everything but the parameters: serialisable, and all that export reads beside them."""

    obs_size: int
    hidden: tuple[int, ...]  # () is a linear policy
    precision: str  # float32 | int8 | binary | int8-act | binary-act
    head: str  # "discrete" (argmax) | "box" | "multidiscrete" (an argmax per group of outputs)
    action_size: int  # number of discrete actions (multidiscrete: of all groups together), or of box dimensions
    action_low: tuple[float, ...]  # (a,) for a box, () for discrete
    action_high: tuple[float, ...]
    obs_offset: tuple[float, ...]  # (o,)  x = (obs - obs_offset) / obs_scale is what the first layer sees
    obs_scale: tuple[float, ...]  # (o,)
    groups: tuple[int, ...] = ()  # multidiscrete: number of actions of each group, () for the others
    activation: str = "tanh"  # of the hidden layers of float and int8 policies: tanh (int8: saturation) | relu
    # Of a float box head: tanh (mid + half * tanh(y)) | clip (mid + half * y, cut at the box); of an integer one: tanh
    # (nothing but the cut of int8) | table (a tanh by a table of 255 integers).
    squash: str = "tanh"
    sides: Sides | None = None  # what the sides of a body share, of a box head; None: one network sees and does all
    weight_copies: int = 1  # one-bit weights that each input of a layer has, of a binary policy
    gain: float = 1.0  # of an integer box head: its outputs are multiplied by that before they are squashed


class Policy(NamedTuple):
    """A deterministic controller as pure functions.

    ``act`` takes ONE observation and ONE parameter set. ``deploy`` turns searched parameters (float "latents") into
    the arrays that run (integers for int8 and binary), once per candidate. ``act_deployed`` is the forward pass on
    those; it is written so that extra *trailing* axes of both arguments broadcast (deployed leaves (..., L) with
    observations (o, L)), which is the layout of the rollout. ``act(p, x) == act_deployed(deploy(p), x)``.
    """

    spec: PolicySpec
    init: Callable[[Key], Params]
    act: Callable[[Params, Array], Array]  # (params, obs (o,)) -> action () int32, or (a,) float32
    deploy: Callable[[Params], PyTree]
    act_deployed: Callable[[PyTree, Array], Array]  # (deployed, obs (o, ...)) -> action (...) or (a, ...)
    # (candidates, their `own` on lanes (..., L), obs (o, L)) -> actions; None where a layer is not linear in parameters
    act_structured: Callable[[Structured, PyTree, Array], Array] | None = None
