"""The other evaluators of bench/rollout.py: worker processes in virtual environments of their own."""

from __future__ import annotations

import functools
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from bench.measuring.cases import Case

EVOSAX, POLYSTEP = "evosax+gymnax", "polystep"
PEERS = {  # worker, its variants, requirements (gymnax imports six and does not say so)
    EVOSAX: ("evosax_gymnax.py", ("default", "lean"), ("evosax==0.3.2", "gymnax==1.0.1", "six")),
    POLYSTEP: ("polystep_torch.py", ("default",), ("polystep==1.1.0", "torch==2.13.0", "gymnasium>=1.2", "numpy>=2")),
}
# What takes long gets a part of the population, and fewer turns; polystep steps Acrobot in Python.
SLOW = {(POLYSTEP, "CartPole-v1"): (512, 7), (POLYSTEP, "Acrobot-v1"): (16, 2), (EVOSAX, "Acrobot-v1"): (2048, 3)}


class Peer:
    """A worker process in a virtual environment of its own."""

    def __init__(self, name: str, folder: Path) -> None:
        worker, self.variants, requirements = PEERS[name]
        python = _environment(folder / name.replace("+", "-"), requirements)
        script = Path(__file__).parent / worker
        ours = ("PYTHONPATH", "PYTHONSAFEPATH", "XLA_", "JAX_")
        variables = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
        self.name, self.versions = name, {}
        self.log = tempfile.TemporaryFile("w+")
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            [str(python), str(script)], stdin=pipe, stdout=pipe, stderr=self.log, text=True, env=variables
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        """The worker's answer; RuntimeError, one line, where it has none."""
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self.log.seek(0)
            raise RuntimeError((self.log.read().strip() or "the worker ended").splitlines()[-1])
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def case(
        self, env: str, population: str, variant: str, weights: dict[str, np.ndarray], args: Any, folder: str
    ) -> Case:
        """Prepare a population; weights as in the worker's protocol, candidates, episodes and turns as in `Args`."""
        most, turns = SLOW.get((self.name, env), (args.candidates, args.turns))
        weights = {key: value[:most] for key, value in weights.items()}
        path = os.path.join(folder, f"{env}-{population}-{self.name}.npz")
        np.savez(path, **weights)
        key, n = f"{env}-{population}-{variant}", len(weights["w0"])
        answer = self.ask(prepare=key, env=env, weights=path, episodes=args.episodes, variant=variant)
        self.versions = answer["versions"]
        steps = answer["lockstep"], answer["living"]
        run = functools.partial(self.ask, run=key)
        name = self.name if variant == "default" else f"{self.name} {variant}"
        return Case(name, "float32", env, population, n, args.episodes, *steps, run, min(args.turns, turns))


def _environment(folder: Path, requirements: tuple[str, ...]) -> Path:
    """Its Python; the environment is made again where its requirements have changed. RuntimeError where it fails."""
    python, stamp = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python"), folder / "requirements.txt"
    wanted = "\n".join((*requirements, f"# Python {platform.python_version()}", ""))
    if python.exists() and stamp.exists() and stamp.read_text() == wanted:
        return python
    print(f"installing {' '.join(requirements)}", file=sys.stderr)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements]
    for command in ([sys.executable, "-m", "venv", "--clear", str(folder)], pip):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(((done.stderr or done.stdout).strip() or "failed").splitlines()[-1])
    stamp.write_text(wanted)
    return python
