"""Scripts that take minutes, in their quick versions."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from polystep_rl import results

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_figure_4_quickly(tmp_path: Path) -> None:
    """Every cell of figure 4 runs within its budget, and the tables and figures are made."""
    for package in ("stable_baselines3", "evosax", "matplotlib"):
        pytest.importorskip(package)
    script = ROOT / "scripts" / "fig4_classical_control.py"
    out, published = tmp_path / "compare", tmp_path / "docs"
    command = [sys.executable, str(script), "--quick", "--out", str(out), "--publish", str(published)]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    for name, count in (("equal", 2 * (6 + 8 + 8)), ("long", 2 * 4)):
        document = results.load_document(published / f"fig4_{name}" / "results.json")
        assert len(document["runs"]) == count and not document["failed"]
        for run in document["runs"]:
            assert run["env_steps"] <= 1.02 * run["budget"] and run["test_episodes"] >= 256
        files = {path.name for path in (published / f"fig4_{name}").iterdir()}
        assert {"table.md", "table.csv", "curves.png", "bars.svg", "profiles.svg"} <= files
