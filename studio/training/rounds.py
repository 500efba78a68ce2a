"""What each process computes at the same time, so that all of them run the same parts of a model.

Where a model is cut among processes, a layer comes together only if all of them ask for it. A process whose
rows have no picture, while another's have, would leave that one waiting for ever. It therefore takes a row
with a picture besides, at weight 0: its loss is nothing, and so are its gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from studio.training.batches import micro_batches
from studio.training.processes import Processes


class Weighed(Protocol):
    """What a step takes by index: rows, or pairs of them, of so many tokens and with weights."""

    lengths: list[int]
    weights: list[float]

    def keys(self, index: int) -> list[str]:
        """Return the names of the tensors of an index."""


def own_parts(
    batch: Sequence[int], data: Weighed, size: int, processes: Processes, *, tokens: int = 0
) -> list[tuple[list[int], list[float]]]:
    """Return the micro-batches of a step that are this process's own: rows and their weights.

    They hold at most ``size`` rows (or ``tokens``), and a few at weight 0; every process gets the same
    number of them.
    """
    ranks = range(processes.world)
    parts = [micro_batches(batch, data.lengths, size, rank, processes.world, tokens=tokens) for rank in ranks]
    return [own_part(together, data, processes) for together in zip(*parts, strict=True)]


def own_part(
    together: Sequence[Sequence[int]], data: Weighed, processes: Processes
) -> tuple[list[int], list[float]]:
    """Return rows and weights for this process, of those that all processes compute ``together``.

    A process without a row takes one at weight 0: all must join the exchange. Where the model is cut, it
    takes more, until its rows have all that the rows of the others have.
    """
    own = list(together[processes.rank])
    weights = [data.weights[index] for index in own]
    if processes.sharded:
        more = company(own, [index for part in together for index in part], data)
    else:
        more = [] if own else [_shortest([index for part in together for index in part], data)]
    return own + more, weights + [0.0] * len(more)


def company(own: Sequence[int], everyone: Sequence[int], data: Weighed) -> list[int]:
    """Return the rows of ``everyone`` that ``own`` lack to have all kinds of tensors; short ones, and few."""
    kinds = {index: frozenset(data.keys(index)) for index in dict.fromkeys(everyone)}
    lacking = set().union(*kinds.values()).difference(*(kinds[index] for index in own))
    more: list[int] = []
    while lacking:
        best = max(kinds, key=lambda index: (len(kinds[index] & lacking), -data.lengths[index]))
        more.append(best)
        lacking -= kinds[best]
    return more


def _shortest(rows: Sequence[int], data: Weighed) -> int:
    return min(rows, key=lambda index: data.lengths[index])
