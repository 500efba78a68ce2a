"""How much memory a run takes, measured: by the process on a CPU, by the allocator on an accelerator.

On a CPU it is resident memory, as the kernel counts it (``VmRSS`` and its peak ``VmHWM`` in
/proc/self/status): python and the libraries, the weights, and what the C library keeps in its heap between
steps. The last is far from nothing: with activations of many sizes the heap grew to 1.6 times of what was
alive in it, so a count of tensors alone would be wrong by that much. On CUDA it is what torch has reserved.
"""

from __future__ import annotations

import os
import re
import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch

from studio.errors import ConfigError

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def bytes_of(text: str) -> int:
    """Return the bytes in ``8GB``, ``512MB``, ``7.5 GiB`` (or a plain number of bytes).

    Raises:
        ConfigError: for anything else, and for nothing at all.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?\s*", str(text), flags=re.IGNORECASE)
    if found is None or not float(found[1]):
        raise ConfigError(f"memory must be an amount such as 8GB or 512MB, not '{text}'")
    unit = _UNITS[found[2].upper()]
    if found[3]:
        unit = 1024 ** ("KMGT".index(found[2].upper()) + 1) if found[2] else 1
    return int(float(found[1]) * unit)


def told(count: float) -> str:
    """Return an amount of bytes for people: ``1.24 GB``."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


class Meter:
    """Reads the memory that this process takes on a device, and the most it took since `reset`."""

    def __init__(self, device: torch.device) -> None:
        """Measure on ``device``: an accelerator's own memory, or else the process's."""
        self._cuda = device if device.type == "cuda" else None

    def reset(self) -> None:
        """Let the peak be what is taken now, where the system allows it."""
        if self._cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self._cuda)
        else:
            with suppress(OSError):
                _CLEAR.write_text("5")

    @property
    def now(self) -> int:
        """What is taken now, in bytes."""
        return torch.cuda.memory_reserved(self._cuda) if self._cuda else _resident("VmRSS")

    @property
    def peak(self) -> int:
        """The most that was taken since `reset`, in bytes."""
        return torch.cuda.max_memory_reserved(self._cuda) if self._cuda else _resident("VmHWM")

    @property
    def available(self) -> int:
        """How much this process could take in all, in bytes: what it has, and what is free."""
        if self._cuda:
            free, _ = torch.cuda.mem_get_info(self._cuda)
            return free + self.now
        return min(_free() + self.now, _allowed())


def _resident(which: str) -> int:
    with suppress(OSError):
        found = re.search(rf"^{which}:\s*(\d+) kB", _STATUS.read_text(encoding="ascii"), flags=re.MULTILINE)
        if found:
            return int(found[1]) * 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # where there is no /proc: only ever the peak
    return most if sys.platform == "darwin" else most * 1024


def _free() -> int:
    with suppress(OSError):
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        if found := re.search(r"^MemAvailable:\s*(\d+) kB", text, flags=re.MULTILINE):
            return int(found[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _allowed() -> int:
    """Return what a container allows in all; a number beyond any machine where it does not say."""
    for file in _LIMITS:
        with suppress(OSError, ValueError):  # "max" is no number
            return int(file.read_text(encoding="ascii"))
    return 1 << 62
