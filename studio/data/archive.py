"""Unpacking a zip archive that a stranger has sent: inside its folder, within limits, files only.

Refused with one sentence, and nothing is left of what was unpacked: names that lead out of the folder, links
and devices, encrypted entries, more files or bytes than allowed, entries that swell more than pictures and
sounds ever do (zip bombs), and archives that are damaged. What only a file manager has left is passed over.
"""

from __future__ import annotations

import shutil
import stat
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from studio.errors import DataError
from studio.files import atomic_folder
from studio.log import Log, QuietLog

_BLOCK = 1 << 20
_LITTER = ("__MACOSX", ".DS_Store", "Thumbs.db", "desktop.ini")
#: An archive may be so small that what it holds swells more without harm.
_SMALL = 64 << 20


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How many files and bytes may come out of an archive, how much it may swell, how deep folders may be."""

    files: int = 50_000
    size: int = 4 << 30
    swelling: int = 200
    depth: int = 12


def unpack(archive: Path, folder: Path, *, limits: Limits | None = None, log: Log | None = None) -> int:
    """Unpack ``archive`` into the new folder ``folder``, whole or not at all; return how many files it has.

    Raises:
        DataError: if it is no archive, is damaged, holds nothing, or asks for what is refused.
        OSError: if the disk is full.
    """
    limits, log = limits or Limits(), log or QuietLog()
    if folder.exists() and any(folder.iterdir()):
        raise DataError(f"'{folder.name}' is there already")
    try:
        with zipfile.ZipFile(archive) as opened:
            entries = _entries(opened, archive, limits)
            log.stage("unpacking", len(entries), "files")
            with atomic_folder(folder) as made:
                left = limits.size
                for place, entry in entries.items():
                    left -= _copy(opened, entry, made / place, archive.name, left)
                    log.advance()
            return len(entries)
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        struct.error,
        NotImplementedError,
        UnicodeError,
    ) as error:
        raise DataError(f"'{archive.name}' is no zip archive that can be read ({error})") from None


def _entries(opened: zipfile.ZipFile, archive: Path, limits: Limits) -> dict[str, zipfile.ZipInfo]:
    """Return the files by the place that each will take, once all are known to be allowed."""
    found: dict[str, zipfile.ZipInfo] = {}
    folded: dict[str, str] = {}
    for entry in opened.infolist():
        if entry.is_dir() or any(part in _LITTER for part in entry.filename.split("/")):
            continue
        place = _place(entry, archive.name, limits)
        if folded.setdefault(place.casefold(), entry.filename) != entry.filename or place in found:
            raise DataError(f"'{archive.name}': '{entry.filename}' is there twice")
        found[place] = entry
        if len(found) > limits.files:
            raise DataError(f"'{archive.name}' holds more than {limits.files:,} files")
    total = sum(entry.file_size for entry in found.values())
    if total > limits.size:
        raise DataError(f"'{archive.name}' holds {total / 1e9:.1f} GB; allowed: {limits.size / 1e9:.1f} GB")
    if total > max(_SMALL, limits.swelling * archive.stat().st_size):
        raise DataError(f"'{archive.name}' swells to more than {limits.swelling} times its size")
    if not found:
        raise DataError(f"'{archive.name}' holds no files")
    return found


def _place(entry: zipfile.ZipInfo, archive: str, limits: Limits) -> str:
    """Return where an entry goes, relative to the folder."""
    name, where = entry.filename, f"'{archive}': '{entry.filename}'"
    parts = PurePosixPath(name).parts
    if "\\" in name or name.startswith("/") or ".." in parts or (parts and ":" in parts[0]):
        raise DataError(f"{where} leads out of the archive")
    if not parts or any(not part.isprintable() or len(part.encode()) > 255 for part in parts):
        raise DataError(f"{where} is no name for a file")
    if len(parts) > limits.depth:
        raise DataError(f"{where} lies more than {limits.depth} folders deep")
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        raise DataError(f"{where} is a link or a device; allowed: files and folders")
    if entry.flag_bits & 0x1:
        raise DataError(f"{where} is encrypted; send the archive without a password")
    return str(PurePosixPath(*parts))


def _copy(opened: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path, archive: str, left: int) -> int:
    """Unpack one file of at most ``left`` bytes, whatever the archive says about it; return its size."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise DataError(f"'{archive}': '{entry.filename}' lies inside a file") from None
    size = 0
    try:
        with opened.open(entry) as source, open(target, "xb") as made:
            while block := source.read(_BLOCK):
                size += len(block)
                if size > left:
                    raise DataError(f"'{archive}' swells to more than is allowed")
                made.write(block)
    except (FileExistsError, IsADirectoryError):
        raise DataError(f"'{archive}': '{entry.filename}' is there twice") from None
    except RuntimeError as error:  # zipfile's own word for what it will not open
        raise DataError(f"'{archive}': '{entry.filename}' cannot be read ({error})") from None
    return size


def enough_room(folder: Path, size: int, *, spare: int = 256 << 20) -> None:
    """Raise a `DataError` if the disk of ``folder`` has no room for ``size`` bytes and some to spare."""
    place = folder
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < size + spare:
        raise DataError(
            f"the disk has {free / 1e9:.1f} GB left, and {(size + spare) / 1e9:.1f} GB are needed"
        )
