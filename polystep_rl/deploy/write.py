"""From a trained policy to exported files: what `export` and `verify` share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from polystep_rl.deploy.trained import Reference, Trained, described, rolled, vectors
from polystep_rl.policies.export import bundle


def _text(meta: dict[str, Any]) -> dict[str, str]:
    """A description as ONNX keeps it: text by name."""
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in meta.items()}


def write_c(given: Trained, folder: Path, name: str) -> dict[str, Any]:
    """``NAME.h`` and ``NAME.c``."""
    made = bundle.write_c(folder, name, given.spec, given.params, described(given, name), vectors(given))
    return {"parameter_bytes": made.parameter_bytes, "files": [f"{name}.h", f"{name}.c"]}


def write_onnx(given: Trained, folder: Path, name: str, meta: dict[str, Any] | None = None) -> dict[str, Any]:
    """``policy.onnx``, and ``policy_qdq.onnx`` of an int8 policy without sides."""
    from polystep_rl.policies.export.onnx import onnx_model

    text = _text(meta or described(given, name))
    files = {"policy.onnx": onnx_model(given.spec, given.params, text)}
    if given.spec.precision == "int8" and given.spec.sides is None:
        files["policy_qdq.onnx"] = onnx_model(given.spec, given.params, text, qdq=True)
    for file, model in files.items():
        (folder / file).write_bytes(cast(Any, model).SerializeToString())
    return {"opset": next(iter(files.values())).opset_import[0].version, "files": list(files)}


def write_qonnx(given: Trained, folder: Path, name: str) -> dict[str, Any]:
    """``policy.qonnx.onnx``."""
    from polystep_rl.policies.export.qonnx import qonnx_model

    model = qonnx_model(given.spec, given.params, _text(described(given, name)))
    (folder / "policy.qonnx.onnx").write_bytes(cast(Any, model).SerializeToString())
    return {"files": ["policy.qonnx.onnx"]}


def write_web(given: Trained, folder: Path, name: str) -> dict[str, Any]:
    """``policy.html``."""
    from polystep_rl.policies.export.web import web_page

    played = rolled(given, Reference(given.spec, given.params).act, episodes=100, part=1)
    meta = {**described(given, name), "return": float(played.returns.mean())}
    page = web_page(given.spec, given.params, meta)
    bundle.write_text(folder / "policy.html", page)
    return {"bytes": len(page.encode()), "files": ["policy.html"]}


def write_bundle(given: Trained, folder: Path, name: str, episodes: int) -> dict[str, Any]:
    """Everything; see `policies.export.bundle`."""
    from polystep_rl.deploy.report import report

    reference = Reference(given.spec, given.params)
    trained = rolled(given, reference.act, episodes, part=1)
    meta, tests = described(given, name, trained.returns), vectors(given)
    made = bundle.write_c(folder, name, given.spec, given.params, meta, tests)
    write_onnx(given, folder, name, meta)
    bundle.write_vectors(folder, name, given.spec, tests)
    bundle.write_makefile(folder, name)
    text, measured = report(given, folder, name, made, tests, trained, episodes)
    bundle.write_text(folder / "report.md", text)
    meta["parameter_bytes"] = made.parameter_bytes
    bundle.write_policy(folder, given.spec, given.params, meta)
    low, high = meta["return"]["interval"]
    return {
        "return": f"{meta['return']['mean']:.6g} ({low:.6g} to {high:.6g}, 95 %) over {episodes} episodes",
        "parameter_bytes": made.parameter_bytes,
        **measured,
        "files": sorted(path.name for path in folder.iterdir() if path.is_file()),
    }
