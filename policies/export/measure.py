"""Measures exported C on a Cortex-M: flash, RAM and stack by the compiler's account, instructions in an emulator."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

ARM_GCC, QEMU = "arm-none-eabi-gcc", "qemu-system-arm"
INSTALL = {ARM_GCC: "gcc-arm-none-eabi and libnewlib-arm-none-eabi", QEMU: "qemu-system-arm"}  # packages
MACHINES = {"cortex-m3": "mps2-an385", "cortex-m4": "mps2-an386"}  # of QEMU
ENTRIES = ("step", "step_int8")

BOARD = Path(__file__).resolve().parent / "board"
COMPILE = ("-std=c99", "-mthumb", "-ffunction-sections", "-fdata-sections")
LINK = ("-nostartfiles", "-Wl,--gc-sections", "-T", str(BOARD / "board.ld"))

SHIFT = 3  # an instruction takes 2**SHIFT ns of virtual time
EMULATION = (
    *("-icount", f"shift={SHIFT}", "-nographic", "-monitor", "none", "-serial", "none"),
    *("-chardev", "stdio,id=out", "-semihosting-config", "enable=on,target=native,chardev=out"),
)
INSTRUCTIONS = 40 / 2**SHIFT  # a tick of the board's timer, which runs at 25 MHz
CALLS = 256  # at least, so that a count is right to less than a tenth of an instruction
BUILD_SECONDS, RUN_SECONDS, VERSION_SECONDS = 120, 60, 10


class ToolError(RuntimeError):
    """A tool that is missing or refuses, or a program that fails. One line."""


class Sizes(NamedTuple):
    """Sizes of a policy, in bytes."""

    flash_code: int  # its own instructions
    flash_data: int  # its own constants
    flash_libraries: int  # what it pulls in of libgcc, libm and libc
    ram: int  # static, that of the libraries included
    stack: int  # of the entry and the deepest chain of the policy's own functions below it; libraries not included


class Piece(NamedTuple):
    """Bytes that the linker kept of a section of one file."""

    output: str  # section of the program
    section: str  # section of the file
    size: int  # bytes
    file: str


def toolchain() -> dict[str, str | None]:
    """The first line that each tool says of its version; None where it is missing."""
    found: dict[str, str | None] = {}
    for tool in ("gcc", "clang", ARM_GCC, QEMU):
        try:
            said = _run([tool, "--version"], VERSION_SECONDS).splitlines()
            found[tool] = said[0].strip() if said else "version unknown"
        except ToolError:
            found[tool] = None if shutil.which(tool) is None else "version unknown"
    return found


def sizes(folder: Path, name: str, cpu: str, flags: Sequence[str] = (), entry: str = "step") -> Sizes:
    """Sizes of ``NAME.c`` in a program that calls NAME_init, NAME_reset and the entry, with -Os.

    Args:
        folder, name: an exported policy.
        cpu: of -mcpu, such as cortex-m0plus.
        flags: more for the compiler, such as -mfloat-abi=hard.
        entry: step or step_int8.

    Raises:
        ToolError: the compiler is missing or refuses.
    """
    with tempfile.TemporaryDirectory(prefix="polystep-rl-size-") as place:
        work = Path(place)
        shared = [*COMPILE, "-Os", f"-mcpu={cpu}", *flags, *_names(folder, name, entry)]
        policy, least, listing = work / "policy.o", work / "least.o", work / "program.map"
        _compile([*shared, "-fcallgraph-info=su", "-c", Path(folder) / f"{name}.c", "-o", policy], work)
        _compile([*shared, "-c", BOARD / "least.c", "-o", least], work)
        last: list[str | Path] = [policy, least, "-lm", "-o", work / "program.elf"]
        _compile([*shared, *LINK, "-Wl,-e,main", f"-Wl,-Map={listing}", *last], work)
        pieces = parse_map(listing.read_text(encoding="utf-8", errors="replace"))
        graph = policy.with_suffix(".ci").read_text(encoding="utf-8", errors="replace")
    own = [piece for piece in pieces if piece.file == str(policy)]
    libraries = [piece for piece in pieces if piece.file not in (str(policy), str(least))]
    code = sum(piece.size for piece in own if piece.section.startswith(".text"))
    return Sizes(
        flash_code=code,
        flash_data=_total(own, ".text", ".data") - code,
        flash_libraries=_total(libraries, ".text", ".data"),
        ram=_total([*own, *libraries], ".data", ".bss"),
        stack=deepest(graph, f"{name}_{entry}"),
    )


def instructions(
    folder: Path, name: str, cpu: str, observations: np.ndarray, entry: str = "step", flags: Sequence[str] = ()
) -> float:
    """Instructions of a call of an exported policy, counted in QEMU, with -O2.

    All that the entry executes counts, its return and the libraries included; the call itself does not. The count is
    of instructions, not of cycles, and the same on every machine.

    Args:
        folder, name: an exported policy.
        cpu: cortex-m3 or cortex-m4.
        observations: (n, o) float; for step_int8, inputs (n, i) int8, or observations: then the inputs are those that
            NAME_step makes of them.
        entry: step or step_int8.
        flags: more for the compiler, such as -O3.

    Raises:
        ToolError: a tool is missing or refuses, or the program fails.
    """
    values = np.ascontiguousarray(observations, np.int8 if observations.dtype == np.int8 else np.float32)
    if values.ndim != 2 or not values.size:
        raise ValueError(f"observations {values.shape}: expected (n, o), n and o at least 1")
    if entry == "step_int8" and values.dtype != np.int8:
        values = _inputs(folder, name, cpu, values, flags)
    if (values.dtype == np.int8) != (entry == "step_int8"):
        raise ValueError(f"{entry}: reads no {values.dtype}")
    rounds = -(-CALLS // len(values))
    settings = [*_names(folder, name, entry), f"-DCOUNT_ROUNDS={rounds}"]
    said = _embedded([BOARD / "count.c", Path(folder) / f"{name}.c"], folder, cpu, values, [*settings, *flags])
    try:
        policy, nothing = (int(word) % 2**32 for word in said.split())
    except ValueError:
        raise ToolError(f"{QEMU}: two counts expected, not {_tail(said)!r}") from None
    return (policy - nothing) * INSTRUCTIONS / (rounds * len(values)) + 1  # nothing returns, which is one


def run_on_board(
    sources: Sequence[Path], include: Sequence[Path], machine: str, cpu: str, flags: Sequence[str] = ()
) -> str:
    """Run a program on an emulated board and return what it prints.

    Args:
        sources: C or assembler; startup.c of the board is added.
        include: folders of headers; that of board.h is added.
        machine: of QEMU, mps2-an385 or mps2-an386.
        cpu: of -mcpu, cortex-m3 or cortex-m4.
        flags: more for the compiler; -O2 is given.

    Raises:
        ToolError: a tool is missing or refuses, or the program ends with another code than 0.
    """
    with tempfile.TemporaryDirectory(prefix="polystep-rl-board-") as place:
        program = Path(place) / "program.elf"
        folders = [f"-I{folder}" for folder in (*include, BOARD)]
        files = [*map(str, sources), str(BOARD / "startup.c")]
        _compile([*COMPILE, "-O2", f"-mcpu={cpu}", *flags, *folders, *LINK, *files, "-lm", "-o", program], Path(place))
        return _run([QEMU, "-M", machine, *EMULATION, "-kernel", str(program)], RUN_SECONDS)


def parse_map(text: str) -> list[Piece]:
    """Everything in the sections .text, .data and .bss of a program, from GNU ld's map; fillings are left out."""
    _, _, text = text.partition("\nLinker script and memory map")
    text = re.sub(r"^( ?\S+)\n +(?=0x)", r"\1 ", text, flags=re.MULTILINE)  # names too long for their column
    pieces, output = [], ""
    for line in text.splitlines():
        if heading := re.match(r"(\.\S+|/DISCARD/)", line):
            output = heading[1]
        found = re.match(r" (\.\S+|COMMON) +0x[0-9a-f]+ +0x([0-9a-f]+) (\S.*)$", line)
        if found and output in (".text", ".data", ".bss") and int(found[2], 16):
            pieces.append(Piece(output, found[1], int(found[2], 16), found[3].strip()))
    return pieces


def deepest(graph: str, function: str) -> int:
    """Bytes of stack of a function and the deepest chain of calls below it, from GCC's -fcallgraph-info=su."""
    frames = {
        title: int(size) for title, size in re.findall(r'node: \{ title: "([^"]+)" label: "[^"]*\\n(\d+) bytes', graph)
    }
    calls: dict[str, set[str]] = {title: set() for title in frames}
    for source, target in re.findall(r'edge: \{ sourcename: "([^"]+)" targetname: "([^"]+)"', graph):
        calls.setdefault(source, set()).add(target)
    if function not in frames:
        raise ToolError(f"{ARM_GCC}: no stack usage of {function}")

    def below(title: str, above: frozenset[str]) -> int:
        if title in above:
            raise ToolError(f"{function}: calls itself, so that its stack has no bound")
        called = (below(each, above | {title}) for each in calls.get(title, ()))
        return frames.get(title, 0) + max(called, default=0)

    return below(function, frozenset())


def _total(pieces: list[Piece], *outputs: str) -> int:
    return sum(piece.size for piece in pieces if piece.output in outputs)


def _names(folder: Path, name: str, entry: str) -> list[str]:
    """How the sources of the board are told about a policy."""
    if entry not in ENTRIES:
        raise ValueError(f"entry {entry!r}: expected one of {', '.join(ENTRIES)}")
    upper = name.upper()
    names = [f'-DPOLICY_HEADER="{name}.h"', f"-DPOLICY(x)={name}_##x", f"-DPOLICY_SIZE(x)={upper}_##x##_SIZE"]
    int8 = ["-DPOLICY_INT8"] if entry == "step_int8" else []
    return [*names, *int8, f"-D{upper}_NO_SELFTEST", f"-I{folder}"]


def _inputs(folder: Path, name: str, cpu: str, obs: np.ndarray, flags: Sequence[str]) -> np.ndarray:
    """Inputs (n, i) int8 that NAME_step passes to NAME_step_int8, for observations (n, o)."""
    with tempfile.TemporaryDirectory(prefix="polystep-rl-inputs-") as place:
        source = Path(place) / "weak.c"
        source.write_text(f'#include "{name}.h"\n#pragma weak {name}_step_int8\n#include "{name}.c"\n')
        settings = [*_names(folder, name, "step"), *flags]
        said = _embedded([BOARD / "inputs.c", source], folder, cpu, obs, settings)
    try:
        return np.array([[int(word) for word in line.split()] for line in said.splitlines()], np.int8)
    except (ValueError, OverflowError):
        raise ToolError(f"{QEMU}: inputs expected, not {_tail(said)!r}") from None


def _embedded(sources: list[Path], folder: Path, cpu: str, values: np.ndarray, flags: Sequence[str]) -> str:
    """Run a program that has values (n, k) embedded as ``count_inputs``, and return what it prints."""
    if cpu not in MACHINES:
        raise ValueError(f"cpu {cpu!r}: no machine for it; expected one of {', '.join(MACHINES)}")
    with tempfile.TemporaryDirectory(prefix="polystep-rl-values-") as place:
        values.tofile(Path(place) / "count_inputs.bin")
        lines = (".section .rodata", ".balign 4", ".global count_inputs", "count_inputs:", '.incbin "count_inputs.bin"')
        assembler = Path(place) / "count_inputs.s"
        assembler.write_text("\n".join(lines) + "\n", encoding="ascii")
        settings = [f"-DCOUNT_ROWS={len(values)}", *flags]
        return run_on_board([*sources, assembler], [Path(folder), Path(place)], MACHINES[cpu], cpu, settings)


def _compile(arguments: Sequence[str | Path], work: Path) -> None:
    """Run the compiler; its own temporary files go into ``work``."""
    _run([ARM_GCC, *map(str, arguments)], BUILD_SECONDS, {**os.environ, "LC_ALL": "C", "TMPDIR": str(work)})


def _run(command: list[str], seconds: float, env: dict[str, str] | None = None) -> str:
    """Standard output of a program; ToolError, in one line, where it is missing, takes too long or fails."""
    tool = command[0]
    try:
        done = subprocess.run(command, timeout=seconds, env=env, capture_output=True, stdin=subprocess.DEVNULL)
    except OSError:
        raise ToolError(f"{tool}: not found; install {INSTALL.get(tool, tool)}, or put it on the PATH") from None
    except subprocess.TimeoutExpired:
        raise ToolError(f"{tool}: stopped after {seconds:.0f} seconds") from None
    out, said = (text.decode(errors="replace") for text in (done.stdout, done.stderr))
    if done.returncode:
        errors = [line for line in said.splitlines() if "error" in line or "undefined reference" in line]
        what = _tail(out) or " ".join((errors or said.splitlines() or [""])[0].split())[:300]
        raise ToolError(f"{tool}: exit code {done.returncode}{f': {what}' if what else ''}")
    return out


def _tail(text: str) -> str:
    """The end of a text in one line."""
    return " ".join(text.split())[-300:]
