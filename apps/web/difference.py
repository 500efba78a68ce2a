"""Which words of an answer no other answer has in the same place."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from itertools import combinations, groupby

Piece = tuple[str, bool]
"""A stretch of a text, and whether it stands in this text alone."""


def differences(texts: Sequence[str]) -> list[list[Piece]]:
    """Return each text cut into pieces; joined again they are the text.

    Two texts are laid side by side word by word (Ratcliff and Obershelp's matching, as in `difflib`); a word
    stands alone when it matched no other text.
    """
    words = [re.findall(r"\S+", text) for text in texts]
    shared: list[set[int]] = [set() for _ in texts]
    for a, b in combinations(range(len(texts)), 2):
        for block in SequenceMatcher(None, words[a], words[b], autojunk=False).get_matching_blocks():
            shared[a].update(range(block.a, block.a + block.size))
            shared[b].update(range(block.b, block.b + block.size))
    return [_pieces(text, common) for text, common in zip(texts, shared, strict=True)]


def _pieces(text: str, shared: set[int]) -> list[Piece]:
    """Return the stretches of a text; spaces between two words that stand alone go with them."""
    cut: list[Piece] = []
    for number, found in enumerate(re.finditer(r"(\s*)(\S+)", text)):
        alone = number not in shared
        before_alone = bool(cut) and cut[-1][1]
        if found[1]:
            cut.append((found[1], alone and before_alone))
        cut.append((found[2], alone))
    tail = text[len("".join(piece for piece, _ in cut)) :]
    cut.append((tail, False))
    joined = (("".join(piece for piece, _ in run), alone) for alone, run in groupby(cut, key=lambda p: p[1]))
    return [(piece, alone) for piece, alone in joined if piece]
