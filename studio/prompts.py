"""Encoded prompts, remembered: several variants are asked the same questions about the same media."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

from studio.files import stamp
from studio.types import Batch, Family, Sample


class Prompts:
    """Encodes samples for one processor and keeps ``limit`` bytes of them, those used last.

    A sample is known by its turns before the answer and by its media files' paths and stamps, so an edited
    file is encoded anew. One thread encodes at a time: tokenizers refuse to be changed while in use.
    """

    def __init__(self, family: Family, processor: Any, *, limit: int = 256 << 20) -> None:
        """Begin with an empty memory of at most ``limit`` bytes."""
        self._family, self._processor, self._limit = family, processor, limit
        self._kept: OrderedDict[Hashable, Batch] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def __call__(self, sample: Sample) -> Batch:
        """Return the encoded prompt; raises what the family's ``encode`` raises."""
        with self._lock:
            key = sample_key(sample)
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
                return found
            made = self._family.encode(self._processor, sample, False)
            if key is not None:
                self._kept[key] = made
                self._bytes += _size(made)
            while self._bytes > self._limit:
                self._bytes -= _size(self._kept.popitem(last=False)[1])
            return made

    def __len__(self) -> int:
        """Return how many prompts are remembered."""
        return len(self._kept)


def sample_key(sample: Sample) -> Hashable:
    """Return what a sample's encoding depends on, or None when a file is not there to be looked at."""
    media = [part.path for part in sample.images] + [part.path for part in sample.sounds]
    stamps = tuple(stamp(path) for path in media)
    return (sample.prompt, stamps) if all(stamps) else None


def _size(batch: Batch) -> int:
    return sum(tensor.nbytes for tensor in batch.values())
