"""What is measured on a GPU, in one command and one JSON; on a machine without one, a trial of it.

    python scripts/bench/gpu_suite.py --json gpu.json --minutes 9.5          # as often as wanted, adds to the file
    python scripts/bench/gpu_suite.py --json gpu.json --sections memory g1 --minutes 9
    python scripts/bench/gpu_suite.py --json trial.json --quick              # anywhere: compares the CPU with itself

*rollout*: the ladder of `rollout.py`, reduced. *parity*: the same policies on the CPU and on the accelerator
(`measuring/parity.py` says what is law and what is reported). *memory*: generations of 1,024 candidates of 1e4 to 1e7
parameters. *g1*: stepping rates of the humanoid, where MuJoCo Playground is installed. Every section runs in a process
of its own with a share of the minutes; one that fails or is cut leaves what it has and an `error`. The exit status is 1
where a law broke. Float32 matrix products keep their precision everywhere (no TF32).
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bench import structured
from bench.measuring import ladder, parity
from bench.measuring.cases import cpu_model
from humanoid import g1_gpu

from polystep_rl.files import write_atomic
from polystep_rl.machine import setup_jax, system_info
from polystep_rl.types import PRECISIONS

Section = Literal["rollout", "parity", "memory", "g1"]
WEIGHTS: dict[Section, float] = {"rollout": 3, "parity": 3, "memory": 3, "g1": 2}  # of the minutes
MATMUL = "highest"
ENVS = ("CartPole-v1", "Acrobot-v1", "Pendulum-v1")
Write = Callable[[dict[str, Any]], None]


@dataclass
class Args:
    """Measure on a GPU."""

    json: Path = Path("gpu_suite.json")
    """Where the record goes; sections of the same hardware that are there stay."""
    sections: tuple[Section, ...] = tuple(WEIGHTS)
    """What to run."""
    minutes: float = 9.5
    """For all of it."""
    quick: bool = False
    """The smallest of everything: to see that it works."""
    child: str | None = None
    """Run this section in this process and write what it finds to the file."""


def hardware(write: Write, quick: bool) -> None:
    """In a process of its own, too: whoever asks for a GPU takes most of its memory."""
    device = jax.devices()[0]
    stats = device.memory_stats() or {}
    write(
        {
            "platform": device.platform,
            "kind": device.device_kind,
            "count": jax.device_count(),
            "memory_bytes": stats.get("bytes_limit"),  # what JAX may use of it
            "cpu": cpu_model(),
            "jax_default_matmul_precision": jax.config.jax_default_matmul_precision,
            "system": system_info(),
        }
    )


def rollout(write: Write, quick: bool) -> None:
    """Task by task: a cut loses one of them."""
    record: dict[str, Any] = {"tasks": {}}
    for env in ENVS:
        chosen = ladder.Settings((env,), ("float32", "int8", "binary"), (16, 256), 3)
        if quick:
            chosen = ladder.Settings((env,), ("float32", "binary"), (16,), 1, 0.01)
        record["tasks"][env] = ladder.measure(chosen)
        print(ladder.table(record["tasks"][env]), flush=True)
        write(record)


def compare(write: Write, quick: bool) -> None:
    """Every task and precision; the law for every one of them."""
    devices = jax.devices("cpu")[0], jax.devices()[0]
    record: dict[str, Any] = {"devices": [str(device) for device in devices], "rows": [], "broken": []}
    record["trivial"] = devices[0] == devices[1]  # the CPU with itself: a trial
    for env in ENVS:
        for precision in ("binary", "float32") if quick else PRECISIONS:
            row = {"env": env, **parity.summary(parity.compare(env, precision, devices, 32 if quick else 1024))}
            record["rows"].append(row)
            record["broken"] += [f"{env} {precision}: {line}" for line in row["broken"]]
            shown = f"{row['same_episodes']} of {row['episodes']} episodes the same, actions {row['same_actions']:.6f}"
            print(f"{env} {precision}: {shown}, a step within {row['step_deviation']:.1e}: {row['broken'] or 'lawful'}")
            write(record)


def memory(write: Write, quick: bool) -> None:
    """What matters first: candidates that are never built, then one parameter set, then those that are built."""
    sizes = ("1e4",) if quick else tuple(structured.WIDTHS)
    args = structured.Args(candidates=64 if quick else 1024, turns=1 if quick else 3)
    cells = [(search, "structured") for search in structured.SEARCHES] + [("factored", "plain")]
    cells += [] if quick else [("factored", "built")]
    rows: list[dict[str, Any]] = []
    for search, route in cells:
        for size in sizes:
            row: dict[str, Any] = {"size": size, "search": search, "route": route, "candidates": args.candidates}
            try:
                row |= structured.child(size, search, route, args)
            except SystemExit as error:
                row["error"] = str(error)
            rows.append(row)
            print(row, flush=True)
            write({"rows": rows})


def g1(write: Write, quick: bool) -> None:
    """Rates, one number of environments after the other."""
    missing = [name for name in ("mujoco_playground", "mujoco") if importlib.util.find_spec(name) is None]
    if missing:
        return write({"skipped": f"{', '.join(missing)} not installed"})
    if jax.default_backend() == "cpu":
        return write({"skipped": "no accelerator"})
    with tempfile.TemporaryDirectory() as folder:
        for count in (64,) if quick else (1024, 4096, 16384):
            args = g1_gpu.Args(out=Path(folder), environments=(count,), steps=20 if quick else 200)
            g1_gpu.measure(args, time.monotonic() + 3600)
            write({"task": args.task, **json.loads((Path(folder) / "rates.json").read_text())})


CHILDREN: dict[str, Callable[[Write, bool], None]] = {
    "hardware": hardware,
    "rollout": rollout,
    "parity": compare,
    "memory": memory,
    "g1": g1,
}


def save(path: Path, record: dict[str, Any]) -> None:
    """At once or not at all."""
    write_atomic(path, (json.dumps(record, indent=1) + "\n").encode())


def run(section: str, seconds: float, quick: bool) -> dict[str, Any]:
    """What a section found in its time, with an `error` where it did not end well."""
    began, seconds = time.monotonic(), max(1.0, seconds)
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "found.json"
        command = [sys.executable, __file__, "--child", section, "--json", str(found), *(["--quick"] if quick else [])]
        variables = os.environ | {"JAX_DEFAULT_MATMUL_PRECISION": MATMUL}
        with open(Path(folder) / "log", "w+", encoding="utf-8") as log:
            # A group of its own: what it has started ends with it.
            process = subprocess.Popen(command, stderr=log, env=variables, start_new_session=True)
            error = None
            try:
                if process.wait(seconds):
                    log.seek(0)
                    error = (log.read().strip() or f"exit status {process.returncode}").splitlines()[-1]
            except subprocess.TimeoutExpired:
                error = f"cut after {seconds:.0f} s"
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        record = json.loads(found.read_text(encoding="utf-8")) if found.exists() else {}
    return {**record, "seconds": time.monotonic() - began, **({"error": error} if error else {})}


def main(args: Args) -> int:
    """Entry point; 1 where a law broke."""
    if args.child:
        setup_jax()
        CHILDREN[args.child](lambda record: save(args.json, record), args.quick)
        return 0
    deadline = time.monotonic() + 60 * args.minutes
    record: dict[str, Any] = {"hardware": run("hardware", 120, args.quick), "sections": {}}
    if args.json.exists():
        before = json.loads(args.json.read_text(encoding="utf-8"))
        if before["hardware"].get("kind") == record["hardware"].get("kind"):
            record["sections"] = before["sections"]
    for index, section in enumerate(args.sections):
        share = WEIGHTS[section] / sum(WEIGHTS[later] for later in args.sections[index:])
        print(f"--- {section}", flush=True)
        found = run(section, share * (deadline - time.monotonic()), args.quick)
        record["sections"][section] = {**found, "quick": args.quick}
        for reason in ("error", "skipped"):
            if reason in found:
                print(f"{section}: {reason}: {found[reason]}", flush=True)
        record["broken"] = record["sections"].get("parity", {}).get("broken", [])
        save(args.json, record)
    print("\n".join(record["broken"]) or "no law broke")
    return int(bool(record["broken"]))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Args, description=__doc__)))
