"""One run, whatever the number of devices: each on a host device of its own, in a process of its own."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.cases import mostly_slow

from polystep_rl.policies import read_policy
from polystep_rl.records.metrics import read_metrics
from polystep_rl.runs.parts import make_parts
from polystep_rl.settings.presets import preset
from polystep_rl.training.programs import initial_progress, make_step

DEVICES = (1, 2, 8)
FEW = ("--eval-episodes", "16", "--test-episodes", "16", "--quiet")
COLLECTIVE = re.compile(r" (all|reduce|collective)-[a-z-]+\(")
RUNS = {
    "polystep binary": ("--env", "Acrobot-v1", "--policy", "binary"),
    "open_es int8": ("--env", "CartPole-v1", "--algo", "open_es", "--policy", "int8"),
    "moments": ("--env", "CartPole-v1", "--policy", "int8", "--observation-scale", "running"),
}


@pytest.mark.parametrize("name", mostly_slow(RUNS, lambda case: case == "moments"))
def test_one_two_and_eight_devices_do_the_same_run(name: str, tmp_path: Path) -> None:
    """Costs are the same bit for bit; the moments of observations are sums in another order."""
    flags = (*RUNS[name], "--total-timesteps", "None", "--generations", "8", "--eval-freq", "5000")
    runs = []
    for count in DEVICES:
        runs.append(tmp_path / str(count))
        argv = [sys.executable, "-m", "polystep_rl", "train", *flags, *FEW, "--cores", str(count)]
        done = subprocess.run([*argv, "--run-dir", str(runs[-1])], capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
    first, *others = [read_metrics(run / "metrics.csv") for run in runs]
    assert len(first) == 8 and any(row["eval/mean_reward"] is not None for row in first)
    assert len({row["rollout/ep_rew_mean"] for row in first}) > 4, "something is learned that could differ"
    for table in others:
        for row, same in zip(table, first, strict=True):
            for column in [x for x in row if not x.startswith("time/")]:
                assert row[column] == same[column], column
    policy, *rest = [read_policy(run / "policy").params for run in runs]
    for params in rest:
        for x, y in zip(jax.tree.leaves(params), jax.tree.leaves(policy), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-6 if name == "moments" else 0)


@pytest.mark.parametrize(
    "precision, running",
    mostly_slow([("float32", False), ("binary", False), ("int8", True)], lambda case: case[1]),
)
def test_devices_meet_once_a_generation(precision: str, running: bool) -> None:
    """And send what docs/scale.md says: returns and lengths, moments of the observations, and the steps of lanes."""
    config = preset("CartPole-v1", precision)
    config = dataclasses.replace(config, observation_scale="running" if running else config.observation_scale)
    parts = make_parts(config)
    step = make_step(parts.strategy, parts.evaluate)
    state = initial_progress(parts.strategy, parts.start, parts.keys.strategy).state
    program = jax.jit(step).lower(parts.keys.strategy, parts.keys.episodes, state, jnp.float32(0)).compile()
    met = [line.split(" = ")[1] for line in program.as_text().splitlines() if COLLECTIVE.search(line)]
    assert len(met) == 1, met
    proposal = jax.eval_shape(parts.strategy.ask, parts.keys.strategy, state)
    candidates, devices = jax.tree.leaves(proposal.candidates)[0].shape[0], jax.device_count()
    words = 2 * -(-candidates // devices) * config.search.episodes + (1 + 2 * 4) + 1
    assert met[0].startswith(f"u32[{devices},{words}]"), met
