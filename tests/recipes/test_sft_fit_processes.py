"""Memory that one of two processes does not get: both take smaller micro-batches, from the same sample on."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from recipes import sft
from studio.config import load
from studio.log import QuietLog
from studio.training.tracking import read_metrics

#: The first process limits its address space to what it has after two steps, and 0.7 of what one took.
CHILD = """
import ctypes, resource, sys
from recipes import sft
from studio.config import load
from studio.log import PlainLog
from studio.training.memory import Meter
import torch

def status(name):
    for line in open("/proc/self/status"):
        if line.startswith(name):
            return int(line.split()[1]) * 1024

class Limiting(PlainLog):
    steps = 0
    def advance(self, n=1, **figures):
        super().advance(n, **figures)
        if not figures.get("samples_per_s"):
            return
        self.steps += n
        peak = status("VmHWM")
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        if self.steps == 2:
            most = status("VmSize") + int(0.7 * (peak - status("VmRSS")))
            resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))
        Meter(torch.device("cpu")).reset()

sft.run(load(sft.Config, overrides=sys.argv[1:]), Limiting(every=0))
"""
ROOT = Path(__file__).resolve().parents[2]
#: Seconds; nothing takes that long unless it hangs.
LIMIT = 300


def two(given: dict[str, Any]) -> str:
    """Train by two processes, one of which is limited, and return what that one said."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    # Every large tensor is mapped by itself and given back at once, so that a limit is one of what is alive.
    shared |= {"MALLOC_MMAP_THRESHOLD_": "1000000", "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-c", CHILD, *(f"{key}={value}" for key, value in given.items())]
    started = [
        subprocess.Popen(
            line, cwd=ROOT, stderr=subprocess.PIPE, text=True,
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        said = [process.communicate(timeout=LIMIT)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], "\n".join(said)
    return said[0]


@pytest.mark.skipif(sys.platform != "linux", reason="limits of the address space are Linux's")
@pytest.mark.flaky(reruns=2)
def test_when_one_of_two_processes_runs_out_of_memory_both_halve_and_go_on(
    long_rows: dict[str, Any], tmp_path: Path
) -> None:
    """The kernel refuses the first process what a micro-batch of 4 takes, in a step like those before."""
    rows = long_rows["data"].with_name("longer.jsonl")
    rows.write_text(long_rows["data"].read_text().replace(" one two three", " one two three" * 2))
    # Products by oneDNN keep memory for every shape they have seen, which a limit would count, too.
    given = {
        **long_rows,
        "data": rows,
        "max_steps": 4,
        "speed.products": "false",
        "speed.keep_memory": "false",
    }
    said = two({**given, "batch_size": 4, "output": tmp_path / "short"})
    assert ": 4 rows do not fit the memory; it is done again, and the run goes on" in said
    alone = {**given, "batch_size": 8, "output": tmp_path / "free"}
    sft.run(load(sft.Config, overrides=[f"{key}={value}" for key, value in alone.items()]), QuietLog())
    short, free = (
        [row["loss"] for row in read_metrics(tmp_path / name) if "loss" in row] for name in ("short", "free")
    )
    assert len(short) == 4
    assert short == pytest.approx(free, abs=1e-5)
