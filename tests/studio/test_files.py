from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from studio import files
from studio.files import atomic_folder, atomic_write, folder_hash, sha256_file


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)


def leftovers(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir() if file.name.startswith(".")]


def test_text_and_bytes_are_written_and_parents_made(tmp_path: Path) -> None:
    assert atomic_write(tmp_path / "a/b.txt", "grüße\n").read_text(encoding="utf-8") == "grüße\n"
    assert atomic_write(tmp_path / "a/b.txt", b"\x00\xff").read_bytes() == b"\x00\xff"
    assert leftovers(tmp_path / "a") == []


def test_a_link_is_written_through_and_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    atomic_write(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def test_permissions_follow_the_umask_as_for_any_new_file(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("x")
    assert atomic_write(tmp_path / "ours", "x").stat().st_mode == plain.stat().st_mode


FULL_DISK = """
import resource, signal, sys
from studio.files import atomic_write
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    atomic_write(sys.argv[1], b"n" * 5000)
except OSError as error:
    print(error.errno)
"""


def test_a_full_disk_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    target = atomic_write(tmp_path / "file", "old")
    done = run(FULL_DISK, str(target))
    assert done.stdout.strip().isdigit(), done.stderr
    assert target.read_text() == "old"
    assert leftovers(tmp_path) == []


FULL_FOLDER = """
import resource, signal, sys
from studio.files import atomic_folder
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    with atomic_folder(sys.argv[1]) as fresh:
        (fresh / "small").write_bytes(b"n")
        (fresh / "large").write_bytes(b"n" * 5000)
except OSError as error:
    print(error.errno)
"""


def test_a_full_disk_leaves_the_old_folder_and_no_litter(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/old").write_text("old")
    done = run(FULL_FOLDER, str(tmp_path / "out"))
    assert done.stdout.strip().isdigit(), done.stderr
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["old"]
    assert leftovers(tmp_path) == []


KILLED = """
import sys
from studio import files
print("ready", flush=True)
number = 0
while True:
    number += 1
    if sys.argv[2] == "file":
        files.atomic_write(sys.argv[1], str(number).zfill(8) * 50_000)
    else:
        with files.atomic_folder(sys.argv[1]) as fresh:
            (fresh / "first").write_text(str(number))
            (fresh / "second").write_text(str(number))
"""


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_kill_at_any_moment_leaves_a_whole_old_or_a_whole_new_one(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "target"
    if kind == "file":
        atomic_write(target, "00000000" * 50_000)
    else:
        with atomic_folder(target) as fresh:
            (fresh / "first").write_text("0")
            (fresh / "second").write_text("0")
    for attempt in range(4):
        child = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(target), kind], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(0.02 + 0.013 * attempt)
        child.kill()
        child.communicate()
        if kind == "file":
            text = target.read_text()
            assert text == text[:8] * 50_000
        else:
            assert (target / "first").read_text() == (target / "second").read_text()


def test_an_error_in_the_block_keeps_the_old_folder(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/old").write_text("old")
    with pytest.raises(FileNotFoundError), atomic_folder(tmp_path / "out") as fresh:
        (fresh / "new").write_bytes((fresh / "missing").read_bytes())
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["old"]
    assert leftovers(tmp_path) == []


def test_a_finished_folder_replaces_the_old_one_whole(tmp_path: Path) -> None:
    for name in ("first", "second"):
        with atomic_folder(tmp_path / "deep/out") as fresh:
            (fresh / name).write_text(name)
    assert [file.name for file in (tmp_path / "deep/out").iterdir()] == ["second"]
    assert leftovers(tmp_path / "deep") == []


def test_the_old_folder_is_replaced_where_names_cannot_be_exchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_exchange", lambda first, second: False)  # as on other systems
    for name in ("first", "second"):
        with atomic_folder(tmp_path / "out") as fresh:
            (fresh / name).write_text(name)
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["second"]
    assert leftovers(tmp_path) == []


def test_a_file_in_the_way_of_a_folder_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(NotADirectoryError), atomic_folder(tmp_path / "out"):
        pytest.fail("the block must not run")
    assert (tmp_path / "out").read_text() == "mine"


def test_what_a_dead_process_left_long_ago_is_swept_and_a_live_ones_is_not(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", "pass"])
    dead.wait()
    old = tmp_path / f".file.{dead.pid}-abc.tmp"
    fresh = tmp_path / f".file.{dead.pid}-def.tmp"
    live = tmp_path / f".file.{os.getpid()}-abc.tmp"
    for left in (old, fresh, live):
        left.write_text("x")
    for left in (old, live):
        os.utime(left, (time.time() - 7200,) * 2)
    atomic_write(tmp_path / "file", "new")
    assert not old.exists()
    assert fresh.exists()
    assert live.exists()


def test_hash_of_a_file_is_its_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_file(tmp_path / "a").startswith("ba7816bf8f01cfea")


def test_hash_of_a_folder_tells_names_and_contents_but_not_times(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep/b.txt").write_text("b")
        (tmp_path / name / "a.txt").write_text("a")
    same = folder_hash(tmp_path / "one")
    os.utime(tmp_path / "two/a.txt", (1, 1))
    (tmp_path / "two/.hidden").write_text("ignored")
    assert folder_hash(tmp_path / "two") == same
    assert folder_hash(tmp_path / "two", ["*.txt"]) != same
    (tmp_path / "two/a.txt").rename(tmp_path / "two/c.txt")
    assert folder_hash(tmp_path / "two") != same
