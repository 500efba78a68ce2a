"""Character error rate: edits that turn the references into the answers, per reference character.

    CER = (substitutions + deletions + insertions) / reference characters

summed over the corpus before dividing, spaces counted, after the normalisation of `studio.metrics.wer`
(NFKC, casefolded, punctuation as space). Alignment is by rapidfuzz, as in jiwer. It can exceed 1.
"""

from __future__ import annotations

from collections.abc import Sequence

from rapidfuzz.distance import Levenshtein

from studio.metrics._pairs import pairs
from studio.metrics.wer import normal

HIGHER_IS_BETTER = False


def score(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Return the character error rate of the corpus, 0 or more; 0 is perfect.

    Where the references hold no character at all, it is 0 if the answers hold none either, and 1 if they do.

    Raises:
        ValueError: if the lengths differ or there is no sample.
    """
    edits, characters = map(sum, zip(*counts(predictions, references), strict=True))
    return edits / characters if characters else float(edits > 0)


def each(predictions: Sequence[str], references: Sequence[str]) -> list[float]:
    """Return the character error rate of every sample by itself [N]; their mean is *not* the score."""
    return [edits / size if size else float(edits > 0) for edits, size in counts(predictions, references)]


def counts(predictions: Sequence[str], references: Sequence[str]) -> list[tuple[int, int]]:
    """Return (edits, reference characters) of every sample [N]; the score is the ratio of their sums."""
    found = [(normal(p), normal(r)) for p, r in pairs(predictions, references)]
    return [(Levenshtein.distance(said, meant), len(meant)) for said, meant in found]
