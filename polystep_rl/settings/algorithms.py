"""The settings of every algorithm, as data: a dataclass each, and the entry that says who builds it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, Self

from polystep_rl.settings.checks import Config, Count, Decay, Fraction, Natural, NotNegative, Positive, Range


@dataclass(frozen=True)
class AlgorithmSettings(Config):
    """Settings of an algorithm; each has a class of its own."""

    def stretched(self, factor: float) -> Self:
        """The same settings with schedules that take ``factor`` times as many generations, where there are any."""
        generations = vars(self).get("schedule_generations")
        if generations is None or factor == 1:
            return self
        changes: dict[str, Any] = {"schedule_generations": max(1, round(generations * factor))}
        return dataclasses.replace(self, **changes)


class Population:
    """Declares what the settings of every population search have."""

    episodes: int
    averaging: float


@dataclass(frozen=True)
class SearchConfig(AlgorithmSettings, Population):
    """PolyStep's settings. A `*_final` of None means constant."""

    episodes: Count = 2
    """Episodes per candidate."""

    subspace: Literal["full", "projection", "factored", "global"] = "global"
    """The searched space: every parameter, per-layer random projections, low-rank factors, or one random block."""
    subspace_size: Count = 8
    """Coordinates of a global block; for projection, the cap on their total."""
    rank: Count = 4
    """Rank of projection (coordinates per layer) and factored."""
    redraw_every: Natural = 1
    """Generations between redraws of a random subspace; 0 is never."""
    particle_dim: Count = 4
    """Coordinates in a particle."""
    polytope: Literal["orthoplex", "simplex", "cube"] = "orthoplex"
    """Where a particle looks: 2d, d+1 or 2^d directions."""
    probes: Count = 1
    """Probes along each direction."""
    plan: Literal["softmax", "sinkhorn", "kl"] = "softmax"
    """How costs become weights."""
    kl_penalty: Annotated[float, Range(least=0, infinite=True)] = 1.0
    """lambda of the kl plan: 0 is softmax, infinity Sinkhorn."""
    shaping: Literal["none", "mean", "max", "standardised", "centred_ranks"] = "centred_ranks"
    """How costs are scaled before the plan."""
    shape_per_particle: bool = True
    """Scale every particle's costs by themselves instead of all together."""
    epsilon: Positive = 0.4
    """Entropic regularisation, in units of the shaped cost."""
    epsilon_final: NotNegative | None = None
    step_radius: Positive = 1.0
    """Length of the way to a vertex, in coordinates of the subspace. In a global block of s coordinates a length of 1
    changes every one of D parameters by about 1 / sqrt(s), and all of them together by sqrt(D / s)."""
    step_radius_final: Positive | None = None
    probe_radius: Positive = 2.0
    """Length of the probe beyond which a vertex is judged, in coordinates of the subspace; probes sit at k/(K+1) of it.
    In a global block of s coordinates, and with one probe, a candidate differs from the centre by about
    probe_radius / (2 sqrt(s)) in every parameter: the number to compare with an evolution strategy's sigma."""
    probe_radius_final: Positive | None = None
    radii_times_epsilon: bool = False
    """Multiply both radii by the current epsilon, as the paper does with constant radii."""
    schedule: Literal["linear", "cosine", "cosine_restarts", "power"] = "cosine"
    """How values move to their *_final."""
    schedule_generations: Count = 100
    """Generations the schedule takes."""
    optimizer: Literal["identity", "momentum", "adam"] = "identity"
    """Transformation that the step passes through, in parameter space."""
    momentum: Decay = 0.9
    """Decay of momentum, and of Adam's first moment."""
    learning_rate: Positive = 0.1
    """Adam's step, in parameter units."""
    learning_rate_final: NotNegative | None = None
    amortise: Count = 1
    """Steps per evaluated generation; all but the first reuse past displacements."""
    weight_limit: Positive | None = None
    """Keep every weight within plus or minus this: a weight far from 0 could never change its sign again."""
    averaging: Decay = 0.0
    """Deploy a moving average of the centre with this decay; 0 deploys the centre."""


@dataclass(frozen=True)
class PopulationConfig(AlgorithmSettings, Population):
    """A search with one Gaussian population: cma_es, sep_cma_es, hill_climbing, random_search."""

    episodes: Count = 4
    """Episodes per candidate."""
    population: Annotated[int, Range(least=2)] = 32
    """Candidates in a generation."""
    sigma: Positive = 0.5
    """Standard deviation of the perturbations at the start, in parameter units."""
    averaging: Decay = 0.0
    """Deploy a moving average of the centre with this decay; 0 deploys the centre."""


@dataclass(frozen=True)
class AdaptiveConfig(PopulationConfig):
    """A search that adapts its own deviations: snes, pgpe."""

    learning_rate: Positive = 0.1
    """Step of the centre (snes: a factor on the natural gradient; pgpe: Adam's step)."""


@dataclass(frozen=True)
class EvolutionConfig(PopulationConfig):
    """An evolution strategy with Adam: open_es."""

    sigma_final: Positive | None = None
    """Where sigma goes over the schedule; none is constant."""
    learning_rate: Positive = 0.1
    """Adam's step, in parameter units."""
    learning_rate_final: NotNegative | None = None
    """Where the learning rate goes over the schedule; none is constant."""
    schedule_generations: Count = 100
    """Generations that the cosine schedules of sigma and the learning rate take."""
    weight_limit: Positive | None = None
    """Keep every weight within plus or minus this: a weight far from 0 could never change its sign again."""


@dataclass(frozen=True)
class ArsConfig(EvolutionConfig):
    """Augmented random search (arXiv:1803.07055); with running observation statistics it is the paper's V2-t."""

    learning_rate: Positive = 0.1
    """Step along the estimated gradient, in parameter units: plain descent, as published."""
    elite_ratio: Annotated[float, Range(above=0, most=1)] = 0.5
    """Fraction of the directions that count, those with the best candidates."""


@dataclass(frozen=True)
class EggrollConfig(EvolutionConfig):
    """EGGROLL: an evolution strategy with low-rank perturbations."""

    rank: Count = 1
    """Rank of a matrix's perturbation."""


@dataclass(frozen=True)
class SpsaConfig(EvolutionConfig):
    """Simultaneous perturbation: two evaluations give a directional derivative."""

    distribution: Literal["rademacher", "gaussian"] = "rademacher"
    """Distribution of the perturbations."""


@dataclass(frozen=True)
class EvosaxConfig(AlgorithmSettings, Population):
    """Any algorithm of evosax by its class name. Where a setting is none, evosax's own default stays."""

    episodes: Count = 4
    """Episodes per candidate."""
    population: Annotated[int, Range(least=2)] = 32
    """Candidates in a generation."""
    sigma: Positive | None = None
    """Standard deviation at the start."""
    learning_rate: Positive | None = None
    """Adam's step, where the algorithm takes an optimizer."""
    options: tuple[str, ...] = ()
    """Values of the algorithm's own parameters, as name=value."""
    averaging: Decay = 0.0
    """Deploy a moving average of the centre with this decay; 0 deploys the centre."""


@dataclass(frozen=True)
class PPOConfig(AlgorithmSettings):
    """Proximal policy optimisation, by stable-baselines3; its names and meanings."""

    n_envs: Count = 8
    """Environments stepped side by side."""
    n_steps: Count = 32
    """Steps per environment in a rollout."""
    batch_size: Count = 256
    """Transitions in a minibatch."""
    n_epochs: Count = 20
    """Passes over a rollout."""
    learning_rate: Positive = 0.001
    """Adam's step."""
    linear_decay: bool = True
    """Bring the learning rate and the clip range to 0 over the budget."""
    clip_range: Positive = 0.2
    """Clipping of the probability ratio."""
    gamma: Fraction = 0.98
    """Discount."""
    gae_lambda: Fraction = 0.8
    """Trace decay of the advantage estimate."""
    ent_coef: NotNegative = 0.0
    """Weight of the entropy."""
    vf_coef: NotNegative = 0.5
    """Weight of the value loss."""
    max_grad_norm: Positive = 0.5
    """Largest norm of a gradient."""
    log_std_init: float = 0.0
    """Logarithm of the action noise at the start, in units of half the box (Box actions)."""
    normalize_reward: bool = False
    """Divide rewards by the running deviation of discounted returns."""
    critic: tuple[Count, ...] = (64, 64)
    """Units of the hidden layers of the critic, which is not deployed."""


@dataclass(frozen=True)
class DQNConfig(AlgorithmSettings):
    """Deep Q-learning, by stable-baselines3; its names and meanings."""

    n_envs: Count = 1
    """Environments stepped side by side."""
    learning_rate: Positive = 0.0023
    """Adam's step."""
    linear_decay: bool = False
    """Bring the learning rate to 0 over the budget."""
    batch_size: Count = 64
    """Transitions in a minibatch."""
    buffer_size: Count = 100_000
    """Transitions in the replay buffer."""
    learning_starts: Natural = 1000
    """Env steps before the first update."""
    gamma: Fraction = 0.99
    """Discount."""
    target_update_interval: Count = 10
    """Env steps between updates of the target network."""
    train_freq: Count = 256
    """Env steps between rounds of updates."""
    gradient_steps: Count = 128
    """Updates in a round."""
    exploration_fraction: Fraction = 0.16
    """Part of the budget over which exploration falls."""
    exploration_final_eps: Fraction = 0.04
    """Fraction of random actions afterwards."""


@dataclass(frozen=True)
class OffPolicyBoxConfig(AlgorithmSettings):
    """Settings that SAC and TD3 share."""

    n_envs: Count = 1
    """Environments stepped side by side."""
    learning_rate: Positive = 0.0003
    """Adam's step."""
    linear_decay: bool = False
    """Bring the learning rate to 0 over the budget."""
    batch_size: Count = 256
    """Transitions in a minibatch."""
    buffer_size: Count = 300_000
    """Transitions in the replay buffer."""
    learning_starts: Natural = 1000
    """Env steps of random actions before the first update."""
    gamma: Fraction = 0.99
    """Discount."""
    tau: Annotated[float, Range(most=1)] = 0.005
    """Step of the target networks towards their networks."""
    train_freq: Count = 1
    """Env steps (of every environment) between rounds of updates."""
    gradient_steps: Count = 1
    """Updates in a round."""
    critic: tuple[Count, ...] = (256, 256)
    """Units of the hidden layers of the critics, which are not deployed."""


@dataclass(frozen=True)
class SACConfig(OffPolicyBoxConfig):
    """Soft actor-critic (Box actions), by stable-baselines3; its names and meanings."""

    ent_coef: NotNegative | None = None
    """Weight of the entropy; none adapts it to an entropy of minus the number of action dimensions."""


@dataclass(frozen=True)
class TD3Config(OffPolicyBoxConfig):
    """Twin delayed DDPG (Box actions), by stable-baselines3; its names and meanings."""

    learning_rate: Positive = 0.001
    """Adam's step."""
    action_noise: NotNegative = 0.1
    """Standard deviation of exploration, in units of half the action's range."""
    policy_delay: Count = 2
    """Updates of the critics per update of the actor."""
    target_policy_noise: NotNegative = 0.2
    """Standard deviation of the noise on the target's actions, in the same units."""
    target_noise_clip: NotNegative = 0.5
    """Where that noise is cut."""


class Entry(NamedTuple):
    """An algorithm: all that is known of it by name, but for its presets (`presets/NAME.yaml`)."""

    settings: type[AlgorithmSettings]
    build: str = ""  # module:function, (settings as a mapping) -> Strategy; empty for a gradient method
    shift: str = ""  # module:function, (state, change of the parameters) -> state; empty where there is none


_POLYSTEP, _ES, _EGGROLL, _SPSA, _CLIMB = (
    f"polystep_rl.{module}" for module in
    ("runs.polystep", "baselines.evosax_es", "baselines.eggroll", "baselines.spsa", "baselines.hill_climbing")
)  # fmt: skip
_MODES = ("", "-ste", "-ptq")  # of a gradient method: how it trains through the quantiser

# Algorithms by name. Any other name is taken for a class of evosax.
ALGORITHMS: dict[str, Entry] = {
    "polystep": Entry(SearchConfig, f"{_POLYSTEP}:build"),
    "open_es": Entry(EvolutionConfig, f"{_ES}:open_es", f"{_ES}:shift"),
    "cma_es": Entry(PopulationConfig, f"{_ES}:cma_es"),
    "sep_cma_es": Entry(PopulationConfig, f"{_ES}:sep_cma_es"),
    "snes": Entry(AdaptiveConfig, f"{_ES}:snes"),
    "pgpe": Entry(AdaptiveConfig, f"{_ES}:pgpe"),
    "ars": Entry(ArsConfig, f"{_ES}:ars", f"{_ES}:shift"),
    "eggroll": Entry(EggrollConfig, f"{_EGGROLL}:build", f"{_SPSA}:shift"),
    "spsa": Entry(SpsaConfig, f"{_SPSA}:build", f"{_SPSA}:shift"),
    "hill_climbing": Entry(PopulationConfig, f"{_CLIMB}:build"),
    "random_search": Entry(PopulationConfig, f"{_ES}:random_search"),
    **{f"ppo{mode}": Entry(PPOConfig) for mode in _MODES},
    **{f"dqn{mode}": Entry(DQNConfig) for mode in _MODES},
    **{f"sac{mode}": Entry(SACConfig) for mode in _MODES},
    **{f"td3{mode}": Entry(TD3Config) for mode in _MODES},
}
GRADIENT = tuple(name for name, entry in ALGORITHMS.items() if not entry.build)


def entry_of(algo: str) -> Entry:
    """The entry of an algorithm; a name that is not in `ALGORITHMS` is a class of evosax."""
    return ALGORITHMS.get(algo, Entry(EvosaxConfig, f"{_ES}:any_class"))


def settings_class(algo: str) -> type[AlgorithmSettings]:
    """The dataclass of an algorithm's settings."""
    return entry_of(algo).settings
