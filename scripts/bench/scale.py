"""What devices and processes add to a search, what a generation sends, and what that predicts for more of them.

    python scripts/bench/scale.py --json docs/results/bench_scale.json

OpenAI-ES on CartPole and Acrobot, binary policies of 16 hidden units, populations of three sizes: the same generations
(the same run, bit for bit) by one host device, by two devices of one process, and by two processes with a device and a
core of their own, every time from the same start. `seconds` is that of a generation, the best of all turns. Beside it,
of the same population: `serial`, asking and telling, which every device does for itself; `meeting`, the gather of all
outcomes; and `bytes`, what a device receives in it. Of them the model, with D devices,

    seconds(D) = (seconds(1) - serial) / D + serial + meeting(D)

predicts what two devices take, which stands beside what was measured, and what many would take. The gather is measured
among more processes than there are cores, too: its latency grows with their number, as numbers go around in a ring.

The second table is of predictions: how much of the time devices evaluate, by the seconds that one of them alone would
evaluate a generation. Assumed, not measured, are 5 microseconds and 300 GB/s a hop between GPUs, and 10 Gbit/s between
machines; their latency is that of two processes here.
"""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.sharding import Mesh, PartitionSpec

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from _common import options, write_record

from polystep_rl.machine import setup_jax, usable_cores
from polystep_rl.runs.parts import make_parts
from polystep_rl.settings.presets import preset
from polystep_rl.training.programs import initial_progress, programs
from polystep_rl.training.state import Limits

ENVS, PRECISION, ALGO = ("CartPole-v1", "Acrobot-v1"), "binary", "open_es"
CANDIDATES, EPISODES = (64, 1024, 16384), 8
GENERATIONS = {64: 48, 1024: 12, 16384: 2}  # in a turn
ONE, DEVICES, PROCESSES = (1, 1), (1, 2), (2, 1)  # processes, devices of each
RING = (2, 4, 8)  # processes
BAR = 1.8  # times one device, of two devices or two processes on two cores


@dataclass
class Args:
    """Measure what devices and processes add."""

    json: Path | None = None
    """Write every figure, with hardware and versions, to this file."""
    rounds: int = 3
    """How often every set of processes is started."""
    turns: int = 5
    """Measurements in each; the best one counts."""
    quick: bool = False
    """One environment, the smallest population, one round: to see that it works."""
    meet: bool = False
    """In a child: measure the gather alone."""
    child: tuple[int, int, int, int] | None = None
    """Processes, devices of each, index and port of this one."""


def timed(call: Callable[[], Any], turns: int) -> float:
    """The best of some turns, in seconds; the first call compiles."""
    jax.block_until_ready(call())
    found = []
    for _ in range(turns):
        began = time.perf_counter()
        jax.block_until_ready(call())
        found.append(time.perf_counter() - began)
    return min(found)


def words(candidates: int, obs_size: int, devices: int) -> int:
    """Of 32 bits, that a device sends to all others in a generation: returns and lengths of its candidates, moments
    (weight, mean, squares), and the count of lane steps."""
    return 2 * -(-candidates // devices) * EPISODES + 1 + 2 * obs_size + 1


def meeting(size: int, turns: int) -> float:
    """Seconds in which all devices get so many words of each."""
    mesh = Mesh(np.array(jax.devices()), ("d",))
    whole = PartitionSpec()

    def gather(x: jax.Array) -> jax.Array:
        def once(_: int, x: jax.Array) -> jax.Array:
            return jax.lax.all_gather(x, "d").sum(0)

        return jax.lax.fori_loop(0, 20, once, x)

    run = jax.jit(jax.shard_map(gather, mesh=mesh, in_specs=whole, out_specs=whole, check_vma=False))
    return timed(lambda: run(np.ones(size, np.uint32)), turns) / 20


def measure(env: str, candidates: int, turns: int) -> dict[str, float]:
    """Seconds of a generation and of its parts, in this process."""
    config = preset(env, PRECISION, algo=ALGO)
    search = dataclasses.replace(config.search, population=candidates, episodes=EPISODES)
    parts = make_parts(dataclasses.replace(config, search=search))
    compiled = programs(parts.strategy, parts.evaluate, parts.evaluate_centre)
    state = initial_progress(parts.strategy, parts.start, parts.keys.strategy).state
    many, unlimited = GENERATIONS[candidates], np.iinfo(np.int32).max
    limits = Limits(np.int32(0), np.int32(0), np.int32(many), unlimited, unlimited, unlimited)
    log = jax.device_get(compiled.chunk(parts.keys, state, limits)[1])
    seconds = timed(lambda: compiled.chunk(parts.keys, state, limits), turns) / many

    @jax.jit
    def alone(state: Any) -> Any:
        def once(i: int, state: Any) -> Any:
            proposal = parts.strategy.ask(jax.random.fold_in(parts.keys.strategy, i), state)
            cost = proposal.candidates[:, 0] if isinstance(proposal.candidates, jax.Array) else jnp.arange(candidates)
            return parts.strategy.tell(state, proposal, cost.astype(jnp.float32))[0]

        return jax.lax.fori_loop(0, many, once, state)

    serial = timed(lambda: alone(state), turns) / many
    size = words(candidates, parts.policy.spec.obs_size, jax.device_count())
    steps = int(log["_steps"].sum()) / many
    row = {"seconds": seconds, "serial": serial, "meeting": meeting(size, turns), "env_steps": steps}
    return row | {"bytes": 4 * size * jax.device_count(), "checksum": float(log["rollout/ep_rew_mean"].sum())}


def child(args: Args) -> None:
    """Measure in a process that may be one of several; the first one prints."""
    assert args.child is not None
    count, devices, index, port = args.child
    if count > 1 and not args.meet and hasattr(os, "sched_setaffinity"):  # before JAX starts its threads
        cores = usable_cores()
        os.sched_setaffinity(0, {cores[index % len(cores)]})
    setup_jax(devices)
    if count > 1:
        jax.config.update("jax_enable_preemption_service", False)
        jax.distributed.initialize(f"localhost:{port}", count, index)
    envs, sizes = (ENVS[:1], CANDIDATES[:1]) if args.quick else (ENVS, CANDIDATES)
    rows: list[dict[str, Any]] = []
    if args.meet:
        envs, rows = (), [{"words": n, "meeting": meeting(n, args.turns)} for n in (100, 100_000)]
    for env in envs:
        for size in sizes:
            rows.append({"env": env, "candidates": size, **measure(env, size, args.turns)})
    if index == 0:
        print("result " + json.dumps(rows), flush=True)
    if count > 1:
        jax.distributed.shutdown()


def run(args: Args, count: int, devices: int, meet: bool = False) -> list[dict[str, Any]]:
    """What the first of so many processes has measured."""
    with socket.socket() as own:
        own.bind(("localhost", 0))
        port = own.getsockname()[1]
    flags = ["--turns", str(args.turns), *(["--quick"] if args.quick else []), *(["--meet"] if meet else [])]
    start = [sys.executable, __file__, *flags, "--child", str(count), str(devices)]
    pipe = subprocess.PIPE
    started = [
        subprocess.Popen([*start, str(index), str(port)], stdout=pipe, stderr=pipe, text=True) for index in range(count)
    ]
    said = [process.communicate() for process in started]
    for process, (_, err) in zip(started, said, strict=True):
        if process.returncode:
            raise SystemExit(f"{count} processes: {(err.strip() or '?').splitlines()[-1]}")
    return json.loads(next(x for x in said[0][0].splitlines() if x.startswith("result ")).partition(" ")[2])


def best(rounds: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Row by row, the least of every time."""
    times = ("seconds", "serial", "meeting")
    return [
        same[0] | {name: min(row[name] for row in same) for name in times if name in same[0]}
        for same in zip(*rounds, strict=True)
    ]


def joined(one: list[dict], devices: list[dict], processes: list[dict]) -> list[dict[str, Any]]:
    """A row for every population: alone, and on two with how many times faster, and what the model had predicted."""
    rows = []
    for alone, *shared in zip(one, devices, processes, strict=True):
        assert all(row["checksum"] == alone["checksum"] for row in shared), "another run"
        row = {"env": alone["env"], "candidates": alone["candidates"], "one": alone}
        for name, two in zip(("devices", "processes"), shared, strict=True):
            predicted = (alone["seconds"] - alone["serial"]) / 2 + alone["serial"] + two["meeting"]
            row[name] = two | {"times": alone["seconds"] / two["seconds"], "predicted": predicted}
        rows.append(row)
    return rows


def scaling_table(rows: list[dict[str, Any]]) -> str:
    """What was measured, in Markdown."""
    heads = ("", "candidates", "steps/s, one", "one", "two devices", "predicted", "two processes", "predicted", "bytes")
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in rows:
        alone, cells = row["one"], []
        for name in ("devices", "processes"):
            two = row[name]
            cells += [f"{1e3 * two['seconds']:.2f} ms ({two['times']:.2f} times)", f"{1e3 * two['predicted']:.2f} ms"]
        rate = f"{alone['env_steps'] / alone['seconds'] / 1e6:.1f} M"
        first = (row["env"], f"{row['candidates']:,}", rate, f"{1e3 * alone['seconds']:.2f} ms")
        lines.append("| " + " | ".join((*first, *cells, f"{row['devices']['bytes']:,}")) + " |")
    return "\n".join(lines) + "\n"


def hop(ring: dict[Any, list[dict[str, float]]]) -> float:
    """Seconds in which two processes meet."""
    return next(ring[count][0]["meeting"] for count in ring if int(count) == 2)


def prediction_table(rows: list[dict[str, Any]], ring: dict[Any, list[dict[str, float]]]) -> str:
    """The share of the time in which devices evaluate, by how long one alone would take, in Markdown."""
    many = hop(ring), 1.25e9
    clusters = (
        (8, "GPUs", 5e-6, 3e11, (0.1, 1)),
        (100, "machines", *many, (10, 100)),
        (1000, "machines", *many, (1e3, 1e4)),
    )
    heads = [f"{count:,} {name}, {e:,g} s" for count, name, _, _, alone in clusters for e in alone]
    lines = ["| " + " | ".join(("candidates", "S", *heads)) + " |", "|" + "---|" * (2 + len(heads))]
    for size in CANDIDATES:
        serial = max(row["one"]["serial"] for row in rows if row["candidates"] == size)
        cells = []
        for count, _, latency, bandwidth, alone in clusters:
            gather = (count - 1) * (latency + 4 * words(size, 6, count) / bandwidth)
            shares = (seconds / count / (seconds / count + serial + gather) for seconds in alone)
            cells += [f"{share:.0%}" if size >= count else "-" for share in shares]
        lines.append(f"| {size:,} | {1e3 * serial:.2f} ms | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main(args: Args) -> int:
    """Entry point; 1 where a bar is missed."""
    if args.child is not None:
        child(args)
        return 0
    rounds: dict[tuple[int, int], list[Any]] = {ONE: [], DEVICES: [], PROCESSES: []}
    for _ in range(1 if args.quick else args.rounds):
        for layout, found in rounds.items():
            found.append(run(args, *layout))
    rows = joined(*(best(found) for found in rounds.values()))
    print(scaling_table(rows))
    reached = {name: max(row[name]["times"] for row in rows) for name in ("devices", "processes")}
    met = max(reached.values()) >= BAR
    said = ", ".join(f"two {name} {times:.2f}" for name, times in reached.items())
    print(f"{said} times one device at best, bar {BAR}: {'met' if met else 'MISSED'}")
    ring = {count: best([run(args, count, 1, meet=True)]) for count in (() if args.quick else RING)}
    for count, found in ring.items():
        print(f"{count} processes meet in " + ", ".join(f"{1e3 * x['meeting']:.2f} ms" for x in found))
    if ring:
        print(f"\n{prediction_table(rows, ring)}")
    write_record(args.json, {"args": options(args), "rows": rows, "ring": ring})
    return int(not (met or args.quick))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Args, description=__doc__)))
