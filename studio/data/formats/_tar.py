"""Reading tar files that may mean harm: nothing escapes, nothing swells, nothing is held in memory."""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from studio.data.formats._ledger import MAX_MEDIUM, Held, Ledger, Torn
from studio.errors import DataError

_BLOCK = 1 << 20
_HEADER = 1 << 20  # most bytes of a name, a link or other metadata that one read may ask for
_NAME = 1024
_RATIO = 1000  # DEFLATE cannot do better than 1032 to 1, media do not come near


class _Bounded:
    """A file that refuses to hand out much at once: tarfile reads headers as large as they claim to be."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._most = file, size * _RATIO + _BLOCK

    def read(self, size: int = -1) -> bytes:
        if size < 0 or size > _HEADER:
            raise DataError("a header claims to be larger than it may be")
        self._check(self._file.tell() + size)
        return self._file.read(size)

    def seek(self, to: int, whence: int = 0) -> int:
        self._check(to)
        return self._file.seek(to, whence)

    def tell(self) -> int:
        return self._file.tell()

    def _check(self, to: int) -> None:
        if to > self._most:
            raise DataError(f"it unpacks to more than {_RATIO} times its size")


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    with open(path, "rb") as raw:
        squeezed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        size = path.stat().st_size
        if squeezed:
            with gzip.GzipFile(fileobj=raw) as file:
                yield _Bounded(file, size)  # type: ignore[arg-type]
        else:
            yield _Bounded(raw, size)


@contextmanager
def told() -> Iterator[None]:
    """Turn what reading a tar file raises into one sentence.

    Raises:
        Torn: if the file is damaged, cannot be read, or means harm.
    """
    try:
        yield
    except DataError as error:
        raise Torn(str(error)) from None
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, ValueError, OverflowError) as error:
        raise Torn(f"the tar file is damaged ({' '.join(str(error).split())[:200]})") from None
    except OSError as error:
        raise Torn(f"the tar file cannot be read ({error.strerror or error})") from None


def members(path: Path) -> Iterator[tuple[str, int, Any]]:
    """Yield name, size and a readable file for every file in a tar file (plain or gzip); see `told`.

    Raises:
        DataError: if it holds a link, a device, a name that leads out, or a bomb.
    """
    with _opened(path) as raw, tarfile.open(fileobj=raw, mode="r:", errorlevel=1) as archive:
        for member in archive:
            forget(archive)
            _require_harmless(member)
            if member.isfile():
                yield member.name.removeprefix("./"), member.size, archive.extractfile(member)


def forget(archive: tarfile.TarFile) -> None:
    """Let go of the members seen so far, which tarfile remembers until the end."""
    archive.members = []  # type: ignore[attr-defined]


def _require_harmless(member: tarfile.TarInfo) -> None:
    name = member.name[:200]
    if not (member.isfile() or member.isdir()):
        raise DataError(f"'{name}' is a link or a device; allowed: files and folders")
    if member.name.startswith(("/", "\\")) or ".." in member.name.replace("\\", "/").split("/"):
        raise DataError(f"'{name}' leads out of the archive")
    if len(member.name) > _NAME or "\0" in member.name:
        raise DataError(f"'{name}' is a name of {len(member.name)} characters; allowed: {_NAME}")
    if member.sparse is not None:
        raise DataError(f"'{name}' is a sparse file, which may unpack to any size")
    if member.size > MAX_MEDIUM:
        raise DataError(f"'{name}' has {member.size} bytes; allowed: {MAX_MEDIUM}")


def unpack(name: str, size: int, file: Any, ledger: Ledger) -> Held:
    """Write a member to a file of its own and return its path.

    Raises:
        DataError: if it ends early, or too much was unpacked already.
    """
    ledger.account(size)
    left = size
    head = file.read(min(16, size))
    with ledger.spill_file(name, head) as (path, out):
        out.write(head)
        left -= len(head)
        while left and (block := file.read(min(left, _BLOCK))):
            out.write(block)
            left -= len(block)
    if left:
        raise DataError(f"'{name}' ends {left} bytes early")
    return path
