"""Whether a run skips its frozen towers: if it can, its first rows prove it, and all features are there."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from studio.log import Log
from studio.training.encoding import Encoded
from studio.training.features import Collate, TowerCache
from studio.training.loss import TokenLoss
from studio.training.parity import Gate


def skip_towers(
    features: TowerCache,
    datasets: Sequence[Encoded],
    loss: TokenLoss,
    collate: Collate,
    gate: Gate,
    log: Log,
    *,
    part: tuple[int, int] = (0, 1),
    wait: Callable[[], None] = lambda: None,
    agree: Callable[[bool], bool] = bool,
) -> bool:
    """Return whether batches now come with features: computed, or found in the cache, for all ``datasets``.

    The first rows with media are computed both ways (`Gate`). Every process of a run must come here; ``part``
    is its share of the work, ``wait`` returns when all have come to it, ``agree`` says whether all say yes.
    """
    data = datasets[0]
    rows = features.rows_with_media(data)
    if not features.cuts or not rows:
        features.close()
        return False
    weights = [data.weights[row] for row in rows]
    model = features.model
    media = [data.tensors(row, data.keys(row)) for row in rows]
    plain = gate.measure(lambda: loss(model, collate(media), weights))
    if not gate.allows(
        "tower_cache", plain, lambda: loss(model, features.compute(data, rows, collate), weights)
    ):
        features.close()
        return False
    began = time.monotonic()
    reason = features.fill(datasets, collate, part=part)
    wait()
    if agree(not reason):
        whole = [features.attach(each) for each in datasets]
        if agree(all(whole)):
            log.say(f"tower_cache: {features.told} ready after {time.monotonic() - began:.1f} s")
            return True
        reason = "another process removed some of the features"
    log.say(f"tower_cache: off, because {reason or 'it is off on another process'}")
    for each in datasets:
        each.instead = None
    features.close()
    return False
