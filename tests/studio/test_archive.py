"""Archives of strangers: unpacked whole and inside their folder, or refused with nothing left behind."""

from __future__ import annotations

import os
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from studio.data.archive import Limits, enough_room, unpack
from studio.errors import DataError

Zip = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Zip:
    def made(*entries: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
        file = tmp_path / "set.zip"
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in entries:
                archive.writestr(name, data)
        return file

    return made


def entry(name: str, mode: int) -> zipfile.ZipInfo:
    made = zipfile.ZipInfo(name)
    made.external_attr = mode << 16
    return made


def refused(archive: Path, sentence: str, limits: Limits | None = None) -> None:
    target = archive.parent / "out"
    with pytest.raises(DataError, match=sentence):
        unpack(archive, target, limits=limits)
    assert sorted(os.listdir(archive.parent)) == [archive.name]


def test_an_archive_is_unpacked_without_what_a_file_manager_left(make: Zip, tmp_path: Path) -> None:
    archive = make(("a/train.jsonl", b"rows"), ("a/media/é.png", b"x" * 300_000), ("__MACOSX/a/b", b"?"))
    assert unpack(archive, tmp_path / "out") == 2
    assert (tmp_path / "out/a/train.jsonl").read_bytes() == b"rows"
    assert (tmp_path / "out/a/media/é.png").stat().st_size == 300_000
    assert not (tmp_path / "out/__MACOSX").exists()


@pytest.mark.parametrize("name", ["../out.txt", "a/../../b", "/etc/passwd", "C:/x", "a\\..\\b"])
def test_names_that_lead_out_are_refused(name: str, make: Zip) -> None:
    refused(make(("fine.txt", b"1"), (name, b"2")), "leads out of the archive")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_devices_are_refused(kind: int, make: Zip) -> None:
    refused(make((entry("media", kind | 0o777), b"/etc")), "is a link or a device")


def test_entries_that_overwrite_each_other_are_refused(make: Zip) -> None:
    refused(make(("A.png", b"1"), ("a.png", b"2")), "'a.png' is there twice")
    refused(make(("a", b"1"), ("a/b", b"2")), "lies inside a file|there twice")


def test_counts_sizes_and_depths_have_limits(make: Zip) -> None:
    refused(make(("a", b"1"), ("b", b"2")), "holds more than 1 files", Limits(files=1))
    refused(make(("a", b"12")), "holds 0.0 GB; allowed: 0.0 GB", Limits(size=1))
    refused(make(("a/b/c", b"1")), "lies more than 2 folders deep", Limits(depth=2))


def test_a_bomb_is_refused_before_a_byte_is_written(make: Zip) -> None:
    refused(make(("zeros", bytes(100 << 20))), "swells to more than 200 times its size")


def test_an_archive_that_lies_about_its_sizes_stops_at_the_limit(make: Zip) -> None:
    archive = make(("a", bytes(5000)))
    data = bytearray(archive.read_bytes())
    place = data.rfind(b"PK\x01\x02") + 24  # the size in the directory, which is believed first
    data[place : place + 4] = (10).to_bytes(4, "little")
    archive.write_bytes(data)
    refused(archive, "cannot be read|swells|no zip archive", Limits(size=1000))


def test_what_is_damaged_encrypted_empty_or_no_archive_is_refused(make: Zip, tmp_path: Path) -> None:
    archive = make(("a", b"hello " * 1000))
    data = archive.read_bytes()
    for broken in (data[: len(data) // 2], data.replace(b"PK\x01\x02", b"PK\x01\x03"), b"", b"hello"):
        archive.write_bytes(broken)
        refused(archive, "no zip archive that can be read")
    torn = bytearray(data)
    torn[40:44] = b"\xff\xff\xff\xff"
    archive.write_bytes(torn)
    refused(archive, "no zip archive that can be read")
    locked = bytearray(data)
    for sign, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        locked[data.find(sign) + place] |= 1
    archive.write_bytes(locked)
    refused(archive, "'a' is encrypted")
    refused(make(("folder/", b"")), "holds no files")


def test_a_full_disk_is_told_beforehand(tmp_path: Path) -> None:
    enough_room(tmp_path / "not/there/yet", 1)
    with pytest.raises(DataError, match=r"the disk has .* GB left, and 4611686018.7 GB are needed"):
        enough_room(tmp_path, 1 << 62)
