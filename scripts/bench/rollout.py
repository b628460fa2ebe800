"""Living env steps per second of policy evaluation, beside two published evaluators on the same machine.

    python scripts/bench/rollout.py --json bench.json

CartPole and Acrobot, policies 4-16-2 and 6-16-3 in every precision, against evosax's Gymnax problem and the `polystep`
package's evaluators, which get the float32 policies and live in virtual environments of their own that this script
creates. Two populations: random policies, and copies of a policy that is trained first (a few seconds each).

*Lockstep* steps count every episode up to the horizon, or up to where an evaluator stops, *living* steps only those
before an episode's end; `share` is the useful part of the lane steps, those of a lane whose episode has not ended.
Slow peers get the first policies of a population only. Everything is measured in turns, several times; the best time
of each counts, so that other load on the machine disturbs little of it. `cores` is CPU time over wall time of that
best run: well below the number of cores means that the machine was busy with something else.

The *ladder* (`--sections ladder`, without peers): CartPole, Acrobot and Pendulum in every precision with 16, 64 and 256
hidden units, and the part of the machine's arithmetic limit that the operations of their living steps reach.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from _common import COMMAND, options, write_record
from bench.measuring import ladder
from bench.measuring.cases import Case, cpu_model, measure
from bench.peers.process import EVOSAX, PEERS, Peer
from bench.peers.protocol import timed

from polystep_rl.machine import setup_jax, system_info
from polystep_rl.rollout.device import DeviceEvaluator
from polystep_rl.runs.load import LoadedRun, load_run
from polystep_rl.types import PRECISIONS, Params, PolicySpec

ENVS = {"CartPole-v1": 500.0, "Acrobot-v1": -95.0}  # and the evaluation return at which training stops
POPULATIONS = ("random", "solved")
OURS = "polystep_rl"
BARS = {"CartPole-v1": 20, "Acrobot-v1": 10}  # living steps/s of binary policies over lockstep ones of evosax+gymnax
SHARE_BAR = 0.95  # of the lane steps, useful
JUDGED = "binary"


@dataclass
class Args:
    """Measure rollouts, beside other evaluators."""

    json: Path | None = None
    """Write every figure, with hardware and versions, to this file."""
    quick: bool = False
    """Two precisions, a small population, two turns: to see that it works. Its figures say little."""
    candidates: int = 16384
    """Policies in the population."""
    episodes: int = 8
    """Episodes per policy."""
    turns: int = 7
    """Measurements of each; the best one counts."""
    envs_dir: Path = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "polystep-rl" / "peers"
    """Where the virtual environments of the peers are kept."""
    peers: bool = True
    """Also measure the peers."""
    sections: tuple[Literal["populations", "ladder"], ...] = ("populations", "ladder")
    """What to measure; the ladder has no peers."""


def trained(env_id: str, precision: str, folder: str) -> LoadedRun:
    """The policy of a short training run."""
    run = Path(folder) / f"{env_id}-{precision}"
    command = [*COMMAND, "train", "--env", env_id, "--policy", precision, "--seed", "0"]
    command += [f"--stop-reward={ENVS[env_id]}", "--run-dir", str(run), "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"training {precision} on {env_id} failed: {(done.stderr.strip() or '?').splitlines()[-1]}")
    return load_run(run)


def our_cases(env_id: str, precision: str, args: Args, folder: str) -> tuple[list[Case], dict[str, dict]]:
    """Both populations of one precision, and their weights for the peers where it is float32."""
    run = trained(env_id, precision, folder)
    n, r, policy = args.candidates, args.episodes, run.policy
    populations = {
        "random": jax.vmap(policy.init)(jax.random.split(jax.random.key(1), n)),
        "solved": jax.tree.map(lambda x: jnp.broadcast_to(x, (n, *x.shape)), run.params),
    }
    evaluator = DeviceEvaluator(run.env, policy, r)
    evaluate = jax.jit(lambda key, params: evaluator(key, params, lambda x: x))
    cases, weights, key = [], {}, jax.random.key(0)
    for name, params in populations.items():
        call = functools.partial(lambda params: jax.block_until_ready(evaluate(key, params)), params)
        found = call()
        living, lockstep = int(found.env_steps), n * r * run.env.spec.horizon
        share, timing = living / float(found.lane_steps), functools.partial(repeated, call)
        cases.append(Case(OURS, precision, env_id, name, n, r, lockstep, living, timing, args.turns, share))
        if precision == "float32":
            weights[name] = plain_weights(policy.spec, jax.device_get(jax.vmap(policy.deploy)(params)))
    return cases, weights


def repeated(call: Callable[[], object]) -> dict[str, float]:
    """Seconds of a call, the mean over as many as a second has: peers take that long for one, and longer."""
    calls, total = 0, {"wall": 0.0, "cpu": 0.0}
    while total["wall"] < 1.0:
        once = timed(call)
        calls, total = calls + 1, {name: total[name] + once[name] for name in total}
    return {name: seconds / calls for name, seconds in total.items()}


def plain_weights(spec: PolicySpec, deployed: Params) -> dict[str, np.ndarray]:
    """Float policies with the input scaling folded into their first layer: the same policy on raw observations."""
    offset, scale = np.asarray(spec.obs_offset), np.asarray(spec.obs_scale)
    w0 = deployed["0"]["w"] / scale
    weights = {"w0": w0, "b0": deployed["0"]["b"] - w0 @ offset, "w1": deployed["1"]["w"], "b1": deployed["1"]["b"]}
    return {key: np.asarray(value, np.float32) for key, value in weights.items()}


def report(cases: list[Case]) -> None:
    """One table per environment and population."""
    for env in ENVS:
        for population in POPULATIONS:
            rows = [case for case in cases if (case.env, case.population) == (env, population)]
            peers = [case for case in rows if case.name != OURS]
            print(f"\n{env}, {population} policies (million steps/s; ours(living) over a peer's lockstep, living)")
            heads = "".join(f"{'over ' + peer.name:>25}" for peer in peers)
            print(f"{'':26}{'policies':>9}{'length':>8}{'lockstep':>10}{'living':>9}{'cores':>7}{'share':>7}{heads}")
            for case in rows:
                name = f"{case.name} {case.precision}"
                length = case.living / (case.candidates * case.episodes)
                cores = case.best["cpu"] / case.best["wall"]
                line = f"{name:26}{case.candidates:>9}{length:>8.1f}"
                line += f"{case.rate('lockstep'):>10.3f}{case.rate('living'):>9.3f}{cores:>7.2f}"
                if case.name == OURS:
                    line += f"{case.share:>7.3f}"
                    for peer in peers:
                        ratios = (case.rate("living") / peer.rate(kind) for kind in ("lockstep", "living"))
                        line += "{:>14.1f}x{:>9.1f}x".format(*ratios)
                print(line)


def verdicts(cases: list[Case]) -> list[dict[str, Any]]:
    """Per environment and population, binary policies over evosax+gymnax in lockstep, and their useful share."""
    results = []
    for peer in (case for case in cases if case.name.startswith(EVOSAX)):
        ours = [c for c in cases if (c.name, c.env, c.population) == (OURS, peer.env, peer.population)]
        judged = next(case for case in ours if case.precision == JUDGED)
        ratio, bar = judged.rate("living") / peer.rate("lockstep"), BARS[peer.env]
        results.append(
            {
                "peer": peer.name,
                "env": peer.env,
                "population": peer.population,
                "precision": JUDGED,
                "ratio": ratio,
                "bar": bar,
                "share": judged.share,
                "share_bar": SHARE_BAR,
                "met": ratio >= bar and judged.share >= SHARE_BAR,
            }
        )
    return results


def populations(args: Args, precisions: tuple[str, ...]) -> dict[str, Any]:
    """Prepare, measure and print random and solved policies, beside the peers."""
    peers, missing = [], {}
    for name in PEERS if args.peers else ():
        try:
            peers.append(Peer(name, args.envs_dir))
        except (OSError, RuntimeError) as error:
            missing[name] = str(error)
    cases: list[Case] = []
    with tempfile.TemporaryDirectory() as folder:
        for env in ENVS:
            for precision in precisions:
                ours, weights = our_cases(env, precision, args, folder)
                cases += ours
                for peer in peers:
                    if not weights or peer.name in missing:
                        continue
                    try:
                        cases += [
                            peer.case(env, population, variant, weights[population], args, folder)
                            for population in POPULATIONS
                            for variant in peer.variants
                        ]
                    except RuntimeError as error:
                        missing[peer.name] = str(error)
        cases = [case for case in cases if case.name.partition(" ")[0] not in missing]
        measure(cases)
    for peer in peers:
        peer.process.stdin.close()
        peer.process.wait()
    print(f"{args.episodes} episodes per policy, best of {args.turns} turns")
    report(cases)
    print()
    for v in (results := verdicts(cases)):
        print(
            f"{v['env']}, {v['population']}: {v['precision']} {v['ratio']:.1f} times {v['peer']} in lockstep, "
            f"bar {v['bar']}; share {v['share']:.3f}, bar {SHARE_BAR}: {'met' if v['met'] else 'MISSED'}"
        )
    for name, reason in missing.items():
        print(f"{name}: not measured: {reason}")
    return {
        "peers": {peer.name: peer.versions for peer in peers if peer.name not in missing},
        "missing": missing,
        "verdicts": results,
        "cases": [case.as_json() for case in cases],
    }


def main(args: Args) -> None:
    """Measure, print, write."""
    precisions, rungs = PRECISIONS, ladder.Settings()
    if args.quick:
        args.candidates, args.turns, precisions = min(args.candidates, 64), 2, ("float32", "binary")
        rungs = ladder.Settings(precisions=precisions, hidden=(16,), turns=2, scale=0.01)
    setup_jax()
    record: dict[str, Any] = {}
    load_before = os.getloadavg()
    if "populations" in args.sections:
        record |= populations(args, precisions)
    if "ladder" in args.sections:
        record["ladder"] = ladder.measure(rungs)
        print(f"\n{ladder.table(record['ladder'])}")
    load = {"before": load_before, "after": os.getloadavg()}
    cpu = system_info()["cpu_count"]
    print(f"{cpu} cores, load average {load['before'][0]:.2f} before and {load['after'][0]:.2f} after")
    write_record(args.json, {"args": options(args), **record}, cpu=cpu_model(), load_average=load)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
