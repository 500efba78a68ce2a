"""Let a model say what the user says in other words."""

from __future__ import annotations

from typing import Annotated

from studio.augment._model import check_model, rewritten
from studio.augment._settings import Between, Draw

#: The settings that name models.
MODELS = ("model",)


def augment(
    text: str,
    draw: Draw,
    *,
    model: str,
    prompt: str = "Say this in other words: {text}",
    variants: Annotated[int, Between(1, 1000)] = 4,
    temperature: Annotated[float, Between(0.0, 5.0)] = 0.8,
    tokens: Annotated[int, Between(1, 4096)] = 96,
) -> str:
    """Return one of ``variants`` answers of a model to the prompt with the text in it.

    ``model`` is a folder, a shipped name, a run, or base+adapter. Each variant of a text is asked for once.
    """
    return rewritten(text, model, prompt, int(draw.integers(variants)), temperature, tokens)


def check(*, model: str, prompt: str, **settings: object) -> None:
    """Raise `Wrong` if there is no such model, or its prompt has no place for the text."""
    check_model(model, prompt)
