"""JAX as the tests want it: two CPU devices, the standard promotion rules, compiled code kept between runs."""

import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # rendering needs no screen
os.environ.setdefault("MPLBACKEND", "Agg")
if sys.platform == "linux" and not os.environ.get("DISPLAY"):
    os.environ.setdefault("MUJOCO_GL", "egl")

import jax

# Before the first use of a backend. Two devices, so that what is spread over cores is tested everywhere.
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_dtype_promotion", "standard")
jax.config.update("jax_check_tracer_leaks", False)  # keeps compiled functions from being cached
jax.config.update("jax_legacy_prng_key", "error")  # typed keys only

_cache = Path(os.environ.get("XDG_CACHE_HOME", tempfile.gettempdir())) / f"polystep_rl-tests-jax-{jax.__version__}"
jax.config.update("jax_compilation_cache_dir", str(_cache))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
