"""The positions of a row's tokens on three axes (M-RoPE), made once and not in every batch of every epoch.

A model with such positions goes through the tokens of each row, one medium after the other, in every step.
They depend on the row alone; here they are kept for the rows that were seen last.
"""

from __future__ import annotations

import hashlib
import inspect
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from studio.tensorfile import as_bytes
from studio.training.shards import TEXT
from studio.types import Batch

Collate = Callable[[Sequence[Batch]], Batch]

#: Bytes of positions that are kept.
KEPT = 1 << 26


#: Numbers with a fraction decide about positions if they are so few: seconds, not a medium itself.
_FEW = 1024


class Axes:
    """The rule by which a model gives tokens positions on three axes; false where they have one."""

    def __init__(self, model: Any) -> None:
        """Find the rule of ``model``."""
        self._rule = next(
            (m.compute_3d_position_ids for m in model.modules() if hasattr(m, "compute_3d_position_ids")),
            None,
        )

    def __bool__(self) -> bool:
        """Say whether there is such a rule."""
        return self._rule is not None

    def __call__(self, batch: Batch) -> Tensor:
        """Return the positions [3, B, L] of a batch's tokens; those of a text alone are its places."""
        assert self._rule is not None
        known: dict[str, Any] = dict(batch)
        if "feature_attention_mask" in batch:
            known["audio_feature_lengths"] = batch["feature_attention_mask"].sum(-1)
        wanted = set(inspect.signature(self._rule).parameters)
        made: Tensor | None = self._rule(**{key: known.get(key) for key in wanted})
        if made is None:
            made = (batch["attention_mask"].long().cumsum(1) - 1)[None].expand(3, -1, -1)
        return made.to(torch.long)


class Places:
    """Makes batches that carry their positions: a ``collate`` in the place of another."""

    def __init__(self, model: Any, collate: Collate, kept: int = KEPT) -> None:
        """Add positions to the batches that ``collate`` makes for ``model``; at most ``kept`` bytes stay."""
        self._collate, self._axes = collate, Axes(model)
        self._known: OrderedDict[bytes, Tensor] = OrderedDict()
        self._room = kept

    def __call__(self, items: Sequence[Batch]) -> Batch:
        """Return samples as a batch with ``position_ids`` [3, B, L], those of padding 0."""
        batch = self._collate(items)
        mask = batch["attention_mask"].bool()
        made = torch.zeros((3, *mask.shape), dtype=torch.long)
        made[:, mask] = torch.cat([self._row(item) for item in items], dim=1)
        return batch | {"position_ids": made}

    def _row(self, item: Batch) -> Tensor:
        """Return the positions [3, L] of one row."""
        told = hashlib.blake2b(digest_size=16)
        for name in sorted(item):
            if _decides(name, item[name]):
                told.update(name.encode())
                told.update(as_bytes(item[name].contiguous()))
        key = told.digest()
        if key in self._known:
            self._known.move_to_end(key)
            return self._known[key]
        batch = self._collate([item])
        made = self._known[key] = self._axes(batch)[:, batch["attention_mask"].bool()]
        self._room -= made.nbytes
        while self._room < 0 and len(self._known) > 1:
            self._room += self._known.popitem(last=False)[1].nbytes
        return made


def _decides(name: str, value: Tensor) -> bool:
    """Whether positions can depend on a tensor: on ids, and on numbers that say how large media are."""
    return name != "labels" and (name in TEXT or not value.is_floating_point() or value.numel() <= _FEW)
