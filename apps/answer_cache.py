"""Answers that were given once need not be given again: kept by what decides them, never by name.

The key of an answer hashes the prompt's texts, the contents of its media and the decoding settings, with
the versions of the libraries that generate; the file it stands in is named by the variant's fingerprint.
Editing a picture, an adapter or a setting therefore misses, and renaming or moving one does not.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from studio.files import sha256_file
from studio.types import Image, Sample, Text

_LIBRARIES = ("torch", "transformers", "peft")


class Contents:
    """Hashes of samples by content; every media file is read once."""

    def __init__(self, decoding: Mapping[str, Any]) -> None:
        """Hash with these decoding settings."""
        told = {"decoding": dict(decoding), "versions": {name: version(name) for name in _LIBRARIES}}
        self._salt = json.dumps(told, sort_keys=True)
        self._media: dict[Path, str] = {}

    def medium(self, path: Path) -> str:
        """Return the SHA-256 of a media file's contents; `OSError` if it cannot be read."""
        if path not in self._media:
            self._media[path] = sha256_file(path)
        return self._media[path]

    def key(self, sample: Sample) -> str:
        """Return the SHA-256 of all that decides the answer to ``sample`` besides the variant."""
        turns = [
            [
                turn.role,
                [
                    ["text", part.text]
                    if isinstance(part, Text)
                    else ["image" if isinstance(part, Image) else "audio", self.medium(part.path)]
                    for part in turn.parts
                ],
            ]
            for turn in sample.prompt
        ]
        return hashlib.sha256((self._salt + json.dumps(turns)).encode()).hexdigest()


class AnswerCache:
    """The answers of one variant: a file of JSON lines that only grows, or memory alone.

    A line that a kill cut short is skipped when reading, and costs one answer.
    """

    def __init__(self, folder: Path | None, fingerprint: str) -> None:
        """Read the answers that ``folder`` holds for the variant with this fingerprint."""
        self._file = folder / f"{fingerprint}.jsonl" if folder is not None else None
        self._answers: dict[str, str] = {}
        if self._file is not None and self._file.is_file():
            for line in self._file.read_bytes().splitlines():
                try:
                    row = json.loads(line)
                    self._answers[str(row["key"])] = str(row["answer"])
                except (ValueError, TypeError, KeyError):
                    continue

    def __contains__(self, key: str) -> bool:
        """Return whether there is an answer under ``key``."""
        return key in self._answers

    def __getitem__(self, key: str) -> str:
        """Return the answer under ``key``."""
        return self._answers[key]

    def add(self, keys: Sequence[str], answers: Sequence[str]) -> None:
        """Keep answers, on the disk before this returns."""
        self._answers.update(zip(keys, answers, strict=True))
        if self._file is None:
            return
        rows = (json.dumps({"key": k, "answer": a}) for k, a in zip(keys, answers, strict=True))
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with open(self._file, "ab") as file:
            file.write(("\n" + "\n".join(rows) + "\n").encode())  # the first break ends a line cut short
            file.flush()
            os.fsync(file.fileno())
