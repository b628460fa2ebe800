"""Instructions for an action on a Cortex-M4: exported int8 and binary policies beside float32 ones of the same layers.

    python scripts/bench/deploy.py --json docs/results/deploy/instructions.json

Counted in QEMU (arm-none-eabi-gcc -O2), over 256 observations, of policies with random weights. Without the FPU, and
with it; ``step`` takes floats, ``step_int8`` int8 observations.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from _common import write_record

from polystep_rl.deploy.report import HARD_FLOAT
from polystep_rl.envs import make
from polystep_rl.policies import make_policy
from polystep_rl.policies.export import bundle, measure
from polystep_rl.policies.runtime import actions

TASKS = (("CartPole-v1", (8,)), ("CartPole-v1", (16,)), ("CartPole-v1", (64,)), ("Acrobot-v1", (16,)))
TASKS += (("CartPole-v1", (16, 16)), ("CartPole-v1", (64, 64)))
CPUS: tuple[tuple[str, tuple[str, ...]], ...] = (("soft", ()), ("fpu", HARD_FLOAT))


@dataclass
class Args:
    """Count the instructions of exported policies."""

    json: Path | None = None
    """Write the counts to this file, with versions."""


def counts(env_id: str, hidden: tuple[int, ...], precision: str) -> dict[str, float]:
    """Instructions for an action, by processor and entry point."""
    policy = make_policy(make(env_id).spec, hidden, precision)
    params = jax.tree.map(np.asarray, policy.init(jax.random.key(0)))
    obs = np.random.default_rng(0).normal(size=(256, policy.spec.obs_size)).astype(np.float32)
    with tempfile.TemporaryDirectory() as work:
        vectors = bundle.Vectors(obs, actions(policy.spec, params, obs).astype(np.int32))
        meta = bundle.describe(policy.spec, {"env": env_id}, (), None)
        bundle.write_c(Path(work), "policy", policy.spec, params, meta, vectors)
        entries = ("step",) if precision == "float32" else ("step", "step_int8")
        return {
            f"{cpu} {entry}": measure.instructions(Path(work), "policy", "cortex-m4", obs, entry, flags)
            for cpu, flags in CPUS
            for entry in entries
        }


def main(args: Args) -> None:
    """Entry point."""
    rows: list[dict[str, Any]] = []
    for env_id, hidden in TASKS:
        found = {precision: counts(env_id, hidden, precision) for precision in ("float32", "int8", "binary")}
        rows.append({"env": env_id, "hidden": hidden, "instructions": found})
        for cpu, _ in CPUS:
            whole = found["float32"][f"{cpu} step"]
            shown = [f"float32 {whole:,.0f}"]
            for precision in ("int8", "binary"):
                for entry in ("step", "step_int8"):
                    count = found[precision][f"{cpu} {entry}"]
                    shown.append(f"{precision} {entry} {count:,.0f} ({whole / count:.1f} times fewer)")
            print(f"{env_id} {hidden} {cpu}: {', '.join(shown)}", flush=True)
    write_record(args.json, {"tools": measure.toolchain(), "rows": rows})


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Args)))
