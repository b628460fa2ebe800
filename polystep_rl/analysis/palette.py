"""One look per algorithm, in every figure and on the report page: colour, dashes, marker and hatch.

The colours are Okabe and Ito's, which people with colour blindness tell apart; dashes, markers and hatches differ as
well, so that a print in black and white is legible. The look depends on the name alone: leaving an algorithm out of
a figure does not recolour the others.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from typing import NamedTuple

BLACK, ORANGE, SKY, GREEN, BLUE, VERMILLION, PURPLE, GREY = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7", "#7F7F7F",
)  # fmt: skip  # Okabe-Ito without its yellow, which is too pale for lines on white; grey is for the reference
ON_DARK = {BLACK: "#E8E8E8"}  # what cannot be seen on a dark page

SOLID: tuple[float, ...] = ()
DASHED, DOTTED, DASHDOT, LONG, DASHDOTDOT = (4, 1.5), (1, 1.3), (5, 1.5, 1, 1.5), (8, 2), (5, 1.5, 1, 1.5, 1, 1.5)


class Style(NamedTuple):
    """How one algorithm is drawn."""

    color: str
    dash: tuple[float, ...]  # on, off, ... in line widths; empty is solid
    marker: str  # matplotlib's name of it
    hatch: str  # matplotlib's name of it

    @property
    def dark(self) -> str:
        """The colour on a dark background."""
        return ON_DARK.get(self.color, self.color)

    @property
    def linestyle(self) -> str | tuple[float, tuple[float, ...]]:
        """The dashes as matplotlib wants them."""
        return (0.0, self.dash) if self.dash else "-"


# In the order of legends. Any two differ in at least two of colour, dashes and marker, and all in their hatch.
ALGO_STYLES: dict[str, Style] = {
    "polystep": Style(VERMILLION, SOLID, "o", ""),
    "open_es": Style(BLUE, DASHED, "s", "//"),
    "cma_es": Style(GREEN, DASHDOT, "^", "\\\\"),
    "sep_cma_es": Style(GREEN, DOTTED, "<", "\\"),
    "snes": Style(SKY, LONG, ">", "/"),
    "pgpe": Style(BLUE, DOTTED, "h", "OO"),
    "ars": Style(PURPLE, DASHDOT, "d", "/o"),
    "eggroll": Style(PURPLE, LONG, "D", "xx"),
    "spsa": Style(VERMILLION, DOTTED, "s", "\\o"),
    "hill_climbing": Style(GREY, DASHED, "h", "-/"),
    "random_search": Style(GREY, DASHDOTDOT, "p", "**"),
    "ppo": Style(BLACK, SOLID, "v", ".."),
    "ppo-ste": Style(SKY, DASHED, "P", "++"),
    "ppo-ptq": Style(ORANGE, DASHDOT, "X", "--"),
    "dqn": Style(BLACK, DOTTED, "*", "oo"),
    "dqn-ste": Style(SKY, DASHDOTDOT, "^", "+"),
    "dqn-ptq": Style(ORANGE, LONG, "<", "||"),
    "sac": Style(GREEN, SOLID, "s", "O"),
    "sac-ste": Style(PURPLE, SOLID, "^", "|/"),
    "sac-ptq": Style(GREEN, DASHED, "o", "o-"),
    "td3": Style(GREY, SOLID, "<", "x."),
    "td3-ste": Style(GREY, DOTTED, "o", "*-"),
    "td3-ptq": Style(BLACK, DASHED, "^", "\\|"),
}
_ALIASES = {name.replace("-", "_"): name for name in ALGO_STYLES}
_COLORS = (BLUE, GREEN, PURPLE, SKY, ORANGE, VERMILLION, GREY)
_DASHES = (SOLID, DASHED, DOTTED, DASHDOT, LONG, DASHDOTDOT)
_MARKERS = ("8", "H")  # none of the table's, so that a new name never looks like a known one
_HATCHES = ("x", "-", "|", "o", "O", ".", "*", "\\-", "-o", "|o")

WIDE_TO_NARROW = ("float32", "int8", "int8-act", "binary-act", "binary")


def style(algo: str) -> Style:
    """The look of an algorithm: from the table, ``-`` and ``_`` being one, or else derived from the name."""
    known = _ALIASES.get(algo.lower().replace("-", "_"))
    if known is not None:
        return ALGO_STYLES[known]
    digest = hashlib.sha256(algo.encode("utf-8", "surrogatepass")).digest()  # hash() differs between processes
    return Style(
        _COLORS[digest[0] % len(_COLORS)],
        _DASHES[digest[1] % len(_DASHES)],
        _MARKERS[digest[2] % len(_MARKERS)],
        _HATCHES[digest[3] % len(_HATCHES)],
    )


def algo_order(algos: Iterable[str]) -> list[str]:
    """Each name once: the table's in its order, then the others by name."""
    known = list(ALGO_STYLES)
    rank = {name: known.index(alias) for name, alias in _ALIASES.items()}
    return sorted(set(algos), key=lambda algo: (rank.get(algo.lower().replace("-", "_"), len(known)), algo))


def precision_order(policies: Iterable[str]) -> list[str]:
    """Each precision once: from wide to narrow, then what is unknown by name."""
    rank = {name: index for index, name in enumerate(WIDE_TO_NARROW)}
    return sorted(set(policies), key=lambda policy: (rank.get(policy, len(rank)), policy))


def marker_path(marker: str) -> str:
    """The outline of a marker as SVG path data, one unit about the origin; a circle for one that is not known."""
    corners = _OUTLINES.get(marker)
    if corners is None:
        return "M-1 0A1 1 0 1 1 1 0A1 1 0 1 1-1 0Z"
    return "M" + "L".join(f"{round(x, 3):g} {round(y, 3):g}" for x, y in corners) + "Z"


def _regular(corners: int, turn: float = 0.0, inner: float | None = None) -> list[tuple[float, float]]:
    """A regular polygon with a corner at the top, or turned by some of a circle; a star with an inner radius."""
    radii = [1.0] if inner is None else [1.0, inner]
    count = corners * len(radii)
    angles = [2 * math.pi * (index / count + turn) for index in range(count)]
    return [(radii[i % len(radii)] * math.sin(a), -radii[i % len(radii)] * math.cos(a)) for i, a in enumerate(angles)]


def _turned(outline: list[tuple[float, float]], eighths: int) -> list[tuple[float, float]]:
    cos, sin = math.cos(math.pi / 4 * eighths), math.sin(math.pi / 4 * eighths)
    return [(cos * x - sin * y, sin * x + cos * y) for x, y in outline]


_PLUS = [
    (-0.36, -1.0), (0.36, -1.0), (0.36, -0.36), (1.0, -0.36), (1.0, 0.36), (0.36, 0.36),
    (0.36, 1.0), (-0.36, 1.0), (-0.36, 0.36), (-1.0, 0.36), (-1.0, -0.36), (-0.36, -0.36),
]  # fmt: skip
_TRIANGLE = [(0.0, -1.0), (1.0, 0.9), (-1.0, 0.9)]
_OUTLINES = {
    "s": [(-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)],
    "^": _TRIANGLE,
    "v": _turned(_TRIANGLE, 4),
    ">": _turned(_TRIANGLE, 2),
    "<": _turned(_TRIANGLE, 6),
    "D": _regular(4),
    "d": [(0.6 * x, y) for x, y in _regular(4)],
    "P": _PLUS,
    "X": _turned(_PLUS, 1),
    "*": _regular(5, inner=0.42),
    "p": _regular(5),
    "h": _regular(6),
    "H": _regular(6, turn=1 / 12),
    "8": _regular(8, turn=1 / 16),
}
