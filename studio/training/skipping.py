"""Whether a run skips its frozen towers: if it can, its first rows prove it, and all features are there."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch

from studio.families._gauge import Gauge
from studio.log import Log
from studio.training.encoding import Encoded
from studio.training.features import Collate, TowerCache
from studio.training.loss import TokenLoss
from studio.training.parity import Gate
from studio.training.processes import Processes


def skip_towers(
    model: Any,
    gauge: Gauge,
    datasets: Sequence[Encoded],
    collate: Collate,
    log: Log,
    processes: Processes,
    *,
    dtype: torch.dtype = torch.float32,
) -> TowerCache | None:
    """Let rows come with features instead of media, computed now or found in the cache; None if they cannot.

    The first rows with media are computed both ways, loss and gradients (`Gate`). ``model`` is whole, on its
    device, and what learns is chosen; every process of a run must come here.
    """
    device = processes.accelerator.device
    if next(model.parameters()).device.type != device.type:
        log.say(f"tower_cache: off; with speed.strategy={processes.strategy} no process has the model whole")
        return None
    cache = TowerCache(model, gauge, log, device=device, dtype=dtype)
    loss = TokenLoss(model, device, dtype)
    try:
        gate = Gate(model, log, dtype=dtype, agree=processes.agree)
        if _filled(cache, datasets, loss, collate, gate, log, processes):
            return cache
    finally:
        loss.close()
    for each in datasets:
        each.instead = None
    cache.close()
    return None


def _filled(
    cache: TowerCache,
    datasets: Sequence[Encoded],
    loss: TokenLoss,
    collate: Collate,
    gate: Gate,
    log: Log,
    processes: Processes,
) -> bool:
    """Return whether all media have features that the gate lets pass."""
    data = next((each for each in datasets if cache.rows_with_media(each)), None)
    if data is None:
        return False
    rows = cache.rows_with_media(data)
    weights = [data.weights[row] for row in rows]
    media = [data.tensors(row, data.keys(row)) for row in rows]
    plain = gate.measure(lambda: loss(cache.model, collate(media), weights))
    if not gate.allows(
        "tower_cache", plain, lambda: loss(cache.model, cache.compute(data, rows, collate), weights)
    ):
        return False
    began = time.monotonic()
    reason = cache.fill(datasets, collate, part=processes.part)
    processes.accelerator.wait_for_everyone()
    if processes.agree(not reason):
        if processes.agree(all([cache.attach(each) for each in datasets])):
            log.say(f"tower_cache: {cache.told} ready after {time.monotonic() - began:.1f} s")
            return True
        reason = "some of the features were removed"
    log.say(f"tower_cache: off, because {reason or 'it is off on another process'}")
    return False
