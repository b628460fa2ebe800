"""What a result was measured on: package versions, Python, platform, devices, git commit."""

from __future__ import annotations

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
    """Everything of this module as one JSON-able dictionary. Never fails."""
    return {
        "packages": package_versions(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu_count": os.cpu_count(),
        "devices": devices(),
        "git_commit": git_commit(),
    }
