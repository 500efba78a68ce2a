"""What the store keeps, as records: runs, questions, answers and verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

VERDICTS = ("tie", "both bad", "skip")
"""What a vote may say besides the name of the best variant."""


@dataclass(frozen=True, kw_only=True)
class KeptRun:
    """A finished training run: its folder, recipe, settings and figures."""

    id: int
    created: str
    folder: str
    recipe: str
    config: Mapping[str, Any]
    metrics: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What one variant said; latency in milliseconds, length in tokens, where they were measured."""

    id: int
    created: str
    comparison: int
    variant: str
    text: str
    latency_ms: float | None
    tokens: int | None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One question to several variants: ``media`` are SHA-256 hashes, ``variants`` stand as shown.

    ``turns`` are what was said before: ``{"role", "text", "media"}``, and of an assistant's turn ``answers``,
    what each variant said there by name; ``question_set`` and ``question`` are the hashes of the set and
    of the question in it, if it is from one. ``blind`` says that no names were shown; ``asker`` is a
    pseudonym.
    """

    id: int
    created: str
    prompt: str
    media: tuple[str, ...]
    variants: tuple[str, ...]
    seed: int
    decoding: Mapping[str, Any]
    turns: tuple[Mapping[str, Any], ...] = ()
    domain: str = ""
    question_set: str = ""
    question: str = ""
    blind: bool = False
    asker: str = ""
    answers: tuple[Answer, ...] = field(default=())


@dataclass(frozen=True, kw_only=True)
class Vote:
    """One rater's verdict: a variant's name or one of `VERDICTS`; the rater is a pseudonym.

    ``scores`` are points by ``criterion: variant``, ``correction`` the answer that should have been given,
    ``rater_group`` what kind of rater it is; ``flagged`` votes (an answer named its variant) do not count in
    rankings; ``seconds`` is how long the rater looked.
    """

    id: int
    created: str
    comparison: int
    choice: str
    reasons: tuple[str, ...]
    note: str
    rater: str
    scores: Mapping[str, float] = field(default_factory=dict)
    correction: str = ""
    rater_group: str = ""
    flagged: bool = False
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A report that one variant's answer is wrong: what is wrong, and the answer that should have been given.

    Either may be empty, not both; the rater is a pseudonym.
    """

    id: int
    created: str
    comparison: int
    variant: str
    wrong: str
    correction: str
    rater: str
    rater_group: str = ""
