"""The value that an explanation shares out: log p of an answer to a question of which only some is there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from studio.explain_units import Eraser
from studio.log import Log, QuietLog

if TYPE_CHECKING:
    from torch import Tensor

    from studio.variants import Engine

Within = Callable[[], AbstractContextManager[Any]]


class Value:
    """log p of the answer to a question of which only some units are there, for any number of such masks.

    A mask that was asked before is not computed again. ``passes`` counts what was computed.
    """

    def __init__(
        self,
        engine: Engine,
        names: Sequence[str],
        eraser: Eraser,
        answer: str,
        *,
        batch_size: int = 16,
        within: Within = nullcontext,
    ) -> None:
        """Ask of the first variant, less the second if there is one."""
        self.engine, self.names, self.eraser, self.answer = engine, tuple(names), eraser, answer
        self.batch_size, self.within, self.passes = batch_size, within, 0
        self.log: Log = QuietLog()
        self._known: dict[tuple[bool, ...], float] = {}

    def __call__(self, masks: Sequence[Sequence[bool]]) -> list[float]:
        """Return the values of masks that say of each unit whether it is there."""
        asked = [tuple(map(bool, mask)) for mask in masks]
        fresh = [mask for mask in dict.fromkeys(asked) if mask not in self._known]
        for start in range(0, len(fresh), self.batch_size):
            self._compute(fresh[start : start + self.batch_size])
        return [self._known[mask] for mask in asked]

    def of(self, there: Tensor) -> Tensor:
        """Return the values [K] of masks [K, N] of ones and zeros, as captum asks for them."""
        import torch

        return torch.tensor(self([[bool(x) for x in row] for row in (there > 0.5).tolist()]))

    def count(self, passes: int) -> None:
        """Count passes, and tell the log of them."""
        self.passes += passes
        self.log.advance(passes)

    def _compute(self, masks: Sequence[tuple[bool, ...]]) -> None:
        samples = [self.eraser.without([not there for there in mask]) for mask in masks]
        try:
            totals = [0.0] * len(masks)
            for name, sign in zip(self.names, (1, -1), strict=False):
                with self.within():
                    found = self.engine.log_probs(
                        name, samples, [self.answer] * len(samples), batch_size=self.batch_size
                    )
                totals = [total + sign * each for total, (each, _) in zip(totals, found, strict=True)]
                self.count(len(samples))
        finally:
            self.eraser.sweep()
        self._known.update(zip(masks, totals, strict=True))
