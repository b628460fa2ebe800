"""Every command of docs/deploy.md, in its order, in a folder that has the examples as a clone has them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"(<!-- not-run -->\n)?```bash\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = [block for marked, block in BLOCKS if not marked]
TOOLS = ("gcc", "make", "arm-none-eabi-gcc", "qemu-system-arm")


def test_only_installation_is_not_run() -> None:
    """Blocks that are marked only install."""
    marked = [block for mark, block in BLOCKS if mark]
    assert len(COMMANDS) >= 8 and len(marked) == 1
    assert all(re.match(r"(python3 -m venv .* pip install|apt-get install)", line) for line in marked[0].splitlines())


@pytest.mark.slow
@pytest.mark.skipif(any(shutil.which(tool) is None for tool in TOOLS), reason=f"needs {', '.join(TOOLS)}")
def test_every_command_of_the_walk_through(tmp_path: Path) -> None:
    """They end well, and what they print is what the page says."""
    for package in ("onnxruntime", "onnx"):
        pytest.importorskip(package)
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("*.o", "*.elf"))
    shutil.copytree(ROOT / "policies" / "export" / "board", tmp_path / "policies" / "export" / "board")
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    printed = []
    for block in COMMANDS:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        printed.append(done.stdout)
    everything = "\n".join(printed)
    assert everything.count("\nbit-exact\n") == 2 and "differ;" not in everything
    assert "self-test: 0 mismatches; 64 vectors: 0 mismatches" in everything
    assert "Not measured" not in everything and "not found" not in everything
    assert "| Cortex-M0+ |" in everything and "mean return 500.00" in everything
    assert (tmp_path / "runs/cartpole/web/policy.html").stat().st_size > 10_000
