"""References held against a model in one pass: which of their tokens it would have said.

Each token is predicted from the reference's tokens before it. If all are the likeliest ones, then greedy
decoding says the reference, end included; so exact match costs one pass instead of one for each token, and
the same rows can be asked of many models.

    asked = Forced(loaded, family, samples)
    [row.exact for row in asked.ask()]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from studio.later import torch
from studio.types import Batch, Family, Loaded, Sample

if TYPE_CHECKING:
    from studio.training.loss import TokenLoss


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one reference is to a model: its tokens, how many of them are the likeliest, and log p in nats."""

    tokens: int
    right: int
    log_p: float

    @property
    def exact(self) -> float:
        """1.0 if greedy decoding says the reference, else 0.0."""
        return float(self.right == self.tokens)

    @property
    def share(self) -> float:
        """The share of tokens that are the likeliest."""
        return self.right / self.tokens

    @property
    def likelihood(self) -> float:
        """The geometric mean of the tokens' probabilities, in [0, 1]."""
        return math.exp(self.log_p / self.tokens)


class Forced:
    """Rows with their references, encoded once, to be asked of a model whose weights change in between."""

    def __init__(
        self, loaded: Loaded, family: Family, samples: Sequence[Sample], *, batch_size: int = 32
    ) -> None:
        """Encode the samples; rows of like length go into one batch."""
        self._model, self.count = loaded.model, len(samples)
        items = [family.encode(loaded.processor, sample, True) for sample in samples]
        order = sorted(range(len(items)), key=lambda at: int(items[at]["labels"].numel()))
        self.batches: list[tuple[list[int], Batch]] = []
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            batch = family.collate(loaded.processor, [items[at] for at in places], "right")
            self.batches.append((places, batch))

    def ask(self, advance: Callable[[int], None] = lambda _: None) -> list[Row]:
        """Return what each reference is to the model as it is now, in the samples' order."""
        from studio.training.loss import TokenLoss

        parameter = next(self._model.parameters())
        loss: TokenLoss = TokenLoss(self._model, parameter.device, most=0)
        found: list[Row | None] = [None] * self.count
        try:
            with torch.inference_mode():
                for places, batch in self.batches:
                    moved = {
                        key: value.to(parameter.dtype) if value.is_floating_point() else value
                        for key, value in batch.items()
                    }
                    told = loss.hits(self._model, moved, len(places))
                    for at, log_p, right, tokens in zip(
                        places, *(each.tolist() for each in told), strict=True
                    ):
                        found[at] = Row(tokens=int(tokens), right=int(right), log_p=log_p)
                    advance(len(places))
        finally:
            loss.close()
        return [row for row in found if row is not None]
