"""Calling the commands in this process, which spares the compilation of another."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))  # `commands` is there, whatever pytest's import mode is

from commands import Outcome

from polystep_rl.cli import main
from polystep_rl.records.metrics import read_metrics

# A run of a second: binary, three evaluations.
SHORT = (
    "--env",
    "CartPole-v1",
    "--eval-freq",
    "8000",
    "--eval-episodes",
    "16",
    "--total-timesteps",
    "30000",
    "--quiet",
)


def call(*argv: object) -> Outcome:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(arg) for arg in argv])
    return Outcome(code, out.getvalue(), err.getvalue())


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


def same_run(a: Path, b: Path) -> None:
    """Equal bit for bit: metrics but for time/*, policies."""
    rows = [read_metrics(run / "metrics.csv") for run in (a, b)]
    assert len(rows[0]) == len(rows[1]) > 3
    for one, other in zip(*rows, strict=True):
        assert repr({k: v for k, v in one.items() if not k.startswith("time/")}) == repr(
            {k: v for k, v in other.items() if not k.startswith("time/")}
        )
    for name in ("policy", "best_policy"):
        for suffix in (".json", ".safetensors"):
            assert (a / f"{name}{suffix}").read_bytes() == (b / f"{name}{suffix}").read_bytes(), name + suffix


@pytest.fixture(scope="session")
def assert_same_run() -> Callable[[Path, Path], None]:
    return same_run
