"""Media on their way into a folder: each under a name of its own, copied or linked once."""

from __future__ import annotations

import dataclasses
import filecmp
import os
import shutil
from pathlib import Path

from studio.data.formats._ledger import Ledger
from studio.errors import DataError
from studio.types import Image, Part, Sample, Sound, Text

_REMEMBERED = 1 << 16


class Copies:
    """The media of a folder that is being written; they keep their names below ``media/``."""

    def __init__(self, folder: Path, ledger: Ledger) -> None:
        """Write into ``folder``; a name is relative to the folder that the ledger reads from."""
        self.folder = folder
        self._ledger = ledger
        self._known: dict[Path, Path] = {}

    def named(self, sample: Sample) -> tuple[Sample, dict[Path, Path]]:
        """Return the sample with its media as they will lie in the folder, and target by source."""
        media: dict[Path, Path] = {}

        def moved(part: Part) -> Part:
            if isinstance(part, Text):
                return part
            target = media.get(part.path) or self._target(part.path, set(media.values()))
            media[part.path] = target
            return Image(path=target) if isinstance(part, Image) else Sound(path=target)

        turns = tuple(dataclasses.replace(t, parts=tuple(map(moved, t.parts))) for t in sample.turns)
        return dataclasses.replace(sample, turns=turns), media

    def place(self, media: dict[Path, Path]) -> None:
        """Copy or link what is not there yet.

        Raises:
            DataError: if a medium cannot be read.
        """
        for source, target in media.items():
            if not target.exists():
                put(source, target, self._ledger)
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[source] = target

    def _target(self, source: Path, taken: set[Path]) -> Path:
        """Return where a medium goes: its old name, with a number if another medium has it."""
        if source in self._known:
            return self._known[source]
        name = media_name(source, self._ledger)
        target, number = self.folder / name, 1
        while target in taken or (target.exists() and not _same(source, target)):
            number += 1
            target = (self.folder / name).with_name(f"{Path(name).stem}-{number}{Path(name).suffix}")
        return target


def media_name(source: Path, ledger: Ledger) -> str:
    """Return the name of a medium below ``media/``: as it was, relative to the folder it was read from."""
    root = os.path.realpath(ledger.root) if ledger.root else ""
    inside = root and str(source).startswith(root.rstrip(os.sep) + os.sep)
    name = os.path.relpath(source, root) if inside else source.name
    try:
        name.encode()
    except UnicodeEncodeError:
        raise DataError(f"media file {name!a} has a name that is not UTF-8") from None
    name = Path(name).as_posix()
    return name if name.startswith("media/") else f"media/{name}"


def put(source: Path, target: Path, ledger: Ledger) -> None:
    """Copy a medium, or link it where that is asked for or it was only unpacked for us.

    Raises:
        DataError: if it cannot be read.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if ledger.link or source.parent == ledger.scratch:
        try:
            os.link(source, target)
            return
        except OSError:
            pass  # another file system, or one without links
    try:
        with open(source, "rb") as file, open(target, "xb") as copy:
            shutil.copyfileobj(file, copy, 1 << 20)
    except OSError as error:
        target.unlink(missing_ok=True)
        if error.filename == str(source):
            raise DataError(f"media file '{source}' cannot be read ({error.strerror})") from None
        raise


def _same(source: Path, target: Path) -> bool:
    return os.path.samefile(source, target) or filecmp.cmp(source, target, shallow=False)
