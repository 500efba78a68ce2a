"""A question in the wrong case: small letters large and large ones small."""

from __future__ import annotations

from typing import TYPE_CHECKING

from studio.perturb._levels import first

if TYPE_CHECKING:
    from studio.augment._settings import Draw

LEVELS = (0.1, 0.25, 0.5, 0.75, 1.0)
UNIT = "share of the letters, at least one"


def perturb(text: str, draw: Draw, level: float) -> str:
    """Return the text with a share of its letters in the other case, those of lower levels among them."""
    letters = [at for at, letter in enumerate(text) if letter.swapcase() != letter]
    made = list(text)
    for number in draw.permutation(len(letters))[: first(level, len(letters))]:
        at = letters[int(number)]
        made[at] = text[at].swapcase()
    return "".join(made)
