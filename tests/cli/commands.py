"""How a command of the tests ended, and what is expected of that."""

from __future__ import annotations

import json
from typing import Any, NamedTuple


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


def done(outcome: Outcome) -> Any:
    """What a command that went well printed with --json."""
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
