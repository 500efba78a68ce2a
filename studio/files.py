"""Writing files and folders so that a crash, a kill or a full disk leaves the old ones as they were."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

_STALE = 3600.0  # seconds after which what a dead process left behind is swept away
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def atomic_write(path: Path | str, data: bytes | str) -> Path:
    """Write ``data`` to ``path`` as a whole or not at all, and return the path.

    The bytes go to a temporary sibling, are flushed to the disk, and then take the place of the old file in
    one step. Missing parent folders are made; text is written as UTF-8.

    Raises:
        OSError: if the disk is full or the folder cannot be written; the old file is as it was.
    """
    with atomic_file(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)
    return Path(path)


@contextmanager
def atomic_file(path: Path | str) -> Iterator[IO[bytes]]:
    """Yield a temporary sibling, open for bytes, that takes the place of ``path`` when the block ends well.

    Raises:
        OSError: as `atomic_write` does.
    """
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    _sweep(target)
    temporary = _sibling(target)
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


@contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """Yield a temporary sibling folder that becomes ``path`` when the block ends well.

    An old folder at ``path`` is exchanged for the new one in one step where the file system can do that, and
    is removed afterwards. If the block raises, the temporary folder is removed and the old one stays.

    Raises:
        NotADirectoryError: if a file stands at ``path``.
        OSError: if the disk is full or the place cannot be written; the old folder is as it was.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "a file stands where a folder is to be written", str(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    _sweep(target)
    temporary = _sibling(target)
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.rglob("*"):
            _sync_folder(file) if file.is_dir() else _sync_file(file)
        _sync_folder(temporary)
        _take_place(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _sync_folder(target.parent)


def sha256_file(path: Path | str) -> str:
    """Return the SHA-256 of a file's contents as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stamp(path: Path | str) -> str:
    """Return a file's size, times and inode, which change with its bytes; "" if there is none."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return ""
    return f"{status.st_size}-{status.st_mtime_ns}-{status.st_ctime_ns}-{status.st_ino}"


def folder_hash(path: Path | str, patterns: Sequence[str] = ("**/*",)) -> str:
    """Return a SHA-256 over the relative names and the contents of the files that match ``patterns``.

    Neither times nor the order of the files matter; hidden files and folders are left out.
    """
    root = Path(path)
    found = {file for pattern in patterns for file in root.glob(pattern) if file.is_file()}
    digest = hashlib.sha256()
    for name, file in sorted((file.relative_to(root).as_posix(), file) for file in found):
        if not any(part.startswith(".") for part in name.split("/")):
            digest.update(f"{len(name.encode())}:{name}:{sha256_file(file)}\n".encode())
    return digest.hexdigest()


def _sibling(target: Path) -> Path:
    """Return a free hidden name beside ``target`` that says which process it belongs to."""
    return target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")


def _take_place(new: Path, target: Path) -> None:
    """Put the folder ``new`` at ``target`` and remove what stood there."""
    if not target.exists():
        os.rename(new, target)
        return
    if _exchange(new, target):
        shutil.rmtree(new, ignore_errors=True)
        return
    old = _sibling(target)
    os.rename(target, old)
    try:
        os.rename(new, target)
    except BaseException:
        os.rename(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two names in one step (Linux ``renameat2``); False where that is not possible."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):
        return False
    names = os.fsencode(first), os.fsencode(second)
    done: int = renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE)
    return done == 0


def _sweep(target: Path) -> None:
    """Remove temporary siblings of ``target`` that a process which is gone left behind long ago."""
    for left in target.parent.glob(f".{target.name}.*.tmp"):
        owner = left.name.removeprefix(f".{target.name}.").partition("-")[0]
        with suppress(OSError):
            if owner.isdigit() and not _alive(int(owner)) and time.time() - left.stat().st_mtime > _STALE:
                shutil.rmtree(left) if left.is_dir() else left.unlink()


def _alive(process: int) -> bool:
    """Say whether a process with this number exists."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _sync_file(path: Path) -> None:
    """Flush a file's contents to the disk."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    """Flush a folder's entries to the disk, where the system lets folders be opened."""
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
