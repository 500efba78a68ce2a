"""Word error rate: edits that turn the references into the answers, per reference word.

    WER = (substitutions + deletions + insertions) / reference words

summed over the corpus before dividing, so long samples weigh more (Morris, Maier and Green 2004, From WER
and RIL to MER and WIL, Interspeech). Edits are counted by rapidfuzz, and the figures are those of jiwer
(https://github.com/jitsi/jiwer). It can exceed 1.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from rapidfuzz.distance import Levenshtein

from studio.metrics._pairs import pairs

HIGHER_IS_BETTER = False
_SPACES = {at: " " for at in range(128) if unicodedata.category(chr(at))[0] in "PSC" and chr(at) != "'"}


def score(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Return the word error rate of the corpus, 0 or more; 0 is perfect.

    Where the references hold no word at all, it is 0 if the answers hold none either, and 1 if they do.

    Raises:
        ValueError: if the lengths differ or there is no sample.
    """
    edits, words = map(sum, zip(*counts(predictions, references), strict=True))
    return edits / words if words else float(edits > 0)


def each(predictions: Sequence[str], references: Sequence[str]) -> list[float]:
    """Return the word error rate of every sample by itself [N]; their mean is *not* the score."""
    return [edits / words if words else float(edits > 0) for edits, words in counts(predictions, references)]


def counts(predictions: Sequence[str], references: Sequence[str]) -> list[tuple[int, int]]:
    """Return (edits, reference words) of every sample [N]; the score is the ratio of their sums."""
    found = [(normal(said).split(), normal(meant).split()) for said, meant in pairs(predictions, references)]
    return [(Levenshtein.distance(said, meant), len(meant)) for said, meant in found]


def normal(text: str) -> str:
    """Return ``text`` as it is compared: NFKC, casefolded, punctuation as space except ``'`` in a word."""
    if text.isascii():
        spaced = text.lower().translate(_SPACES)
    else:
        folded = unicodedata.normalize("NFKC", text).casefold()
        folded = folded.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
        spaced = "".join(c if c == "'" or unicodedata.category(c)[0] not in "PSC" else " " for c in folded)
    if "'" not in spaced:
        return " ".join(spaced.split())
    return " ".join(word for raw in spaced.split() if (word := raw.strip("'")))
