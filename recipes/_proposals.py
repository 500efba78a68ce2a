"""Proposals of the recipe `synthesize`: what is asked, what a teacher answers, and how far it agrees."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from recipes._synthesis import Draft, Model, agreed, asked, chosen, fields_of, filled
from studio import plugins
from studio.data.kept_facts import examine
from studio.errors import DataError
from studio.log import QuietLog
from studio.training.seed import derive
from studio.types import Image, Sample, Text, Turn

if TYPE_CHECKING:
    from recipes.synthesize import Config


def propose(
    config: Config, rows: Sequence[Sample], begin: int, teacher: Model | None, judge: Model | None
) -> list[dict[str, Any]]:
    """Return what is proposed for the rows from number ``begin`` on, as JSON holds it.

    Each has its ``row``, the ``question`` if that is another one, the teacher's ``samples`` with their
    ``agreement``, the ``answer``, its ``score`` against a ``reference``, and the ``problem`` if there is one.
    """
    metric = plugins.load("metrics", config.metric)
    seed = derive(config.seed, "synthesize", begin)
    drafts = _drafts(config, rows, begin, teacher, seed)
    able = [at for at, draft in enumerate(drafts) if not draft.problem]
    found = [
        {
            "row": draft.row,
            "question": fields_of(draft.sample)["question"] if config.propose == "questions" else "",
            "problem": draft.problem,
            "samples": [],
            "agreement": None,
            "answer": draft.answer,
            "score": None,
        }
        for draft in drafts
    ]
    said = [draft.answer for draft in drafts]
    if teacher is not None and not given(config):
        samples = [drafts[at].sample for at in able]
        answers = teacher.answers(samples, config.samples, config.temperature, seed)
        for at, several in zip(able, answers, strict=True):
            if isinstance(several, str):
                found[at]["problem"] = several
                continue
            said[at], share = agreed(several, metric)
            # A row keeps its own answer to another question; the teacher's only show that it still fits.
            found[at] |= {"samples": several, "agreement": share, "answer": drafts[at].answer or said[at]}
    wanted = [reference(config, rows[draft.row - begin]) for draft in drafts]
    if judge is not None:
        answers = judge.answers([drafts[at].sample for at in able], 1, 0.0, seed)
        for at, one in zip(able, answers, strict=True):
            wanted[at] = one[0] if isinstance(one, list) else ""
    for one, text, other in zip(found, said, wanted, strict=True):
        if text and other and not one["problem"]:
            one |= {"score": float(metric.score([text], [other])), "reference": other}
    return found


def read_proposals(text: str) -> list[dict[str, Any]]:
    """Return proposals from the file that they were kept in."""
    found: list[dict[str, Any]] = json.loads(text)
    return found


def draft_of(one: dict[str, Any], row: Sample) -> Draft:
    """Return the row that a proposal is for, as it is asked."""
    return Draft(row=one["row"], sample=asked(row, one["question"]) if one["question"] else row)


def given(config: Config) -> bool:
    """Return whether templates give the answers, so that the teacher is not asked."""
    return config.propose == "answers" and bool(config.templates)


def reference(config: Config, row: Sample) -> str:
    """Return what a row's answer is scored against, or the empty string."""
    if config.against == "answer":
        return row.answer
    return row.groups.get(config.against.removeprefix("groups."), "")


def _drafts(
    config: Config, rows: Sequence[Sample], begin: int, teacher: Model | None, seed: int
) -> list[Draft]:
    """Return the rows with what is asked, and with the answers that templates propose."""
    problems = _faults(rows)
    varied = config.propose == "questions"
    told: list[list[str]] = [[] for _ in rows]
    if config.templates:
        for at, row in enumerate(rows):
            picked = chosen(config.templates, config.variations, config.seed, begin + at)
            try:
                told[at] = [filled(template, row) for template in picked]
            except DataError as error:
                problems[at] = problems[at] or str(error)
    elif varied and teacher is not None:
        for at, row in enumerate(rows):
            if not fields_of(row)["question"]:
                problems[at] = problems[at] or "the row asks nothing in text that could be varied"
        able = [at for at, problem in enumerate(problems) if not problem]
        asks = [_alone(filled(config.prompt, rows[at])) for at in able]
        answers = teacher.answers(asks, config.variations, config.temperature, derive(seed, "questions"))
        for at, texts in zip(able, answers, strict=True):
            told[at] = texts if isinstance(texts, list) else []
            problems[at] = texts if isinstance(texts, str) else ""
    drafts: list[Draft] = []
    for at, row in enumerate(rows):
        if problems[at]:
            drafts.append(Draft(row=begin + at, sample=row, problem=problems[at]))
        elif varied:
            drafts += [_varied(begin + at, row, text) for text in told[at]]
        else:
            drafts += [Draft(row=begin + at, sample=row, answer=text) for text in told[at] or [""]]
    return drafts


def _varied(number: int, row: Sample, text: str) -> Draft:
    """Return a row with another question, if it is one."""
    if not text.strip():
        return Draft(row=number, sample=row, problem="the proposed question is empty")
    if text.casefold().split() == fields_of(row)["question"].casefold().split():
        return Draft(row=number, sample=row, problem="the proposed question is the old one")
    return Draft(row=number, sample=asked(row, text.strip()), answer=row.answer)


def _alone(text: str) -> Sample:
    return Sample(turns=(Turn(role="user", parts=(Text(text=text),)),))


def _faults(rows: Sequence[Sample]) -> list[str]:
    """Return the sentence about the first medium of each row that cannot be used, or the empty string."""
    media = [[(part.path, isinstance(part, Image)) for part in (*row.images, *row.sounds)] for row in rows]
    facts = examine([one for several in media for one in several], QuietLog())
    return [
        next((facts[one].facts.sentence for one in several if facts[one].facts.trouble), "")
        for several in media
    ]
