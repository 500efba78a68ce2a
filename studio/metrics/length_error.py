"""How far the answers' lengths are from the references', as a share of these, in words.

    |words said - words meant| / max(words meant, 1)

averaged over the samples: models that ramble or break off score high, whatever they say.
"""

from __future__ import annotations

from collections.abc import Sequence

from studio.metrics._pairs import pairs

HIGHER_IS_BETTER = False
EXAMPLES = (("two blue squares", "there are two squares here and both are blue"),)


def score(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Return the mean relative error of length, 0 or more.

    Raises:
        ValueError: if the lengths differ or there is no sample.
    """
    values = each(predictions, references)
    return sum(values) / len(values)


def each(predictions: Sequence[str], references: Sequence[str]) -> list[float]:
    """Return the relative error of every sample [N]."""
    lengths = [(len(said.split()), len(meant.split())) for said, meant in pairs(predictions, references)]
    return [abs(said - meant) / max(meant, 1) for said, meant in lengths]
