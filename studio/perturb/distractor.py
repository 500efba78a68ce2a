"""Sentences before a question that have nothing to do with it (Shi et al. 2023, arXiv:2302.00093)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from studio.augment._settings import Draw

LEVELS = (1.0, 2.0, 3.0, 4.0, 6.0)
UNIT = "sentences"
LAST = True
SENTENCES = (
    "The bus was late again this morning.",
    "My neighbour has bought three new chairs.",
    "It rained for most of last week.",
    "The shop on the corner closes at six.",
    "Somebody left a green umbrella in the hall.",
    "We had soup with bread for lunch.",
    "The train to the coast takes two hours.",
    "Her brother plays the piano on Sundays.",
    "There are forty seats in the old theatre.",
    "The letter came back without a stamp.",
)


def perturb(text: str, draw: Draw, level: float) -> str:
    """Return the text behind so many sentences; those of a lower level are among them."""
    chosen = [SENTENCES[at] for at in draw.permutation(len(SENTENCES))[: int(level)]]
    return " ".join([*chosen, text])
