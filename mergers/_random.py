"""Random numbers by position: the same on every device, in any order, in any number of threads.

The bits of element i are a hash of (key, i), so a tensor may be worked on in pieces of any size. The hash
is Wellons' "lowbias32" (2018, github.com/skeeto/hash-prospector) with the key mixed in before and between
its two multiplications; only 32-bit integer operations, which all devices do alike.
"""

from __future__ import annotations

import hashlib
from typing import Final

import torch
from torch import Tensor

_FIRST: Final = 0x7FEB352D
_SECOND: Final = 0x846CA68B - (1 << 32)


def key(*parts: object) -> int:
    """Return 64 bits that stand for the parts, in this order."""
    text = "\0".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def keep(count: int, probability: float, key: int, start: int = 0, device: object = None) -> Tensor:
    """Return booleans [count], each true with ``probability``, for the elements from ``start``.

    ``key`` is 64 bits. Exact to 2^-32; a probability of 1 keeps all.
    """
    if probability >= 1:
        return torch.ones(count, dtype=torch.bool, device=device)  # type: ignore[call-overload, no-any-return]
    limit = round(probability * 2**32) - 2**31
    return bits(count, key, start, device) < limit


def bits(count: int, key: int, start: int = 0, device: object = None) -> Tensor:
    """Return 32 random bits for each of the elements from ``start``, as int32 [count]."""
    high, low = _signed(start >> 32), _signed(start)
    first, second = _signed(key), _signed((key >> 32) ^ high)
    x = torch.arange(count, dtype=torch.int32, device=device)  # type: ignore[call-overload]
    x += _signed(low + first)
    spare = torch.empty_like(x)
    _shift(x, spare, 16)
    x *= _FIRST
    x ^= second
    _shift(x, spare, 15)
    x *= _SECOND
    _shift(x, spare, 16)
    return x  # type: ignore[no-any-return]


def _shift(x: Tensor, spare: Tensor, by: int) -> None:
    """``x ^= x >> by`` for unsigned 32-bit numbers."""
    torch.bitwise_right_shift(x, by, out=spare)
    spare &= (1 << (32 - by)) - 1
    x ^= spare


def _signed(value: int) -> int:
    """Return the low 32 bits as a signed number."""
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value >= 1 << 31 else value
