"""The rows of a run that learns preferences: read, held out, checked, encoded, and as `Preferences`.

What `studio.training.rows` is for rows with an answer.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from studio.assets import find_data
from studio.data.findings import check_before_training
from studio.data.lengths import Rules
from studio.data.provenance import provenance
from studio.errors import DataError
from studio.families._gauge import Gauge
from studio.log import Log
from studio.training.encoding import Encoded, encode_samples, open_encoded
from studio.training.preference import KINDS
from studio.training.preference_data import Preferences, rows_of
from studio.training.preference_rows import (
    Item,
    hold_out,
    mismatched,
    pairs,
    read_preferences,
    verdicts,
    wrong_answers,
)
from studio.training.processes import Processes
from studio.training.reference import Reference
from studio.training.seed import generator
from studio.training.settings import not_negative
from studio.types import Sample


@dataclass(frozen=True, kw_only=True)
class Votes:
    """What is made of the rows."""

    hold_out: float = field(
        default=0.2, metadata={"help": "share of rows to hold out by medium, without eval_data; 0: none"}
    )
    most: int = field(default=0, metadata={"help": "rows to take, drawn at random; 0: all"})
    wrong_answers: bool = field(
        default=False, metadata={"help": "reject another row's answer where a row has only a right one"}
    )

    def wrong(self) -> Iterator[str]:
        """Yield what is out of range."""
        yield from not_negative(self, "most")
        if not 0 <= self.hold_out < 1:
            yield f"hold_out must be at least 0 and below 1, not {self.hold_out}"


@dataclass(frozen=True, kw_only=True)
class Set:
    """Some rows, what there is to learn from them, and what is encoded, with each item's ``places`` in it."""

    samples: Sequence[Sample]
    items: Sequence[Item]
    encoded: Sequence[Sample]
    places: Sequence[Sequence[int]]


@dataclass(frozen=True, kw_only=True)
class PreferenceTensors:
    """A run's preferences as tensors, with the names that `make_trainee` knows its rows by.

    ``train``, ``steady`` are the answers one by one; ``past`` is the reference, which must see the model
    before a state is put in its place.
    """

    samples: Sequence[Sample]
    train: Encoded
    steady: Sequence[Encoded]
    past: Reference
    pairs: Preferences
    held_out: Preferences


@dataclass(frozen=True, kw_only=True)
class PreferenceRows:
    """What a run reads; ``origins`` say where each input is from, and ``hashes`` what decides the result."""

    train: Set
    held_out: Set
    limits: Rules
    origins: Mapping[str, Mapping[str, Any]]
    hashes: Mapping[str, str]

    def check(self, log: Log, processes: Processes) -> None:
        """Decode and compare all rows.

        Raises:
            DataError: naming the rows that nothing can be learned from.
        """
        with processes.accelerator.local_main_process_first():
            check_before_training([*self.train.samples, *self.held_out.samples], log)

    def encode(self, gauge: Gauge, folder: Path, log: Log, processes: Processes) -> None:
        """Write the tensors of all answers into ``folder``, and wait for the other processes' share.

        Raises:
            DataError: naming the rows that `encode_samples` refuses.
        """
        for name, rows in (("encoding", self.train), ("encoding held-out", self.held_out)):
            encode_samples(
                gauge, rows.encoded, folder, log, rules=self.limits, name=name, part=processes.part
            )
        processes.accelerator.wait_for_everyone()

    def open(self, gauge: Gauge, folder: Path, log: Log, **about: Any) -> PreferenceTensors:
        """Return what `encode` has written; ``about`` are the arguments of the `Reference`.

        Raises:
            DataError: if all rows were too long.
        """
        found, answers = [], []
        for name, rows in (("length", self.train), ("length, held-out", self.held_out)):
            encoded = open_encoded(gauge, rows.encoded, folder, self.limits)
            made = Preferences(encoded, rows.items, rows.samples, rows.places)
            if encoded.fitted:
                log.say(f"{name}: " + ", ".join(f"{n} answers {step}" for step, n in encoded.fitted.items()))
            if made.dropped:
                log.say(f"{name}: {made.dropped} preferences left out, because an answer was too long")
            found.append(made)
            answers.append(encoded)
        if not len(found[0]):
            raise DataError(
                "every preference has an answer that is too long for the model; see length.policy"
            )
        return PreferenceTensors(
            samples=self.train.samples, train=answers[0], steady=answers, pairs=found[0], held_out=found[1],
            past=Reference(datasets=found, **about),
        )  # fmt: skip


def read_preference_rows(config: Any, limits: Rules) -> PreferenceRows:
    """Read what a run's settings name as ``data`` and ``eval_data``; without the latter, hold some rows out.

    Raises:
        DataError: naming file and line of rows that say of no answer whether it is the better one, or good.
    """
    alone = KINDS[config.loss].pairs is None
    given = [
        _read(config, path, split, alone) if path else []
        for path, split in ((config.data, "train"), (config.eval_data, "test"))
    ]
    train, held_out = given
    origins = {"data": provenance(train)} | ({"eval_data": provenance(held_out)} if held_out else {})
    hashes = {name: str(told["sha256"]) for name, told in origins.items()}
    if not config.eval_data:
        train, held_out = hold_out(train, config.votes.hold_out, config.seed)
    sets = [_set(rows, alone) for rows in (train, held_out)]
    # What a row says beside its words is not in the hash of the words.
    said = [[(item.row, item.good) for item in made.items] for made in sets]
    hashes["verdicts"] = hashlib.sha256(json.dumps(said).encode()).hexdigest()
    return PreferenceRows(train=sets[0], held_out=sets[1], limits=limits, origins=origins, hashes=hashes)


def as_answered(samples: Sequence[Sample]) -> list[Sample]:
    """Return rows with the chosen answer as theirs, of those that have one: a run's report shows them."""
    return [
        dataclasses.replace(one, turns=one.turns + one.chosen, chosen=(), rejected=())
        for one in samples
        if one.chosen
    ]


def _read(config: Any, path: str, split: str, alone: bool) -> list[Sample]:
    found = read_preferences(find_data(path), split, labels=alone)
    if config.votes.wrong_answers:
        found = wrong_answers(found, config.seed)
    if 0 < config.votes.most < len(found):
        order = torch.randperm(len(found), generator=generator(config.seed, "most"))
        found = [found[at] for at in sorted(order[: config.votes.most].tolist())]
    return found


def _set(samples: Sequence[Sample], alone: bool) -> Set:
    items = verdicts(samples) if alone else pairs(samples)
    beside = mismatched(items) if alone else []
    encoded, places = rows_of(items, beside)
    return Set(samples=samples, items=items, encoded=encoded, places=places)
