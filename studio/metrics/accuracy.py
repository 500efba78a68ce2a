"""Share of answers that name the right label, wherever in the sentence they name it.

The labels are the distinct references. An answer is read as the label that stands in it as whole words,
case and punctuation aside; of labels that contain one another the longest counts ("loose thread" before
"thread"), and of several the one that is named first. An answer that names none is wrong. With free text
as references it is `exact_match` with words around the answer forgiven.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from studio.metrics._pairs import pairs
from studio.metrics.wer import normal

HIGHER_IS_BETTER = True
_TOKEN = re.compile(r"\w+|[^\w\s]")


def score(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Return the share of right labels, in [0, 1].

    Raises:
        ValueError: if the lengths differ or there is no sample.
    """
    values = each(predictions, references)
    return sum(values) / len(values)


def each(predictions: Sequence[str], references: Sequence[str]) -> list[float]:
    """Return 1.0 for every answer whose label is right and 0.0 for the others [N]."""
    found = [(_tokens(said), _tokens(meant)) for said, meant in pairs(predictions, references)]
    labels = {meant for _, meant in found if meant}
    lengths = sorted({len(label) for label in labels}, reverse=True)
    return [float(_label(said, labels, lengths) == meant) for said, meant in found]


def _tokens(text: str) -> tuple[str, ...]:
    return tuple(_TOKEN.findall(normal(text)))


def _label(said: tuple[str, ...], labels: set[tuple[str, ...]], lengths: Sequence[int]) -> object:
    """Return the label named first, the longest of those that begin there; () where nothing is said."""
    for at in range(len(said)):
        for length in lengths:
            if said[at : at + length] in labels and at + length <= len(said):
                return said[at : at + length]
    return None if said else ()  # what names no label equals none
