"""Constants in C: arrays of the smallest type that holds them, one-bit weights packed in words."""

from __future__ import annotations

import textwrap

import numpy as np

TYPES = {
    "int8": "int8_t",
    "uint8": "uint8_t",
    "int16": "int16_t",
    "uint16": "uint16_t",
    "int32": "int32_t",
    "uint32": "uint32_t",
    "float32": "float",
}


class Arrays:
    """The constants of a policy, in the order in which they were added."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.bytes = 0
        self._found: dict[str, str] = {}

    def add(self, part: str, values: np.ndarray) -> None:
        """An array ``NAME_part``, flat."""
        flat = np.ascontiguousarray(values).reshape(-1)
        entries = ", ".join(literal(v) for v in flat)
        rows = textwrap.fill(entries, 116, initial_indent="    ", subsequent_indent="    ", break_long_words=False)
        head = f"static const {TYPES[str(flat.dtype)]} {self.name}_{part}[{len(flat)}]"
        self._found[part] = f"{head} = {{\n{rows}\n}};\n"
        self.bytes += flat.nbytes

    def constant(self, part: str, values: np.ndarray) -> str:
        """How entry ``i`` of float values is written: a literal where all are the same, else an array's."""
        if np.all(values == values[0]):
            self.bytes += values.itemsize
            return literal(values[0])
        self.add(part, values)
        return f"$_{part}[i]"

    def text(self) -> str:
        """All definitions."""
        return "\n".join(self._found.values())


def literal(value: np.generic) -> str:
    """A number in C; float32 with the nine digits that determine it."""
    if isinstance(value, np.floating):
        text = f"{float(value):.9g}"
        return text + ("f" if "." in text or "e" in text else ".0f")
    if isinstance(value, np.unsignedinteger):
        return f"0x{int(value):0{2 * value.itemsize}x}u" if value.itemsize == 4 else f"{int(value)}"
    return str(int(value))


def smallest(values: np.ndarray) -> np.ndarray:
    """Integers in the smallest signed type that holds them all."""
    reach = int(np.abs(values).max(initial=0))
    return values.astype(np.int8 if reach < 2**7 else np.int16 if reach < 2**15 else np.int32)


def packed_rows(weight: np.ndarray, copies: int = 1) -> np.ndarray:
    """One-bit weights (m, c k) of -1 and 1, packed along the k inputs of each copy: (m, c, ceil(k / 32)) uint32."""
    rows = (weight.reshape(len(weight), copies, -1) > 0).astype(np.uint32)
    inputs = rows.shape[-1]
    rows = np.pad(rows, ((0, 0), (0, 0), (0, -inputs % 32))).reshape(*rows.shape[:2], -1, 32)
    return (rows << np.arange(32, dtype=np.uint32)).sum(axis=-1, dtype=np.uint32)


def packed_nibbles(weight: np.ndarray, copies: int = 1) -> np.ndarray:
    """The same, packed for tables of 4 inputs: (ceil(k / 4), c, ceil(m / 8)) uint32, 4 bits for each of 8 outputs."""
    outputs = len(weight)
    bits = (weight.reshape(outputs, copies, -1) > 0).astype(np.uint32)
    bits = np.pad(bits, ((0, -outputs % 8), (0, 0), (0, -bits.shape[-1] % 4)))
    bits = bits.reshape(len(bits), copies, -1, 4)
    nibbles = (bits << np.arange(4, dtype=np.uint32)).sum(axis=-1, dtype=np.uint32)  # (m, c, k / 4)
    words = nibbles.transpose(2, 1, 0).reshape(nibbles.shape[2], copies, -1, 8)
    return (words << (4 * np.arange(8, dtype=np.uint32))).sum(axis=-1, dtype=np.uint32)
