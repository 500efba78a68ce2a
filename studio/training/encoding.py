"""Samples as tensors: every one encoded once, checked, and kept in files that a resumed run maps again.

A shard holds some samples' tensors and is named by the hash of everything that made them: the rows, the
bytes of their media, the processor's files, the code of the family. What is unchanged is never encoded
twice, not after a kill and not by the processes of one machine, which share the work and the files; and
mapped files need no memory of their own.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from studio.data import check_media, check_modalities
from studio.data.identity import sample_key
from studio.data.jsonl import SHOWN, together
from studio.errors import DataError
from studio.families._gauge import TOKENS, encode, maker
from studio.log import Log
from studio.types import Batch, Family, Sample

#: Samples in one shard: few enough that a kill loses seconds, enough that files stay few.
SHARD = 128


class Encoded(Sequence[Batch]):
    """Encoded samples in the order of the data, read from their shards when asked for.

    ``lengths`` are tokens, media tokens included; ``learned`` counts the supervised ones; ``weights`` are
    the samples' own.
    """

    def __init__(self, shards: Sequence[Path], weights: Sequence[float]) -> None:
        """Map the shards; ``weights`` are those of all their samples in order."""
        self.weights = list(weights)
        self.lengths: list[int] = []
        self.learned: list[int] = []
        self._places: list[tuple[int, int, list[str]]] = []
        self._files = [safe_open(shard, framework="pt") for shard in shards]
        for number, file in enumerate(self._files):
            about = json.loads(file.metadata()["about"])  # type: ignore[no-untyped-call]
            self.lengths += about["lengths"]
            self.learned += about["learned"]
            self._places += [(number, at, keys) for at, keys in enumerate(about["keys"])]
        assert len(self._places) == len(self.weights), (len(self._places), len(self.weights))

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._places)

    def __getitem__(self, index: Any) -> Any:
        """Return one sample's tensors, as `Family.encode` made them."""
        number, at, keys = self._places[index]
        return {key: self._files[number].get_tensor(f"{at}/{key}") for key in keys}

    def supervision(self, batch: Sequence[int]) -> float:
        """Return the weighted supervised tokens of a batch: what its loss is divided by."""
        return sum(self.weights[index] * self.learned[index] for index in batch)


def encode_samples(
    model_folder: Path,
    processor: Any,
    family: Family,
    samples: Sequence[Sample],
    folder: Path,
    log: Log,
    *,
    name: str = "encoding",
    part: tuple[int, int] = (0, 1),
) -> None:
    """Write the shards of ``samples`` that ``folder`` does not hold yet; `open_encoded` reads them.

    ``part`` = (i, n) encodes every n-th missing shard from the i-th on, so that n processes share the work.

    Raises:
        DataError: naming the rows (the first ten) with a medium that does not decode or a kind the family
            does not take, with an empty answer, without one supervised token, or with numbers that are
            not finite.
    """
    check_modalities(samples, family)
    _check_answers(samples)
    missing = [
        (path, rows)
        for number, (path, rows) in enumerate(_shards(model_folder, family, samples, folder))
        if number % part[1] == part[0] and not path.exists()
    ]
    todo = [sample for _, rows in missing for sample in rows]
    check_media(todo, log)
    if not todo:
        return
    folder.mkdir(parents=True, exist_ok=True)
    log.stage(name, len(todo))
    wrong: list[str] = []
    for path, rows in missing:
        items = []
        for sample in rows:
            try:
                items.append(_encode(processor, family, sample))
            except DataError as error:
                wrong.append(str(error))
            log.advance()
        if len(wrong) >= SHOWN:
            break
        if not wrong:
            _write(path, items)
    if wrong:
        raise DataError(together(wrong[:SHOWN], len(wrong), "rows", len(todo)))


def open_encoded(model_folder: Path, family: Family, samples: Sequence[Sample], folder: Path) -> Encoded:
    """Return the encoded samples, all of whose shards `encode_samples` has written."""
    shards = [path for path, _ in _shards(model_folder, family, samples, folder)]
    return Encoded(shards, [sample.weight for sample in samples])


def _shards(
    model_folder: Path, family: Family, samples: Sequence[Sample], folder: Path
) -> Iterator[tuple[Path, Sequence[Sample]]]:
    """Yield each shard's file, named by its content, with its samples."""
    made_by = maker(model_folder, family)
    for begin in range(0, len(samples), SHARD):
        rows = samples[begin : begin + SHARD]
        digest = hashlib.sha256(made_by.encode())
        for sample in rows:
            digest.update(sample_key(sample).encode())
        yield folder / f"{digest.hexdigest()[:32]}.safetensors", rows


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


def _encode(processor: Any, family: Family, sample: Sample) -> Batch:
    """Encode one sample and refuse what would train silently wrong."""
    item = encode(processor, family, sample)
    if not bool((item["labels"] != -100).any()):
        raise DataError(f"{sample.where}: all labels are masked, so nothing would be learned from this row")
    for key, value in item.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise DataError(f"{sample.where}: '{key}' holds numbers that are not finite; check the medium")
    return item


def _write(path: Path, items: Sequence[Batch]) -> None:
    """Write a shard; it appears whole or not at all, but need not survive a power cut."""
    about: Mapping[str, Any] = {
        "lengths": [max(item[key].numel() for key in TOKENS if key in item) for item in items],
        "learned": [int((item["labels"] != -100).sum()) for item in items],
        "keys": [list(item) for item in items],
    }
    tensors = {
        f"{at}/{key}": value.contiguous() for at, item in enumerate(items) for key, value in item.items()
    }
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file(tensors, part, metadata={"about": json.dumps(about)})
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
