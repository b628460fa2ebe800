"""`polystep-rl doctor`: what the machine is, and whether a search works on it."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest


def test_it_searches_and_reports(cli: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a system does not tell how much memory is free (macOS), too."""
    known = os.sysconf

    def sysconf(name: str) -> int:
        if name == "SC_AVPHYS_PAGES":
            raise ValueError("unrecognized configuration name")
        return known(name)

    monkeypatch.setattr(os, "sysconf", sysconf)
    outcome = cli("doctor", "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["self_test"]["ok"] and outcome.json["packages"]["jax"]
    assert outcome.json["memory_gib"] > 0 and outcome.json["memory_available_gib"] is None
