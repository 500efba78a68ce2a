"""Rows joined into one long sequence, so that no padding is computed; each still sees only itself.

A padded batch [B, L] becomes [1, N], N its tokens without padding. Position ids begin anew with every row (by
the model's own rule where they have three axes, as M-RoPE's), and that is how transformers recognises the
rows: without an attention mask it lets attention be block-diagonal, by a mask for sdpa, by cumulated lengths
for flash attention. Media stay joined in the order of the rows. Whether a model computes the same is for the
gate (`parity`) to find out on real rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from studio.training.places import Axes
from studio.types import Batch

Collate = Callable[[Sequence[Batch]], Batch]

#: What a batch holds for each of its tokens [B, L].
TEXT = ("input_ids", "labels", "token_type_ids", "mm_token_type_ids")
IGNORE = -100


class Packing:
    """Makes packed batches: a ``collate`` in the place of another."""

    def __init__(self, model: Any, collate: Collate) -> None:
        """Pack what ``collate`` makes for ``model``, which is a decoder alone."""
        self._collate, self._positions = collate, Axes(model)

    def __call__(self, items: Sequence[Batch]) -> Batch:
        """Return samples [L_i] as a batch [1, N] with ``rows`` [1, N], which tells the sample of a token."""
        return self.pack(self._collate(items))

    def pack(self, batch: Batch) -> Batch:
        """Return a padded batch without its padding."""
        if "input_ids" not in batch:
            raise ValueError("its text is read by a decoder beside an encoder")
        kept = batch["attention_mask"].bool()
        made = {key: value for key, value in batch.items() if key not in (*TEXT, "attention_mask")}
        for key in TEXT:
            if key in batch:
                made[key] = batch[key][kept][None]
        places = (kept.cumsum(1) - 1)[kept][None]
        made["position_ids"] = (
            places if (axes := self._axes(batch, kept)) is None else torch.cat((places[None], axes))
        )
        made["rows"] = torch.arange(len(kept)).repeat_interleave(kept.sum(1))[None]
        if "labels" in made:  # nothing predicts the first token of a row, least of all the row before it
            made["labels"] = made["labels"].masked_fill(places == 0, IGNORE)
        return made

    def _axes(self, batch: Batch, kept: Tensor) -> Tensor | None:
        """Return the position ids of a model with three axes [3, 1, N]; None for one with one."""
        if not self._positions:
            return None
        made = batch["position_ids"] if "position_ids" in batch else self._positions(batch)
        return made[:, kept][:, None]


def packing_pays(
    lengths: Sequence[Sequence[int]], *, parameters: int, width: int, flash: bool = False
) -> bool:
    """Return whether micro-batches of rows of these ``lengths`` cost less packed than padded.

    A token costs the products with ``parameters`` weights of the language model, and those of attention
    with the tokens beside it: all of the padded row's, all of the packed sequence's, or with ``flash`` only
    its own row's. ``width`` is the sum over layers of the width of attention. Both count forward products.
    """
    padded = packed = 0
    for rows in lengths:
        longest, tokens = max(rows), sum(rows)
        padded += len(rows) * longest * (2 * parameters + 4 * longest * width)
        seen = sum(length * length for length in rows) if flash else tokens * tokens
        packed += tokens * 2 * parameters + seen * 4 * width
    return packed < 0.97 * padded  # less is not worth other sums
