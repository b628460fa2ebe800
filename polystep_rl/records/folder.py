"""The folder of one training run: created once, never overwritten, resumable.

    runs/<env>__<algo>-<policy>__<seed>__<time>/
        config.yaml          the resolved configuration, written before the first step
        system_info.json     package versions, Python, platform, devices, git commit
        metrics.csv          one row a generation; and TensorBoard events beside it
        checkpoints/         generation_00000042.safetensors; the newest two
        summary.json, DONE   written when the run is finished

Metrics are those of an uninterrupted run, bit for bit, whether or not the run was killed and resumed in between, in
every column but those named ``time/*``, which hold wall-clock measurements.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from polystep_rl.files import finite, plain, safe_name, sync_folder, write_atomic
from polystep_rl.machine import system_info
from polystep_rl.records.checkpoint import CheckpointError, load_tree, read_meta, save_tree
from polystep_rl.records.lock import FolderInUse, FolderLock
from polystep_rl.records.metrics import CsvLogger, Logger, LoggerError, TensorBoardLogger, Value, WandbLogger, to_python
from polystep_rl.settings.run import config_text, read_config

PyTree = Any

FORMAT = "polystep_rl.run"
KEEP = 2  # checkpoints


class RunDirError(ValueError):
    """A run folder that cannot be created or used. One line saying which, why, and what to do."""


class RunDir:
    """A run folder that is open for writing, or only looked at. Make one by :meth:`create` or :meth:`open`.

    Attributes:
        path: the folder.
        config: the configuration as ``config.yaml`` has it.
    """

    def __init__(self, path: Path, config: dict[str, Any]) -> None:
        self.path = path
        self.config = config
        self._csv: CsvLogger | None = None
        self._loggers: list[Logger] = []
        self._lock: FolderLock | None = None

    # --- creating and opening ------------------------------------------------------------------------------------
    @classmethod
    def create(
        cls,
        *,
        env: str,
        algo: str,
        policy: str,
        seed: int,
        config: Mapping[str, Any],
        root: str | os.PathLike[str] = "runs",
        run_dir: str | os.PathLike[str] | None = None,
        now: datetime | None = None,
    ) -> RunDir:
        """Make a new run folder and write ``system_info.json`` and ``config.yaml``.

        Args:
            env, algo, policy, seed: what names the folder under ``root``; any characters.
            config: the resolved configuration.
            root: where run folders go.
            run_dir: this run's own folder instead; it must not exist, or be empty.
            now: the time in the name; the clock's by default.

        Raises:
            RunDirError: ``run_dir`` holds another run or any file, or the folder cannot be made.
        """
        try:
            if run_dir is None:
                stamp = (now or datetime.now()).strftime("%Y%m%d-%H%M%S")
                name = f"{safe_name(env)}__{safe_name(algo)}-{safe_name(policy)}__{seed}__{stamp}"
                path = _make_unique(Path(root), name)
            else:
                path = Path(run_dir)
                _refuse_used(path)
                path.mkdir(parents=True, exist_ok=True)
            run = cls(path, plain(config))
            (path / "checkpoints").mkdir()
            info = {"format": FORMAT, "format_version": 1, **system_info()}
            write_atomic(path / "system_info.json", (json.dumps(info, indent=2) + "\n").encode())
            write_atomic(path / "config.yaml", config_text(run.config))
        except OSError as error:
            reason = error.strerror or str(error)
            raise RunDirError(f"{run_dir or root}: cannot be written ({reason}); choose another folder") from error
        return run

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, finished_ok: bool = False) -> RunDir:
        """Open an existing run. Nothing is changed until :meth:`start` is called.

        Args:
            path: the folder.
            finished_ok: also take a run that is done, to evaluate or extend it.

        Raises:
            RunDirError: the folder is missing, is not a run, is damaged, or is finished.
        """
        path = Path(path)
        if not path.is_dir():
            raise RunDirError(f"{path}: no such run folder; check the path")
        try:
            info = json.loads((path / "system_info.json").read_text(encoding="utf-8"))
            config = read_config(path / "config.yaml")
            if info["format"] != FORMAT or not isinstance(config, dict):
                raise ValueError
        except FileNotFoundError as error:
            missing = Path(error.filename).name
            raise RunDirError(f"{path}: not a run folder (it has no {missing}); check the path") from error
        except (OSError, ValueError, LookupError, TypeError, RecursionError, yaml.YAMLError) as error:
            raise RunDirError(f"{path}: not a run folder of this package, or damaged; check the path") from error
        run = cls(path, config)
        if run.finished and not finished_ok:
            raise RunDirError(f"{path}: this run is finished; start a new one, or evaluate it")
        return run

    @property
    def finished(self) -> bool:
        """Whether the run was closed by :meth:`finish`."""
        return (self.path / "DONE").exists()

    def extend(self, config: Mapping[str, Any]) -> None:
        """Write another configuration: that of a run whose budgets were changed when it was resumed."""
        self.config = plain(config)
        write_atomic(self.path / "config.yaml", config_text(self.config))

    # --- writing -------------------------------------------------------------------------------------------------
    def start(
        self,
        *,
        generation: int = 0,
        env_steps: int = 0,
        track: bool = False,
        tensorboard: bool = True,
        loggers: Sequence[Logger] = (),
    ) -> None:
        """Open the sinks; on resume, first go back to the state that the checkpoint knows.

        Metrics and checkpoints of later generations than ``generation``, left-over temporary files, and the marks of
        a finished run are removed.

        Args:
            generation, env_steps: those of the checkpoint that the run continues from; 0 for a new run.
            track: log to Weights & Biases, too.
            tensorboard: write TensorBoard events.
            loggers: more sinks.

        Raises:
            RunDirError: another process writes there; W&B is asked for and not installed.
        """
        try:
            self._lock = self._lock or FolderLock(self.path)
        except FolderInUse as error:
            raise RunDirError(str(error)) from None
        metrics = self.path / "metrics.csv"
        purge_step = env_steps + 1 if metrics.exists() else None
        try:
            tracker = [WandbLogger(self.path, self.config)] if track else []
            for stale in [*self.path.rglob(".*.tmp"), self.path / "DONE", self.path / "summary.json"]:
                stale.unlink(missing_ok=True)
            for file in self.checkpoints():
                if _generation(file) > generation:
                    file.unlink()
            self._csv = CsvLogger(metrics, upto=generation)
        except (LoggerError, OSError) as error:
            raise RunDirError(f"{self.path}: {error}") from error
        board = [TensorBoardLogger(self.path, purge_step)] if tensorboard else []
        self._loggers = [self._csv, *board, *tracker, *loggers]

    def log(self, generation: int, env_steps: int, values: Mapping[str, Any]) -> None:
        """Hand one row of scalars to every sink.

        The first row of a run fixes the columns of ``metrics.csv``, so it must name every key, with None for a value
        that it does not have. Raises RunDirError for a key that is new later, or a value that is no scalar.
        """
        if not self._loggers:
            raise RunDirError(f"{self.path}: not open for writing; call start() first")
        try:
            row: dict[str, Value] = {key: to_python(value) for key, value in values.items()}
            for logger in self._loggers:
                logger.write(int(generation), int(env_steps), row)
        except (LoggerError, OSError) as error:
            raise RunDirError(f"{self.path}: {error}") from error

    def save_checkpoint(self, tree: PyTree, generation: int, meta: Mapping[str, Any]) -> Path:
        """Write a checkpoint after making the metrics so far durable; keep the newest two. CheckpointError if not."""
        if self._csv is not None:
            self._csv.sync()
        path = self.path / "checkpoints" / f"generation_{generation:08d}.safetensors"
        save_tree(path, tree, {**meta, "generation": generation})
        for old in self.checkpoints()[:-KEEP]:
            old.unlink(missing_ok=True)
        return path

    def close(self) -> None:
        """Close the sinks. The run stays unfinished and can be resumed."""
        loggers, self._loggers, self._csv = self._loggers, [], None
        for logger in loggers:
            logger.close()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Close the sinks, write ``summary.json``, and mark the run as done."""
        self.close()
        write_atomic(self.path / "summary.json", (json.dumps(finite(plain(summary)), indent=2) + "\n").encode())
        write_atomic(self.path / "DONE", b"")

    # --- reading -------------------------------------------------------------------------------------------------
    def checkpoints(self) -> list[Path]:
        """All checkpoint files, oldest generation first."""
        files = (self.path / "checkpoints").glob("generation_*.safetensors")
        return sorted((file for file in files if file.stem[11:].isdecimal()), key=_generation)

    def latest_checkpoint(self) -> Path | None:
        """The newest checkpoint whose checksum is right; None if the run has none yet.

        Raises:
            CheckpointError: there are checkpoints, and all of them are damaged.
        """
        failure: CheckpointError | None = None
        for file in reversed(self.checkpoints()):
            try:
                read_meta(file)
                return file
            except CheckpointError as error:
                failure = failure or error
        if failure is not None:
            raise failure
        return None

    def load_checkpoint(self, template: PyTree) -> tuple[PyTree, dict[str, Any]]:
        """The tree and meta of :meth:`latest_checkpoint`; CheckpointError if there is none or it does not fit."""
        path = self.latest_checkpoint()
        if path is None:
            raise CheckpointError(f"{self.path}: has no checkpoint yet; start a new run")
        return load_tree(path, template)

    def summary(self) -> dict[str, Any]:
        """Read what :meth:`finish` was given; RunDirError if the run is not finished."""
        try:
            return json.loads((self.path / "summary.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunDirError(f"{self.path}: has no summary.json that can be read; resume the run first") from error


def _generation(checkpoint: Path) -> int:
    return int(checkpoint.stem[11:])  # after "generation_"


def _refuse_used(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise RunDirError(f"{path}: is a file; choose another run folder")
    if (path / "config.yaml").exists():
        raise RunDirError(f"{path}: already holds a run; resume it, or choose another run folder")
    if path.is_dir() and any(path.iterdir()):
        raise RunDirError(f"{path}: is not empty; choose another run folder")


def _make_unique(root: Path, name: str) -> Path:
    """A folder that did not exist before, with a counter behind the name where two runs start in one second."""
    root.mkdir(parents=True, exist_ok=True)
    for count in range(1000):
        path = root / (f"{name}-{count}" if count else name)
        with contextlib.suppress(FileExistsError):
            path.mkdir()
            sync_folder(root)
            return path
    raise RunDirError(f"{root / name}: exists a thousand times; choose another folder")
