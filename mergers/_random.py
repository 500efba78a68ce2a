"""Random numbers by position: the same on every device, in any order, in any number of threads.

The bits of element i are a hash of (key, i), so a tensor may be worked on in pieces of any size. The hash
is Wellons' "lowbias32" (2018, github.com/skeeto/hash-prospector) with the key mixed in before and between
its two multiplications; only 32-bit integer operations, which all devices do alike.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from studio.later import torch

if TYPE_CHECKING:
    from torch import Tensor


_WEYL: Final = 0x9E3779B1
_FIRST: Final = 0x7FEB352D
_SECOND: Final = 0x846CA68B
_ALL: Final = 0xFFFFFFFF


def key(*parts: object) -> int:
    """Return 64 bits that stand for the parts, in this order."""
    text = "\0".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def keep_(values: Any, probability: float, key: int, start: int = 0) -> Any:
    """Set each float32 value [n] to zero unless it is kept, which happens with ``probability``; in place.

    ``key`` is 64 bits, ``start`` the index of the first value. Exact to 2^-31. Works on the values' bits: a
    mask of booleans costs five times as much. NumPy arrays and tensors come out the same.
    """
    if probability >= 1:
        return values
    if isinstance(values, np.ndarray):
        mask: Any = array_bits(len(values), key, start).view(np.int32)
    else:
        mask = bits(values.numel(), key, start, values.device)
    mask >>= 1
    mask -= round(probability * 2**31) - 2**30
    mask >>= 31  # all ones where the difference was negative, else all zeros
    if values.itemsize == 4:
        whole = values.view(np.int32 if isinstance(values, np.ndarray) else torch.int32)
        whole &= mask
        return values
    values *= -mask
    return values


def bits(count: int, key: int, start: int = 0, device: torch.device | None = None) -> Tensor:
    """Return 32 random bits for each of the elements from ``start``, as int32 [count]."""
    high, low = start >> 32, start & 0xFFFFFFFF
    x = torch.arange(count, dtype=torch.int32, device=device)
    x *= _signed(_WEYL)
    x += _signed(low * _WEYL + key)
    spare = torch.empty_like(x)
    _shift(x, spare, 16)
    x *= _signed(_FIRST)
    x ^= _signed((key >> 32) ^ (high * _WEYL))
    _shift(x, spare, 15)
    x *= _signed(_SECOND)
    _shift(x, spare, 16)
    return x


def array_bits(count: int, key: int, start: int = 0) -> NDArray[np.uint32]:
    """Return the same bits as uint32 [count], in an array of its own."""
    high, low = start >> 32, start & 0xFFFFFFFF
    x = _steps(count) + np.uint32((low * _WEYL + key) & _ALL)
    spare = x >> 16
    x ^= spare
    x *= _FIRST
    x ^= ((key >> 32) ^ (high * _WEYL)) & _ALL
    np.right_shift(x, 15, out=spare)
    x ^= spare
    x *= _SECOND
    np.right_shift(x, 16, out=spare)
    x ^= spare
    return x


@lru_cache(maxsize=4)
def _steps(count: int) -> NDArray[np.uint32]:
    """Return the multiples of the Weyl constant [count], which every piece begins with."""
    steps: NDArray[np.uint32] = np.arange(count, dtype=np.uint32) * np.uint32(_WEYL)
    steps.setflags(write=False)
    return steps


def _shift(x: Tensor, spare: Tensor, by: int) -> None:
    """``x ^= x >> by`` for unsigned 32-bit numbers."""
    torch.bitwise_right_shift(x, by, out=spare)
    spare &= (1 << (32 - by)) - 1
    x ^= spare


def _signed(value: int) -> int:
    """Return the low 32 bits as a signed number."""
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value >= 1 << 31 else value
