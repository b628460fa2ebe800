"""Candidates as low-rank changes of their centre, beside candidates that are built: time and peak memory.

    python scripts/bench/structured.py --json docs/results/bench_structured.json

Float32 policies of 1e4 to 1e7 parameters, 1,024 candidates, 32 observations for each. ``ask``, the forward passes and
``tell`` of a generation, by route: *structured* (the products with the centre are shared, and each candidate adds its
own), *built* (the parameters of as many candidates at once as fit into 256 MB), and *plain*: the same observations
through one parameter set, the least that a forward pass can take. Each in a process of its own, in turns; the best of
the turns counts.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from _common import write_record

from polystep_rl.baselines.eggroll import eggroll
from polystep_rl.policies import mlp_policy
from polystep_rl.search import polystep, subspace
from polystep_rl.search.wrappers import averaged
from polystep_rl.types import Params, Policy, PolicySpec, Strategy, Structured

WIDTHS = {  # observations, hidden layers, actions
    "1e4": (48, 96, 55, 8),
    "1e5": (150, 300, 180, 12),
    "1e6": (480, 960, 550, 18),
    "1e7": (1500, 3000, 1800, 60),
}
ROUTES = ("plain", "structured", "built")
SEARCHES = ("factored", "eggroll")
DIM, RANK = 8, 4
BUILT_BYTES = 256 * 2**20
LANES = 8192  # forward passes at once: what bounds the memory of activations
BOUND_BYTES, SHARE = 2 * 2**30, 0.6  # of the bars, at 1e6 parameters with the factored subspace


@dataclass
class Args:
    """Measure candidates that are never built."""

    json: Path | None = None
    """Write every figure to this file, with hardware and versions."""
    sizes: tuple[str, ...] = tuple(WIDTHS)
    """Numbers of parameters."""
    searches: tuple[str, ...] = SEARCHES
    """What asks."""
    candidates: int = 1024
    """In a generation, at least."""
    observations: int = 32
    """For each candidate."""
    turns: int = 3
    """Measurements of each; the best one counts."""
    averaging: float = 0.0
    """Wrap the searches in a moving average of their centre with this decay, as presets of host tasks have it."""
    child: tuple[str, ...] = ()
    """Measure this size, search and route in this process and print the figures."""


def policy_of(size: str) -> Policy:
    obs, *hidden, actions = WIDTHS[size]
    low, high = (-1.0,) * actions, (1.0,) * actions
    return mlp_policy(PolicySpec(obs, tuple(hidden), "float32", "box", actions, low, high, (0.0,) * obs, (1.0,) * obs))


def search_of(name: str, args: Args) -> Strategy:
    """EGGROLL asks for so many candidates; PolyStep for two of every coordinate, of which so many are evaluated."""
    if name == "eggroll":
        strategy = eggroll(args.candidates, rank=1)
    else:
        strategy = polystep.polystep(subspace.factored(RANK), polystep.Geometry(dim=DIM), redraw_every=1)
    return averaged(strategy, args.averaging) if args.averaging > 0 else strategy


def measure(size: str, search: str, route: str, args: Args) -> dict[str, float]:
    """Seconds of the forward passes of a generation, and of all of it; peak memory of this process."""
    policy, n = policy_of(size), args.candidates
    params = policy.init(jax.random.key(0))
    strategy = search_of(search, args)
    if route == "structured" and strategy.structure is None:
        route = "built"  # a search without structure builds its candidates
    obs = jax.random.normal(jax.random.key(1), (policy.spec.obs_size, n, args.observations))
    group = max(1, min(n, LANES // args.observations))
    many = sum(x.size for x in jax.tree.leaves(params)) * 4
    chunk = {"plain": group, "structured": group, "built": max(1, min(group, BUILT_BYTES // many))}[route]
    chunk = next(c for c in range(chunk, 0, -1) if n % c == 0)

    def forward(state: Any, candidates: Any) -> jax.Array:
        """(n,): something of every action."""

        def part(both: tuple[Any, jax.Array]) -> jax.Array:
            own, seen = both[0], jnp.moveaxis(both[1], 0, 1)
            if route == "plain":
                acts = policy.act_structured(plain(strategy.params(state)), None, seen)
            elif route == "structured":
                made = strategy.structure(state, own)
                on_lanes = jax.tree.map(lambda x: jnp.moveaxis(x, 0, -1)[..., None], made.own)
                acts = policy.act_structured(made, on_lanes, seen)
            else:
                built = jax.vmap(policy.deploy)(strategy.decode(state, own))
                acts = jnp.moveaxis(jax.vmap(lambda p, o: matmul_forward(policy, p, o))(built, both[1]), 0, 1)
            return jnp.sum(acts**2, axis=(0, 2))

        parts = jax.tree.map(lambda x: x.reshape(-1, chunk, *x.shape[1:]), (candidates, jnp.moveaxis(obs, 1, 0)))
        return jax.lax.map(part, parts).ravel()

    @jax.jit
    def ask(state: Any, key: jax.Array) -> Any:
        return strategy.ask(key, state)

    @jax.jit
    def evaluate(state: Any, proposal: Any) -> jax.Array:
        spread = lambda x: x[jnp.linspace(0, x.shape[0] - 1, n).astype(int)]  # noqa: E731 - over all layers
        return forward(state, jax.tree.map(spread, proposal.candidates))

    @jax.jit
    def tell(state: Any, proposal: Any, cost: jax.Array) -> Any:
        count = jax.tree.leaves(proposal.candidates)[0].shape[0]
        return strategy.tell(state, proposal, jnp.resize(cost, count))[0]

    state = jax.block_until_ready(jax.jit(strategy.init)(jax.random.key(2), params))
    seconds: dict[str, list[float]] = {"forward": [], "generation": []}
    for turn in range(args.turns + 1):
        began = time.perf_counter()
        proposal = jax.block_until_ready(ask(state, jax.random.fold_in(jax.random.key(3), turn)))
        middle = time.perf_counter()
        cost = jax.block_until_ready(evaluate(state, proposal))
        after = time.perf_counter()
        state = jax.block_until_ready(tell(state, proposal, cost))
        seconds["forward"].append(after - middle)
        seconds["generation"].append(time.perf_counter() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    on_device = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")  # a CPU has no such count
    memory = {"peak_bytes": peak, **({} if on_device is None else {"device_peak_bytes": on_device})}
    return {**{name: min(found[1:]) for name, found in seconds.items()}, **memory, "parameters": many // 4}


def plain(params: Params) -> Any:
    """One parameter set as if it were candidates without changes."""
    leaves = jax.tree.leaves(params)

    def product(leaf: int, own: Any, x: jax.Array) -> jax.Array:
        flat = jnp.matmul(leaves[leaf], x.reshape(x.shape[0], -1), precision=jax.lax.Precision.HIGHEST)
        return flat.reshape(-1, *x.shape[1:])

    return Structured(None, product, lambda leaf, own: leaves[leaf])


def matmul_forward(policy: Policy, deployed: Params, obs: jax.Array) -> jax.Array:
    """(a, l) of one built candidate and its observations (o, l): true products, as the other routes have them."""
    x = obs
    for index in range(len(policy.spec.hidden) + 1):
        layer = deployed[str(index)]
        x = jnp.tanh(jnp.matmul(layer["w"], x, precision=jax.lax.Precision.HIGHEST) + layer["b"][:, None])
    return x


def child(size: str, search: str, route: str, args: Args) -> dict[str, float]:
    """`measure` in a process of its own."""
    numbers = ("--candidates", args.candidates, "--observations", args.observations, "--turns", args.turns)
    numbers += ("--averaging", args.averaging)
    command = [sys.executable, __file__, "--child", size, search, route, *map(str, numbers)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{size} {search} {route}: {(done.stderr.strip() or '?').splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def main(args: Args) -> int:
    """Entry point; 1 where a bar is missed."""
    if args.child:
        print(json.dumps(measure(*args.child, args)))
        return 0
    rows: list[dict[str, Any]] = []
    missed = False
    heads = f"{'forward':>10}{'generation':>12}{'peak MiB':>10}{'of plain':>10}"
    print(f"{'parameters':>10} {'search':<9}{'route':<11}{heads}")
    for size in args.sizes:
        for search in args.searches:
            found = {route: child(size, search, route, args) for route in ROUTES}
            for route, row in found.items():
                share = found["plain"]["forward"] / row["forward"]
                rows.append({"size": size, "search": search, "route": route, **row, "share_of_plain": share})
                shown = f"{row['forward']:>9.3f}s{row['generation']:>11.3f}s{row['peak_bytes'] / 2**20:>10,.0f}"
                print(f"{int(row['parameters']):>10,} {search:<9}{route:<11}{shown}{share:>10.0%}", flush=True)
                if (size, search, route) == ("1e6", "factored", "structured"):
                    missed = share < SHARE or row["peak_bytes"] > BOUND_BYTES
                    print(f"{'MISSED' if missed else 'met'}: at least {SHARE:.0%} of plain, at most 2,048 MiB")
    write_record(args.json, {"cpu_count": os.cpu_count(), "rows": rows})
    return int(missed)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Args)))
