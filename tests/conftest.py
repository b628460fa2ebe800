"""JAX as the tests want it: two CPU devices, the standard promotion rules, compiled code kept between runs."""

from __future__ import annotations

import gc
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # rendering needs no screen
os.environ.setdefault("MPLBACKEND", "Agg")
if sys.platform == "linux" and not os.environ.get("DISPLAY"):
    os.environ.setdefault("MUJOCO_GL", "egl")

import jax
import pytest

# Before the first use of a backend. Two devices, so that what is spread over cores is tested everywhere.
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_dtype_promotion", "standard")
jax.config.update("jax_check_tracer_leaks", False)  # keeps compiled functions from being cached
jax.config.update("jax_legacy_prng_key", "error")  # typed keys only

_cache = Path(os.environ.get("XDG_CACHE_HOME", tempfile.gettempdir())) / f"polystep_rl-tests-jax-{jax.__version__}"
jax.config.update("jax_compilation_cache_dir", str(_cache))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)

from support.commands import SHORT, Outcome, call, same_run  # noqa: E402


@pytest.fixture(autouse=True, scope="module")
def nothing_compiled_is_kept() -> Iterator[None]:
    """Programs of one module are of no use to the next, and would fill the memory."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope="session")
def cli() -> Callable[..., Outcome]:
    """main(argv) with captured output."""
    return call


@pytest.fixture(autouse=True, scope="session")
def cache() -> Iterator[None]:
    """Programs that the tests start share the tests' own compilation cache, never the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLYSTEP_RL_CACHE", jax.config.jax_compilation_cache_dir)
        yield


@pytest.fixture(scope="session")
def short() -> tuple[str, ...]:
    return SHORT


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; look, and do not touch."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    outcome = call("train", *SHORT, "--run-dir", folder, "--json")
    assert outcome.code == 0, outcome.err
    (folder.parent / "printed.json").write_text(outcome.out)
    return folder


@pytest.fixture(scope="session")
def assert_same_run() -> Callable[[Path, Path], None]:
    return same_run
