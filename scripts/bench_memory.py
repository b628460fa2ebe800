"""Peak memory of PolyStep on a million parameters: 1,024 candidates, built and evaluated a chunk at a time.

A child process asks, decodes, evaluates (32 observations through an MLP each) and tells for a few generations; this
process prints the child's peak resident set and fails (exit status 1) above the bound.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time

BOUND_MIB = 2048
WIDTHS = (480, 960, 550, 18)  # 1,000,000 parameters within 0.1 %: weights 480-960-550-18, and biases
CANDIDATES = 1024
DIM = 8  # orthoplex: 16 vertices, so 64 particles, 512 coordinates


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", choices=("global", "projection", "full"), default="global")
    parser.add_argument("--chunk", type=int, default=32, help="candidates that exist at the same time")
    parser.add_argument("--generations", type=int, default=2)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return parser


def _measure(args: argparse.Namespace) -> None:
    import jax
    import jax.numpy as jnp

    from polystep_rl.search import polystep, subspace

    coordinates = CANDIDATES // (2 * DIM) * DIM
    spaces = {
        "global": lambda: subspace.global_block(coordinates),
        "projection": lambda: subspace.projection(4, cap=coordinates),
        "full": subspace.full,
    }
    key = jax.random.key(0)
    pairs = list(zip(WIDTHS[:-1], WIDTHS[1:], strict=True))
    # No vectors in "projection", so that the cap can hold. In "full" the first 1,024 candidates only.
    params = [{"w": jax.random.normal(key, (o, i)) / i**0.5} for i, o in pairs]
    if args.space != "projection":
        params = [{**layer, "b": jnp.zeros(layer["w"].shape[0])} for layer in params]
    strategy = polystep.polystep(spaces[args.space](), polystep.Geometry(dim=DIM), redraw_every=1)
    observations = jax.random.normal(key, (32, WIDTHS[0]))

    def cost(policy: list[dict[str, jax.Array]]) -> jax.Array:
        hidden = observations
        for layer in policy:
            hidden = jnp.tanh(hidden @ layer["w"].T + layer.get("b", 0.0))
        return jnp.sum(hidden**2)

    @jax.jit
    def generation(state: polystep.PolyStepState, key: jax.Array) -> tuple[polystep.PolyStepState, jax.Array]:
        proposal = strategy.ask(key, state)
        count = proposal.candidates.particle.shape[0]
        chunks = jax.tree.map(lambda a: a[:CANDIDATES].reshape(-1, args.chunk, *a.shape[1:]), proposal.candidates)
        costs = jax.lax.map(lambda chunk: jax.vmap(cost)(strategy.decode(state, chunk)), chunks).ravel()
        return strategy.tell(state, proposal, jnp.pad(costs, (0, count - CANDIDATES), mode="edge"))[0], costs.mean()

    state = strategy.init(key, params)
    for number in range(args.generations):
        start = time.time()
        state, mean = generation(state, jax.random.fold_in(key, number))
        print(f"generation {number}: mean cost {float(mean):.4f}, {time.time() - start:.1f} s", flush=True)
    print(f"parameters: {sum(leaf.size for leaf in jax.tree.leaves(params))}")


def main() -> int:
    """Run the child, print its peak, compare with the bound."""
    args = _parser().parse_args()
    if args.child:
        _measure(args)
        return 0
    if subprocess.run([sys.executable, __file__, *sys.argv[1:], "--child"], check=False).returncode:
        print("bench_memory: the measured process failed", file=sys.stderr)
        return 1
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    verdict = "within" if peak <= BOUND_MIB else "OVER"
    print(f"{args.space}: {CANDIDATES} candidates, chunks of {args.chunk}: peak {peak:.0f} MiB, {verdict} {BOUND_MIB}")
    return 0 if peak <= BOUND_MIB else 1


if __name__ == "__main__":
    sys.exit(main())
