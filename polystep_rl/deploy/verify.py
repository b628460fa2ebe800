"""Compares all that a bundle holds with the trained policy, action by action."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from polystep_rl.deploy.trained import Reference, read, rolled
from polystep_rl.errors import ConfigError

CHUNK = 2**25  # numbers of observations at a time


OPTIMISATIONS: tuple[tuple[str, tuple[str, ...]], ...] = (("-O0", ("-O0",)), ("-O3", ("-O3",)))


class Route(NamedTuple):
    """One way to the actions of a policy."""

    name: str
    act: Callable[[np.ndarray], np.ndarray]  # observations (n, o) -> actions (n, entries)


class Tally:
    """Count of the observations that a route was asked, and of those that it got wrong."""

    def __init__(self) -> None:
        self.observations, self.wrong, self.first = 0, 0, ""


class Checks(NamedTuple):
    """How much of a bundle is checked."""

    random: int = 1_000_000  # random observations
    on_policy: int = 100_000  # observations that the compiled policy meets in the environment, at least
    episodes: int = 100  # of the closed loop
    sanitize: bool = True  # also build with -fsanitize=address,undefined
    seed: int = 0  # of the random observations


def verified(folder: Path, checks: Checks = Checks()) -> dict[str, Any]:
    """Check the C, the ONNX graph and NumPy's policy of a bundle against the policy in JAX.

    Args:
        folder: the bundle.
        checks: on how many observations and episodes.

    Returns:
        "verdict" (bit-exact | within 1e-5 | different), "checks" by route, what was "skipped", and returns.

    Raises:
        ConfigError: no compiler is installed.
        ValueError: the bundle is damaged, or refused by onnxruntime.
    """
    from polystep_rl.policies.export import bundle, native
    from polystep_rl.policies.export.vectors import Comparer, random_observations
    from polystep_rl.policies.io import read_policy

    saved = read_policy(folder)
    bundle.check_files(folder, saved.meta)
    name = saved.meta["name"]
    given = read(folder)
    reference, comparer = Reference(given.spec, given.params), Comparer(given.spec, given.params)
    tallies: dict[str, Tally] = {}
    with contextlib.ExitStack() as stack:
        library = native.Library(folder, name, given.spec)
        routes, skipped = _routes(folder, checks.sanitize, stack, given, name)
        mismatches = library.selftest()

        def compare(obs: np.ndarray, routes: list[Route], kind: str) -> None:
            for chunk in np.array_split(obs, max(1, math.ceil(obs.size / CHUNK))):
                wanted = reference.act(chunk)
                for route in routes:
                    _tally(tallies, f"{route.name}, {kind}", comparer, chunk, wanted, route.act(chunk))

        rng, left = np.random.default_rng(checks.seed), checks.random
        while left > 0:
            count = min(left, max(1, CHUNK // given.spec.obs_size))
            compare(random_observations(given.spec, count, rng), routes, "random")
            left -= count
        played = rolled(given, library.act, checks.episodes, part=1)
        trained = rolled(given, reference.act, checks.episodes, part=1)
        taken = played.actions.reshape(len(played.obs), -1)
        _tally(tallies, "C, closed loop", comparer, played.obs, reference.act(played.obs), taken)
        met, part = [played.obs], 2
        while sum(map(len, met)) < checks.on_policy:
            met.append(rolled(given, library.act, checks.episodes, part).obs)
            part += 1
        if checks.on_policy:
            compare(np.concatenate(met)[: checks.on_policy], routes, "on-policy")
    wrong = any(t.wrong for t in tallies.values()) or mismatches > 0
    fine = "bit-exact" if comparer.exact else "within 1e-5"
    return {
        "bundle": str(folder),
        "env": given.env_id,
        "precision": given.spec.precision,
        "verdict": "different" if wrong else fine,
        "checks": {
            key: {"observations": t.observations, "wrong": t.wrong, "first": t.first} for key, t in tallies.items()
        },
        "skipped": skipped,
        "selftest_mismatches": mismatches,
        "return_deployed": float(played.returns.mean()),
        "return_trained": float(trained.returns.mean()),
        "episodes": checks.episodes,
    }


def _tally(
    tallies: dict[str, Tally], key: str, comparer: Any, obs: np.ndarray, wanted: np.ndarray, got: np.ndarray
) -> None:
    tally, bad = tallies.setdefault(key, Tally()), comparer.wrong(obs, wanted, got)
    tally.observations += len(obs)
    tally.wrong += int(bad.sum())
    if bad.any() and not tally.first:
        row = int(np.argmax(bad))
        tally.first = f"obs {_shown(obs[row])}: {_shown(got[row])}, trained {_shown(wanted[row])}"


def _routes(
    folder: Path, sanitize: bool, stack: contextlib.ExitStack, given: Any, name: str
) -> tuple[list[Route], list[str]]:
    """Every compiler with every flag, onnxruntime, NumPy; and what could not be checked here."""
    from polystep_rl.policies.export import native
    from polystep_rl.policies.runtime import Network

    compilers = native.compilers()
    if not compilers:
        raise ConfigError("verify needs a C compiler: install gcc or clang")
    sanitized = ("sanitizers", ("-O1", *native.SANITIZERS))
    routes, skipped = [], [f"{c} is not installed" for c in native.COMPILERS if c not in compilers]
    for compiler in compilers:
        flags = [*OPTIMISATIONS]
        if sanitize and native.has_sanitizers(compiler):
            flags.append(sanitized)
        elif sanitize:
            skipped.append(f"{compiler} has no sanitizers here")
        for label, options in flags:
            program = stack.enter_context(native.Program(folder, name, given.spec, compiler, options))
            routes.append(Route(f"{compiler} {label}", program.act))
    network = Network(given.spec, given.params)
    routes.append(Route("NumPy", lambda obs: _entries(network.actions(obs), given.spec)))
    try:
        routes.append(Route("onnxruntime", _onnx(folder / "policy.onnx", given.spec)))
    except ModuleNotFoundError:
        skipped.append("onnxruntime is not installed: pip install 'polystep-rl[export]'")
    return routes, skipped


def _entries(actions: np.ndarray, spec: Any) -> np.ndarray:
    return actions.astype(np.float32 if spec.head == "box" else np.int32)


def _onnx(path: Path, spec: Any) -> Callable[[np.ndarray], np.ndarray]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has its own classes, of which some are not exported
        raise ValueError(f"{path}: onnxruntime refuses it ({' '.join(str(error).split())[:200]})") from None
    return lambda obs: session.run(None, {"obs": obs})[0].reshape(len(obs), -1)


def _shown(values: np.ndarray) -> str:
    shown = " ".join(f"{float(v):.9g}" for v in values[:8])
    return f"[{shown}{' ...' if len(values) > 8 else ''}]"
