"""Factual agreement: the share of an answer's checkable facts that its context supports.

Facts are numbers (``1,200`` and ``1200`` are the same), codes with digits (``B3``, ``XJ-9``) and names
(words with a capital letter inside a sentence). The context is the row's ``context``: a table or text that
holds what is true; without one, the reference. Numbers of all answers are added up before dividing (as
precision of facts in Min et al. 2023, FActScore, section 3, https://arxiv.org/abs/2305.14251, with facts
found by rule instead of by a model). What an answer leaves out does not count against it, and an answer
without facts does not count.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from studio.metrics._pairs import pairs

HIGHER_IS_BETTER = True
NEEDS = ("context",)
EXAMPLES = (("pump 7 at 40", "pump 9 at 12"),)
_CODE = re.compile(r"(?<![\w.])[A-Za-z]*-?\d[\w.,-]*")
_NAME = re.compile(r"(?<=[\w,;:] )[A-Z][\w-]+")


def score(predictions: Sequence[str], references: Sequence[str], *, context: Sequence[str]) -> float:
    """Return the share of supported facts, in [0, 1]; 1 where nothing checkable was said.

    Raises:
        ValueError: if the lengths differ or there is no sample.
    """
    supported, said = map(sum, zip(*counts(predictions, references, context=context), strict=True))
    return supported / said if said else 1.0


def counts(
    predictions: Sequence[str], references: Sequence[str], *, context: Sequence[str]
) -> list[tuple[int, int]]:
    """Return (supported facts, facts) of every sample [N]; the score is the ratio of their sums."""
    found = []
    for (said, meant), told in zip(pairs(predictions, references), context, strict=True):
        facts, true = _facts(said), told or meant
        known = _facts(true) | {word.casefold() for word in re.findall(r"\w[\w-]*", true)}
        found.append((len(facts & known), len(facts)))
    return found


def _facts(text: str) -> set[str]:
    codes = {code.rstrip(".,-").replace(",", "").casefold() for code in _CODE.findall(text)}
    return codes | {name.casefold() for name in _NAME.findall(text)}
