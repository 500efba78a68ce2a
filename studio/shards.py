"""Writing safetensors whose tensors arrive in any order and in pieces: headers first, then bytes in place.

    with ShardWriter(folder, [("a", "F32", (2, 3)), ...], shard_size=5_000_000_000) as writer:
        writer.write("a", tensor)
        writer.write_rows("b", 128, rows)

Space is reserved before the first byte, so a full disk is noticed at once; nothing is held in memory.
"""

from __future__ import annotations

import json
import math
import os
import threading
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from studio.checkpoint import INDEX, SINGLE
from studio.fingerprint import named_hash
from studio.tensorfile import BITS, as_bytes, encode_header, torch_type

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

Tensors = Sequence[tuple[str, str, tuple[int, ...]]]


class ShardWriter:
    """Writes tensors (name, safetensors type, shape) into one file, or several with an index.

    Use as a context manager; leaving it without an error checks that every byte has been written.
    """

    def __init__(
        self,
        folder: str | Path,
        tensors: Tensors,
        *,
        shard_size: int = 5_000_000_000,
        metadata: Mapping[str, str] | None = None,
        done: Collection[str] = (),
        laid_out: bool = False,
        hashed: bool = False,
    ) -> None:
        """Lay out the shards, write their headers and reserve their space.

        ``done`` names tensors that are not this writer's business: an earlier or another writer of the very
        same layout has completed them in this folder, or will. ``laid_out`` says that another writer has
        made the files; several may write into them at once. ``hashed`` asks for `digests`.
        """
        self.folder = Path(folder)
        self._places: dict[str, tuple[int, int, str, tuple[int, ...]]] = {}
        self._open: list[int] = []
        self._left = {name: 0 if name in done else _nbytes(kind, shape) for name, kind, shape in tensors}
        self._lock = threading.Lock()
        self._hashed = hashed
        self._hashes: dict[str, tuple[Any, int]] = {}
        self._broken: set[str] = set()
        shards = _split(tensors, shard_size)
        self.files = [self.folder / _file_name(i, len(shards)) for i in range(len(shards))]
        try:
            for number, shard in enumerate(shards):
                self._begin(number, shard, dict(metadata or {"format": "pt"}), laid_out)
        except BaseException:
            self._close()
            raise
        if len(shards) > 1 and not laid_out:
            self._write_index(shards)

    def write(self, name: str, tensor: Tensor) -> None:
        """Write a whole tensor, cast to its type on disk."""
        self.write_flat(name, 0, tensor)

    def write_flat(self, name: str, start: int, tensor: Tensor) -> None:
        """Write elements from number ``start`` of the flattened tensor on."""
        _, _, kind, _ = self._places[name]
        self.write_raw(name, start * BITS[kind] // 8, tensor.to(torch_type(kind)).contiguous())

    def write_raw(self, name: str, begin: int, data: Tensor | NDArray[Any]) -> None:
        """Write a contiguous tensor's or array's bytes from byte ``begin`` of the stored one on."""
        number, place, kind, shape = self._places[name]
        view = as_bytes(data)
        count = len(view)
        assert begin + count <= _nbytes(kind, shape), name
        done = 0
        while done < count:
            done += os.pwrite(self._open[number], view[done : done + (1 << 30)], place + begin + done)
        if self._hashed:
            self._hash(name, begin, view)
        with self._lock:
            self._left[name] -= count

    @property
    def digests(self) -> dict[str, bytes]:
        """What `studio.fingerprint.tensor_digest` gives for those tensors that were written front to back."""
        return {n: h.digest() for n, (h, _) in self._hashes.items() if not self._left[n]}

    def _hash(self, name: str, begin: int, view: memoryview) -> None:
        """Hash bytes while they are in the processor's cache; one thread at a time works on a tensor."""
        _, _, kind, shape = self._places[name]
        digest, end = self._hashes.get(name) or (named_hash(name, kind, shape), 0)
        if begin == end and name not in self._broken:
            digest.update(view)
            self._hashes[name] = (digest, end + len(view))
        else:
            self._broken.add(name)
            self._hashes.pop(name, None)

    @property
    def descriptors(self) -> list[int]:
        """The open files, to be flushed to the disk."""
        return list(self._open)

    def __enter__(self) -> ShardWriter:
        """Return the writer."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the files; without an error every tensor must be complete."""
        self._close()
        if error is None:
            missing = [name for name, left in self._left.items() if left]
            assert not missing, f"not fully written: {missing[:3]}"

    def _begin(self, number: int, shard: Tensors, metadata: dict[str, str], laid_out: bool) -> None:
        header = encode_header(shard, metadata)
        descriptor = os.open(self.files[number], os.O_RDWR | (0 if laid_out else os.O_CREAT), 0o644)
        self._open.append(descriptor)
        place = len(header)
        for name, kind, shape in shard:
            self._places[name] = (number, place, kind, shape)
            place += _nbytes(kind, shape)
        if not laid_out:
            os.posix_fallocate(descriptor, 0, place)
            os.pwrite(descriptor, header, 0)

    def _write_index(self, shards: Sequence[Tensors]) -> None:
        names = {name: self.files[i].name for i, shard in enumerate(shards) for name, _, _ in shard}
        total = sum(_nbytes(kind, shape) for shard in shards for _, kind, shape in shard)
        index = {"metadata": {"total_size": total}, "weight_map": names}
        (self.folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")

    def _close(self) -> None:
        while self._open:
            os.close(self._open.pop())


def _nbytes(kind: str, shape: Sequence[int]) -> int:
    return math.prod(shape) * BITS[kind] // 8


def _split(tensors: Tensors, shard_size: int) -> list[list[tuple[str, str, tuple[int, ...]]]]:
    """Cut the tensors, in order, into shards of at most ``shard_size`` bytes (one tensor may be more)."""
    shards: list[list[tuple[str, str, tuple[int, ...]]]] = [[]]
    size = 0
    for name, kind, shape in tensors:
        count = _nbytes(kind, shape)
        if shards[-1] and size + count > shard_size:
            shards.append([])
            size = 0
        shards[-1].append((name, kind, shape))
        size += count
    return shards


def _file_name(number: int, count: int) -> str:
    return SINGLE[0] if count == 1 else f"model-{number + 1:05}-of-{count:05}.safetensors"
