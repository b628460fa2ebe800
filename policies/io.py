"""Policy files: ``STEM.safetensors`` (the latents) and ``STEM.json`` (everything else). Nothing is ever unpickled.

The document is ``{"format", "version", "spec", "meta", "params_sha256", "sha256"}``; the last is the digest of the
others, so that damage shows. The safetensors file carries a copy in its metadata and is whole by itself: if a save is
killed between its two renames, the older ``STEM.json`` names other parameters, and loading takes the copy.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from polystep_rl.files import finite, plain, write_atomic
from polystep_rl.policies.deployed import frozen
from polystep_rl.policies.precision import check_spec, layer_sizes
from polystep_rl.types import Params, PolicySpec, Sides

FORMAT = "polystep_rl.policy"
VERSION = 1
POLICY, BEST_POLICY = "policy", "best_policy"  # the names in a run folder
MAX_BYTES = 2**32  # of one file; anything larger is not a policy


class PolicyFileError(ValueError):
    """A policy file that is missing, damaged or foreign; the message is one line and begins with the path."""


class SavedPolicy(NamedTuple):
    """Contents of a policy file; ``mlp_policy(saved.spec)`` is the policy."""

    spec: PolicySpec
    params: Params  # {"0": {"w": (m, k), "b": (m,)}, ...} float32 NumPy arrays
    meta: dict[str, Any]


def save_policy(path: str | os.PathLike[str], spec: PolicySpec, params: Params, meta: dict[str, Any]) -> Path:
    """Write a policy atomically (temporary name, fsync, rename).

    Args:
        path: a folder (the files are then named ``policy.*``) or a stem; .json or .safetensors at its end is dropped.
        spec, params: what to save; the shapes must fit each other. Input scales that the parameters carry are frozen.
        meta: anything JSON can hold; numbers that are not finite become null.

    Returns:
        The stem. Raises ValueError where the parameters do not fit the specification.
    """
    stem = _stem(path)
    spec, params = frozen(spec, params)
    tensors = {f"{i}.{leaf}": np.asarray(params[i][leaf], np.float32, "C") for i in params for leaf in params[i]}
    try:
        check_spec(spec)
        _check_shapes(spec, tensors)
    except ValueError as error:
        raise ValueError(f"{stem}: not saved: {error}") from None
    described = {"spec": spec._asdict(), "meta": meta}
    document = {"format": FORMAT, "version": VERSION, **finite(plain(described, _refused))}
    document["params_sha256"] = _params_digest(tensors)
    document["sha256"] = _document_digest(document)
    text = json.dumps(document, indent=2, allow_nan=False)
    write_atomic(stem.with_name(stem.name + ".safetensors"), safetensors.numpy.save(tensors, metadata={"policy": text}))
    write_atomic(stem.with_name(stem.name + ".json"), text.encode() + b"\n")
    return stem


def read_policy(path: str | os.PathLike[str]) -> SavedPolicy:
    """Read what :func:`save_policy` wrote. Raises PolicyFileError, in one line, for anything else."""
    stem = _stem(path)
    tensor_path, json_path = stem.with_name(stem.name + ".safetensors"), stem.with_name(stem.name + ".json")
    data = _read(tensor_path)
    try:
        tensors = safetensors.numpy.load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        text = header["__metadata__"]["policy"]
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        _fail(tensor_path, f"not a policy's safetensors file ({type(error).__name__}: {error})")
    inner, outer = _parse(tensor_path, text), _parse(json_path, _read(json_path))
    if inner["params_sha256"] != _params_digest(tensors):
        _fail(tensor_path, "damaged: the parameters do not match their checksum")
    document = inner
    if outer["params_sha256"] == inner["params_sha256"]:
        document = outer
    spec = _spec(tensor_path, document["spec"])
    try:
        _check_shapes(spec, tensors)
    except ValueError as error:
        _fail(tensor_path, str(error))
    params: dict[str, dict[str, np.ndarray]] = {str(i): {} for i in range(len(spec.hidden) + 1)}
    for name, value in tensors.items():
        layer, leaf = name.split(".")
        params[layer][leaf] = value
    return SavedPolicy(spec, params, document["meta"])


def find_policy(path: str | os.PathLike[str], which: str | None = None) -> Path:
    """The stem of the policy of a run folder, of a bundle or of a policy file.

    Args:
        path: a folder or a file.
        which: of a run folder the ``best`` policy or the ``last``; by default the one that it deploys.

    Raises:
        PolicyFileError: nothing of that name.
    """
    path = Path(path)
    if not path.exists() and not path.with_name(path.name + ".json").exists():
        _fail(path, "no such run folder or policy file; check the path")
    if not path.is_dir():
        return _stem(path)
    config = path / "config.yaml"
    if which is None and config.is_file():
        found = re.search(r"^deploy: *(\w+)", config.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
        which = found[1] if found else "best"
    names = (POLICY,) if which == "last" else (BEST_POLICY, POLICY)
    stems = [path / name for name in names if (path / f"{name}.json").exists()]
    if not stems:
        _fail(path, f"holds no {names[0]} yet; let the run reach its first evaluation")
    return stems[0]


def _stem(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    if path.is_dir():
        return path / "policy"
    return path.with_suffix("") if path.suffix in (".json", ".safetensors") else path


def _fail(path: Path, reason: str) -> NoReturn:
    raise PolicyFileError(" ".join(f"{path}: {reason}"[:400].split())) from None


def _read(path: Path) -> bytes:
    try:
        if not path.is_file():
            _fail(path, "no such file")
        if path.stat().st_size > MAX_BYTES:
            _fail(path, f"larger than {MAX_BYTES} bytes, not a policy")
        return path.read_bytes()
    except OSError as error:
        _fail(path, f"cannot be read ({error.strerror})")


def _refused(value: Any) -> None:
    raise ValueError(f"cannot write a {type(value).__name__} to JSON")


def _params_digest(tensors: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name} {value.dtype} {value.shape}\n".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()


def _document_digest(document: dict[str, Any]) -> str:
    rest = {key: value for key, value in document.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _parse(path: Path, text: Any) -> dict[str, Any]:
    """The document in a text, its checksum verified."""
    try:
        document = json.loads(text)
        digest = _document_digest(document)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        _fail(path, f"not a policy's JSON ({type(error).__name__}: {error})")
    if document.get("format") != FORMAT:
        _fail(path, f"not a policy file (format {str(document.get('format'))[:40]!r}, expected {FORMAT!r})")
    if document.get("version") != VERSION:
        _fail(path, f"policy format version {str(document.get('version'))[:20]}; this release reads {VERSION}")
    if document.get("sha256") != digest:
        _fail(path, "damaged or edited: the contents do not match their checksum")
    for key, kind in (("spec", dict), ("meta", dict), ("params_sha256", str)):
        if not isinstance(document.get(key), kind):
            _fail(path, f"{key} is missing or not a {kind.__name__}")
    return document


def _spec(path: Path, fields: dict[str, Any]) -> PolicySpec:
    optional = set(PolicySpec._field_defaults)  # younger than the format: older files do without
    if not set(PolicySpec._fields) - optional <= set(fields) <= set(PolicySpec._fields):
        _fail(path, f"the spec must have the fields {', '.join(PolicySpec._fields)}")
    try:
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
        if values.get("sides") is not None:
            values["sides"] = Sides(**{k: tuple(map(tuple, v)) for k, v in values["sides"].items()})
        spec = PolicySpec(**values)
        for name in ("hidden", "action_low", "action_high", "obs_offset", "obs_scale", "groups"):
            if not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in getattr(spec, name)):
                raise ValueError(f"{name} must hold numbers")
        check_spec(spec)
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        _fail(path, f"bad spec: {error}")
    return spec


def _check_shapes(spec: PolicySpec, tensors: dict[str, np.ndarray]) -> None:
    """Raise ValueError unless the arrays are float32 and fit the specification."""
    want: dict[str, tuple[int, ...]] = {}
    for index, (fan_in, fan_out) in enumerate(layer_sizes(spec)):
        want |= {f"{index}.w": (fan_out, fan_in), f"{index}.b": (fan_out,)}
    if set(tensors) != set(want):
        raise ValueError(f"the arrays {sorted(tensors)[:6]} are not those of the spec, {sorted(want)[:6]}")
    for name, shape in want.items():
        if tensors[name].shape != shape or tensors[name].dtype != np.float32:
            got = f"{tensors[name].shape} {tensors[name].dtype}"
            raise ValueError(f"array {name} is {got}, the spec needs {shape} float32")
