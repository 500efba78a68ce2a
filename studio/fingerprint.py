"""What names a model's weights: one sha256 over all tensors, the same however they are spread over files.

Each tensor is hashed by itself (name, type, shape, bytes), several at a time, and the hashes are hashed in
order of the names. Needs no torch, so that a merge can hash its inputs while torch is still being imported.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from studio.cache import Kept
from studio.tensorfile import Entry, read_header

#: How much is read at a time.
BLOCK = 16 << 20
#: Smaller models are hashed faster than they are looked up.
WORTH_KEEPING = 32 << 20
#: Nanoseconds for which a file must have been left alone: a later change within a clock tick would not show.
SETTLED = 2_000_000_000
Key = tuple[tuple[str, int, int, int, int], ...]
_known: dict[Key, str] = {}
_turns: dict[Key, threading.Lock] = {}
_guard = threading.Lock()


def fingerprint(
    files: Sequence[Path], threads: int = 0, *, fresh: bool = False, known: Mapping[str, bytes] | None = None
) -> str:
    """Return the sha256 over the tensors in these files, as 64 hexadecimal digits.

    Remembered, in the user's cache too, for as long as the files' paths, sizes, times and inodes stay what
    they are; ``fresh`` reads every byte again. ``known`` are digests of tensors, by name, from whoever has
    just written them. ``threads`` 0 takes one per processor, at most 8.
    """
    if fresh or known:
        return _hashed(files, threads, known)
    stats = [(file, file.stat()) for file in files]
    key = tuple(
        (str(file.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)
        for file, stat in stats
    )
    with _guard:
        turn = _turns.setdefault(key, threading.Lock())
    with turn:  # who comes while another thread hashes the same files waits for its answer
        if key not in _known:
            _known[key] = _looked_up(files, key, threads)
    return _known[key]


def _looked_up(files: Sequence[Path], key: Key, threads: int) -> str:
    """Return the fingerprint from the user's cache, or hash and keep it there."""
    newest = max((max(modified, changed) for _, _, modified, changed, _ in key), default=0)
    large = sum(size for _, size, *_ in key) >= WORTH_KEEPING
    if not large or time.time_ns() - newest < SETTLED:
        return _hashed(files, threads)
    kept, name = Kept(), f"fingerprint {hashlib.sha256(json.dumps(key).encode()).hexdigest()}"
    found = kept.get([name]).get(name)
    if found is None:
        found = _hashed(files, threads)
        kept.put({name: found})
    return found


def _hashed(files: Sequence[Path], threads: int, known: Mapping[str, bytes] | None = None) -> str:
    entries = sorted((e for file in files for e in read_header(file)[0]), key=lambda e: e.name)
    found = dict(known or {})
    left = [entry for entry in entries if entry.name not in found]
    digests = _digests(left, threads or min(len(os.sched_getaffinity(0)), 8))
    found |= {entry.name: digest for entry, digest in zip(left, digests, strict=True)}
    return hashlib.sha256(b"".join(found[entry.name] for entry in entries)).hexdigest()


def _digests(entries: Sequence[Entry], threads: int) -> list[bytes]:
    if threads == 1:
        return [tensor_digest(entry) for entry in entries]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(tensor_digest, entries))


def named_hash(name: str, kind: str, shape: Sequence[int]) -> hashlib._Hash:
    """Return a sha256 that has begun with a tensor's name, type and shape; its bytes are to follow."""
    return hashlib.sha256(f"{name}\0{kind}\0{list(shape)}\0".encode())


def tensor_digest(entry: Entry) -> bytes:
    """Return the sha256 over one tensor's name, type, shape and bytes."""
    digest = named_hash(entry.name, entry.kind, entry.shape)
    buffer = memoryview(bytearray(min(BLOCK, entry.nbytes)))
    with open(entry.file, "rb", buffering=0) as file:
        file.seek(entry.begin)
        left = entry.nbytes
        while left:
            got = file.readinto(buffer[: min(left, BLOCK)])
            if not got:
                raise OSError(f"{entry.file} became shorter while it was read")
            digest.update(buffer[:got])
            left -= got
    return digest.digest()
