"""Stored floating-point types as NumPy arrays to compute with, and back: what torch does, without torch.

    widen(raw, "BF16")      bytes as they are stored -> float32 [n] (float64 for F64)
    narrow(values, "BF16")  values -> an array with the bytes to store, rounded to the nearest, ties to even
    sound(raw, "BF16")      whether all of the stored values are finite

Formats: bfloat16 is the upper half of a float32; the 8-bit types follow Micikevicius et al. 2022, "FP8
Formats for Deep Learning", arXiv:2209.05433, table 1.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Types that can be read; those of 8 bits cannot be written here.
READABLE = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
WRITABLE = ("F64", "F32", "F16", "BF16")
#: Per type, the unsigned type of its size, all bits but the sign, and the least of them that is not finite.
_BITS: dict[str, tuple[Any, int, int]] = {
    "F64": (np.uint64, 0x7FFF_FFFF_FFFF_FFFF, 0x7FF0_0000_0000_0000),
    "F32": (np.uint32, 0x7FFF_FFFF, 0x7F80_0000),
    "F16": (np.uint16, 0x7FFF, 0x7C00),
    "BF16": (np.uint16, 0x7FFF, 0x7F80),
    "F8_E4M3": (np.uint8, 0x7F, 0x7F),
    "F8_E5M2": (np.uint8, 0x7F, 0x7C),
}

Values = NDArray[Any]


def widen(raw: Values, kind: str) -> Values:
    """Return finite stored values as float32 [n], or float64 [n] for F64; a view where nothing changes."""
    if kind == "BF16":
        wide: Values = raw.view(np.uint16).astype(np.uint32)
        wide <<= 16
        return wide.view(np.float32)
    if kind == "F16":
        return _half(raw.view(np.uint16))
    if kind in ("F32", "F64"):
        return raw.view(np.float32 if kind == "F32" else np.float64)
    return _table(kind)[raw.view(np.uint8)]


def narrow(values: Values, kind: str) -> Values:
    """Return finite float32 or float64 values [n] as they are stored; what is too large becomes infinite."""
    if kind == "BF16":
        bits = values.astype(np.float32, copy=False).view(np.uint32)
        stored: Values = bits >> 16
        stored &= 1
        stored += (
            0x7FFF  # one half less than the last place that stays; with the place's own bit: ties to even
        )
        stored += bits
        stored >>= 16
        return stored.astype(np.uint16)
    types = {"F16": np.float16, "F32": np.float32, "F64": np.float64}
    with np.errstate(over="ignore"):
        if kind == "F16":  # in two steps, as torch does it
            values = values.astype(np.float32, copy=False)
        return values.astype(types[kind], copy=False)


def sound(raw: Values, kind: str) -> bool:
    """Return whether all stored values are finite."""
    whole, magnitude, first = _BITS[kind]
    bits = raw.view(whole)
    return not bits.size or int((bits & magnitude).max()) < first


def _half(raw: Values) -> Values:
    """Return finite float16 values as float32; NumPy's own conversion takes four times as long."""
    wide: Values = raw.astype(np.uint32)
    sign = wide & 0x8000
    sign <<= 16
    wide &= 0x7FFF
    wide <<= 13  # fraction and exponent in their places, the exponent still less by 127 - 15
    found: Values = wide.view(np.float32)
    found *= np.float32(2.0**112)
    wide |= sign
    return found


@cache
def _table(kind: str) -> Values:
    """Return the 256 values of an 8-bit type."""
    mantissa, bias = (3, 7) if kind == "F8_E4M3" else (2, 15)
    code = np.arange(256)
    exponent, fraction = (code & 0x7F) >> mantissa, (code & ((1 << mantissa) - 1)) / (1 << mantissa)
    size = np.where(exponent > 0, (1 + fraction) * 2.0 ** (exponent - bias), fraction * 2.0 ** (1 - bias))
    size[(code & 0x7F) >= _BITS[kind][2]] = np.nan
    if kind == "F8_E5M2":
        size[(code & 0x7F) == 0x7C] = np.inf
    return np.where(code & 0x80, -size, size).astype(np.float32)
