"""What a vote says, as rows to encode: the two answers of a pair, or an answer that is good or bad.

    made = pairs(samples)          # rows with `chosen` and `rejected`
    made = verdicts(samples)       # those, and rows whose `extra.label` says whether their answer is good

An answer stands behind its question with all that was said before, and nothing but the answer is learned
from. Rows that share a question can be held out together, by `hold_out`.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from studio.data import load_data
from studio.data.identity import known_hashes, sample_key
from studio.data.jsonl import SHOWN, data_splits, together
from studio.errors import DataError
from studio.training.seed import derive, generator
from studio.types import Sample, Text, Turn

#: The files of an export of votes (`triptych votes --export`): pairs, and answers called good or bad.
EXPORTED = ("preferences", "labels")


@dataclass(frozen=True, kw_only=True)
class Item:
    """One thing to learn from: what was ``asked``, and the chosen and the rejected of its ``answers``.

    Or a single answer, and whether it is ``good``. ``row`` is the number of the sample it was made of.
    """

    row: int
    asked: Sample
    answers: tuple[tuple[Turn, ...], ...]
    good: bool = True

    @property
    def ways(self) -> list[Sample]:
        """The answers as rows to encode, of which nothing but the answer is learned."""
        return [self.way(answer) for answer in self.answers]

    def way(self, answer: tuple[Turn, ...]) -> Sample:
        """Return the question with any answer behind it."""
        before = tuple(dataclasses.replace(turn, loss=False) for turn in self.asked.turns)
        return dataclasses.replace(
            self.asked, turns=before + answer, chosen=(), rejected=(), extra={}, weight=1.0
        )


def read_preferences(path: Path, split: str, *, labels: bool) -> list[Sample]:
    """Return the rows of a file or folder, which may be an export of votes: its ``labels`` too, if asked for.

    Raises:
        DataError: naming what is missing, or file and line of what is no row.
    """
    files = data_splits(path) if path.is_dir() else {}
    exported = [name for name in (EXPORTED if labels else EXPORTED[:1]) if name in files]
    if split in files or not set(EXPORTED) & set(files):
        return load_data(path, split=split)
    if not exported:
        raise DataError(
            f"'{path}' holds no {EXPORTED[0]}; answers that are called good or bad are for loss=kto"
        )
    return [sample for name in exported for sample in load_data(files[name])]


def pairs(samples: Sequence[Sample]) -> list[Item]:
    """Return an item for each row with ``chosen`` and ``rejected``.

    Raises:
        DataError: naming the rows that have none, or the same answer twice.
    """
    wrong = []
    for sample in samples:
        if not sample.chosen:
            wrong.append(f"{sample.where}: 'chosen' and 'rejected' are missing; {_advice(sample)}")
        elif _words(sample.chosen) == _words(sample.rejected):
            wrong.append(f"{sample.where}: 'chosen' and 'rejected' are the same; leave the row out")
    _refuse(wrong, samples)
    return [Item(row=row, asked=one, answers=(one.chosen, one.rejected)) for row, one in enumerate(samples)]


def verdicts(samples: Sequence[Sample]) -> list[Item]:
    """Return an item for each answer that was called good or bad; a pair gives one of each.

    What one rater said of the same answer twice counts once: an export of votes tells the best answer in
    each of its pairs, and as a label too.

    Raises:
        DataError: naming the rows that are no pair and have no label.
    """
    wrong = [
        f"{one.where}: give 'chosen' and 'rejected', or an answer and 'extra': {{\"label\": true or false}}"
        for one in samples
        if not (one.chosen or (one.answer and isinstance(one.extra.get("label"), bool)))
    ]
    _refuse(wrong, samples)
    known = known_hashes(samples)
    found: dict[tuple[str, bool, object], Item] = {}
    for row, one in enumerate(samples):
        said = [(one.chosen, True), (one.rejected, False)] if one.chosen else [(one.turns[-1:], _label(one))]
        asked = one if one.chosen else dataclasses.replace(one, turns=one.turns[:-1])
        for answer, good in said:
            item = Item(row=row, asked=asked, answers=(answer,), good=good)
            key = (sample_key(item.ways[0], known), good, one.extra.get("rater", row))
            found.setdefault(key, item)
    return list(found.values())


def mismatched(items: Sequence[Item]) -> list[Sample]:
    """Return each item's question with the next item's answer that is another one, if there is any.

    KTO estimates by them how far the model has moved in general.
    """
    said = [_words(item.answers[0]) for item in items]
    following = [(at + 1) % len(items) for at in range(len(items))]
    for at in reversed(range(2 * len(items) - 1)):  # twice around: the last ones look on from the first
        here, after = at % len(items), (at + 1) % len(items)
        following[here] = after if said[here] != said[after] else following[after]
    return [item.way(items[at].answers[0]) for item, at in zip(items, following, strict=True)]


def wrong_answers(samples: Sequence[Sample], seed: int) -> list[Sample]:
    """Return rows with an answer as preferences: it is chosen over another row's answer to the same words.

    The other answer is drawn at random. Rows that are preferences already stay as they are.

    Raises:
        DataError: naming rows to whose question no other answer is known.
    """
    known: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    for one in samples:
        if not one.chosen:
            known[_question(one)][one.answer] += 1
    wrong = [
        f"{one.where}: no other row answers the same question in another way"
        for one in samples
        if not one.chosen and len(known[_question(one)]) < 2
    ]
    _refuse(wrong, samples)
    made = []
    for row, one in enumerate(samples):
        if one.chosen:
            made.append(one)
            continue
        others = [text for text in known[_question(one)] if text != one.answer]
        pick = others[int(derive(seed, "wrong answer", row) % len(others))]
        last = one.turns[-1]
        rejected = dataclasses.replace(last, parts=(Text(text=pick),))
        made.append(dataclasses.replace(one, turns=one.turns[:-1], chosen=(last,), rejected=(rejected,)))
    return made


def hold_out(samples: Sequence[Sample], share: float, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Return the rows to learn from and those to hold out, about ``share`` of them, at least one question.

    Rows about the same medium, or without any the same question, stand on one side: nothing that is held out
    was seen. Where a single question is all there is, nothing is held out.
    """
    of_path = known_hashes(samples)
    above: dict[str, str] = {}

    def root(name: str) -> str:
        while (up := above.setdefault(name, name)) != name:
            name = up
        return name

    first = []
    for one in samples:
        paths = [*(image.path for image in one.images), *(sound.path for sound in one.sounds)]
        shown = [of_path(path) for path in paths] or ["\n".join(_question(one))]
        for name in shown[1:]:
            above[root(name)] = root(shown[0])
        first.append(shown[0])
    groups: dict[str, list[int]] = defaultdict(list)
    for row, name in enumerate(first):
        groups[root(name)].append(row)
    if share <= 0 or len(groups) < 2:
        return list(samples), []
    names = sorted(groups)
    order = torch.randperm(len(names), generator=generator(seed, "hold out")).tolist()
    out: set[int] = set()
    for at in order[:-1]:
        if out and len(out) >= share * len(samples):
            break
        out.update(groups[names[at]])
    kept = [one for row, one in enumerate(samples) if row not in out]
    return kept, [samples[row] for row in sorted(out)]


def _label(sample: Sample) -> bool:
    return sample.extra["label"] is True


def _words(turns: Sequence[Turn]) -> tuple[str, ...]:
    return tuple(turn.text.strip() for turn in turns)


def _question(sample: Sample) -> tuple[str, ...]:
    return _words(sample.prompt)


def _advice(sample: Sample) -> str:
    if isinstance(sample.extra.get("label"), bool):
        return "a row that is called good or bad is for loss=kto"
    return "wrong_answers=true makes them of rows with an answer" if sample.answer else "or give an answer"


def _refuse(wrong: list[str], samples: Sequence[Sample]) -> None:
    if wrong:
        raise DataError(together(wrong[:SHOWN], len(wrong), "rows", len(samples)))
