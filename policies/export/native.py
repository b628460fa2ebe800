"""Exported C on this machine: built with a local compiler, called in the process or run under sanitizers."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

from polystep_rl.policies.export.c import action_count
from polystep_rl.policies.export.kernels import fill
from polystep_rl.types import PolicySpec

COMPILERS = ("gcc", "clang")
WARNINGS = ("-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror")
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g")
BUILD_SECONDS, RUN_SECONDS = 120, 600

DRIVER = """#include "$.h"
#include <stdio.h>
#include <time.h>

/* Nanoseconds an action, over and over on the observations of standard input. */
static int latency(void)
{
    static float obs[64][$$_OBS_SIZE];
    $_action action[$$_ACTION_SIZE];
    long i, rounds = 0, count = (long)fread(obs, sizeof obs[0], 64, stdin);
    const clock_t begin = clock();
    double seconds = 0.0;
    while (count > 0 && seconds < 0.3) {
        for (i = 0; i < count; i++) {
            $_step(obs[i], action);
        }
        rounds++;
        seconds = (double)(clock() - begin) / CLOCKS_PER_SEC;
    }
    printf("%.3f\\n", count > 0 ? 1e9 * seconds / (double)(rounds * count) : 0.0);
    return 0;
}

/* Observations from standard input, actions to standard output; with an argument, the result of the self-test; with
   two, the latency. */
int main(int argc, char **argv)
{
    float obs[$$_OBS_SIZE];
    $_action action[$$_ACTION_SIZE];
    (void)argv;
    $_init();
    $_reset();
    if (argc > 2) {
        return latency();
    }
    if (argc > 1) {
        printf("%d\\n", $_selftest());
        return 0;
    }
    while (fread(obs, sizeof obs, 1, stdin) == 1) {
        $_step(obs, action);
        if (fwrite(action, sizeof action, 1, stdout) != 1) {
            return 1;
        }
    }
    return 0;
}
"""


class NativeError(ValueError):
    """A compiler that is missing or refuses, or a program that fails. One line."""


def compilers() -> tuple[str, ...]:
    """The compilers that are here: gcc and clang, else cc; () without any."""
    found = tuple(name for name in COMPILERS if shutil.which(name))
    return found or (("cc",) if shutil.which("cc") else ())


def has_sanitizers(compiler: str) -> bool:
    """Whether a compiler comes with the libraries that its sanitizers need."""
    with tempfile.TemporaryDirectory(prefix="polystep-rl-native-") as work:
        source = Path(work) / "empty.c"
        source.write_text("int main(void)\n{\n    return 0;\n}\n", encoding="utf-8")
        try:
            run_tool([compiler, *SANITIZERS, source, "-o", Path(work) / "empty"], BUILD_SECONDS)
        except NativeError:
            return False
    return True


def run_tool(command: Sequence[str | Path], seconds: float, **kwargs: object) -> subprocess.CompletedProcess:
    """Run a program; NativeError, in one line, where it is missing, takes too long or fails."""
    name = Path(command[0]).name
    try:
        done = subprocess.run(list(map(str, command)), timeout=seconds, stderr=subprocess.PIPE, **kwargs)  # type: ignore[call-overload]
    except FileNotFoundError:
        raise NativeError(f"{name}: not found; install it, or put it on the PATH") from None
    except subprocess.TimeoutExpired:
        raise NativeError(f"{name}: stopped after {seconds:.0f} seconds") from None
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").splitlines()
        loud = [line for line in said if "error" in line.lower()] or said or [f"exit code {done.returncode}"]
        raise NativeError(f"{name}: {' '.join(loud[0].split())[:300]}")
    return done


class Program:
    """``NAME.c`` of a folder as a program of its own, so that whatever is wrong with it ends it alone."""

    def __init__(self, folder: Path, name: str, spec: PolicySpec, compiler: str, flags: Sequence[str] = ()) -> None:
        """Build it. NativeError where the compiler refuses, for a warning, too."""
        self._spec = spec
        self._work = tempfile.TemporaryDirectory(prefix="polystep-rl-native-")
        try:
            driver = self._path("driver.c")
            driver.write_text(fill(DRIVER, name), encoding="utf-8")
            command: list[str | Path] = [compiler, *WARNINGS, *flags, f"-I{folder}", driver, Path(folder) / f"{name}.c"]
            run_tool([*command, "-o", self._path("program"), "-lm"], BUILD_SECONDS)
        except BaseException:
            self.close()
            raise

    def _path(self, name: str) -> Path:
        return Path(self._work.name) / name

    def act(self, obs: np.ndarray) -> np.ndarray:
        """Actions (n, entries) for observations (n, o)."""
        np.ascontiguousarray(obs, np.float32).tofile(self._path("obs"))
        with open(self._path("obs"), "rb") as given, open(self._path("actions"), "wb") as taken:
            run_tool([self._path("program")], RUN_SECONDS, stdin=given, stdout=taken)
        found: np.ndarray = np.fromfile(self._path("actions"), action_type(self._spec))
        if found.size != len(obs) * action_count(self._spec):
            raise NativeError(f"program: {found.size} numbers for {len(obs)} observations")
        return found.reshape(len(obs), -1)

    def selftest(self) -> int:
        """Mismatches of the embedded vectors."""
        done = run_tool([self._path("program"), "selftest"], RUN_SECONDS, stdout=subprocess.PIPE)
        return int(done.stdout)

    def latency(self, obs: np.ndarray) -> float:
        """Nanoseconds an action, over some of the observations (n, o)."""
        np.ascontiguousarray(obs[:64], np.float32).tofile(self._path("obs"))
        with open(self._path("obs"), "rb") as given:
            done = run_tool([self._path("program"), "time", "it"], RUN_SECONDS, stdin=given, stdout=subprocess.PIPE)
        return float(done.stdout)

    def close(self) -> None:
        """Remove what was built."""
        self._work.cleanup()

    def __enter__(self) -> Program:
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class Library:
    """The same, loaded into this process: for closed loops, where an observation follows from the action before."""

    def __init__(self, folder: Path, name: str, spec: PolicySpec, compiler: str | None = None) -> None:
        """Build and load it. NativeError without a compiler, or where it refuses."""
        compiler = compiler or next(iter(compilers()), "cc")
        self._spec = spec
        with tempfile.TemporaryDirectory(prefix="polystep-rl-native-") as work:
            target = Path(work) / "policy.so"
            command: list[str | Path] = [
                compiler,
                *WARNINGS,
                "-O2",
                "-fPIC",
                "-shared",
                f"-I{folder}",
                Path(folder) / f"{name}.c",
            ]
            run_tool([*command, "-o", target, "-lm"], BUILD_SECONDS)
            try:
                library = ctypes.CDLL(str(target))
                self._step, self.selftest = getattr(library, f"{name}_step"), getattr(library, f"{name}_selftest")
            except (OSError, AttributeError) as error:
                raise NativeError(f"policy: cannot be loaded ({error})") from None
        self._step.restype, self._step.argtypes = None, (ctypes.c_void_p, ctypes.c_void_p)

    def act(self, obs: np.ndarray) -> np.ndarray:
        """Actions (n, entries) for observations (n, o)."""
        obs = np.ascontiguousarray(obs, np.float32).reshape(-1, self._spec.obs_size)
        actions: np.ndarray = np.empty((len(obs), action_count(self._spec)), action_type(self._spec))
        for row, action in zip(obs, actions, strict=True):
            self._step(row.ctypes.data, action.ctypes.data)
        return actions


def action_type(spec: PolicySpec) -> type:
    """The C type of the entries of an action."""
    return np.float32 if spec.head == "box" else np.int32
