"""How many threads to compute with: as many as there are physical cores to run them, never more.

Threads that wait for each other on too few cores cost more than they bring: two on busy siblings of one core
can be ten times slower than one.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import torch

_CPUS = Path("/sys/devices/system/cpu")
_QUOTAS = (Path("/sys/fs/cgroup/cpu.max"), Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"))


def set_threads(count: int | None = None) -> int:
    """Let torch compute with ``count`` threads and return the number.

    Without a count, OMP_NUM_THREADS decides, and where that is not set, `physical_cores`.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "")
    chosen = count or (int(asked) if asked.isdigit() and int(asked) > 0 else physical_cores())
    torch.set_num_threads(chosen)
    return chosen


def physical_cores() -> int:
    """Return the physical cores this process may use: affinity, hyper-threads and container quota counted."""
    if hasattr(os, "sched_getaffinity"):
        allowed = sorted(os.sched_getaffinity(0))
    else:
        allowed = list(range(os.cpu_count() or 1))
    cores = {_siblings(cpu) for cpu in allowed}
    return max(1, min(len(cores), _quota(len(cores))))


def _siblings(cpu: int) -> str:
    """Return the hyper-threads of a core as the kernel names them, or the processor itself if unknown."""
    with suppress(OSError):
        return (_CPUS / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text().strip()
    return str(cpu)


def _quota(cores: int) -> int:
    """Return the whole processors a container's quota pays for, at most ``cores``."""
    for file in _QUOTAS:
        with suppress(OSError, ValueError, IndexError):
            words = file.read_text().split()
            quota = int(words[0])  # "max" and "-1" say that there is none
            period = int(words[1] if len(words) > 1 else file.with_name("cpu.cfs_period_us").read_text())
            if quota > 0:
                return max(1, quota // period)
    return cores
