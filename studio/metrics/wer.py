"""Word error rate: edits that turn the references into the answers, per reference word.

    WER = (substitutions + deletions + insertions) / reference words

summed over the corpus before dividing, so long samples weigh more (Morris, Maier and Green 2004, From WER
and RIL to MER and WIL, Interspeech). Alignment is by jiwer, https://github.com/jitsi/jiwer. It can exceed 1.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import jiwer

from studio.metrics._pairs import pairs

HIGHER_IS_BETTER = False


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
    found = pairs(predictions, references)
    out = jiwer.process_words([normal(r) for _, r in found], [normal(p) for p, _ in found])
    edits = [
        sum(
            max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)
            for chunk in alignment
            if chunk.type != "equal"
        )
        for alignment in out.alignments
    ]
    return [(count, len(words)) for count, words in zip(edits, out.references, strict=True)]


def normal(text: str) -> str:
    """Return ``text`` as it is compared: NFKC, casefolded, punctuation as space except ``'`` in a word."""
    folded = unicodedata.normalize("NFKC", text).casefold().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    kept = (c if c == "'" or unicodedata.category(c)[0] not in "PSC" else " " for c in folded)
    return " ".join(word for raw in "".join(kept).split() if (word := raw.strip("'")))
