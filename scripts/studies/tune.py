"""Tune the population methods, each with the same effort, on development seeds; write their `compare` presets.

    python scripts/studies/tune.py                                   # everything that the comparison of the README uses
    python scripts/studies/tune.py --algos snes --envs CartPole-v1   # some of it
    python scripts/studies/tune.py --write                           # and put the winners into the package's presets

Per algorithm, environment and precision: `--trials` settings proposed by Optuna's TPE sampler (the first is the
default of the algorithm), each judged by the mean return of the deployed centre at the end of the budget over seeds
from 100 on; the best two are then judged on further seeds, and the one with the best mean over all its seeds wins.
Reported results use seeds below 100. Trials are kept in `--out` and not repeated. Needs the extra `tune`.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optuna
import tyro
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from _common import ROOT, record_text

from polystep_rl.errors import TrainError
from polystep_rl.files import write_atomic
from polystep_rl.machine import setup_jax
from polystep_rl.rollout.device import DeviceEvaluator
from polystep_rl.runs.judging import evaluate_on_test
from polystep_rl.runs.parts import make_scaled_policy
from polystep_rl.runs.strategy import episodes_per_candidate, make_strategy
from polystep_rl.runs.task import make_env
from polystep_rl.settings.algorithms import settings_class
from polystep_rl.settings.grid import Grid, cells
from polystep_rl.settings.presets import preset
from polystep_rl.settings.run import TrainConfig
from polystep_rl.training import loop
from polystep_rl.training.programs import initial_progress
from polystep_rl.training.state import Budget, streams
from polystep_rl.types import Env, Evaluator, Policy

FIRST_SEED = 100
PRESETS = ROOT / "polystep_rl" / "settings" / "presets"
BUDGETS = {"CartPole-v1": 500_000, "Acrobot-v1": 1_000_000}
Space = Callable[[optuna.Trial], dict[str, Any]]


@dataclass
class Args:
    """Tune the population methods."""

    algos: tuple[str, ...] = ("polystep", "open_es", "cma_es", "eggroll")
    """Algorithms."""
    envs: tuple[str, ...] = ("CartPole-v1", "Acrobot-v1")
    """Environments."""
    policies: tuple[str, ...] = ("float32", "int8", "binary")
    """Precisions."""
    budget: int | None = None
    """Env steps of a run; by default those of the comparison."""
    trials: int = 12
    """Budget tried per algorithm, environment and precision."""
    seeds: int = 4
    """Development seeds of a trial."""
    finals: int = 2
    """Budget that are judged again."""
    final_seeds: int = 8
    """Further development seeds for those."""
    out: Path = Path("tuning")
    """Folder of the trials, a JSON file per study."""
    cores: int | None = None
    """CPU cores to use; all by default. Two studies side by side with a core each are faster than one with two."""
    write: bool = False
    """Write the winners of `--out` into the presets and all trials into docs/results/tuning.json, and run nothing."""


# --- search spaces: about as wide, in the same units, for every algorithm ---------------------------------------------
def _evaluation(trial: optuna.Trial) -> dict[str, Any]:
    return {"episodes": trial.suggest_categorical("episodes", [1, 2, 4, 8])}


def _population(trial: optuna.Trial) -> dict[str, Any]:
    size = {"population": trial.suggest_categorical("population", [8, 16, 32, 64])}
    return {**_evaluation(trial), **size, "sigma": trial.suggest_float("sigma", 0.05, 2.0, log=True)}


def _adaptive(low: float, high: float) -> Space:
    return lambda trial: {
        **_population(trial),
        "learning_rate": trial.suggest_float("learning_rate", low, high, log=True),
    }


def _evolution(trial: optuna.Trial) -> dict[str, Any]:
    settings = _adaptive(0.02, 1.0)(trial)
    for name in ("sigma", "learning_rate"):
        settings[f"{name}_final"] = settings[name] * trial.suggest_float(f"{name}_fall", 0.1, 1.0, log=True)
    return {**settings, "schedule_generations": trial.suggest_int("schedule_generations", 20, 400, log=True)}


def _polystep(trial: optuna.Trial) -> dict[str, Any]:
    size = trial.suggest_categorical("subspace_size", [4, 8, 16])
    step = trial.suggest_float("step_radius", 0.25, 4.0, log=True)
    probe = step * trial.suggest_float("probe_over_step", 0.75, 3.0, log=True)
    fall = trial.suggest_float("radius_fall", 0.1, 1.0, log=True)
    return {
        **_evaluation(trial),
        "subspace_size": size,
        "particle_dim": size,
        "epsilon": trial.suggest_float("epsilon", 0.05, 1.0, log=True),
        "step_radius": step,
        "step_radius_final": step * fall,
        "probe_radius": probe,
        "probe_radius_final": probe * fall,
        "schedule_generations": trial.suggest_int("schedule_generations", 20, 400, log=True),
    }


def _eggroll(trial: optuna.Trial) -> dict[str, Any]:
    return {**_evolution(trial), "rank": trial.suggest_categorical("rank", [1, 2, 4])}


SPACES: dict[str, Space] = {
    "polystep": _polystep,
    "open_es": _evolution,
    "ars": _evolution,
    "spsa": _evolution,
    "eggroll": _eggroll,
    "cma_es": _population,
    "sep_cma_es": _population,
    "hill_climbing": _population,
    "random_search": _population,
    "snes": _adaptive(0.1, 2.0),
    "pgpe": _adaptive(0.02, 1.0),
}


# --- judging ---------------------------------------------------------------------------------------------------------
def judge(algo: str, env: str, policy: str, budget: int, search: dict[str, Any], seeds: range) -> list[float]:
    """Final return of the deployed centre for each seed, with the rules of the comparison."""
    grid = Grid(
        envs=(env,),
        algos=(algo,),
        policies=(policy,),  # type: ignore[arg-type]
        seeds=len(seeds),
        first_seed=seeds.start,
        budget=budget,
        preset="compare",
        settings={algo: {**dataclasses.asdict(settings_class(algo)()), **search}},
    )
    configs = [cell.config for cell in cells(grid)]
    task, controller, evaluate_centre = _task(dataclasses.replace(configs[0], search=settings_class(algo)(), seed=0))
    strategy = make_strategy(configs[0].algo, configs[0].search)
    evaluate = DeviceEvaluator(task, controller, episodes_per_candidate(configs[0].search))
    settings = Budget(total_timesteps=budget, eval_freq=10**9)  # the curve is not looked at
    returns = []
    for config in configs:
        keys = streams(config.seed)
        progress = initial_progress(strategy, controller.init(keys.policy), keys.strategy)
        done = loop.train(strategy, evaluate, evaluate_centre, keys, progress, settings)
        params = strategy.params(done.progress.state)
        returns.append(evaluate_on_test(task, controller, params, config.test_episodes, config.seed)["mean_return"])
    return returns


@functools.lru_cache(maxsize=1)
def _task(config: TrainConfig) -> tuple[Env, Policy, Evaluator]:
    """Environment, policy and evaluator of the centre: the same objects for all trials, so compiled once."""
    task = make_env(config.env)
    controller = make_scaled_policy(task, config)
    return task, controller, DeviceEvaluator(task, controller, 1)


def study(args: Args, algo: str, env: str, policy: str, budget: int) -> dict[str, Any]:
    """The best settings of one algorithm on one task."""
    sampler = optuna.samplers.TPESampler(seed=0, n_startup_trials=max(1, args.trials // 2))
    search = optuna.create_study(direction="maximize", sampler=sampler)
    seeds = range(FIRST_SEED, FIRST_SEED + args.seeds)
    trials = [{"search": {}, "returns": judge(algo, env, policy, budget, {}, seeds)}]  # the default
    for _ in range(args.trials - 1):
        trial = search.ask()
        settings = SPACES[algo](trial)
        try:
            returns = judge(algo, env, policy, budget, settings, seeds)
        except TrainError:  # blew up
            search.tell(trial, state=optuna.trial.TrialState.FAIL)
            continue
        search.tell(trial, float(np.mean(returns)))
        trials.append({"search": settings, "returns": returns})
    further = range(seeds.stop, seeds.stop + args.final_seeds)
    best = sorted(trials, key=lambda t: np.mean(t["returns"]), reverse=True)[: args.finals]
    for entry in best:
        entry["final_returns"] = judge(algo, env, policy, budget, entry["search"], further)
    winner = max(best, key=lambda t: np.mean(t["returns"] + t["final_returns"]))
    jax.clear_caches()  # the next study makes programs of its own
    return {"algo": algo, "env": env, "policy": policy, "budget": budget, "winner": winner, "trials": trials}


def write_presets(folder: Path) -> None:
    """Put the winners into presets/<algorithm>.yaml, in the place of what its `compare` held for those tasks."""
    for file in sorted(folder.glob("*.json")):
        found = json.loads(file.read_text())["study"]
        path = PRESETS / f"{found['algo']}.yaml"
        text = path.read_text() if path.exists() else ""
        head, mark, _ = text.partition("compare:\n")
        head = head or "# Chosen by scripts/studies/tune.py on seeds from 100 on; {} is the default of the algorithm.\n"
        entries = (yaml.safe_load(text) or {}).get("compare", {}) if mark else {}
        search = {name: _short(value) for name, value in found["winner"]["search"].items()}
        entries.setdefault(found["env"], {})[found["policy"]] = {"search": search}
        body = yaml.safe_dump({"compare": entries}, sort_keys=True, default_flow_style=None, width=116)
        path.write_text(head + body)
        config = preset(found["env"], found["policy"], "compare", found["algo"])
        print(f"{path.name}: {found['env']} {found['policy']}: {config.search}")


def collect(folder: Path, path: Path) -> None:
    """All trials in one file, a line per study."""
    documents = [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]
    lines = [json.dumps(_short({**d["study"], "seconds": d["seconds"]}, 5)) for d in documents]
    system = json.dumps(documents[0]["system"])
    path.write_text('{\n"system": ' + system + ',\n"studies": [\n' + ",\n".join(lines) + "\n]\n}\n")


def _short(value: Any, digits: int = 4) -> Any:
    """With floats cut to so many digits, at any depth."""
    if isinstance(value, dict):
        return {name: _short(item, digits) for name, item in value.items()}
    if isinstance(value, list):
        return [_short(item, digits) for item in value]
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value


def main(args: Args) -> None:
    """Run the studies that are not there yet."""
    args.out.mkdir(parents=True, exist_ok=True)
    if args.write:
        write_presets(args.out)
        return collect(args.out, ROOT / "docs" / "results" / "tuning.json")
    setup_jax(args.cores)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    for env in args.envs:
        for policy in args.policies:
            for algo in args.algos:
                file = args.out / f"{env}__{algo}-{policy}.json"
                if file.exists():
                    continue
                began = time.perf_counter()
                found = study(args, algo, env, policy, args.budget or BUDGETS[env])
                seconds = time.perf_counter() - began
                write_atomic(file, record_text({"seconds": seconds, "study": found}).encode())
                winner = found["winner"]
                print(
                    f"{env} {policy} {algo}: default {np.mean(found['trials'][0]['returns']):.1f}, best trial "
                    f"{max(np.mean(t['returns']) for t in found['trials']):.1f}, winner "
                    f"{np.mean(winner['returns'] + winner['final_returns']):.1f} ({seconds:.0f} s)",
                    flush=True,
                )


if __name__ == "__main__":
    main(tyro.cli(Args))
