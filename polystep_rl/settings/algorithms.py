"""The settings of every algorithm, as data: a dataclass each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Settings:
    """What an algorithm can be told. Each has a class of its own."""


@dataclass(frozen=True)
class SearchConfig(Settings):
    """PolyStep's settings. A `*_final` of None means constant."""

    episodes: int = 2
    """Episodes per candidate."""

    subspace: Literal["full", "projection", "factored", "global"] = "global"
    """What is searched: every parameter, per-layer random projections, low-rank factors, or one random block."""
    subspace_size: int = 8
    """Coordinates of a global block; for projection, the cap on their total."""
    rank: int = 4
    """Rank of projection (coordinates per layer) and factored."""
    redraw_every: int = 1
    """Generations between redraws of a random subspace; 0 is never."""
    particle_dim: int = 4
    """Coordinates in a particle."""
    polytope: Literal["orthoplex", "simplex", "cube"] = "orthoplex"
    """Where a particle looks: 2d, d+1 or 2^d directions."""
    probes: int = 1
    """Probes along each direction."""
    plan: Literal["softmax", "sinkhorn", "kl"] = "softmax"
    """How costs become weights."""
    kl_penalty: float = 1.0
    """lambda of the kl plan: 0 is softmax, infinity Sinkhorn."""
    shaping: Literal["none", "mean", "max", "standardised", "centred_ranks"] = "centred_ranks"
    """How costs are scaled before the plan."""
    shape_per_particle: bool = True
    """Scale every particle's costs by themselves instead of all together."""
    epsilon: float = 0.4
    """Entropic regularisation, in units of the shaped cost."""
    epsilon_final: float | None = None
    step_radius: float = 1.0
    """Length of the way to a vertex, in coordinates of the subspace. In a global block of s coordinates a length of 1
    changes every one of D parameters by about 1 / sqrt(s), and all of them together by sqrt(D / s)."""
    step_radius_final: float | None = None
    probe_radius: float = 2.0
    """Length of the probe beyond which a vertex is judged, in coordinates of the subspace; probes sit at k/(K+1) of it.
    In a global block of s coordinates, and with one probe, a candidate differs from the centre by about
    probe_radius / (2 sqrt(s)) in every parameter: the number to compare with an evolution strategy's sigma."""
    probe_radius_final: float | None = None
    radii_times_epsilon: bool = False
    """Multiply both radii by the current epsilon, as the paper does with constant radii."""
    schedule: Literal["linear", "cosine", "cosine_restarts", "power"] = "cosine"
    """How values move to their *_final."""
    schedule_generations: int = 100
    """Generations the schedule takes."""
    optimizer: Literal["identity", "momentum", "adam"] = "identity"
    """What the step passes through, in parameter space."""
    momentum: float = 0.9
    """Decay of momentum, and of Adam's first moment."""
    learning_rate: float = 0.1
    """Adam's step, in parameter units."""
    learning_rate_final: float | None = None
    amortise: int = 1
    """Steps per evaluated generation; all but the first reuse past displacements."""
    weight_limit: float | None = None
    """Keep every weight within plus or minus this: a weight far from 0 could never change its sign again."""
    averaging: float = 0.0
    """Deploy a moving average of the centre with this decay; 0 deploys the centre."""


@dataclass(frozen=True)
class PopulationConfig(Settings):
    """A search with one Gaussian population: cma_es, sep_cma_es, hill_climbing, random_search."""

    episodes: int = 4
    """Episodes per candidate."""
    population: int = 32
    """Candidates in a generation."""
    sigma: float = 0.5
    """Standard deviation of the perturbations at the start, in parameter units."""
    averaging: float = 0.0
    """Deploy a moving average of the centre with this decay; 0 deploys the centre."""


@dataclass(frozen=True)
class AdaptiveConfig(PopulationConfig):
    """A search that adapts its own deviations: snes, pgpe."""

    learning_rate: float = 0.1
    """Step of the centre (snes: a factor on the natural gradient; pgpe: Adam's step)."""


@dataclass(frozen=True)
class EvolutionConfig(PopulationConfig):
    """An evolution strategy with Adam: open_es."""

    sigma_final: float | None = None
    """Where sigma goes over the schedule; none is constant."""
    learning_rate: float = 0.1
    """Adam's step, in parameter units."""
    learning_rate_final: float | None = None
    """Where the learning rate goes over the schedule; none is constant."""
    schedule_generations: int = 100
    """Generations that the cosine schedules of sigma and the learning rate take."""
    weight_limit: float | None = None
    """Keep every weight within plus or minus this: a weight far from 0 could never change its sign again."""


@dataclass(frozen=True)
class ArsConfig(EvolutionConfig):
    """Augmented random search (arXiv:1803.07055); with running observation statistics it is the paper's V2-t."""

    learning_rate: float = 0.1
    """Step along the estimated gradient, in parameter units: plain descent, as published."""
    elite_ratio: float = 0.5
    """Share of the directions that count, those with the best candidates."""


@dataclass(frozen=True)
class EggrollConfig(EvolutionConfig):
    """EGGROLL: an evolution strategy with low-rank perturbations."""

    rank: int = 1
    """Rank of a matrix's perturbation."""


@dataclass(frozen=True)
class SpsaConfig(EvolutionConfig):
    """Simultaneous perturbation: two evaluations give a directional derivative."""

    distribution: Literal["rademacher", "gaussian"] = "rademacher"
    """Of the perturbations."""


@dataclass(frozen=True)
class EvosaxConfig(Settings):
    """Any algorithm of evosax by its class name. Where a setting is none, evosax's own default stays."""

    episodes: int = 4
    """Episodes per candidate."""
    population: int = 32
    """Candidates in a generation."""
    sigma: float | None = None
    """Standard deviation at the start."""
    learning_rate: float | None = None
    """Adam's step, where the algorithm takes an optimizer."""
    options: tuple[str, ...] = ()
    """Values of the algorithm's own parameters, as name=value."""
    averaging: float = 0.0
    """Deploy a moving average of the centre with this decay; 0 deploys the centre."""


@dataclass(frozen=True)
class PPOConfig(Settings):
    """Proximal policy optimisation, by stable-baselines3; its names and meanings."""

    n_envs: int = 8
    """Environments stepped side by side."""
    n_steps: int = 32
    """Steps per environment in a rollout."""
    batch_size: int = 256
    """Transitions in a minibatch."""
    n_epochs: int = 20
    """Passes over a rollout."""
    learning_rate: float = 0.001
    """Adam's step."""
    linear_decay: bool = True
    """Bring the learning rate and the clip range to 0 over the budget."""
    clip_range: float = 0.2
    """Clipping of the probability ratio."""
    gamma: float = 0.98
    """Discount."""
    gae_lambda: float = 0.8
    """Trace decay of the advantage estimate."""
    ent_coef: float = 0.0
    """Weight of the entropy."""
    vf_coef: float = 0.5
    """Weight of the value loss."""
    max_grad_norm: float = 0.5
    """Largest norm of a gradient."""
    log_std_init: float = 0.0
    """Logarithm of the action noise at the start, in units of half the box (Box actions)."""
    normalize_reward: bool = False
    """Divide rewards by the running deviation of discounted returns."""
    critic: tuple[int, ...] = (64, 64)
    """Units of the hidden layers of the critic, which is not deployed."""


@dataclass(frozen=True)
class DQNConfig(Settings):
    """Deep Q-learning, by stable-baselines3; its names and meanings."""

    n_envs: int = 1
    """Environments stepped side by side."""
    learning_rate: float = 0.0023
    """Adam's step."""
    linear_decay: bool = False
    """Bring the learning rate to 0 over the budget."""
    batch_size: int = 64
    """Transitions in a minibatch."""
    buffer_size: int = 100_000
    """Transitions in the replay buffer."""
    learning_starts: int = 1000
    """Env steps before the first update."""
    gamma: float = 0.99
    """Discount."""
    target_update_interval: int = 10
    """Env steps between updates of the target network."""
    train_freq: int = 256
    """Env steps between rounds of updates."""
    gradient_steps: int = 128
    """Updates in a round."""
    exploration_fraction: float = 0.16
    """Part of the budget over which exploration falls."""
    exploration_final_eps: float = 0.04
    """Share of random actions afterwards."""


@dataclass(frozen=True)
class OffPolicyBoxConfig(Settings):
    """What SAC and TD3 share."""

    n_envs: int = 1
    """Environments stepped side by side."""
    learning_rate: float = 0.0003
    """Adam's step."""
    linear_decay: bool = False
    """Bring the learning rate to 0 over the budget."""
    batch_size: int = 256
    """Transitions in a minibatch."""
    buffer_size: int = 300_000
    """Transitions in the replay buffer."""
    learning_starts: int = 1000
    """Env steps of random actions before the first update."""
    gamma: float = 0.99
    """Discount."""
    tau: float = 0.005
    """Step of the target networks towards their networks."""
    train_freq: int = 1
    """Env steps (of every environment) between rounds of updates."""
    gradient_steps: int = 1
    """Updates in a round."""
    critic: tuple[int, ...] = (256, 256)
    """Units of the hidden layers of the critics, which are not deployed."""


@dataclass(frozen=True)
class SACConfig(OffPolicyBoxConfig):
    """Soft actor-critic (Box actions), by stable-baselines3; its names and meanings."""

    ent_coef: float | None = None
    """Weight of the entropy; none adapts it to an entropy of minus the number of action dimensions."""


@dataclass(frozen=True)
class TD3Config(OffPolicyBoxConfig):
    """Twin delayed DDPG (Box actions), by stable-baselines3; its names and meanings."""

    learning_rate: float = 0.001
    """Adam's step."""
    action_noise: float = 0.1
    """Standard deviation of exploration, in units of half the action's range."""
    policy_delay: int = 2
    """Updates of the critics per update of the actor."""
    target_policy_noise: float = 0.2
    """Standard deviation of the noise on the target's actions, in the same units."""
    target_noise_clip: float = 0.5
    """Where that noise is cut."""


# Algorithms by name. Any other name is taken for a class of evosax.
SETTINGS: dict[str, type[Settings]] = {
    "polystep": SearchConfig,
    "open_es": EvolutionConfig,
    "cma_es": PopulationConfig,
    "sep_cma_es": PopulationConfig,
    "snes": AdaptiveConfig,
    "pgpe": AdaptiveConfig,
    "ars": ArsConfig,
    "eggroll": EggrollConfig,
    "spsa": SpsaConfig,
    "hill_climbing": PopulationConfig,
    "random_search": PopulationConfig,
    "ppo": PPOConfig,
    "ppo-ste": PPOConfig,
    "ppo-ptq": PPOConfig,
    "dqn": DQNConfig,
    "dqn-ste": DQNConfig,
    "dqn-ptq": DQNConfig,
    "sac": SACConfig,
    "sac-ste": SACConfig,
    "sac-ptq": SACConfig,
    "td3": TD3Config,
    "td3-ste": TD3Config,
    "td3-ptq": TD3Config,
}
GRADIENT = tuple(name for name, cls in SETTINGS.items() if cls in (PPOConfig, DQNConfig, SACConfig, TD3Config))


def settings_class(algo: str) -> type[Settings]:
    """The dataclass of an algorithm's settings."""
    return SETTINGS.get(algo, EvosaxConfig)
