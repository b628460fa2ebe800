"""Results as one HTML page that stands alone: no network, no external files, the data inside.

The page filters, aggregates, sorts and draws in the reader's browser from the runs that it carries, so it can be
mailed or committed as it is. Its statistics are those of :mod:`polystep_rl.analysis.stats`, written a second time in
JavaScript; a test in a real browser holds the two together.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any

from polystep_rl.analysis.curves import curve_points
from polystep_rl.analysis.palette import algo_order, marker_path, precision_order, style
from polystep_rl.files import finite, plain

FORMAT = "polystep_rl.results"
Results = Mapping[str, Any]  # a results document, or one run of it

_TEMPLATE, _SCRIPT = "page_template.html", "page_script.html"
_NAMES = ("env", "algo", "policy")


def build_report(documents: Results | Iterable[Results], title: str = "polystep-rl results") -> str:
    """The page for a results document, for several of them, or for a plain list of runs.

    Args:
        documents: one document, or any mix of documents and runs.
        title: heading of the page; any text.

    Returns:
        the page's HTML; write it as UTF-8.

    Raises:
        ValueError: for something that is neither a document nor a run, in one line.
    """
    runs: list[Results] = []
    failed: list[Results] = []
    systems: list[Results] = []
    for part in [documents] if isinstance(documents, Mapping) else documents:
        if not isinstance(part, Mapping):
            raise ValueError(f"a {type(part).__name__} among the results: expected a results document or a run")
        if part.get("format", FORMAT) != FORMAT:
            raise ValueError(f"a document of format {part['format']!r}: expected {FORMAT!r}")
        if "runs" in part or "failed" in part:
            runs += part.get("runs") or []
            failed += part.get("failed") or []
            systems.append(part.get("system") or {})
        else:
            runs.append(part)
    shown = [_run(run) for run in runs]
    missing = [_named(cell) for cell in failed]
    algos = algo_order(row["algo"] for row in shown + missing)
    data = {
        "runs": shown,
        "failed": missing,
        "facts": _facts(systems, shown),
        "policies": precision_order(row["policy"] for row in shown + missing),
        "styles": [[algo, _look(algo)] for algo in algos],  # pairs: a name as a key could be __proto__
    }
    template, script = (
        resources.files(__package__).joinpath(name).read_text(encoding="utf-8") for name in (_TEMPLATE, _SCRIPT)
    )
    # The page's policy lets the browser run this script and no other: whatever got into the page stays text.
    code = script.partition("<script>")[2].rpartition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    fills = {"TITLE": html.escape(title), "DATA": embed(data), "SCRIPT": script, "SCRIPT_HASH": digest}
    # All in one pass: what is filled in is never itself searched for marks.
    return re.sub(r"\{\{([A-Z_]+)\}\}", lambda found: fills[found[1]], template)


def embed(data: Any) -> str:
    """JSON that cannot end the ``<script>`` element which it stands in, whatever strings it holds.

    ASCII only, so U+2028 and U+2029 are escaped as well; values that are not finite become null.
    """
    text = json.dumps(finite(plain(data)), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _named(row: Results) -> dict[str, Any]:
    """A run or a failed cell with its names as text."""
    if not isinstance(row, Mapping):
        raise ValueError(f"a {type(row).__name__} among the runs: expected a mapping")
    return {**row, **{key: "unknown" if row.get(key) is None else str(row[key]) for key in _NAMES}}


def _run(row: Results) -> dict[str, Any]:
    """A run as the page wants it: its names as text, its curve as pairs of finite numbers in order."""
    curve = row.get("curve") if isinstance(row, Mapping) else None
    return {**_named(row), "curve": curve_points(curve)}


def _facts(systems: Iterable[Results], runs: Iterable[Results]) -> list[tuple[str, str]]:
    """Versions and devices that the runs were measured with, by name."""
    found: dict[str, dict[str, None]] = {}  # dictionaries keep the order of first occurrence

    def note(source: Any) -> None:
        for name, value in source.items() if isinstance(source, Mapping) else ():
            if isinstance(value, (str, int, float)):
                found.setdefault(str(name), {})[str(value)] = None

    for run in runs:
        note({"device": run.get("device")})
        note(run.get("versions"))
    for system in systems:
        for key, value in system.items():
            note(value if key in ("packages", "versions") else {key: value})
    first = {"device": 0, "platform": 1, "python": 2, "polystep-rl": 3, "polystep_rl": 3, "jax": 4}
    return [(name, ", ".join(found[name])) for name in sorted(found, key=lambda name: (first.get(name, 9), name))]


def _look(algo: str) -> dict[str, Any]:
    look = style(algo)
    return {"color": look.color, "dark": look.dark, "dash": look.dash, "marker": marker_path(look.marker)}
