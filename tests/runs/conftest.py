"""Environments of the user's own, and a run on Gymnasium that others are compared with."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import support
from support.commands import done
from support.host_runs import CARTPOLE


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a module in it."""
    folder = tmp_path_factory.mktemp("own")
    shutil.copy(Path(support.__file__).with_name("own_host_envs.py"), folder)
    return folder


@pytest.fixture
def own_module(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The module is in the current folder, where it is found without being told."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(folder))])
    return folder


@pytest.fixture(scope="session")
def whole(cli: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on Gymnasium in this process; look, and do not touch."""
    run = tmp_path_factory.mktemp("gymnasium") / "whole"
    done(cli(*CARTPOLE, "--workers", "0", "--run-dir", run))
    return run
