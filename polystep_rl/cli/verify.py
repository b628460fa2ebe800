"""``polystep-rl verify BUNDLE``: whether all that a bundle holds acts like the policy that was trained."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import tyro

from polystep_rl.cli import UsageError
from polystep_rl.cli.options import parse_options

CHUNK = 2**25  # numbers of observations at a time
OPTIMISATIONS: tuple[tuple[str, tuple[str, ...]], ...] = (("-O0", ("-O0",)), ("-O3", ("-O3",)))


@dataclass(frozen=True)
class VerifyArgs:
    """Show that the C, the ONNX graph and NumPy's policy of a bundle act exactly like the policy in JAX."""

    bundle: Annotated[Path, tyro.conf.Positional]
    """Folder that `export --to bundle` wrote."""
    random: int = 1_000_000
    """Random observations: those of an integer policy on the ties of its quantiser, infinite and NaN, too."""
    on_policy: int = 100_000
    """Observations that the compiled policy meets in the environment, at least."""
    episodes: int = 100
    """Episodes of the closed loop, in which the actions of the compiled policy are compared with those of JAX."""
    sanitize: bool = True
    """Also build with -fsanitize=address,undefined."""
    seed: int = 0
    """Of the random observations."""
    json: bool = False
    """Print one JSON object as the last line of standard output, and nothing else there."""


class Route(NamedTuple):
    """One way to the actions of a policy."""

    name: str
    act: Callable[[np.ndarray], np.ndarray]  # observations (n, o) -> actions (n, entries)


class Tally:
    """What a route was asked, and what it got wrong."""

    def __init__(self) -> None:
        self.observations, self.wrong, self.first = 0, 0, ""


def run(argv: list[str]) -> int:
    """Entry point; returns the exit code: 1 where anything differs."""
    args = parse_options(VerifyArgs, "verify", argv)
    for name in ("random", "on_policy", "episodes"):
        if getattr(args, name) < (1 if name == "episodes" else 0):
            raise UsageError(f"--{name.replace('_', '-')} {getattr(args, name)}: expected a positive number")
    if not args.bundle.is_dir():
        raise UsageError(f"{args.bundle}: no such folder; expected one that `polystep-rl export RUN` wrote")
    from polystep_rl.runs import parts as assemble

    assemble.setup_jax()
    found = verified(args, None if args.json else sys.stdout)
    if args.json:
        assemble.print_json(found)
    return 0 if found["verdict"] != "different" else 1


def verified(args: VerifyArgs, out: Any) -> dict[str, Any]:
    """All checks of a bundle; prints a line for each to ``out``."""
    from polystep_rl.deploy import write as deployment
    from polystep_rl.policies.export import bundle, native
    from polystep_rl.policies.export.vectors import Comparer, random_observations
    from polystep_rl.policies.io import load_policy

    saved = load_policy(args.bundle)
    bundle.check_files(args.bundle, saved.meta)
    name = saved.meta["name"]
    given = deployment.read(args.bundle)
    reference, comparer = deployment.Reference(given.spec, given.params), Comparer(given.spec, given.params)
    tallies: dict[str, Tally] = {}
    with contextlib.ExitStack() as stack:
        library = native.Library(args.bundle, name, given.spec)
        routes, skipped = _routes(args, stack, given, name)
        mismatches = library.selftest()

        def compare(obs: np.ndarray, routes: list[Route], kind: str) -> None:
            for chunk in np.array_split(obs, max(1, math.ceil(obs.size / CHUNK))):
                wanted = reference.act(chunk)
                for route in routes:
                    _tally(tallies, f"{route.name}, {kind}", comparer, chunk, wanted, route.act(chunk))

        rng, left = np.random.default_rng(args.seed), args.random
        while left > 0:
            count = min(left, max(1, CHUNK // given.spec.obs_size))
            compare(random_observations(given.spec, count, rng), routes, "random")
            left -= count
        played = deployment.rolled(given, library.act, args.episodes, part=1)
        trained = deployment.rolled(given, reference.act, args.episodes, part=1)
        taken = played.actions.reshape(len(played.obs), -1)
        _tally(tallies, "C, closed loop", comparer, played.obs, reference.act(played.obs), taken)
        met, part = [played.obs], 2
        while sum(map(len, met)) < args.on_policy:
            met.append(deployment.rolled(given, library.act, args.episodes, part).obs)
            part += 1
        if args.on_policy:
            compare(np.concatenate(met)[: args.on_policy], routes, "on-policy")
    wrong = any(t.wrong for t in tallies.values()) or mismatches > 0
    fine = "bit-exact" if comparer.exact else "within 1e-5"
    result = {
        "bundle": str(args.bundle),
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
        "episodes": args.episodes,
    }
    if out is not None:
        _print(result, out)
    return result


def _tally(
    tallies: dict[str, Tally], key: str, comparer: Any, obs: np.ndarray, wanted: np.ndarray, got: np.ndarray
) -> None:
    tally, bad = tallies.setdefault(key, Tally()), comparer.wrong(obs, wanted, got)
    tally.observations += len(obs)
    tally.wrong += int(bad.sum())
    if bad.any() and not tally.first:
        row = int(np.argmax(bad))
        tally.first = f"obs {_shown(obs[row])}: {_shown(got[row])}, trained {_shown(wanted[row])}"


def _routes(args: VerifyArgs, stack: contextlib.ExitStack, given: Any, name: str) -> tuple[list[Route], list[str]]:
    """Every compiler with every flag, onnxruntime, NumPy; and what could not be checked here."""
    from polystep_rl.policies.export import native
    from polystep_rl.policies.runtime import Network

    compilers = native.compilers()
    if not compilers:
        raise UsageError("verify needs a C compiler: install gcc or clang")
    sanitized = ("sanitizers", ("-O1", *native.SANITIZERS))
    routes, skipped = [], [f"{c} is not installed" for c in native.COMPILERS if c not in compilers]
    for compiler in compilers:
        flags = [*OPTIMISATIONS]
        if args.sanitize and native.has_sanitizers(compiler):
            flags.append(sanitized)
        elif args.sanitize:
            skipped.append(f"{compiler} has no sanitizers here")
        for label, options in flags:
            program = stack.enter_context(native.Program(args.bundle, name, given.spec, compiler, options))
            routes.append(Route(f"{compiler} {label}", program.act))
    network = Network(given.spec, given.params)
    routes.append(Route("NumPy", lambda obs: _entries(network.actions(obs), given.spec)))
    try:
        routes.append(Route("onnxruntime", _onnx(args.bundle / "policy.onnx", given.spec)))
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


def _print(result: dict[str, Any], out: Any) -> None:
    fine = "bit-exact" if result["precision"] in ("int8", "binary") else "within 1e-5"
    print(f"{result['env']} {result['precision']}: {result['bundle']}", file=out)
    for key, check in result["checks"].items():
        said = fine if not check["wrong"] else f"{check['wrong']} differ; the first: {check['first']}"
        print(f"  {key:<28} {check['observations']:>9,} observations  {said}", file=out)
    for reason in result["skipped"]:
        print(f"  not checked: {reason}", file=out)
    mismatches = result["selftest_mismatches"]
    print(f"  {'C self-test':<28} {'right' if not mismatches else f'{mismatches} mismatches'}", file=out)
    print(
        f"  mean return over {result['episodes']} episodes: deployed {result['return_deployed']:.6g}, "
        f"trained {result['return_trained']:.6g}",
        file=out,
    )
    print(result["verdict"], file=out)
