"""Files that a visitor has sent as a data set: put in their places, unpacked if they are an archive."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from studio.data.archive import Limits, enough_room, unpack
from studio.errors import DataError
from studio.log import Log

#: Files of one set; more are sent as an archive.
MOST = 3000
_ARCHIVES = (".zip",)
_OTHERS = (".rar", ".7z", ".gz", ".tgz", ".xz", ".bz2")


def put_in_place(sent: Any, uploads: Path, folder: Path, log: Log, *, limits: Limits | None = None) -> str:
    """Move what was sent below ``folder``, an archive unpacked, and return the set's name.

    ``sent`` is what a page says, to be judged as if it were forged: a mapping with ``name`` and ``files``,
    each with the ``place`` it had on the visitor's machine and the ``path`` of the upload, which must lie in
    the folder ``uploads``.

    Raises:
        DataError: if that is not so, or an archive is refused (`studio.data.archive`).
        OSError: if the disk is full.
    """
    limits = limits or Limits()
    files = sent.get("files") if isinstance(sent, Mapping) else None
    if not isinstance(files, list) or not files:
        raise DataError("nothing has arrived; choose files or a folder")
    if len(files) > MOST:
        raise DataError(f"more than {MOST:,} files; send them as one zip archive")
    root = uploads.resolve()
    places = dict(_file(one, root, limits) for one in files)
    if len(places) < len(files):
        raise DataError("two of the files have the same name; send them as a folder or a zip archive")
    size = sum(path.stat().st_size for path in places.values())
    if size > limits.size:
        raise DataError(f"that are {size / 1e9:.1f} GB; allowed: {limits.size / 1e9:.1f} GB")
    archives = [place for place in places if place.suffix.lower() in _ARCHIVES]
    if archives and len(places) > 1:
        raise DataError(f"'{archives[0].name}' came with other files; send the archive alone")
    if archives:
        enough_room(folder, 2 * size)
        unpack(places[archives[0]], folder, limits=limits, log=log)
        places[archives[0]].unlink(missing_ok=True)
    else:
        for place, path in places.items():
            target = folder / place
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(path, target)
    first = next(iter(places))
    return first.parts[0] if len(first.parts) > 1 else first.stem


def _file(told: Any, root: Path, limits: Limits) -> tuple[PurePosixPath, Path]:
    """Return where one file goes, relative to the set's folder, and where it is."""
    told = told if isinstance(told, Mapping) else {}
    path, place = told.get("path"), told.get("place")
    if not isinstance(path, str) or not isinstance(place, str) or "\0" in path:
        raise DataError("a file did not arrive; send the set again")
    found = Path(path).resolve()
    if not found.is_relative_to(root) or not found.is_file():
        raise DataError("a file did not arrive; send the set again")
    name = PurePosixPath(place)
    wrong = "\\" in place or name.is_absolute() or ".." in name.parts or not name.parts
    if wrong or any(not part.isprintable() or len(part.encode()) > 255 for part in name.parts):
        raise DataError(f"'{place[:80]}' is no name for a file of a set")
    if len(name.parts) > limits.depth:
        raise DataError(f"'{place[:80]}' lies more than {limits.depth} folders deep")
    if name.suffix.lower() in _OTHERS and ".tar" not in name.suffixes:
        raise DataError(f"'{name.name}' is an archive that is not read; allowed: zip")
    return name, found
