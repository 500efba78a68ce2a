"""Items to learn a preference from, as tensors: their answers side by side, with what the reference said.

An answer is encoded as a row of its own. Rows of one item stand next to each other in a batch, so that a
batch of B pairs is one of 2 B rows, and media that they share are one medium to the cache of features.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from studio.data.identity import sample_key
from studio.training.encoding import Encoded
from studio.training.preference_rows import Item
from studio.types import Batch, Sample

Collate = Callable[[Sequence[Batch]], Batch]
#: What a batch holds for each of its items, beside what the model takes.
REFERENCE, GOOD = "preference.reference", "preference.good"


def rows_of(items: Sequence[Item], beside: Sequence[Sample] = ()) -> tuple[list[Sample], list[list[int]]]:
    """Return the rows to encode, each once, and for each item which of them are its own.

    Those are its answers, then the row that stands ``beside`` it, if any. An answer that was chosen over
    three others is one row.
    """
    rows: list[Sample] = []
    known: dict[str, int] = {}
    places = []
    for at, item in enumerate(items):
        own = []
        for way in (*item.ways, *beside[at : at + 1]):
            key = sample_key(way, str)
            if key not in known:
                known[key] = len(rows)
                rows.append(way)
            own.append(known[key])
        places.append(own)
    return rows, places


class Preferences(Sequence[list[Batch]]):
    """Items by index, each as the tensors of its answers; what `Encoded` is for rows.

    ``lengths`` are an item's tokens, ``rows`` the samples that they were made of, ``weights`` those samples'
    own, and ``reference`` [n, k] what the reference made of the k rows of each item (zeros to begin with).
    ``dropped`` counts items of which an answer was too long.
    """

    def __init__(
        self,
        encoded: Encoded,
        items: Sequence[Item],
        samples: Sequence[Sample],
        places: Sequence[Sequence[int]],
    ) -> None:
        """Take the tensors of the rows of `rows_of` the items, and their ``places`` among those."""
        of_row: dict[int, list[int]] = defaultdict(list)
        for index, row in enumerate(encoded.rows):
            of_row[row].append(index)
        self.encoded = encoded
        self.members: list[list[int]] = []
        self.rows: list[int] = []
        self.weights: list[float] = []
        self.lengths: list[int] = []
        self.good: list[bool] = []
        self._answers = len(items[0].answers) if items else 0
        for item, own in zip(items, places, strict=True):
            found = [of_row[place] for place in own]
            # One that was cut in several is no answer any more.
            if any(len(indices) != 1 for indices in found):
                continue
            members = [indices[0] for indices in found]
            self.members.append(members)
            self.rows.append(item.row)
            self.weights.append(samples[item.row].weight)
            self.lengths.append(sum(encoded.lengths[index] for index in members[: self._answers]))
            self.good.append(item.good)
        self._mean_weight = sum(self.weights) / (len(self.weights) or 1)
        self.dropped = len(items) - len(self.members)
        self.reference: Tensor = torch.zeros(len(self.members), len(places[0]) if places else 0)

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.members)

    def __getitem__(self, index: int) -> list[Batch]:  # type: ignore[override]
        """Return the tensors of an item's answers; the first also tells what is known of the item."""
        ways = [self.encoded[row] for row in self.members[index][: self._answers]]
        told = {
            REFERENCE: self.reference[index, : self._answers],
            GOOD: torch.tensor(self.good[index]),
        }
        return [ways[0] | told, *ways[1:]]

    def beside(self, index: int) -> Batch:
        """Return the tensors of the row that stands beside an item's answers."""
        found: Batch = self.encoded[self.members[index][self._answers]]
        return found

    def keys(self, index: int) -> list[str]:
        """Return the names of the tensors of an item's rows."""
        return self.encoded.keys(self.members[index][0])

    def weighed(self, batch: Sequence[int]) -> float:
        """Return the weight of a batch's items."""
        return sum(self.weights[index] for index in batch)

    def supervision(self, batch: Sequence[int]) -> float:
        """Return what a batch's loss is divided by: its items, times the mean weight of all, as `Encoded`."""
        return self._mean_weight * len(batch)


def joined(collate: Collate) -> Callable[[Sequence[list[Batch]]], Batch]:
    """Return what makes a batch of items, rows of an item next to each other, from what makes one of rows."""

    def together(items: Sequence[list[Batch]]) -> Batch:
        told = {key: torch.stack([item[0][key] for item in items]) for key in (REFERENCE, GOOD)}
        rows = [{key: v for key, v in way.items() if key not in told} for item in items for way in item]
        return collate(rows) | told

    return together
