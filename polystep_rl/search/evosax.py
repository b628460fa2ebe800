"""Any Strategy behind evosax's signature: init(key, mean, params), ask(key, state, params), tell(key, ...).

evosax itself is not imported, so that it stays optional; written against evosax 0.3.2.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from polystep_rl.types import Array, Info, Key, Params, Proposal, State, Strategy


class EvosaxParams(NamedTuple):
    """Nothing to set at run time: a Strategy holds its settings."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class EvosaxState:
    """The state that evosax code carries and reads."""

    inner: State
    proposal: Proposal  # of the last ask; tell needs it back
    best_solution: Params
    best_fitness: Array  # ()
    generation_counter: Array  # () int32

    def replace(self, **changes: Any) -> EvosaxState:
        """A copy with some fields changed, as evosax's states have it."""
        return dataclasses.replace(self, **changes)


class EvosaxAdapter:
    """A Strategy as an evosax algorithm. Fitness is minimised, as everywhere in evosax.

    All candidates of a generation are built at once, which is what evosax's problems take.

    Args:
        strategy: for example `polystep(...)`.
        solution: a pytree like the solutions.
    """

    def __init__(self, strategy: Strategy, solution: Params) -> None:
        self.strategy = strategy
        self.solution = solution
        self.num_dims = sum(jnp.size(leaf) for leaf in jax.tree.leaves(solution))
        key = jax.eval_shape(lambda: jax.random.key(0))
        shapes = jax.eval_shape(lambda k: strategy.ask(k, strategy.init(k, solution)).candidates, key)
        self.population_size = jax.tree.leaves(shapes)[0].shape[0]
        self.init = jax.jit(self._init)
        self.ask = jax.jit(self._ask)
        self.tell = jax.jit(self._tell)

    @property
    def default_params(self) -> EvosaxParams:
        """Parameters to hand to init, ask and tell."""
        return EvosaxParams()

    def get_mean(self, state: EvosaxState) -> Params:
        """The centre: what to deploy."""
        return self.strategy.params(state.inner)

    def _init(self, key: Key, mean: Params, params: EvosaxParams) -> EvosaxState:
        inner = self.strategy.init(key, mean)
        return EvosaxState(
            inner=inner,
            proposal=self.strategy.ask(key, inner),  # of the right shapes; the first ask replaces it
            best_solution=jax.tree.map(jnp.asarray, mean),
            best_fitness=jnp.asarray(jnp.inf),
            generation_counter=jnp.zeros((), jnp.int32),
        )

    def _ask(self, key: Key, state: EvosaxState, params: EvosaxParams) -> tuple[Params, EvosaxState]:
        """Population with leaves (n, ...), and the state that tell expects."""
        proposal = self.strategy.ask(key, state.inner)
        return self.strategy.decode(state.inner, proposal.candidates), state.replace(proposal=proposal)

    def _tell(
        self, key: Key, population: Params, fitness: Array, state: EvosaxState, params: EvosaxParams
    ) -> tuple[EvosaxState, Info]:
        """Take the fitness (n,) of the last ask's population; returns the state and evosax's metrics."""
        comparable = jnp.where(jnp.isnan(fitness), jnp.inf, fitness)
        index = jnp.argmin(comparable)
        winner = jax.tree.map(lambda leaf: leaf[index], population)
        better = comparable[index] < state.best_fitness
        inner, info = self.strategy.tell(state.inner, state.proposal, fitness)
        state = state.replace(
            inner=inner,
            best_solution=jax.tree.map(lambda new, old: jnp.where(better, new, old), winner, state.best_solution),
            best_fitness=jnp.where(better, comparable[index], state.best_fitness).astype(state.best_fitness.dtype),
            generation_counter=state.generation_counter + 1,
        )
        metrics = {
            "generation_counter": state.generation_counter,
            "best_fitness_in_generation": comparable[index],
            "best_solution_in_generation": winner,
            "best_fitness": state.best_fitness,
            "best_solution": state.best_solution,
            "mean": self.get_mean(state),
            **info,
        }
        return state, metrics
