"""How much of what a search sees is signal: antithetic probes of several lengths around a trained policy.

    python scripts/studies/probe_noise.py runs/Humanoid-v5__polystep-float32__0__* --radii 0.3 1 3 10

For every length, pairs of probes in random directions are evaluated, one episode each, in two independent halves; each
half estimates the direction of ascent from centred ranks, as a search does. Were the return linear and without noise,
the cosine of the two estimates would be m / (m + p) for m pairs and p parameters. The share of it that is found is the
signal: 1 is nothing but signal, 0 nothing but noise; where there is none, its standard deviation is
(m + p) / (m sqrt(p)). Too short a probe drowns in the noise between episodes; too long a one breaks what the policy can
do, and the mean return falls.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.flatten_util import ravel_pytree

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from _common import write_record

from polystep_rl.errors import ConfigError
from polystep_rl.machine import setup_jax
from polystep_rl.runs.judging import make_evaluator
from polystep_rl.runs.load import load_run
from polystep_rl.search.shaping import centred_ranks
from polystep_rl.types import Key

BATCH = 64  # pairs that are evaluated at a time

# (key, probes (n, p)) -> returns (n,), lengths (n,)
Rollout = Callable[[Key, np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass
class Args:
    """Measure signal and noise around a policy."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder, or a policy file."""
    radii: tuple[float, ...] = (0.3, 1.0, 3.0, 10.0)
    """Distances of the probes from the policy. A candidate of a search over D parameters with a global block of s
    coordinates and one probe is probe_radius / 2 * sqrt(D / s) away."""
    pairs: int = 1024
    """Pairs of probes in each half, a multiple of 64."""
    step_penalty: float = 0.0
    """What the cost counts every step worse than its reward."""
    json: Path | None = None
    """Also write the rows to this file."""


class Signal(NamedTuple):
    """What probes of one length show."""

    radius: float
    mean_return: float  # of the probes
    std_return: float
    mean_length: float
    cosine: float  # of the two halves' estimates
    signal: float  # that, as a share of what it would be without noise
    error: float  # standard deviation of the share where there is no signal


def measure(rollout: Rollout, centre: np.ndarray, radius: float, pairs: int, penalty: float, key: Key) -> Signal:
    """Probe around a policy, in two halves.

    Args:
        rollout: evaluates probes.
        centre: (p,) the policy's parameters.
        radius: length of a probe, in parameter units.
        pairs: antithetic pairs in each half, a multiple of ``BATCH``.
        penalty: subtracted from the return for every step.
        key: of directions and episodes.

    Raises:
        ValueError: pairs that do not make whole batches.
    """
    if pairs < BATCH or pairs % BATCH:
        raise ValueError(f"pairs was {pairs}, expected a multiple of {BATCH}")
    size, batches = centre.size, pairs // BATCH
    estimates, returns, lengths = np.zeros((2, size)), [], []
    for half in range(2):
        for batch in range(batches):
            draw, episode = jax.random.split(jax.random.fold_in(key, half * batches + batch))
            directions = np.asarray(jax.random.normal(draw, (BATCH, size)))
            directions = directions / np.linalg.norm(directions, axis=1, keepdims=True)
            probes = centre + radius * np.concatenate([directions, -directions])
            found, steps = rollout(episode, probes.astype(np.float32))
            rank = np.asarray(centred_ranks(jnp.asarray(found - penalty * steps)))
            estimates[half] += (rank[:BATCH] - rank[BATCH:]) @ directions
            returns.append(found)
            lengths.append(steps)
    norms = np.linalg.norm(estimates, axis=1)
    cosine = float(estimates[0] @ estimates[1] / max(norms.prod(), 1e-12))
    whole = pairs / (pairs + size)
    seen = np.concatenate(returns)
    numbers = (seen.mean(), seen.std(), np.concatenate(lengths).mean(), cosine, cosine / whole, size**-0.5 / whole)
    return Signal(radius, *map(float, numbers))


def main(args: Args) -> None:
    setup_jax()
    loaded = load_run(args.run)
    flat, unravel = ravel_pytree(loaded.params)
    decode = jax.vmap(unravel)
    evaluate = make_evaluator(loaded.env, loaded.policy, 1, jax.random.key(loaded.seed))

    def rollout(key: Key, probes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = evaluate(key, jnp.asarray(probes), decode)
        return np.asarray(found.returns, np.float64)[:, 0], np.asarray(found.lengths)[:, 0]

    rows = []
    print(
        f"{loaded.task.env} {loaded.policy.spec.precision}: {flat.size:,} parameters of norm {np.linalg.norm(flat):.2f}"
    )
    print("radius    mean return    std    mean length    signal")
    try:
        for number, radius in enumerate((0.0, *args.radii)):
            key = jax.random.fold_in(jax.random.key(loaded.seed), number)
            row = measure(rollout, np.asarray(flat), radius, args.pairs if radius else BATCH, args.step_penalty, key)
            signal = f"{row.signal:9.2f} +- {row.error:.2f}" if radius else "        -"
            print(
                f"{radius:6g} {row.mean_return:14.1f} {row.std_return:6.1f} {row.mean_length:14.1f} {signal}",
                flush=True,
            )
            rows.append(row._asdict())
    finally:
        evaluate.close()
    write_record(args.json, {"run": str(args.run), "pairs": args.pairs, "rows": rows})


if __name__ == "__main__":
    try:
        main(tyro.cli(Args, description=__doc__))
    except (ConfigError, ValueError) as error:
        sys.exit(f"error: {error}")
