"""Policy search with forward passes only: small, quantized and non-differentiable controllers in JAX.

    run = polystep_rl.train(polystep_rl.preset("CartPole-v1", "binary"))
    print(run.summary["eval"]["mean_return"], run.path)
    action = run.policy(observation)

Names are imported when they are first used: a deployed policy (`load`) needs NumPy and safetensors, not JAX.
"""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from polystep_rl.envs.registry import make_any as make_env
    from polystep_rl.errors import ConfigError, SimulatorError, TrainError
    from polystep_rl.policies.mlp import make_policy
    from polystep_rl.policies.runtime import load
    from polystep_rl.policies.runtime import load as load_policy
    from polystep_rl.runs.judging import evaluate
    from polystep_rl.runs.train import Run, train
    from polystep_rl.search import polytope, schedules, shaping, subspace, transport
    from polystep_rl.search.observing import observing
    from polystep_rl.search.polystep import Coupling, Geometry, polystep
    from polystep_rl.search.racing import racing
    from polystep_rl.search.wrappers import amortise, averaged, transformed, wrap
    from polystep_rl.settings.presets import preset
    from polystep_rl.settings.run import TrainConfig
    from polystep_rl.types import Env, Evaluation, Evaluator, HostEnv, Policy, Strategy

# In a source checkout the subpackages lie beside this folder (see package-dir in pyproject.toml), not inside it.
_here = Path(__file__).resolve().parent
if not (_here / "envs").is_dir() and (_here.parent / "envs" / "registry.py").is_file():
    __path__.append(str(_here.parent))

__version__ = "0.1.0"
__all__ = [
    "ConfigError",
    "Coupling",
    "Env",
    "Evaluation",
    "Evaluator",
    "Geometry",
    "HostEnv",
    "Policy",
    "Run",
    "SimulatorError",
    "Strategy",
    "TrainConfig",
    "TrainError",
    "amortise",
    "averaged",
    "evaluate",
    "load",
    "load_policy",
    "make_env",
    "make_policy",
    "observing",
    "polystep",
    "polytope",
    "preset",
    "racing",
    "schedules",
    "shaping",
    "subspace",
    "train",
    "transformed",
    "transport",
    "wrap",
]

# Name -> where it is: a module, or module:name where it has another name there.
_HOME = {
    **dict.fromkeys(("ConfigError", "SimulatorError", "TrainError"), "errors"),
    **dict.fromkeys(("Env", "Evaluation", "Evaluator", "HostEnv", "Policy", "Strategy"), "types"),
    **dict.fromkeys(("Coupling", "Geometry", "polystep"), "search.polystep"),
    **dict.fromkeys(("amortise", "averaged", "transformed", "wrap"), "search.wrappers"),
    **dict.fromkeys(("Run", "train"), "runs.train"),
    "TrainConfig": "settings.run",
    "evaluate": "runs.judging",
    "load": "policies.runtime",
    "load_policy": "policies.runtime:load",
    "make_env": "envs.registry:make_any",
    "make_policy": "policies.mlp",
    "observing": "search.observing",
    "preset": "settings.presets",
    "racing": "search.racing",
}
_MODULES = ("polytope", "schedules", "shaping", "subspace", "transport")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.search.{name}")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, other = _HOME[name].partition(":")
    return getattr(importlib.import_module(f"{__name__}.{module}"), other or name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
