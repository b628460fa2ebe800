"""Policy search with forward passes only: small, quantized and non-differentiable controllers in JAX."""

from pathlib import Path

# In a source checkout the subpackages lie beside this folder (see package-dir in pyproject.toml), not inside it.
_here = Path(__file__).resolve().parent
if not (_here / "envs").is_dir() and (_here.parent / "envs" / "registry.py").is_file():
    __path__.append(str(_here.parent))

__version__ = "0.1.0"
