"""Files that are whole or not there, and values as JSON and YAML have them."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def safe_name(text: str) -> str:
    """``text`` as one part of a folder name: no slashes or odd characters, no ``__`` (which separates the parts)."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", text)
    return re.sub(r"_{2,}", "_", name).strip("-._")[:60] or "unnamed"


def plain(value: Any, unknown: Callable[[Any], Any] = str) -> Any:
    """``value`` in the types that YAML and JSON share: named tuples and dataclasses become mappings, arrays lists.

    Args:
        value: anything.
        unknown: what becomes of other types, and may raise.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item, unknown) for key, item in value.items()}
    if hasattr(value, "_asdict"):
        return plain(value._asdict(), unknown)
    if hasattr(value, "__dataclass_fields__") and not isinstance(value, type):
        return {name: plain(getattr(value, name), unknown) for name in value.__dataclass_fields__}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item, unknown) for item in (sorted(value) if isinstance(value, (set, frozenset)) else value)]
    if hasattr(value, "tolist"):
        return plain(value.tolist(), unknown)
    return os.fspath(value) if isinstance(value, os.PathLike) else unknown(value)


def finite(value: Any) -> Any:
    """A plain value with None for NaN and the infinities, which JSON does not have."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


_counter = itertools.count()


def write_atomic(path: str | os.PathLike[str], data: bytes) -> None:
    """Replace ``path`` by ``data`` so that a reader, or a crash at any moment, sees the old file or the whole new one.

    Writes a temporary name in the same folder, syncs it, renames it, and syncs the folder. Raises ``OSError``.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{next(_counter)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames and removals in ``folder`` durable, where the operating system can sync a folder."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
