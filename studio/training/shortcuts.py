"""What a run need not compute: all fast paths in the order in which they stand on each other.

Products come first, because they change what a tower computes; frozen towers are skipped before rows are
packed, which then hold features; the last layer and the compiler see the batches as they will be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from studio.families._gauge import Gauge
from studio.log import Log
from studio.training.fast_paths import FastPaths
from studio.training.features import TowerCache
from studio.training.processes import Processes
from studio.training.rows import Tensors
from studio.training.settings import Speed
from studio.training.skipping import skip_towers
from studio.types import Batch

Collate = Callable[[Sequence[Batch]], Batch]


@dataclass(frozen=True, kw_only=True)
class Shortcuts:
    """How rows become a batch, the towers that are skipped, the layer of which only a part is computed."""

    collate: Collate
    towers: TowerCache | None
    last: torch.nn.Module | None


def take_shortcuts(
    model: Any,
    gauge: Gauge,
    data: Tensors,
    speed: Speed,
    collate: Collate,
    log: Log,
    processes: Processes,
    *,
    dtype: torch.dtype,
    rows: int,
    micro: int,
) -> Shortcuts:
    """Take every fast path that is switched on and computes the same; ``rows`` are a process's in a step.

    ``model`` is whole, on its device, and what learns is chosen; ``micro`` rows are a micro-batch. Every
    process of a run must come here.
    """
    fast = FastPaths(model, speed, data.train, log, processes, dtype=dtype)
    fast.products(collate)
    towers = None
    if speed.tower_cache:
        towers = skip_towers(model, gauge, data.steady, collate, log, processes, dtype=dtype)
    if towers:
        collate = towers.collate(collate)
    collate = fast.packing(fast.places(collate), rows, micro)
    fast.short_queries(collate)
    last = fast.last_layer(collate)
    fast.compiled(collate)
    return Shortcuts(collate=collate, towers=towers, last=last)
