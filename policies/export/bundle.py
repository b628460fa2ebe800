"""A bundle: a policy as C and ONNX, its description, and the vectors that show that both act like it.

``policy.{h,c}``, ``policy.onnx`` (``policy_qdq.onnx`` of int8), ``policy.{json,safetensors}`` (a policy file as in a
run, with everything about the policy in its ``meta``), ``test_vectors.{npz,json,h}``, ``test_policy.c``, ``Makefile``.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from polystep_rl.files import write_atomic
from polystep_rl.policies.deployed import frozen
from polystep_rl.policies.export.arrays import Arrays
from polystep_rl.policies.export.c import Source, action_count, c_source
from polystep_rl.policies.export.kernels import fill
from polystep_rl.policies.export.vectors import TOLERANCE
from polystep_rl.policies.io import PolicyFileError, save_policy
from polystep_rl.types import INPUT_UNIT, INTEGER_PRECISIONS, QMAX, Params, PolicySpec

EMBEDDED_FLOATS = 2048  # of observations in policy.c
FILES = (
    *("policy.onnx", "policy_qdq.onnx", "test_vectors.npz", "test_vectors.json", "test_vectors.h", "test_policy.c"),
    *("Makefile", "report.md"),
)
HEADER_VECTORS, JSON_VECTORS = 64, 16


class Vectors(NamedTuple):
    """Observations (n, o) float32 and the actions of the trained policy, (n, groups) int32 or (n, a) float32."""

    obs: np.ndarray
    actions: np.ndarray

    def first(self, count: int) -> Vectors:
        """So many of them, evenly over all."""
        rows = np.linspace(0, len(self.obs) - 1, min(count, len(self.obs))).astype(int)
        return Vectors(self.obs[rows], self.actions[rows])


def describe(
    spec: PolicySpec, meta: dict[str, Any], names: tuple[str, ...], control_dt: float | None
) -> dict[str, Any]:
    """``meta`` with all that whoever feeds the policy must know: names, scales and clips of what goes in and out."""
    scale = np.asarray(spec.obs_scale)
    integer = spec.precision in INTEGER_PRECISIONS
    reach = QMAX / INPUT_UNIT if integer else 1e6
    low, high = np.asarray(spec.action_low), np.asarray(spec.action_high)
    return {
        **meta,
        "precision": spec.precision,
        "observation": {
            "names": list(names),
            "mean": list(spec.obs_offset),
            "scale": list(spec.obs_scale),
            "clip": (reach * scale).tolist(),  # on either side of the mean
        },
        "action": {
            "head": spec.head,
            "size": action_count(spec),
            "low": list(spec.action_low),
            "high": list(spec.action_high),
            "scale": ((high - low) / (2 * QMAX) if integer else (high - low) / 2).tolist(),  # of an integer; of [-1, 1]
        },
        "control_dt": control_dt,  # s
    }


def write_c(
    folder: Path, name: str, spec: PolicySpec, params: Params, meta: dict[str, Any], vectors: Vectors
) -> Source:
    """``NAME.h`` and ``NAME.c``."""
    spec, params = frozen(spec, params)
    few = vectors.first(max(4, min(32, EMBEDDED_FLOATS // spec.obs_size)))
    made = c_source(spec, params, name, few, about(spec, meta), tuple(meta["observation"]["names"]))
    write_text(folder / f"{name}.h", made.header)
    write_text(folder / f"{name}.c", made.source)
    return made


def about(spec: PolicySpec, meta: dict[str, Any]) -> list[str]:
    """Lines about a policy, for the head of files."""
    layers = "-".join(map(str, (spec.obs_size, *spec.hidden, spec.action_size)))
    lines = [f"A {spec.precision} policy, layers {layers}, for {meta.get('env') or 'an environment not recorded'}."]
    measured = meta.get("return")
    if measured:
        low, high = measured["interval"]
        lines.append(
            f"Mean return {measured['mean']:.6g} ({low:.6g} to {high:.6g}, 95 %) over {measured['episodes']} episodes."
        )
    return lines


def write_vectors(folder: Path, name: str, spec: PolicySpec, vectors: Vectors) -> None:
    """``test_vectors.npz`` (all), ``.json`` (some whose observations are finite), ``.h`` and ``test_policy.c``."""
    np.savez_compressed(folder / "test_vectors.npz", obs=vectors.obs, action=vectors.actions)
    finite = np.isfinite(vectors.obs).all(axis=1)
    few = Vectors(vectors.obs[finite], vectors.actions[finite]).first(JSON_VECTORS)
    text = json.dumps([{"obs": o.tolist(), "action": a.tolist()} for o, a in zip(*few, strict=True)], indent=1)
    write_text(folder / "test_vectors.json", text + "\n")
    many, arrays = vectors.first(HEADER_VECTORS), Arrays("$")
    arrays.add("vector_obs", many.obs.view(np.uint32))
    arrays.add("vector_action", many.actions)
    head = f"/* Observations, as the bits of their floats, and the actions of {name}. */\n#include <stdint.h>\n"
    text = f"{head}#define $$_VECTORS {len(many.obs)}\n\n{arrays.text()}"
    write_text(folder / "test_vectors.h", fill(text, name))
    tolerance = "0.0f" if spec.precision in INTEGER_PRECISIONS or spec.head != "box" else f"{TOLERANCE!r}f * reach[j]"
    reach = (np.asarray(spec.action_high) - np.asarray(spec.action_low)) / 2
    values = ", ".join(f"{v:.9g}" for v in reach) or "0"
    test = TEST_PROGRAM.replace("{tolerance}", tolerance).replace("{reach}", values)
    write_text(folder / "test_policy.c", fill(test if "reach[j]" in tolerance else _without_reach(test), name))


def _without_reach(text: str) -> str:
    return "\n".join(line for line in text.split("\n") if "reach" not in line)


def write_makefile(folder: Path, name: str) -> None:
    """Targets test, size and clean."""
    text = MAKEFILE.replace("@NAME@", name.upper()).replace("@name@", name)
    write_text(folder / "Makefile", text)


def write_policy(folder: Path, spec: PolicySpec, params: Params, meta: dict[str, Any]) -> None:
    """``policy.json`` and ``policy.safetensors``, last: they hold the checksums of all other files of the folder."""
    own = {f"{meta['name']}.c", f"{meta['name']}.h", *FILES}
    digests = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
        if path.name in own
    }
    save_policy(folder / "policy", spec, params, {**meta, "files": digests})


def check_files(folder: Path, meta: dict[str, Any]) -> None:
    """PolicyFileError, in one line, for a file of a bundle that is missing or is not what was exported."""
    digests = meta.get("files")
    if not isinstance(digests, dict) or not isinstance(meta.get("name"), str):
        raise PolicyFileError(f"{folder}: not a bundle; make one with: polystep-rl export RUN --to bundle")
    for name, digest in digests.items():
        path = folder / Path(name).name
        try:
            found = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise PolicyFileError(f"{path}: cannot be read ({error.strerror})") from None
        if found != digest:
            raise PolicyFileError(f"{path}: damaged or edited: it does not match its checksum; export the bundle again")


def write_text(path: Path, text: str) -> None:
    """Whole or not at all."""
    write_atomic(path, text.encode())


TEST_PROGRAM = """/* Runs the self-test and the vectors of test_vectors.h; the exit code is 0 where all are right. */
#include "$.h"
#include "test_vectors.h"
#include <stdio.h>
#include <string.h>

int main(void)
{
    static const float reach[] = {{reach}};
    int i, j, wrong = 0;
    float obs[$$_OBS_SIZE];
    $_action action[$$_ACTION_SIZE];
    $_init();
    for (i = 0; i < $$_VECTORS; i++) {
        int bad = 0;
        $_reset();
        memcpy(obs, $_vector_obs + i * $$_OBS_SIZE, sizeof obs);
        $_step(obs, action);
        for (j = 0; j < $$_ACTION_SIZE; j++) {
            const float difference = (float)(action[j] - $_vector_action[i * $$_ACTION_SIZE + j]);
            bad |= !(difference <= {tolerance} && -difference <= {tolerance});
        }
        wrong += bad;
    }
    i = $_selftest();
    printf("self-test: %d mismatches; %d vectors: %d mismatches\\n", i, $$_VECTORS, wrong);
    return i != 0 || wrong != 0;
}
"""

MAKEFILE = """# make test: on this machine. make size: flash and RAM for two microcontrollers.
CC ?= cc
ARM_CC ?= arm-none-eabi-gcc
ARM_SIZE ?= arm-none-eabi-size
CFLAGS ?= -O2
WARNINGS = -std=c99 -Wall -Wextra -Wpedantic -Werror

test: test_policy
	./test_policy

test_policy: test_policy.c @name@.c @name@.h test_vectors.h
	$(CC) $(CFLAGS) $(WARNINGS) -o $@ test_policy.c @name@.c -lm

size: @name@.c @name@.h
	for cpu in cortex-m0plus cortex-m4; do \\
		$(ARM_CC) -mcpu=$$cpu -mthumb -Os $(WARNINGS) -D@NAME@_NO_SELFTEST -c -o $$cpu.o @name@.c || exit 1; \\
	done
	$(ARM_SIZE) cortex-m0plus.o cortex-m4.o

clean:
	rm -f test_policy cortex-m0plus.o cortex-m4.o

.PHONY: test size clean
"""
