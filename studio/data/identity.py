"""What a sample says, as one hash: the same for the same words and media, wherever they lie."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

from studio.data.kept_facts import content_hashes
from studio.files import sha256_file
from studio.types import Sample, Text, Turn


def data_hash(samples: Sequence[Sample]) -> str:
    """Return a SHA-256 over what the samples say, the bytes of their media and their weights.

    File names, places and groups do not matter; the order does.

    Raises:
        MediaError: if a medium cannot be read.
    """
    digest, digest_of = hashlib.sha256(), known_hashes(samples)
    for sample in samples:
        digest.update(f"{sample_key(sample, digest_of)}:{sample.weight!r}\n".encode())
    return digest.hexdigest()


def known_hashes(samples: Sequence[Sample]) -> Callable[[Path], str]:
    """Return what gives the hash of each medium of ``samples``; unchanged files are not read again."""
    media = {image.path for one in samples for image in one.images}
    media |= {sound.path for one in samples for sound in one.sounds}
    known = content_hashes(sorted(media))
    return lambda path: known.get(path) or media_hash(path)


def media_hash(path: Path) -> str:
    """Return a file's hash; a file that cannot be read has none, and the check before encoding names it."""
    try:
        status = os.stat(path)
        return _hash_of(str(path), status.st_size, status.st_mtime_ns)
    except OSError:
        return "unreadable"


def sample_key(sample: Sample, digest_of: Callable[[Path], str] = media_hash) -> str:
    """Return a SHA-256 over a sample's turns, with the contents of its media in place of their paths."""
    said: list[object] = _said(sample.turns, digest_of)
    if sample.chosen:
        said += [_said(sample.chosen, digest_of), _said(sample.rejected, digest_of)]
    return hashlib.sha256(json.dumps(said, ensure_ascii=False).encode()).hexdigest()


def _said(turns: Sequence[Turn], digest_of: Callable[[Path], str]) -> list[object]:
    return [
        [
            turn.role,
            turn.loss,
            [
                ["text", part.text]
                if isinstance(part, Text)
                else [type(part).__name__, digest_of(part.path) or str(part.path)]
                for part in turn.parts
            ],
        ]
        for turn in turns
    ]


@lru_cache(maxsize=1 << 20)
def _hash_of(path: str, _size: int, _time: int) -> str:
    return sha256_file(path)
