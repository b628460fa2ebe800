"""A pytree in one safetensors file: bit-exact, checksummed, written atomically, never pickled.

Tensors are named by their key paths. The header's metadata holds one JSON text (format version, the kind, shape and
dtype of every leaf, and the caller's ``meta``) and the SHA-256 of that text and of all tensors, so that a damaged
file is told from a good one before anything of it is used.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from polystep_rl.files import write_atomic

PyTree = Any

FORMAT = "polystep_rl.checkpoint"
FORMAT_VERSION = 1

# What safetensors stores natively through NumPy; any other dtype (bfloat16, complex, ...) is stored as its bytes.
_NATIVE = frozenset(
    "bool int8 uint8 int16 uint16 int32 uint32 int64 uint64 float16 float32 float64".split(),
)
_RESTORE_HINT = "use an older checkpoint or start a new run"


class CheckpointError(ValueError):
    """A checkpoint that cannot be written or used. One line: the file, what is wrong, what to do."""


# --- leaves ------------------------------------------------------------------------------------------------------
def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _describe(leaf: Any) -> dict[str, Any]:
    """Describe what must agree between a saved leaf and its template."""
    if type(leaf) in (bool, int, float):
        return {"kind": type(leaf).__name__}
    if _is_key(leaf):
        return {"kind": "key", "dtype": str(leaf.dtype), "shape": list(leaf.shape)}
    if hasattr(leaf, "dtype") and hasattr(leaf, "shape") and np.dtype(leaf.dtype).kind not in "OSUMm":
        return {"kind": "array", "dtype": np.dtype(leaf.dtype).name, "shape": list(leaf.shape)}
    raise TypeError(f"cannot save a {type(leaf).__name__}: leaves are arrays, keys, and bool, int or float")


def _describe_tree(tree: PyTree) -> tuple[dict[str, Any], Any]:
    """All leaves by name (a key path; '.' for a tree that is one leaf), and the treedef."""
    with_paths, treedef = jax.tree_util.tree_flatten_with_path(tree)
    leaves = {jax.tree_util.keystr(path) or ".": leaf for path, leaf in with_paths}
    if len(leaves) != len(with_paths):
        raise TypeError("two leaves of the tree have the same key path")
    return leaves, treedef


def _little_endian(array: np.ndarray) -> np.ndarray:
    """A C-ordered copy in the byte order of the file."""
    return np.array(array, dtype=array.dtype.newbyteorder("<"), order="C")


def _encode(leaf: Any) -> tuple[dict[str, Any], np.ndarray | None]:
    """A leaf as (description, stored tensor); Python scalars live in the description alone."""
    entry = _describe(leaf)
    if entry["kind"] in ("bool", "int"):
        return entry | {"value": str(int(leaf))}, None
    if entry["kind"] == "float":
        return entry | {"value": float(leaf).hex()}, None
    if entry["kind"] == "key":
        return entry | {"impl": str(jax.random.key_impl(leaf))}, _little_endian(np.asarray(jax.random.key_data(leaf)))
    array = _little_endian(np.asarray(leaf))
    if array.dtype.name not in _NATIVE:
        array = np.frombuffer(array.tobytes(), np.uint8)
    return entry, array


def _decode(entry: dict[str, Any], stored: np.ndarray | None, template: Any) -> Any:
    """The inverse of :func:`_encode`; the template decides between JAX and NumPy."""
    kind = entry["kind"]
    if kind in ("bool", "int"):
        return bool(int(entry["value"])) if kind == "bool" else int(entry["value"])
    if kind == "float":
        return float.fromhex(entry["value"])
    assert stored is not None
    if kind == "key":
        return jax.random.wrap_key_data(jnp.asarray(stored), impl=entry["impl"])
    dtype = np.dtype(template.dtype)
    if entry["dtype"] in _NATIVE:
        array = np.array(stored, dtype=dtype)
    else:
        array = np.frombuffer(stored.tobytes(), dtype.newbyteorder("<")).reshape(entry["shape"]).astype(dtype)
    if isinstance(template, np.generic):
        return array[()]
    if isinstance(template, np.ndarray):
        return array
    if getattr(template, "weak_type", False) and array.ndim == 0:
        return jnp.asarray(array.item())  # weakly typed again, so that later promotions are the same
    return jnp.asarray(array)


# --- the format --------------------------------------------------------------------------------------------------
def _digest(text: str, tensors: dict[str, np.ndarray]) -> str:
    """SHA-256 of the JSON text and of every tensor with its name, dtype and shape."""
    sha = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        sha.update(json.dumps([name, tensor.dtype.name, list(tensor.shape)]).encode())
        sha.update(np.ascontiguousarray(tensor).tobytes())
    return sha.hexdigest()


def _to_json(value: Any) -> Any:
    """JSON for the NumPy and JAX scalars that find their way into ``meta``."""
    if hasattr(value, "item") and math.prod(getattr(value, "shape", (2,))) == 1:
        return value.item()
    raise TypeError(f"meta holds a {type(value).__name__}, which JSON cannot")


def save_tree(path: str | os.PathLike[str], tree: PyTree, meta: dict[str, Any]) -> None:
    """Write ``tree`` and ``meta`` to the one file ``path``, atomically.

    Args:
        path: the file; its folder must exist. An older file of that name is replaced as a whole, or not at all.
        tree: any pytree of JAX and NumPy arrays and scalars of any numeric dtype, typed PRNG keys, and Python
            ``bool``, ``int`` and ``float``.
        meta: anything JSON can hold; tuples come back as lists.

    Raises:
        CheckpointError: the file cannot be written (a full disk, a missing folder).
        TypeError: the tree or ``meta`` holds something that the format cannot.
    """
    leaves, _ = _describe_tree(tree)
    entries: dict[str, dict[str, Any]] = {}
    tensors: dict[str, np.ndarray] = {}
    for name, leaf in leaves.items():
        entries[name], stored = _encode(leaf)
        if stored is not None:
            tensors[name] = stored
    document = {"format": FORMAT, "version": FORMAT_VERSION, "leaves": entries, "meta": meta}
    text = json.dumps(document, default=_to_json)
    data = safetensors.numpy.save(tensors, {"polystep_rl": text, "sha256": _digest(text, tensors)})
    try:
        write_atomic(path, data)
    except OSError as error:
        reason = error.strerror or error
        raise CheckpointError(
            f"{path}: cannot be written ({reason}); free some space or choose another folder"
        ) from error


def _read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The checked JSON document and the stored tensors, or CheckpointError."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error}); check the path") from error
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > len(data) - 8:
        raise CheckpointError(f"{path}: truncated, or not a checkpoint; {_RESTORE_HINT}")
    try:
        header = json.loads(data[8 : 8 + size])
        text, digest = header["__metadata__"]["polystep_rl"], header["__metadata__"]["sha256"]
        document = json.loads(text)
        version = document["version"] if document["format"] == FORMAT else None
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a checkpoint of this package, or damaged; {_RESTORE_HINT}") from error
    try:
        tensors = safetensors.numpy.load(data)
        intact = digest == _digest(text, tensors)
    except Exception as error:  # the parser's own errors are of many kinds
        raise CheckpointError(f"{path}: damaged (the tensors cannot be parsed); {_RESTORE_HINT}") from error
    if not intact:
        raise CheckpointError(f"{path}: damaged (checksum mismatch); {_RESTORE_HINT}")
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: format version {version}, this package reads {FORMAT_VERSION}; update polystep-rl"
        )
    return document, tensors


def read_meta(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The ``meta`` of a checkpoint whose checksum is right; CheckpointError otherwise. Needs no template."""
    return _read(path)[0]["meta"]


def load_tree(path: str | os.PathLike[str], template: PyTree) -> tuple[PyTree, dict[str, Any]]:
    """Read ``(tree, meta)`` back, bit for bit.

    Args:
        path: a file that :func:`save_tree` wrote.
        template: a tree of the same structure, shapes and dtypes (for JAX leaves, ``jax.ShapeDtypeStruct`` will do).
            NumPy leaves come back as NumPy, JAX leaves as JAX.

    Raises:
        CheckpointError: the file is missing, damaged, foreign, or does not fit the template.
    """
    document, tensors = _read(path)
    saved = document["leaves"]
    wanted, treedef = _describe_tree(template)
    for what, names in (("has no", wanted.keys() - saved.keys()), ("has an unexpected", saved.keys() - wanted.keys())):
        if names:
            raise CheckpointError(f"{path}: {what} leaf {sorted(names)[0]!r}; it was saved with another configuration")
    restored = []
    for name, leaf in wanted.items():
        for field, value in _describe(leaf).items():
            if saved[name].get(field) != value:
                raise CheckpointError(
                    f"{path}: leaf {name!r} has {field} {saved[name].get(field)}, expected {value}; "
                    "it was saved with another configuration"
                )
        value = _decode(saved[name], tensors.get(name), leaf)
        if _describe(value) != _describe(leaf):
            raise CheckpointError(f"{path}: leaf {name!r} needs 64-bit types; set jax_enable_x64 before loading")
        restored.append(value)
    return jax.tree_util.tree_unflatten(treedef, restored), document["meta"]
