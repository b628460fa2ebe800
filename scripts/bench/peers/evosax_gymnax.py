"""Worker of bench/rollout.py: evosax's Gymnax problem. Runs in an environment with evosax and gymnax only.

The action is an argmax here, without sampling, so that it is the same policy. Variant "default" calls the problem as
evosax's examples do. Variant "lean" gives it every advantage: observations are not normalised, and of the compiled
evaluation only the fitness is kept, so that no trajectory is stored.
"""

import jax
import jax.numpy as jnp
from evosax.problems import GymnaxProblem
from evosax.problems.networks import MLP
from protocol import Weights, serve


def make_run(env_id: str, weights: Weights, episodes: int, variant: str):
    """A function that evaluates the population once, and its lockstep and living steps."""
    output = lambda x, key=None: jnp.argmax(x, -1)  # noqa: E731
    sizes = (weights["b0"].shape[1], weights["b1"].shape[1])
    lean = variant == "lean"
    # Statistics start as mean 0 and deviation 1 and are not carried on here: normalising changes no observation.
    problem = GymnaxProblem(env_id, MLP(sizes, output_fn=output), num_rollouts=episodes, use_normalize_obs=not lean)
    solutions = {
        "params": {
            f"Dense_{i}": {"kernel": jnp.swapaxes(weights[f"w{i}"], 1, 2), "bias": jnp.asarray(weights[f"b{i}"])}
            for i in (0, 1)
        }
    }
    key = jax.random.key(0)
    state = problem.init(key)
    evaluate = jax.jit(lambda *args: problem.eval(*args)[0]) if lean else problem.eval

    keys = jax.random.split(key, episodes)
    returns = jax.jit(lambda keys, solutions: problem._eval(keys, solutions, state)[0])(keys, solutions)
    # CartPole pays 1 a step; Acrobot -1, and 0 for the step that reaches the goal.
    lengths = returns if env_id.startswith("CartPole") else jnp.minimum(1 - returns, problem.episode_length)
    lockstep = returns.size * problem.episode_length
    return lambda: jax.block_until_ready(evaluate(key, solutions, state)), lockstep, int(lengths.sum())


serve(make_run)
