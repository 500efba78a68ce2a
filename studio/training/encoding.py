"""Samples as tensors: every one encoded once, checked, and kept in files that a resumed run maps again.

A shard holds some samples' tensors and is named by the hash of everything that made them: the rows, the
bytes of their media, the processor's files, the code of the family. What is unchanged is never encoded
twice, not after a kill and not by the processes of one machine, which share the work and the files; and
mapped files need no memory of their own.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from studio.data import check_media, check_modalities
from studio.data.identity import known_hashes, sample_key
from studio.data.jsonl import SHOWN, together
from studio.data.lengths import Fit, Rules
from studio.errors import DataError
from studio.families._gauge import Gauge
from studio.log import Log
from studio.shardwork import each_shard
from studio.training.shards import Shard, ShardWriter, digest, tokens
from studio.types import Batch, Sample

#: Samples in one shard: few enough that a kill loses seconds, enough that files stay few.
SHARD = 128


class Encoded(Sequence[Batch]):
    """Encoded samples in the order of the data, read from their shards when asked for.

    ``lengths`` are tokens, media tokens included; ``learned`` counts the supervised ones; ``weights`` are
    the samples' own; ``rows`` are the data's rows that they stand for; ``fitted`` counts what was done
    about rows that were too long, by name of the step.
    """

    def __init__(self, shards: Sequence[Path], weights: Sequence[float]) -> None:
        """Map the shards; ``weights`` are those of the data's rows, `SHARD` of them to a shard."""
        self.weights: list[float] = []
        self.lengths: list[int] = []
        self.learned: list[int] = []
        self.rows: list[int] = []
        self.fitted: Counter[str] = Counter()
        #: What stands in for some of a row's tensors: the row's index -> their keys, and the substitutes.
        self.instead: Callable[[int], tuple[Collection[str], Batch]] | None = None
        self._mean_weight: float | None = None
        self._places: list[tuple[int, int]] = []
        self._digests: list[dict[str, str]] = []
        self._shards = [Shard(path) for path in shards]
        for number, shard in enumerate(self._shards):
            about = shard.about
            self.lengths += about["lengths"]
            self.learned += about["learned"]
            rows = [number * SHARD + row for row in about["rows"]]
            self.rows += rows
            self.weights += [weights[row] for row in rows]
            self.fitted.update(about["fitted"])
            self._places += [(number, at) for at in range(len(about["keys"]))]
            self._digests += about.get("digests") or [{}] * len(about["keys"])
        assert len(self._places) == len(self.weights), (len(self._places), len(self.weights))

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._places)

    def __getitem__(self, index: Any) -> Any:
        """Return one sample's tensors, as `Family.encode` made them, or what stands in for them."""
        gone, more = self.instead(index) if self.instead is not None else ((), {})
        return self.tensors(index, (key for key in self.keys(index) if key not in gone)) | more

    def keys(self, index: int) -> list[str]:
        """Return the names of a sample's tensors."""
        number, at = self._places[index]
        return self._shards[number].keys(at)

    def tensors(self, index: int, keys: Iterable[str]) -> Batch:
        """Return some of a sample's tensors, and read no others."""
        number, at = self._places[index]
        return self._shards[number].tensors(at, keys)

    def digest(self, index: int, keys: Iterable[str]) -> str:
        """Return a hash over the contents of some of a sample's tensors; media that are the same have one."""
        known = self._digests[index]
        told = [(key, known.get(key) or digest(self.tensors(index, [key])[key])) for key in sorted(keys)]
        return hashlib.blake2b(json.dumps(told).encode(), digest_size=16).hexdigest()

    def mixed(self, other: Encoded, chosen: Sequence[int], after: int) -> Encoded:
        """Return these samples with some of another set's behind them, whose rows count from ``after``."""
        both = copy.copy(self)
        both._shards = [*self._shards, *other._shards]
        behind = [other._places[index] for index in chosen]
        both._places = [*self._places, *((number + len(self._shards), at) for number, at in behind)]
        both._digests = [*self._digests, *(other._digests[index] for index in chosen)]
        for name in ("weights", "lengths", "learned"):
            values = getattr(other, name)
            setattr(both, name, [*getattr(self, name), *(values[index] for index in chosen)])
        both.rows = [*self.rows, *(after + other.rows[index] for index in chosen)]

        def instead(index: int) -> tuple[Collection[str], Batch]:
            source, at = (self, index) if index < len(self) else (other, chosen[index - len(self)])
            return source.instead(at) if source.instead is not None else ((), {})

        both.instead, both._mean_weight = instead, None
        return both

    def weighed(self, batch: Sequence[int]) -> float:
        """Return the supervised tokens of a batch, each times its row's weight."""
        return sum(self.weights[index] * self.learned[index] for index in batch)

    def supervision(self, batch: Sequence[int]) -> float:
        """Return what a batch's loss is divided by: its supervised tokens, times the mean weight of all.

        Divided by its own weighted tokens instead, a batch of light rows would pull as hard as one of heavy
        rows, and with one row to a step weights would mean nothing. Over all samples both are the same.
        """
        if self._mean_weight is None:
            self._mean_weight = self.weighed(range(len(self))) / (sum(self.learned) or 1)
        return self._mean_weight * sum(self.learned[index] for index in batch)


def encode_samples(
    gauge: Gauge,
    samples: Sequence[Sample],
    folder: Path,
    log: Log,
    *,
    rules: Rules = Rules(),  # noqa: B008
    name: str = "encoding",
    part: tuple[int, int] = (0, 1),
) -> None:
    """Write the shards of ``samples`` that ``folder`` does not hold yet; `open_encoded` reads them.

    ``part`` = (i, n) encodes every n-th missing shard from the i-th on, so that n processes share the work.
    ``rules`` say what is done about rows that are too long for the model.

    Raises:
        DataError: naming the rows (the first ten) with a medium that does not decode or a kind the family
            does not take, with an empty answer, without one supervised token, with numbers that are
            not finite, with places for another number of features than the model makes, or that are too long.
    """
    check_modalities(samples, gauge.family)
    _check_answers(samples)
    missing = [
        (path, rows)
        for number, (path, rows) in enumerate(shard_files(gauge, rules, samples, folder))
        if number % part[1] == part[0] and not path.exists()
    ]
    todo = [sample for _, rows in missing for sample in rows]
    found = check_media(todo, log)
    if not todo:
        return
    folder.mkdir(parents=True, exist_ok=True)
    log.stage(name, len(todo))
    seconds = {path: facts.seconds for (path, _), facts in found.items()}
    jobs = [
        (path, rows, {s.path: seconds[s.path] for row in rows for s in row.sounds}) for path, rows in missing
    ]
    wrong: list[str] = []
    for (_, rows, _), told in zip(
        jobs, each_shard(partial(_encode_shard, gauge=gauge, rules=rules), jobs), strict=False
    ):
        wrong += told
        log.advance(len(rows))
        if len(wrong) >= SHOWN:
            break
    if wrong:
        raise DataError(together(wrong[:SHOWN], len(wrong), "rows", len(todo)))


def _encode_shard(
    job: tuple[Path, Sequence[Sample], Mapping[Path, float]], *, gauge: Gauge, rules: Rules
) -> list[str]:
    """Encode the rows of one shard and write its file, or return what is wrong with them."""
    path, rows, seconds = job
    shortening = Shortening(gauge, rules, path.parent, seconds)
    shard = ShardWriter()
    fitted: Counter[str] = Counter()
    wrong: list[str] = []
    for row, sample in enumerate(rows):
        try:
            made, steps = shortening.encoded(sample)
        except DataError as error:
            wrong.append(str(error))
            continue
        fitted.update(steps)
        for item in made:
            shard.add(row, item)
    if not wrong:
        shard.write(path, fitted)
    return wrong


def open_encoded(
    gauge: Gauge,
    samples: Sequence[Sample],
    folder: Path,
    rules: Rules = Rules(),  # noqa: B008
) -> Encoded:
    """Return the encoded samples, all of whose shards `encode_samples` has written.

    Raises:
        DataError: if there were samples, and all of them were too long and dropped.
    """
    shards = [path for path, _ in shard_files(gauge, rules, samples, folder)]
    data = Encoded(shards, [sample.weight for sample in samples])
    if samples and not len(data):
        raise DataError(
            f"all {len(samples)} rows are too long for the model and were dropped; see length.policy"
        )
    return data


def shard_files(
    gauge: Gauge, rules: Rules, samples: Sequence[Sample], folder: Path
) -> Iterator[tuple[Path, Sequence[Sample]]]:
    """Yield each shard's file, named by its content, with its samples."""
    made_by = f"{gauge.maker}:{rules}:{rules.max_tokens or gauge.max_tokens}"
    digest_of = known_hashes(samples)
    for begin in range(0, len(samples), SHARD):
        rows = samples[begin : begin + SHARD]
        digest = hashlib.sha256(made_by.encode())
        for sample in rows:
            digest.update(sample_key(sample, digest_of).encode())
            if segments := sample.extra.get("segments"):
                digest.update(json.dumps(segments, ensure_ascii=False).encode())
        yield folder / f"{digest.hexdigest()[:32]}.safetensors", rows


class Shortening:
    """Encodes rows, and what becomes of those that are too long; none of them twice."""

    def __init__(self, gauge: Gauge, rules: Rules, folder: Path, seconds: Mapping[Path, float]) -> None:
        """Write shorter media into ``folder``; ``seconds`` are the lengths of the sounds."""
        self._gauge = gauge
        self._seconds = seconds
        self._made: dict[int, tuple[Sample, Batch]] = {}
        self._fit = Fit(
            rules=rules,
            tokens_of=self._tokens,
            max_tokens=rules.max_tokens or gauge.max_tokens,
            window=gauge.max_seconds,
            folder=folder / "media",
        )

    def encoded(self, sample: Sample) -> tuple[list[Batch], tuple[str, ...]]:
        """Return the tensors of the rows that stand for ``sample``, and the steps that were taken."""
        self._made.clear()
        fitted = self._fit.row(sample, self._seconds)
        return [self._item(row) for row in fitted.samples], fitted.steps

    def _item(self, sample: Sample) -> Batch:
        if id(sample) not in self._made:
            # The sample is kept beside its tensors, or another one might get its id.
            self._made[id(sample)] = sample, _encode(self._gauge, sample)
        return self._made[id(sample)][1]

    def _tokens(self, sample: Sample) -> int:
        return tokens(self._item(sample))


def _check_answers(samples: Sequence[Sample]) -> None:
    """Refuse empty answers and rows on which nothing is learned."""
    wrong = []
    for sample in samples:
        answers = [turn.text.strip() for turn in sample.turns if turn.role == "assistant" and turn.loss]
        if not answers:
            wrong.append(f"{sample.where}: no assistant turn to learn; end the row with the wanted answer")
        elif not all(answers):
            wrong.append(f"{sample.where}: the assistant's answer is empty; write what it should say")
    if wrong:
        raise DataError(together(wrong[:SHOWN], len(wrong), "rows", len(samples)))


def _encode(gauge: Gauge, sample: Sample) -> Batch:
    """Encode one sample and refuse what would train silently wrong."""
    item = gauge.encode(sample)
    if not bool((item["labels"] != -100).any()):
        raise DataError(f"{sample.where}: all labels are masked, so nothing would be learned from this row")
    for key, value in item.items():
        if value.is_floating_point() and not _finite(value):
            raise DataError(f"{sample.where}: '{key}' holds numbers that are not finite; check the medium")
    length = gauge.length_of(item)
    for modality, wanted in length.wanted.items():
        if (there := length.there.get(modality, 0)) != wanted:
            raise DataError(
                f"{sample.where}: the text has {there} places for {modality}, the model makes {wanted} "
                "features; the processor belongs to another model"
            )
    return item


def _finite(value: Tensor) -> bool:
    """Say whether all numbers are finite; their sum tells it in one pass, unless it is too large itself."""
    return math.isfinite(float(value.sum())) or bool(torch.isfinite(value).all())
