"""The policies of PPO, DQN, SAC and TD3 of stable-baselines3 with our networks in place of theirs.

PPO, SAC and TD3 have our network for an actor, DQN for the Q-network; targets are copies of it. Deterministic actions
are exactly those of the deployed policy. Everything else is an ordinary float network, since it is not deployed: the
critics (their observations normalised as the policy's), PPO's deviation, and SAC's head for it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy, ContinuousCritic
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork
from stable_baselines3.sac.policies import LOG_STD_MAX, LOG_STD_MIN, SACPolicy
from stable_baselines3.sac.policies import Actor as SACActor
from stable_baselines3.td3.policies import Actor as TD3Actor
from stable_baselines3.td3.policies import TD3Policy
from torch import Tensor, nn

from polystep_rl.baselines.sb3.network import QuantisedNetwork

CRITIC_CLIP = 10.0  # a critic's normalised observations are cut here, as in stable-baselines3's VecNormalize


class _ActorCritic(nn.Module):
    """The mlp_extractor of `ActorCriticPolicy`: our network beside a tanh network up to its last hidden layer."""

    def __init__(self, actor: QuantisedNetwork, critic: Sequence[int]) -> None:
        super().__init__()
        self.actor = actor
        layers: list[nn.Module] = []
        for fan_in, fan_out in itertools.pairwise((actor.spec.obs_size, *critic)):
            linear = nn.Linear(fan_in, fan_out)
            nn.init.orthogonal_(linear.weight, gain=np.sqrt(2.0))
            nn.init.zeros_(linear.bias)
            layers += [linear, nn.Tanh()]
        self.critic = nn.Sequential(*layers)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return self.forward_actor(features), self.forward_critic(features)

    def forward_actor(self, features: Tensor) -> Tensor:
        return self.actor(features)

    def forward_critic(self, features: Tensor) -> Tensor:
        return self.critic(self.actor.normalised(features).clamp(-CRITIC_CLIP, CRITIC_CLIP))


class QuantisedActorCriticPolicy(ActorCriticPolicy):
    """PPO's policy: our network gives logits, or the mean of a normal action; deterministic actions are ours."""

    def __init__(
        self, *args: Any, network: Callable[[], QuantisedNetwork], critic: Sequence[int] = (64, 64), **kwargs: Any
    ) -> None:
        self._network, self._critic = network, tuple(critic)
        super().__init__(*args, **kwargs)

    def _build(self, lr_schedule: Callable[[float], float]) -> None:
        network = self._network()
        self.mlp_extractor = _ActorCritic(network, self._critic)
        self.action_net = nn.Identity()  # the network has its own head
        self.value_net = nn.Linear((network.spec.obs_size, *self._critic)[-1], 1)
        nn.init.orthogonal_(self.value_net.weight)
        nn.init.zeros_(self.value_net.bias)
        if isinstance(self.action_space, spaces.Box):
            self.log_std = nn.Parameter(torch.full(self.action_space.shape, float(self.log_std_init)))
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)

    @property
    def network(self) -> QuantisedNetwork:
        return self.mlp_extractor.actor

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        if not deterministic:
            return super()._predict(observation, deterministic=False)
        return self.network.act(self.extract_features(observation))


class _QuantisedQNetwork(QNetwork):
    """DQN's network with ours in place of the multilayer perceptron; greedy actions are ours."""

    def __init__(self, *args: Any, network: Callable[[], QuantisedNetwork], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.q_net = network()

    def _predict(self, observation: Any, deterministic: bool = True) -> Tensor:
        return self.q_net.act(self.extract_features(observation, self.features_extractor))


class QuantisedDQNPolicy(DQNPolicy):
    """DQN's policy: Q-network and target network are ours."""

    def __init__(self, *args: Any, network: Callable[[], QuantisedNetwork], **kwargs: Any) -> None:
        self._network = network
        super().__init__(*args, **kwargs)

    def make_q_net(self) -> QNetwork:
        arguments = self._update_features_extractor(self.net_args, features_extractor=None)
        return _QuantisedQNetwork(network=self._network, **arguments).to(self.device)

    @property
    def network(self) -> QuantisedNetwork:
        return self.q_net.q_net


class _Normalised(BaseFeaturesExtractor):
    """A critic's observation: normalised as the policy normalises it, and cut."""

    def __init__(self, observation_space: gymnasium.Space, network: QuantisedNetwork) -> None:
        super().__init__(observation_space, network.spec.obs_size)
        self.normalised = network.normalised  # a bound method, not a submodule: the critic does not train the actor

    def forward(self, observations: Tensor) -> Tensor:
        return self.normalised(observations).clamp(-CRITIC_CLIP, CRITIC_CLIP)


class _BoxPolicy(BasePolicy):
    """Shared by SAC's and TD3's policies: critics that see normalised observations, and our deterministic actions.

    Comes before their own policy class in the order of bases.
    """

    _network: Callable[[], QuantisedNetwork]
    actor: Any

    def __init__(self, *args: Any, network: Callable[[], QuantisedNetwork], **kwargs: Any) -> None:
        self._network = network
        super().__init__(*args, **kwargs)

    @property
    def network(self) -> QuantisedNetwork:
        raise NotImplementedError

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> ContinuousCritic:
        normalised = _Normalised(self.observation_space, self.network)
        return super().make_critic(normalised)

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[np.ndarray, Any]:
        if not deterministic:
            return super().predict(observation, state, episode_start, False)
        self.set_training_mode(False)
        obs, vectorised = self.obs_to_tensor(observation)
        with torch.no_grad():
            # scaling by stable-baselines3 from [-1, 1] to the box would round once more than the deployed policy does
            actions = self.network.act(self.actor.extract_features(obs, self.actor.features_extractor)).numpy()
        return actions if vectorised else actions[0], state


class _QuantisedSACActor(SACActor):
    """A normal squashed by tanh, with our network for its mean; its deviation is a linear head on the last layer."""

    latent_pi: Any

    def __init__(self, *args: Any, network: Callable[[], QuantisedNetwork], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.latent_pi, self.mu = network(), nn.Identity()
        fan_in, fan_out = self.latent_pi.sizes[-1]
        self.log_std = nn.Linear(fan_in, fan_out)

    def get_action_dist_params(self, obs: Any) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        hidden = self.latent_pi.hidden(self.extract_features(obs, self.features_extractor))
        log_std = self.log_std(self.latent_pi.features(hidden))
        return self.latent_pi.mean(hidden), torch.clamp(log_std, LOG_STD_MIN, LOG_STD_MAX), {}


class QuantisedSACPolicy(_BoxPolicy, SACPolicy):
    """SAC's policy: the actor is ours."""

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> SACActor:
        arguments = self._update_features_extractor(self.actor_kwargs, features_extractor)
        return _QuantisedSACActor(network=self._network, **arguments).to(self.device)

    @property
    def network(self) -> QuantisedNetwork:
        return self.actor.latent_pi


class _QuantisedTD3Actor(TD3Actor):
    """TD3's actor with our network in place of the multilayer perceptron."""

    mu: Any

    def __init__(self, *args: Any, network: Callable[[], QuantisedNetwork], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.mu = network()

    def forward(self, obs: Tensor) -> Tensor:
        return self.mu.reach(self.mu.hidden(self.extract_features(obs, self.features_extractor)))


class QuantisedTD3Policy(_BoxPolicy, TD3Policy):
    """TD3's policy: the actor and its target are ours."""

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> TD3Actor:
        arguments = self._update_features_extractor(self.actor_kwargs, features_extractor)
        return _QuantisedTD3Actor(network=self._network, **arguments).to(self.device)

    @property
    def network(self) -> QuantisedNetwork:
        return self.actor.mu
