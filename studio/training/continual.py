"""Going on with an adapter on new data without losing what it knew: replay of old rows, and an anchor.

    adapter.start           the adapter, or the run that made it, to go on from (`studio.training.continuing`)
    continual.replay        old data, of which every epoch gets rows, so many that they are `replay_share`
    continual.anchor        l2 or ewc pulls the weights back to where they began (`studio.training.anchor`)

Rows to replay are drawn by seed and epoch alone, each as often as any other before one comes again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from studio.assets import find_data
from studio.data import load_data
from studio.data.provenance import provenance
from studio.errors import ConfigError
from studio.log import Log
from studio.training.anchor import Anchor, fisher_diagonal, read_fisher, write_fisher
from studio.training.encoding import Encoded
from studio.training.loss import TokenLoss
from studio.training.processes import Processes
from studio.training.seed import generator
from studio.training.settings import Continual
from studio.types import Batch, Sample


class Past:
    """What a run keeps of earlier ones; without settings for it, nothing, and it changes nothing."""

    def __init__(self, settings: Continual, seed: int) -> None:
        """Read the old rows, and hash what goes in."""
        self._settings, self._seed = settings, seed
        self.rows: list[Sample] = []
        self.origins: dict[str, dict[str, Any]] = {}
        self._old: Encoded | None = None
        self._after = 0
        self._anchor: Anchor | None = None
        if settings.replay:
            self.rows = list(load_data(find_data(settings.replay), split="train"))
            self.origins["continual.replay"] = provenance(self.rows)

    def open(self, old: Encoded, after: int) -> None:
        """Take the old rows' tensors; ``after`` new rows are counted before them."""
        self._old, self._after = old, after

    def count(self, new: int) -> int:
        """Return the rows of an epoch with ``new`` new ones."""
        return new + self._replayed(new)

    def mixed(self, new: Encoded, epoch: int) -> Encoded:
        """Return an epoch's rows: the new ones, and those to replay behind them."""
        if not (count := self._replayed(len(new))):
            return new
        assert self._old is not None
        chosen = draw(len(self._old), count, self._seed, epoch)
        return new.mixed(self._old, chosen, self._after)

    def hold(
        self,
        model: Any,
        loss: TokenLoss,
        collate: Callable[[Sequence[Batch]], Batch],
        folder: Path,
        log: Log,
        processes: Processes,
        *,
        resumed: bool,
    ) -> None:
        """Anchor the weights as they are.

        The Fisher information is kept in the run's ``folder``, where a run that is ``resumed`` finds it.
        Raises `ConfigError` where weights are cut among processes.
        """
        kind, strength = self._settings.anchor, self._settings.strength
        if kind is None:
            return
        if processes.sharded:
            raise ConfigError("continual.anchor needs whole weights: speed.strategy=ddp")
        fisher = None
        if kind == "ewc" and resumed:
            fisher = read_fisher(folder, model)
        elif kind == "ewc":
            assert self._old is not None
            rows = draw(len(self._old), min(self._settings.fisher_rows, len(self._old)), self._seed, -1)
            fisher = fisher_diagonal(model, loss, self._old, rows, collate, log)
            if processes.main:
                write_fisher(folder, fisher)
        self._anchor = Anchor(model, strength, fisher)

    def pull(self) -> None:
        """Add the anchor's gradient, if there is an anchor."""
        if self._anchor is not None:
            self._anchor.pull()

    def _replayed(self, new: int) -> int:
        share = self._settings.replay_share
        return round(share / (1.0 - share) * new) if self.rows else 0


def draw(size: int, count: int, seed: int, epoch: int) -> list[int]:
    """Return ``count`` of ``size`` rows for an epoch, going on where the epoch before ended.

    The rows come in shuffled rounds in which each stands once, so that over the epochs all are used alike.
    """
    begin = max(epoch, 0) * count
    chosen: list[int] = []
    while len(chosen) < count:
        around, at = divmod(begin + len(chosen), size)
        order = torch.randperm(size, generator=generator(seed, "replay", around, min(epoch, 0))).tolist()
        chosen += order[at : at + count - len(chosen)]
    return chosen
