"""Let a model translate what the user says, and another back (Sennrich et al. 2016, arXiv:1511.06709)."""

from __future__ import annotations

from typing import Annotated

from studio.augment._model import check_model, rewritten
from studio.augment._settings import Between, Draw

#: The settings that name models.
MODELS = ("there", "back")


def augment(
    text: str,
    draw: Draw,
    *,
    there: str,
    back: str | None = None,
    there_prompt: str = "Translate to German: {text}",
    back_prompt: str = "Translate to English: {text}",
    variants: Annotated[int, Between(1, 1000)] = 4,
    temperature: Annotated[float, Between(0.0, 5.0)] = 0.8,
    tokens: Annotated[int, Between(1, 4096)] = 96,
) -> str:
    """Return the text after the model ``there`` and then ``back`` (or ``there`` again) have translated it.

    Models are named as for `paraphrase`; the way there is one of ``variants``, the way back the likeliest.
    """
    variant = int(draw.integers(variants))
    foreign = rewritten(text, there, there_prompt, variant, temperature, tokens)
    return rewritten(foreign, back or there, back_prompt, 0, 0.0, tokens)


def check(*, there: str, back: str | None, there_prompt: str, back_prompt: str, **settings: object) -> None:
    """Raise `Wrong` if there is no such model, or a prompt has no place for the text."""
    check_model(there, there_prompt)
    check_model(back or there, back_prompt)
