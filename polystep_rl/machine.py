"""This machine: its cores, how JAX uses them, and what a result was measured on."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "polystep-rl", "jax", "jaxlib", "numpy", "optax", "gymnasium", "safetensors", "tensorboardX", "evosax",
    "stable-baselines3", "torch", "mujoco", "mujoco-mjx", "playground", "envpool", "onnx", "onnxruntime",
)  # fmt: skip


def package_versions(names: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """The versions of those packages that are installed."""
    versions = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def git_commit(folder: Path | None = None) -> str | None:
    """The commit of the source checkout that this package runs from; None if it is installed, or without git.

    ``folder`` is the checkout's root. A repository that merely contains the environment does not count.
    """
    folder = folder or Path(__file__).resolve().parent.parent
    try:
        if 'name = "polystep-rl"' not in (folder / "pyproject.toml").read_text(encoding="utf-8"):
            return None
        command = ["git", "-C", str(folder), "rev-parse", "--verify", "--quiet", "HEAD"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, stdin=subprocess.DEVNULL)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def devices() -> list[dict[str, Any]]:
    """JAX's devices; empty if JAX has none that work."""
    try:
        import jax

        return [{"platform": d.platform, "kind": d.device_kind, "id": d.id} for d in jax.devices()]
    except Exception:  # a broken driver must not stop the record of it
        return []


def system_info() -> dict[str, Any]:
    """Package versions, Python, platform, devices and git commit as one JSON-able dictionary. Never fails."""
    return {
        "packages": package_versions(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu_count": os.cpu_count(),
        "devices": devices(),
        "git_commit": git_commit(),
    }


def use_cores(cores: int) -> None:
    """Let JAX see one CPU device for each of so many cores, so that a population is split over them.

    Call it before anything runs on JAX (the command line does); afterwards it has no effect and says so by raising
    RuntimeError. On a machine with a GPU the CPU devices are simply not the default ones.
    """
    import jax

    jax.config.update("jax_num_cpu_devices", cores)
    # The shards of a program run side by side with and without this (each has a thread of its own); asynchronous
    # dispatch would only hand every program to another thread first.
    jax.config.update("jax_cpu_enable_async_dispatch", False)


CACHE_VARIABLE = "POLYSTEP_RL_CACHE"  # a folder, or "off"


def setup_jax(cores: int | None = None) -> None:
    """Prepare JAX: a CPU device per core, no more threads and workers of simulators than that, and a compilation cache.

    Args:
        cores: to use; None: all that this process may use.

    The cache is the folder that POLYSTEP_RL_CACHE names ("off" is none), or one that the program has chosen already,
    or the user's.
    """
    global _set_up
    _set_up = True
    limit_cores(cores)
    with contextlib.suppress(RuntimeError):  # JAX runs already, in a program that calls `main`: its devices stay
        use_cores(cores or len(usable_cores()))
    import jax

    folder = os.environ.get(CACHE_VARIABLE) or jax.config.values.get("jax_compilation_cache_dir")
    if folder is None:
        home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        folder = os.path.join(home, "polystep-rl", "jax")
    if folder != "off":
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def ensure_jax() -> None:
    """Do as `setup_jax` on all cores, unless that was called before."""
    if not _set_up:
        setup_jax()


_set_up = False
_limit: int | None = None


def limit_cores(count: int | None) -> None:
    """Use no more than so many from now on; None lifts the limit."""
    global _limit
    _limit = count


def usable_cores() -> list[int]:
    """Numbers of the cores that this process may use; where the system does not say (macOS, Windows), of all."""
    if hasattr(os, "sched_getaffinity"):
        cores = sorted(os.sched_getaffinity(0))
    else:
        cores = list(range(os.cpu_count() or 1))
    return cores[:_limit]
