"""Memory that a step has freed stays with the process, for the next step.

glibc gives large blocks back to the system when they are freed, and fetches them again a moment later: the
system then clears every page anew. A training step of a small model asks for thousands of pages that way, a
fifth of its time. At most `KEPT` bytes of free memory are kept.
"""

from __future__ import annotations

import ctypes
import sys

#: The most free bytes that stay at the end of the heap.
KEPT = 1 << 30
#: Larger blocks are mapped on their own whatever is asked for: glibc allows no higher threshold.
_MAPPED = 1 << 25
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> bool:
    """Let the allocator keep what is freed; return whether it takes orders, as glibc's on Linux does."""
    if sys.platform != "linux":
        return False
    order = getattr(ctypes.CDLL(None), "mallopt", None)
    return order is not None and bool(order(_MMAP_THRESHOLD, _MAPPED) and order(_TRIM_THRESHOLD, KEPT))
