"""Commands of the tests, called in this process, which spares the compilation of another; how they ended."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any, NamedTuple

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


class Outcome(NamedTuple):
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The last line of standard output; there is no other."""
        assert self.out.count("\n") == 1 and self.out.endswith("\n"), self.out
        return json.loads(self.out)


def call(*argv: object) -> Outcome:
    """main(argv) with captured output."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(arg) for arg in argv])
    return Outcome(code, out.getvalue(), err.getvalue())


def done(outcome: Outcome) -> Any:
    """The object that a command printed with --json; it must have gone well."""
    assert outcome.code == 0, outcome.err
    return outcome.json


def assert_one_line(outcome: Outcome, codes: int | tuple[int, ...], *said: str) -> None:
    """The command ended with one of the codes and said why in one line that has all of these texts."""
    assert outcome.code in (codes if isinstance(codes, tuple) else (codes,)), outcome
    assert outcome.out == ""
    assert outcome.err.startswith("polystep-rl: error: ") and outcome.err.count("\n") == 1, outcome.err
    assert len(outcome.err) < 600
    for text in said:
        assert text in outcome.err, outcome.err


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
