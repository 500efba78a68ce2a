"""Answers that tell which variant wrote them, so that a blind verdict on them would not be blind."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import PurePath

#: Parts of a path that name no variant.
_PLACES = {"adapter", "adapters", "model", "models", "runs", "merged", "last", "best", "final", "checkpoint"}
_SHORTEST = 3


def telling_names(variants: Mapping[str, str | None], base: str = "") -> frozenset[str]:
    """Return what an answer must not say: the variants' names, those of their adapters, and the base's.

    Args:
        variants: name -> where its adapter is, or None for the base alone. Of a path each part that may be a
            name counts.
        base: name or path of the model that all share.
    """
    found = set()
    for name, adapter in variants.items():
        found |= {name, *_names(name), *_names(adapter or "")}
    found |= set(_names(base))
    return frozenset(name for name in found if len(_plain(name)) >= _SHORTEST)


def given_away(answers: Iterable[str], names: Iterable[str], asked: str = "") -> str | None:
    """Return the first name that an answer says as whole words, or None.

    Letters' case and what joins words do not matter: ``nano-omni`` is in "I am Nano Omni." A name that the
    question ``asked`` says itself gives nothing away.
    """
    said, question = [_plain(answer) for answer in answers], _plain(asked)
    for name in sorted(names):
        plain = _plain(name)
        if plain and not _in(plain, question) and any(_in(plain, text) for text in said):
            return name
    return None


def _names(path: str) -> list[str]:
    """Return the last part of a path that may name something, as a list of one or none."""
    parts = [part for part in PurePath(path).parts if part.lower() not in _PLACES and part not in ("/", "..")]
    return parts[-1:]


def _plain(text: str) -> str:
    return " ".join(re.findall(r"[^\W_]+", text.casefold()))


def _in(name: str, text: str) -> bool:
    return f" {name} " in f" {text} "
