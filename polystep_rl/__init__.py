"""Policy search with forward passes only: small, quantized and non-differentiable controllers in JAX."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from polystep_rl.policies.runtime import load as load_policy

# In a source checkout the subpackages lie beside this folder (see package-dir in pyproject.toml), not inside it.
_here = Path(__file__).resolve().parent
if not (_here / "envs").is_dir() and (_here.parent / "envs" / "registry.py").is_file():
    __path__.append(str(_here.parent))

__version__ = "0.1.0"
__all__ = ["load_policy"]


def __getattr__(name: str) -> Any:
    if name != "load_policy":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from polystep_rl.policies.runtime import load

    return load
