"""One vocabulary for models whose tokenizers differ: rows of embeddings are put where the words are.

Each model keeps its own row for a word that it knows. For one that it lacks it is given the base's row, else
the mean of the rows of those that know it, else zeros; so the merge of these rows is what they agree on.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mergers._checks import vocabulary
from mergers._groups import group_of, towers_of
from mergers._mergekit import Reference
from mergers._mergekit_tokens import Wanted
from mergers._sources import Input, Reader
from studio.checkpoint import Checkpoint
from studio.errors import MergeError

FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "tokenizer.model", "chat_template.jinja", "chat_template.json",
)  # fmt: skip


#: In place of a row: of a word that a model lacks; of no word, so that it gets the mean of all.
LACKS, SPARE = -1, -2


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """The words of the output: ``words`` {word: number}, their files' folder, and words added to that.

    size   how many rows there are: some more than words, where a file asks for a multiple
    """

    words: Mapping[str, int]
    folder: Path
    added: Sequence[Mapping[str, Any]] = ()
    size: int = 0

    def rows(self, own: Mapping[str, int], count: int) -> list[int]:
        """Return for each number the word's row among a model's ``count`` rows, or `LACKS` or `SPARE`."""
        found = [LACKS] * len(self.words) + [SPARE] * (self.size - len(self.words))
        for word, number in self.words.items():
            row = own.get(word, LACKS)
            found[number] = row if row < count else LACKS
        return found

    def write(self, folder: Path) -> None:
        """Put the tokenizer's files into a finished output."""
        for name in FILES:
            (folder / name).unlink(missing_ok=True)
            if (self.folder / name).is_file():
                shutil.copyfile(self.folder / name, folder / name)
        if self.added:
            data = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
            data["added_tokens"] = [*data.get("added_tokens", ()), *self.added]
            text = json.dumps(data, ensure_ascii=False, indent=2)
            (folder / "tokenizer.json").write_text(text + "\n", encoding="utf-8")


@dataclass(frozen=True, kw_only=True)
class Aligned:
    """A model by the rows of the output's vocabulary, in tensors that have a row per word.

    rows    per model, what `Vocabulary.rows` found; ``number`` is this one's place, ``base`` the base's or -1
    given   word's number -> (model, row) for models that lack it; the model -1 stands for zeros
    """

    source: Input
    peers: Sequence[Input]
    rows: Sequence[Sequence[int]]
    number: int
    base: int
    tensors: frozenset[str]
    given: Mapping[int, tuple[int, int]]

    @property
    def checkpoint(self) -> Checkpoint | None:
        """The full model."""
        return self.source.checkpoint

    @property
    def modules(self) -> dict[str, str]:
        """No names besides the donor's."""
        return {}

    def has(self, name: str) -> bool:
        """Return whether the model has the tensor."""
        return self.source.has(name)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the tensor's shape with the output's number of words."""
        shape = self.source.shape(name)
        return (len(self.rows[self.number]), *shape[1:]) if name in self.tensors else shape

    def kind(self, name: str) -> str:
        """Return as which type the tensor is stored."""
        return self.source.kind(name)

    def extra(self, donor: Checkpoint) -> list[str]:
        """Return the names of tensors that the donor does not have."""
        return self.source.extra(donor)

    def reader(self, name: str) -> Reader:
        """Return what reads pieces of a tensor as if its rows stood in the output's order."""
        if name not in self.tensors:
            return self.source.reader(name)
        readers = [peer.reader(name) for peer in self.peers]
        shape, own = self.shape(name), self.rows[self.number]
        width = shape[1] if len(shape) > 1 else 1

        def read(begin: int, end: int, base: Tensor | None) -> Tensor:
            first, last = begin // width, -(-end // width)
            parts = [
                mean() if own[start] == SPARE else self._run(readers, width, start, stop)
                for start, stop in _runs(own, first, last)
            ]
            return torch.cat(parts)[begin - first * width : end - first * width]

        @cache
        def mean() -> Tensor:
            words = len(own) - own.count(SPARE)
            total = torch.zeros(width, dtype=torch.float64)
            for start, stop in _runs(own, 0, words):
                total += self._run(readers, width, start, stop).double().view(-1, width).sum(dim=0)
            return (total / max(words, 1)).float()

        return read

    def _run(self, readers: Sequence[Reader], width: int, start: int, stop: int) -> Tensor:
        """Return rows that stand one after the other here, or one that this model lacks."""
        own = self.rows[self.number][start]
        if own >= 0:
            return readers[self.number](own * width, (own + stop - start) * width, None)
        if start in self.given:
            model, row = self.given[start]
            return readers[model](row * width, (row + 1) * width, None) if model >= 0 else torch.zeros(width)
        known = [n for n, rows in enumerate(self.rows) if rows[start] >= 0]
        if self.base in known:
            known = [self.base]
        if not known:
            return torch.zeros(width)
        parts = [
            readers[n](self.rows[n][start] * width, (self.rows[n][start] + 1) * width, None) for n in known
        ]
        return parts[0] if len(parts) == 1 else torch.stack([p.float() for p in parts]).mean(dim=0)


@dataclass(frozen=True, kw_only=True)
class Words:
    """The output's vocabulary, and for each model (by how the file names it) where its words' rows are.

    given   word's number -> (model, row) for models that lack the word; no model stands for zeros
    """

    vocabulary: Vocabulary
    rows: Mapping[Reference, Sequence[int]]
    tensors: frozenset[str]
    given: Mapping[int, tuple[Reference | None, int]]

    @classmethod
    def of(
        cls, wanted: Wanted, base: Checkpoint, checkpoints: Mapping[Reference, Checkpoint]
    ) -> Words | None:
        """Return what a file asks for; None where nothing has to be moved.

        Raises `MergeError` for words that cannot be had as asked.
        """
        found = choose_vocabulary(wanted, base, list(checkpoints.values()))
        usual = words_of(base) or dict(found.words)
        own = {reference: words_of(checkpoint) or usual for reference, checkpoint in checkpoints.items()}
        sizes = {reference: vocabulary_size(checkpoint) for reference, checkpoint in checkpoints.items()}
        rows = {reference: found.rows(own[reference], sizes[reference]) for reference in checkpoints}
        given = {}
        for word, told in wanted.tokens.items():
            number = found.words[word]
            if not told.force and all(one[number] >= 0 for one in rows.values()):
                continue
            row = 0
            if told.model is not None:
                if told.model not in checkpoints:
                    raise MergeError(
                        f"tokenizer.tokens.{word} asks for a row of {told.model}, which is no input"
                    )
                named = word if told.row is None else told.row
                row = own[told.model].get(named, LACKS) if isinstance(named, str) else named
                if not 0 <= row < sizes[told.model]:
                    raise MergeError(f"tokenizer.tokens.{word}: {told.model} has no row for '{named}'")
            given[number] = (told.model, row)
            if told.force:
                for one in rows.values():
                    one[number] = LACKS
        straight = list(range(len(found.words)))
        alike = {vocabulary_size(base), *sizes.values()} == {len(straight)}
        if found.folder == base.folder and alike and all(r == straight for r in rows.values()):
            return None
        return cls(vocabulary=found, rows=rows, tensors=vocabulary_tensors(base), given=given)

    def align(
        self, peers: Mapping[Reference, Input], base: Reference | None, tensors: frozenset[str]
    ) -> dict[Reference, Input]:
        """Return the models by the rows of the output."""
        order = list(peers)
        place = order.index(base) if base in order else -1
        rows, inputs = [self.rows[reference] for reference in order], list(peers.values())
        given = {}
        for number, (model, row) in self.given.items():
            if model is not None and model not in order:
                raise MergeError(
                    f"tokenizer.tokens asks for a row of {model}, which a slice does not take in"
                )
            given[number] = (order.index(model) if model is not None else -1, row)
        return {
            reference: Aligned(
                source=source, peers=inputs, rows=rows, number=i, base=place, tensors=tensors, given=given
            )
            for i, (reference, source) in enumerate(peers.items())
        }


def with_size(config: Mapping[str, Any], before: int, after: int) -> dict[str, Any]:
    """Return a configuration with another number of words, wherever it tells theirs."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            found[key] = with_size(value, before, after)
        else:
            found[key] = after if key == "vocab_size" and value == before else value
    return found


def _runs(rows: Sequence[int], first: int, last: int) -> list[tuple[int, int]]:
    """Return the stretches of rows that follow each other, each missing row by itself."""
    found: list[tuple[int, int]] = []
    start = first
    for i in range(first + 1, last + 1):
        if i == last or rows[i] < 0 or rows[i - 1] < 0 or rows[i] != rows[i - 1] + 1:
            found.append((start, i))
            start = i
    return found


def vocabulary_tensors(checkpoint: Checkpoint) -> frozenset[str]:
    """Return the tensors with a row per word: the language model's table of words, and its head."""
    towers, size = towers_of(checkpoint.config), vocabulary_size(checkpoint)
    found = []
    for name in checkpoint.names():
        group = group_of(name, towers)
        shape = checkpoint.shape(name)
        if group.tower == "llm" and group.kind in ("embeddings", "head") and shape[:1] == (size,):
            found.append(name)
    return frozenset(found)


def vocabulary_size(checkpoint: Checkpoint) -> int:
    """Return how many rows for words a model has, as its configuration says."""
    parts = [checkpoint.config, *(v for v in checkpoint.config.values() if isinstance(v, dict))]
    found = next((part["vocab_size"] for part in parts if isinstance(part.get("vocab_size"), int)), None)
    if found is None:
        raise MergeError(
            f"config.json of {checkpoint.folder} has no vocab_size, which tokenizer_source needs"
        )
    return int(found)


def words_of(checkpoint: Checkpoint) -> dict[str, int] | None:
    """Return a model's words, or None if it comes without a tokenizer that can be read."""
    file = checkpoint.folder / "tokenizer.json"
    return vocabulary(file) if file.is_file() else None


def choose_vocabulary(wanted: Wanted, base: Checkpoint, models: Sequence[Checkpoint]) -> Vocabulary:
    """Return the output's words: of the base (without those it has no row for), of a folder, or the union.

    Words that a file gives rows to are added where they are not among them.
    """
    source = wanted.source
    if source not in ("base", "union"):
        words = vocabulary(_needed(Path(source)))
        found = Vocabulary(words=_dense(words, source), folder=Path(source))
    else:
        _needed(base.folder)
        size = vocabulary_size(base)
        words = {word: number for word, number in (words_of(base) or {}).items() if number < size}
        found = Vocabulary(words=_dense(words, str(base.folder)), folder=base.folder)
        if source == "union":
            found = _union(base, words, models)
    words, added = dict(found.words), list(found.added)
    for word in wanted.tokens:
        if word not in words:
            words[word] = len(words)
            kind = {
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": True,
                "special": False,
            }
            added.append({"id": words[word], "content": word, **kind})
    rows = -(-len(words) // wanted.multiple) * wanted.multiple
    return replace(found, words=words, added=added, size=rows)


def _union(base: Checkpoint, words: dict[str, int], models: Sequence[Checkpoint]) -> Vocabulary:
    plain = _plain(base.folder)
    added: list[dict[str, Any]] = []
    for model in models:
        file = model.folder / "tokenizer.json"
        if not file.is_file() or model.folder == base.folder:
            continue
        if _plain(model.folder) != plain:
            raise MergeError(
                f"tokenizer_source: union is for tokenizers that differ in added words only; {model.folder} "
                f"splits words otherwise than {base.folder}, so take base"
            )
        size = vocabulary_size(model)
        for entry in json.loads(file.read_text(encoding="utf-8")).get("added_tokens", ()):
            if entry["content"] not in words and entry["id"] < size:
                words[entry["content"]] = len(words)
                added.append({**entry, "id": words[entry["content"]]})
    return Vocabulary(words=_dense(words, str(base.folder)), folder=base.folder, added=added)


def _plain(folder: Path) -> Any:
    """Return how a tokenizer splits words, without what was added to it."""
    data = json.loads(_needed(folder).read_text(encoding="utf-8"))
    return data.get("model")


def _needed(folder: Path) -> Path:
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise MergeError(f"tokenizer_source needs {file}, which is missing")
    return file


def _dense(words: dict[str, int], where: str) -> dict[str, int]:
    if sorted(words.values()) != list(range(len(words))):
        raise MergeError(
            f"the words of {where} are not numbered from 0 without gaps; tokenizer_source cannot use it"
        )
    return words
