"""Protocol of the workers of bench/rollout.py: requests and answers are JSON objects, one a line.

{"prepare": case, "env": id, "weights": npz, "episodes": r, "variant": name}
    -> {"lockstep": steps, "living": steps, "versions": {...}}
{"run": case}
    -> {"wall": seconds, "cpu": seconds}
"""

import json
import os
import sys
import time
from collections.abc import Callable
from importlib import metadata

import numpy as np

Weights = dict[str, np.ndarray]  # w0 (n, h, o), b0 (n, h), w1 (n, a, h), b1 (n, a): float32
PACKAGES = ("evosax", "gymnax", "jax", "flax", "polystep", "torch", "gymnasium", "numpy")


def timed(run: Callable[[], object]) -> dict[str, float]:
    """Wall and CPU seconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def versions() -> dict[str, str]:
    """The packages of this environment that matter here."""
    installed = {dist.metadata["Name"].lower(): dist.version for dist in metadata.distributions()}
    return {name: installed[name] for name in PACKAGES if name in installed}


def serve(make_run: Callable[[str, Weights, int, str], tuple[Callable[[], object], int, int]]) -> None:
    """Answer requests until standard input closes. Whatever else is printed goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    cases: dict[str, Callable[[], object]] = {}
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "prepare" in request:
                weights = dict(np.load(request["weights"]))
                run, lockstep, living = make_run(request["env"], weights, request["episodes"], request["variant"])
                run()  # compiles
                cases[request["prepare"]] = run
                answer = {"lockstep": lockstep, "living": living, "versions": versions()}
            else:
                answer = timed(cases[request["run"]])
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}".partition("\n")[0]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
