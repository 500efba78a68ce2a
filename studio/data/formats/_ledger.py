"""What a conversion keeps account of: which rows were refused, and where media lie and go."""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from studio.data.jsonl import SHOWN, together
from studio.data.rows import Folder
from studio.errors import DataError

MAX_MEDIUM = 512 << 20
"""Largest medium inside a container, in bytes."""
MAX_SPILL = 64 << 30
"""Most bytes that one conversion unpacks out of containers."""
_SUFFIXES = (
    (b"\x89PNG\r\n\x1a\n", ".png"),
    (b"\xff\xd8\xff", ".jpg"),
    (b"GIF8", ".gif"),
    (b"BM", ".bmp"),
    (b"II*\0", ".tif"),
    (b"MM\0*", ".tif"),
    (b"fLaC", ".flac"),
    (b"OggS", ".ogg"),
    (b"ID3", ".mp3"),
    (b"\xff\xfb", ".mp3"),
    (b"\xff\xf3", ".mp3"),
    (b"FORM", ".aiff"),
)
PICTURE_SUFFIXES = frozenset([".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"])
SOUND_SUFFIXES = frozenset([".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff"])


class Torn(DataError):
    """A file that cannot be read on: no count of rows to skip can cover what it still held."""


class Held(str):
    """The path of a medium that was unpacked out of a container; no text in a data file can be one."""


class Ledger:
    """What one conversion knows: rows refused so far, the media's folder, a place to unpack to."""

    def __init__(
        self, scratch: Path, *, media: Path | None = None, skip: int = 0, link: bool = False
    ) -> None:
        """Begin an account; ``unseen`` names what the rows keep and the other tool will not heed.

        Args:
            scratch: an existing folder for media that are unpacked out of containers.
            media: the folder that media paths are relative to; by default the data file's own. If it is
                given, an absolute path that leads into it is taken, too.
            skip: how many rows may be refused before the conversion fails.
            link: hard-link media where the file system can, rather than copy them.
        """
        self.scratch, self.media, self.skip, self.link = scratch, media, skip, link
        self.refused: list[str] = []
        self.count = self.good = self.spilled = self.torn = 0
        self.root = media
        self.unseen: set[str] = set()

    def refuse(self, where: str, problem: object) -> None:
        """Note that the row at ``where`` (file:line) cannot be used, and why."""
        self.count += 1
        self.torn += isinstance(problem, Torn)
        if len(self.refused) < max(self.skip, SHOWN):
            self.refused.append(f"{where}: {problem}")

    @contextmanager
    def row(self, where: str) -> Iterator[None]:
        """Turn a mistake in one row into a note."""
        try:
            yield
        except DataError as error:
            self.refuse(where, error)
        except RecursionError:
            self.refuse(where, "the row is too deep")

    def settle(self) -> None:
        """Say whether the rows that were refused are too many.

        Raises:
            DataError: if they are more than may be skipped, a file could not be read on, or no row was good.
        """
        if self.count > self.skip or self.torn:
            more = f" (--skip-bad {self.skip} allows no more)" if self.skip else ""
            more = " (--skip-bad is for rows: the file's end is missing)" if self.skip and self.torn else more
            raise DataError(together(self.refused[:SHOWN], self.count, "rows", self.count + self.good) + more)
        if not self.good:
            raise DataError(
                "there is no row to convert" + "".join(f"\n  {line}" for line in self.refused[:SHOWN])
            )

    def folder(self, own: Path) -> MediaFolder:
        """Return the folder that a data file's media paths are relative to: ``own``, unless one was named."""
        self.root = self.media or own
        return MediaFolder(self.root, named=self.media is not None)

    def spill(self, data: bytes, name: str = "") -> Held:
        """Write the bytes of a medium to a file of their own, with the suffix of ``name`` or of their kind.

        Raises:
            DataError: if they are too many.
        """
        if len(data) > MAX_MEDIUM:
            raise DataError(f"a medium of {len(data)} bytes is too large; allowed: {MAX_MEDIUM}")
        with self.spill_file(name, data[:16]) as (path, file):
            file.write(data)
        self.account(len(data))
        return path

    def account(self, size: int) -> None:
        """Count bytes that were unpacked.

        Raises:
            DataError: if they are more than `MAX_SPILL`.
        """
        self.spilled += size
        if self.spilled > MAX_SPILL:
            raise DataError(f"the containers unpack to more than {MAX_SPILL} bytes")

    @contextmanager
    def spill_file(self, name: str, head: bytes = b"") -> Iterator[tuple[Held, IO[bytes]]]:
        """Yield the path and the open file of a new place to unpack to."""
        known = PICTURE_SUFFIXES | SOUND_SUFFIXES
        stem, suffix = os.path.splitext(os.path.basename(name.replace("\\", "/")))
        if suffix.lower() not in known:
            suffix = _suffix(head)
        stem = "".join(c if c.isalnum() or c in "-_." else "_" for c in stem)[:80].strip(".") or "medium"
        number = 1
        while True:
            path = self.scratch / (f"{stem}{suffix}" if number == 1 else f"{stem}-{number}{suffix}")
            try:
                file = open(path, "xb")  # noqa: SIM115
                break
            except FileExistsError:
                number = number * 2 if number < 8 else int.from_bytes(os.urandom(5))
        with file:
            yield Held(path), file


def _suffix(head: bytes) -> str:
    if head[:4] == b"RIFF":
        return ".webp" if head[8:12] == b"WEBP" else ".wav"
    return next((suffix for sign, suffix in _SUFFIXES if head.startswith(sign)), ".bin")


def decoded(text: str) -> bytes:
    """Return the bytes of a medium written as base64, with or without ``data:...;base64,`` before it.

    Raises:
        DataError: if the text is no base64.
    """
    try:
        return base64.b64decode(text.partition(";base64,")[2] or text, validate=True)
    except (binascii.Error, ValueError):
        raise DataError("a medium is not valid base64") from None


class MediaFolder(Folder):
    """A folder whose media are there: a path is resolved only to a file that can be copied."""

    def __init__(self, path: Path, *, named: bool) -> None:
        """Stand in the folder at ``path``; if the user ``named`` it, absolute paths into it are taken."""
        super().__init__(path)
        self._named = named

    def resolve(self, name: str) -> Path:
        """Return the absolute path of a medium without links.

        Raises:
            DataError: if it is a URL, absolute, out of the folder, or no file.
        """
        if isinstance(name, Held):
            return Path(str(name))
        if "://" in name[:12]:
            raise DataError(f"media path '{name[:200]}' is a URL; nothing is downloaded, media must be files")
        if os.path.isabs(name) and self._named:
            inside = os.path.relpath(os.path.realpath(name), self.root)
            path = super().resolve(inside)
        else:
            path = super().resolve(name)
        try:
            whole = path.is_file()
        except (OSError, ValueError):
            whole = False
        if not whole:
            raise DataError(f"media file '{name}' does not exist in '{self.root}'")
        return path


def kind(name: str) -> str | None:
    """Return "image" or "audio" for the name of a medium, by its suffix, or None."""
    suffix = os.path.splitext(name)[1].lower()
    return "image" if suffix in PICTURE_SUFFIXES else "audio" if suffix in SOUND_SUFFIXES else None
