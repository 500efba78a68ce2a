"""How near two texts are: the share of the character 5-grams of both that they have in common.

MinHash (Broder 1997) by datasketch finds candidates, in time that grows with the number of rows only; what is
reported is the exact Jaccard index. Prompt and answer are compared each for itself and the lesser counts,
and texts are not alike that differ in a number, a negation, or in a word that stands for another one which
is spelt otherwise: 'set the lamp to 40' is no copy of 'set the lamp to 50' or of 'set the fan to 40'.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from difflib import SequenceMatcher
from typing import Any
from zlib import crc32

from studio.data.steps._packages import needed
from studio.data.steps._texts import answered, asked, folded
from studio.types import Sample

_GRAM = 5
_PERMUTATIONS = 128
_NUMBER = re.compile(r"\d+")
_NOT = frozenset(
    ["no", "not", "never", "without", "kein", "keine", "nicht", "nie", "ohne", "ne", "pas", "sans"]
)
_SPELT = 0.7  # least share of letters that two spellings of a word have in common
_LONG = 400  # words, beyond which one other word changes little
_RECALL = (0.1, 0.9)  # weights of false candidates and of missed ones, where the bands are chosen


class Wording:
    """A row's texts, ready to be compared."""

    def __init__(self, sample: Sample) -> None:
        """Fold the texts."""
        self.sides = folded(asked(sample)), folded(answered(sample))
        self.numbers = _NUMBER.findall(" ".join(self.sides))

    def grams(self, side: int) -> frozenset[str]:
        """Return the character 5-grams of the prompt (0) or the answer (1); a short text is one gram."""
        text = self.sides[side]
        return frozenset(text[i : i + _GRAM] for i in range(max(1, len(text) - _GRAM + 1)))

    def alike(self, other: Wording) -> float:
        """Return the Jaccard index of the lesser side, 0 where the numbers differ."""
        if self.numbers != other.numbers:
            return 0.0
        share = min(_jaccard(self.grams(side), other.grams(side)) for side in (0, 1))
        if share < 0.3 or not all(_same_words(*both) for both in zip(self.sides, other.sides, strict=True)):
            return 0.0
        return share


def near_texts(
    wordings: Sequence[Wording],
    rooms: Sequence[Hashable],
    least: float,
    seed: int,
    gone: Callable[[int], bool],
    advance: Callable[[int], None],
) -> Iterator[tuple[int, int]]:
    """Yield (later, earlier) for texts of one room that may be alike, in the order of the later.

    ``gone`` is asked after the last pair of a text: one that was removed is compared with no later one.
    """
    datasketch: Any = needed("datasketch", "text_duplicates")
    index = datasketch.MinHashLSH(threshold=least, num_perm=_PERMUTATIONS, weights=_RECALL)
    first = datasketch.MinHash(num_perm=_PERMUTATIONS, seed=seed + 1, hashfunc=crc32)
    members = Counter(rooms)
    number = {room: at for at, room in enumerate(members)}
    for at, (wording, room) in enumerate(zip(wordings, rooms, strict=True)):
        advance(1)
        if members[room] < 2:
            continue
        mark = first.copy()
        grams = {f"{number[room]}:{side}{gram}" for side in (0, 1) for gram in wording.grams(side)}
        mark.update_batch([gram.encode() for gram in sorted(grams)])
        for earlier in sorted(index.query(mark)):
            yield at, earlier
        if not gone(at):
            index.insert(at, mark)


def _same_words(one: str, other: str) -> bool:
    """Say whether no word of one text stands where the other has another word, or a negation more."""
    if one == other:
        return True
    a, b = one.split(), other.split()
    if max(len(a), len(b)) > _LONG:
        return True
    for kind, i, k, j, m in SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        gone, come = a[i:k], b[j:m]
        if kind != "equal" and _NOT.intersection(gone) != _NOT.intersection(come):
            return False
        if kind == "replace":
            left, right = "".join(gone), "".join(come)
            spelt = SequenceMatcher(None, left, right, autojunk=False).ratio()
            if spelt < _SPELT and sorted(left) != sorted(right):
                return False
    return True


def _jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    return len(one & other) / (len(one | other) or 1)
