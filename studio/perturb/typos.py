"""A question typed in haste: letters left out, doubled, out of order, or the key beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from studio.perturb._levels import first

if TYPE_CHECKING:
    from studio.augment._settings import Draw

LEVELS = (0.02, 0.05, 0.1, 0.15, 0.25)
UNIT = "share of the letters, at least one"
KEYS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")


def perturb(text: str, draw: Draw, level: float) -> str:
    """Return the text with a share of its letters mistyped; those of a lower level are among them."""
    letters = [at for at, letter in enumerate(text) if letter.isalpha()]
    order, ways = draw.permutation(len(letters)), draw.integers(4, size=len(letters))
    made = list(text)
    for number in order[: first(level, len(letters))]:
        at = letters[int(number)]
        made[at] = _mistyped(text, at, int(ways[number]))
    return "".join(made)


def _mistyped(text: str, at: int, way: int) -> str:
    """Return what stands in the place of a letter."""
    letter, before = text[at], text[at - 1 : at] if at else ""
    row = next((keys for keys in KEYS if letter.lower() in keys), "")
    if way == 0:
        return ""
    if way == 1 and row:
        key = row[(row.index(letter.lower()) + 1) % len(row)]
        return key.upper() if letter.isupper() else key
    if way == 2 and before.isalpha():  # it came before the letter that it belongs behind, too
        return letter + before
    return letter * 2
