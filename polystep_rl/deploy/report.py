"""``report.md`` of a bundle: what the deployed code costs, and what it earns."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import numpy as np

from polystep_rl.analysis.stats import mean_interval
from polystep_rl.deploy.trained import Trained, rolled
from polystep_rl.policies.export import measure, native
from polystep_rl.policies.export.bundle import Vectors
from polystep_rl.policies.export.c import Source
from polystep_rl.policies.precision import layer_sizes
from polystep_rl.rollout.episodes import Played
from polystep_rl.types import INTEGER_PRECISIONS, PolicySpec

SIZED = (("Cortex-M0+", "cortex-m0plus", ()), ("Cortex-M4", "cortex-m4", ()))
HARD_FLOAT = ("-mfloat-abi=hard", "-mfpu=fpv4-sp-d16")
COUNTED = (("Cortex-M4, software floats", ()), ("Cortex-M4, with its FPU", HARD_FLOAT))
COUNTED_ON = 256  # observations


def report(
    given: Trained,
    folder: Path,
    name: str,
    made: Source,
    vectors: Vectors,
    trained: Played,
    episodes: int,
) -> tuple[str, dict[str, Any]]:
    """The text, and the numbers for who called; what cannot be measured here says why."""
    found: dict[str, Any] = {}
    lines = [f"# {given.env_id} {given.spec.precision}, deployed", ""]
    lines += _returns(given, folder, name, trained, episodes, found)
    lines += ["## Operations for an action", "", *_operations(given.spec, made), ""]
    lines += ["## Flash and RAM", "", *_sizes(folder, name, made, found), ""]
    lines += ["## Instructions for an action", "", *_instructions(folder, name, given.spec, vectors, found), ""]
    lines += ["## Latency on this machine", "", *_latency(given, folder, name, vectors, found), ""]
    lines += ["Measured with:", "", *(f"- {tool}: {text or 'not found'}" for tool, text in measure.toolchain().items())]
    return "\n".join(lines) + "\n", found


def _returns(
    given: Trained, folder: Path, name: str, trained: Played, episodes: int, found: dict[str, Any]
) -> list[str]:
    rows = [("trained policy, in JAX", trained.returns)]
    try:
        library = native.Library(folder, name, given.spec)
        deployed = rolled(given, library.act, episodes, part=1).returns
        rows.append(("deployed code, compiled C", deployed))
        found["return_deployed"] = f"{deployed.mean():.6g}"
    except native.NativeError as error:
        found["return_deployed"] = f"not measured: {error}"
    table = ["| | mean return | 95 % interval | episodes |", "|---|---|---|---|"]
    for label, returns in rows:
        low, high = mean_interval(returns)
        table.append(f"| {label} | {returns.mean():.6g} | {low:.6g} to {high:.6g} | {len(returns)} |")
    if len(rows) == 1:
        table += ["", f"The deployed code: {found['return_deployed']}"]
    return [*table, ""]


def _operations(spec: PolicySpec, made: Source) -> list[str]:
    products = sum(fan_in * fan_out for fan_in, fan_out in layer_sizes(spec))
    sides = 1 if spec.sides is None else len(spec.sides.inputs)
    read = spec.obs_size if spec.sides is None else made.input_size
    rows = [("parameters, bytes", made.parameter_bytes)]
    if spec.precision == "binary":
        (first_in, first_out), *rest = layer_sizes(spec)
        words = sum(fan_out * -(-fan_in // 32) for fan_in, fan_out in rest) * spec.weight_copies
        rows += [
            ("multiplications of the layers", 0),
            ("XNOR-popcounts of 32-bit words", sides * words),
            ("additions of int8 inputs by one-bit weights", sides * first_in * first_out * spec.weight_copies),
        ]
    else:
        kind = "int8" if spec.precision == "int8" else "float"
        rows.append((f"{kind} multiplications of the layers", sides * products))
    if spec.precision in INTEGER_PRECISIONS:
        rows.append(("float multiplications of observations (`step`; none in `step_int8`)", read))
        if spec.head == "box":
            rows.append(("float multiplications of actions (`step`; none in `step_int8`)", spec.action_size))
    return ["| | |", "|---|---|", *(f"| {label} | {value:,} |" for label, value in rows)]


def _sizes(folder: Path, name: str, made: Source, found: dict[str, Any]) -> list[str]:
    lines = [
        "From the linker's map, -Os, without the self-test: code and constants of the policy, what it pulls in of the",
        "compiler's libraries, static RAM, and the stack of `step`, in bytes.",
        "",
        "| | code | constants | libraries | RAM | stack |",
        "|---|---|---|---|---|---|",
    ]
    try:
        for label, cpu, flags in SIZED:
            size = measure.sizes(folder, name, cpu, flags)
            cells = (size.flash_code, size.flash_data, size.flash_libraries, size.ram, size.stack)
            lines.append(f"| {label} | {' | '.join(f'{c:,}' for c in cells)} |")
            found[f"flash {cpu}"] = f"{size.flash_code + size.flash_data} bytes + {size.flash_libraries} of libraries"
    except measure.ToolError as error:
        found["flash"] = f"not measured: {error}"
        return [f"Not measured: {error}"]
    return lines


def _instructions(folder: Path, name: str, spec: PolicySpec, vectors: Vectors, found: dict[str, Any]) -> list[str]:
    obs = vectors.obs[np.isfinite(vectors.obs).all(axis=1)]
    obs = obs[: max(1, min(COUNTED_ON, 16_384 // spec.obs_size))]
    lines = [f"Counted in QEMU over {len(obs)} observations, -O2.", "", "| | `step` | `step_int8` |", "|---|---|---|"]
    entries = ("step", "step_int8") if spec.precision in INTEGER_PRECISIONS else ("step",)
    try:
        for label, flags in COUNTED:
            counts = [measure.instructions(folder, name, "cortex-m4", obs, entry, flags) for entry in entries]
            cells = [f"{count:,.0f}" for count in counts] + ["-"] * (2 - len(counts))
            lines.append(f"| {label} | {' | '.join(cells)} |")
            found[f"instructions, {label}"] = " and ".join(cells[: len(counts)])
    except measure.ToolError as error:
        found["instructions"] = f"not measured: {error}"
        return [f"Not measured: {error}"]
    return lines


def _latency(given: Trained, folder: Path, name: str, vectors: Vectors, found: dict[str, Any]) -> list[str]:
    compilers = native.compilers()
    if not compilers:
        return ["Not measured: no C compiler."]
    try:
        with native.Program(folder, name, given.spec, compilers[0], ("-O2",)) as program:
            nanoseconds = program.latency(vectors.obs)
    except native.NativeError as error:
        return [f"Not measured: {error}"]
    found["latency"] = f"{nanoseconds:.0f} ns"
    return [f"{nanoseconds:,.0f} ns for an action ({compilers[0]} -O2, one core, {platform.machine()})."]
