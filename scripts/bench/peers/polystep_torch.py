"""Worker of bench/rollout.py: the evaluators of the published polystep package. Runs in an environment with it only.

CartPole has an evaluator of its own (PyTorch, all episodes at once); Acrobot goes through Gymnasium's vector API.
"""

import torch
from polystep.benchmarks.rl.cartpole import CartPoleEvaluator
from polystep.benchmarks.rl.gym_evaluator import GymVectorEvaluator
from protocol import Weights, serve


def make_run(env_id: str, weights: Weights, episodes: int, variant: str):
    """A function that evaluates the population once, and its lockstep and living steps."""
    cartpole = env_id.startswith("CartPole")
    if cartpole:
        evaluator = CartPoleEvaluator(rollouts_per_candidate=episodes)
    else:
        evaluator = GymVectorEvaluator(env_id, rollouts_per_candidate=episodes)
    names = {"w0": "net.0.weight", "b0": "net.0.bias", "w1": "net.2.weight", "b1": "net.2.bias"}
    stacked = {name: torch.from_numpy(weights[key]) for key, name in names.items()}
    run = lambda: evaluator.rollout_stacked_params(stacked, seed=0, step=0)  # noqa: E731
    lengths = run().lengths
    # Both stop when the last episode has ended; the first of them looks only every so often.
    every = max(1, evaluator.horizon // 8) if cartpole else 1
    executed = min(evaluator.horizon, -(-int(lengths.max()) // every) * every)
    return run, lengths.numel() * executed, int(lengths.sum())


serve(make_run)
