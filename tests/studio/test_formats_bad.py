"""Data that is wrong or means harm: one sentence with file and line, nothing written, no memory lost."""

from __future__ import annotations

import gzip
import io
import json
import os
import resource
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Pictures

from apps.cli import main
from studio.data import load_data
from studio.data.formats import convert
from studio.errors import ConfigError, DataError, UnknownName

TALK = [{"from": "human", "value": "<image>What?"}, {"from": "gpt", "value": "A carpet."}]
GOOD = {"conversations": TALK, "images": ["a.png"]}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with one picture, inside of one with a secret."""
    root = tmp_path / "data"
    root.mkdir()
    (tmp_path / "secret.png").write_bytes(b"secret")
    Pictures.new("RGB", (8, 8), "red").save(root / "a.png")
    return root


def refused(data: Path, *rows: object, name: str = "train.jsonl", **options: Any) -> str:
    """The sentence with which a conversion of these rows fails; it must leave nothing behind."""
    if rows:
        (data / name).write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    beside = sorted(os.listdir(data.parent))
    with pytest.raises(DataError) as caught:
        convert(data, data.parent / "out", "triptych", **options)
    assert sorted(os.listdir(data.parent)) == beside
    return str(caught.value)


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("../secret.png", "leads out of the data file's folder"),
        ("../../../../../../etc/passwd", "leads out of the data file's folder"),
        ("/etc/passwd", "is absolute"),
        ("link.png", "leads out of the data file's folder"),
        ("up/secret.png", "leads out of the data file's folder"),
        ("", "is empty"),
        ("gone.png", "media file 'gone.png' does not exist in"),
        (".", "leads out of"),
        ("x" * 5000, "does not exist"),
        ("https://example.org/a.png", "is a URL; nothing is downloaded"),
        ("data:image/png;base64,@@@", "is not valid base64"),
        (7, "'images' must be the path of a file, or a list of such"),
    ],
)
def test_a_path_that_leads_out_or_nowhere_is_refused(data: Path, path: object, sentence: str) -> None:
    (data / "link.png").symlink_to(data.parent / "secret.png")
    (data / "up").symlink_to(data.parent)
    said = refused(data, GOOD, GOOD | {"images": [path]})
    assert said.startswith(f"{data / 'train.jsonl'}:2: ")
    assert sentence in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (GOOD | {"images": []}, "1 <image> tags stand for 0 files; the numbers must be the same"),
        (GOOD | {"images": ["a.png", "a.png"]}, "1 <image> tags stand for 2 files"),
        (GOOD | {"audios": ["a.png"]}, "0 <audio> tags stand for 1 files"),
        (GOOD | {"videos": ["a.mp4"]}, "'videos' (videos) cannot be taken over"),
        (GOOD | {"tools": "[{}]"}, "'tools' (tools) cannot be taken over"),
        (GOOD | {"kto_tag": True}, "'kto_tag' (an answer marked good or bad without its rival)"),
        ({"conversations": [{"from": "tool", "value": "x"}]}, "conversations[0]: unknown role 'tool'"),
        (
            {"conversations": [{"from": "human"}]},
            "conversations[0] must be an object with 'from' and 'value'",
        ),
        ({"conversations": []}, "'messages' must be a list with at least one message"),
        ({"conversations": {}}, "'conversations' must be a list of messages"),
        (GOOD | {"chosen": {"from": "gpt", "value": "x"}}, "'rejected' is missing"),
        (GOOD | {"triptych": "{"}, "'triptych' must be an object as JSON text"),
        ('{"conversations": ', "not valid JSON"),
        ("[1]", "row must be an object"),
        ('{"conversations": ' + "[" * 100_000, "not valid JSON (too deep"),
    ],
)
def test_a_wrong_row_of_a_peer_is_named_with_file_and_line(data: Path, row: object, sentence: str) -> None:
    said = refused(data, GOOD, row, GOOD)
    assert said.startswith(f"{data / 'train.jsonl'}:2: ")
    assert sentence in said
    assert "\n" not in said


def test_all_wrong_rows_are_told_and_a_ceiling_lets_some_pass(data: Path) -> None:
    rows = [GOOD, *[GOOD | {"images": []}] * 12, GOOD]
    said = refused(data, *rows)
    assert said.startswith("12 of 14 rows are wrong:")
    assert said.endswith("and 2 more")
    assert "--skip-bad 11 allows no more" in refused(data, *rows, skip=11)
    done = convert(data, data.parent / "out", "triptych", skip=12)
    assert done.splits == {"train": 2}
    assert len(done.skipped) == 12
    told = (data.parent / "out" / "skipped.txt").read_text().splitlines()
    assert [line.split(": ")[0] for line in told] == [f"{data / 'train.jsonl'}:{n}" for n in range(2, 14)]
    assert len(load_data(data.parent / "out")) == 2
    (data.parent / "out").rename(data.parent / "old")
    assert "there is no row to convert" in refused(data, GOOD | {"images": []}, skip=1)


def test_a_row_that_the_target_cannot_say_is_named_as_one_that_cannot_be_read(data: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": text}]} for text in ("<image>", "hi")]
    rows.append({"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]})
    (data / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError) as caught:
        convert(data, data.parent / "out", "sharegpt")
    assert "train.jsonl:1: a text holds '<image>', which this format reads as a medium" in str(caught.value)
    assert "train.jsonl:3: user and assistant must alternate in this format" in str(caught.value)
    assert convert(data, data.parent / "out", "sharegpt", skip=2).splits == {"train": 1}


def test_an_array_that_breaks_off_is_told_with_its_line(data: Path) -> None:
    text = json.dumps([GOOD, GOOD, GOOD], indent=1)
    (data / "train.json").write_text(text[: text.rfind("carpet")])
    said = refused(data)
    assert said.startswith(f"{data / 'train.json'}:")
    assert "not valid JSON" in said
    (data / "train.json").write_text(text[: text.rfind("]")])
    assert "the file ends inside the JSON array" in refused(data)
    assert refused(data, skip=9).endswith("(--skip-bad is for rows: the file's end is missing)")


def test_a_table_whose_rows_do_not_fit_its_header_is_told(data: Path) -> None:
    (data / "t.csv").write_text('prompt,answer\na,b\n"two\nlines",b\na,b,c\n\xff,b\n', encoding="latin-1")
    said = refused(data)
    assert f"{data / 't.csv'}:5: the row has 3 cells for 2 columns" in said
    assert f"{data / 't.csv'}:6: a text holds half of a surrogate pair" in said


def shard(data: Path, *files: tuple[str, bytes | tarfile.TarInfo]) -> None:
    """Write a tar file with these members."""
    with tarfile.open(data / "train-000000.tar", "w") as archive:
        for name, content in files:
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    """A link or a device."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("../x.png", b"x", "'../x.png' leads out of the archive"),
        ("/tmp/x.png", b"x", "'/tmp/x.png' leads out of the archive"),
        ("x.png", special("x.png", tarfile.SYMTYPE, "/etc/passwd"), "'x.png' is a link or a device"),
        ("x.png", special("x.png", tarfile.LNKTYPE, "../secret.png"), "'x.png' is a link or a device"),
        ("x.png", special("x.png", tarfile.CHRTYPE), "'x.png' is a link or a device"),
        ("x" * 2000 + ".png", b"x", "is a name of 2004 characters; allowed: 1024"),
        ("x.exe", b"x", "'x.exe' is no picture, no sound, no text and no JSON"),
        ("x.json", b"{", "'x.json' is not valid JSON"),
        ("x.json", b'{"messages": [{"role": "user", "content": [{"type": "image", "path": "/etc/passwd"}]}]}',
         "names the medium '/etc/passwd', which the sample does not have"),
        ("x.txt", b"\xff", "'x.txt' is not UTF-8"),
        ("x.txt", b"no medium", "there is no question and no medium"),
    ],
)  # fmt: skip
def test_a_tar_member_that_escapes_or_is_wrong_is_refused(
    data: Path, name: str, content: bytes | tarfile.TarInfo, sentence: str
) -> None:
    shard(data, (name, content))
    said = refused(data)
    assert said.startswith(f"{data / 'train-000000.tar'}:1: ")
    assert sentence in said


def test_bombs_are_refused_before_they_unpack(data: Path) -> None:
    """A header that claims gigabytes, and a squeezed file of zeros, within 1 GB of address space."""
    path = data / "train.tar.gz"
    header = special("./PaxHeaders/x", tarfile.XHDTYPE)
    header.size = 4 << 30
    zeros = bytes(1 << 20)
    with gzip.open(path, "wb", compresslevel=9) as file:
        file.write(header.tobuf())
        for _ in range(600):
            file.write(zeros)
    assert "a header claims to be larger than it may be" in _within(data)
    large = tarfile.TarInfo("x.png")
    large.size = 600 << 20
    with gzip.open(path, "wb", compresslevel=9) as file:
        file.write(large.tobuf())
        for _ in range(600):
            file.write(zeros)
    assert "'x.png' has 629145600 bytes; allowed: 536870912" in _within(data)


def _within(data: Path) -> str:
    """What a conversion says in a process that may not have more than 1 GB of address space."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))

    command = [
        sys.executable,
        "-m",
        "apps.cli",
        "convert",
        str(data),
        str(data.parent / "out"),
        "--to",
        "triptych",
    ]
    one = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # each thread reserves its stack
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit, timeout=60, env=one)
    assert done.returncode == 2, done.stderr
    return done.stderr


def test_the_place_must_be_new_and_elsewhere(data: Path, tmp_path: Path) -> None:
    (data / "train.jsonl").write_text(json.dumps(GOOD) + "\n")
    with pytest.raises(ConfigError, match="lies inside"):
        convert(data, data / "out", "triptych")
    with pytest.raises(ConfigError, match="is there already"):
        convert(data, data.parent, "triptych")
    with pytest.raises(UnknownName, match="unknown format 'sharegtp'; did you mean 'sharegpt'"):
        convert(data, tmp_path / "out", "sharegtp")
    with pytest.raises(DataError, match=r"does not exist; unknown name 'dada'; did you mean 'data'"):
        convert(data.with_name("dada"), tmp_path / "out", "triptych")
    with pytest.raises(ConfigError, match="is no folder"):
        convert(data, tmp_path / "out", "triptych", media=tmp_path / "gone")


def test_two_media_of_one_name_stay_two(data: Path) -> None:
    (data / "media").mkdir()
    Pictures.new("RGB", (8, 8), "blue").save(data / "media" / "a.png")
    (data / "train.jsonl").write_text(
        "".join(json.dumps(GOOD | {"images": [n]}) + "\n" for n in ("a.png", "media/a.png", "a.png"))
    )
    convert(data, data.parent / "out", "triptych")
    images = [sample.images[0].path for sample in load_data(data.parent / "out")]
    assert [path.name for path in images] == ["a.png", "a-2.png", "a.png"]
    assert images[1].read_bytes() == (data / "media" / "a.png").read_bytes()
    assert images[0].stat().st_ino != (data / "a.png").stat().st_ino
    convert(data, data.parent / "linked", "triptych", link=True)
    assert (data.parent / "linked" / "media" / "a.png").stat().st_ino == (data / "a.png").stat().st_ino


def test_the_command_says_what_it_found_and_what_is_only_kept(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = json.dumps({"format": "sharegpt", "groups": {"site": "north"}})
    (data / "train.jsonl").write_text(json.dumps(GOOD | {"triptych": kept}) + "\n{}\n")
    out = data.parent / "out"
    assert main(["convert", str(data), str(out), "--to", "ms-swift"]) == 2
    assert f"{data / 'train.jsonl'}:2: 'conversations' must be a list of messages" in capsys.readouterr().err
    assert not out.exists()
    assert main(["convert", str(data), str(out), "--to", "ms-swift", "--skip-bad", "1"]) == 0
    told = capsys.readouterr().out
    assert "is sharegpt: train.jsonl was converted to it" in told
    assert "kept for the way back, and unknown to ms_swift: groups" in told
    assert f"{data / 'train.jsonl'}:2: " in told
    assert main(["convert", str(out), str(data.parent / "back"), "--to", "triptych", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["from"], found["splits"], found["skipped"]) == ("ms_swift", {"train": 1}, [])
    assert load_data(data.parent / "back")[0].groups == {"site": "north"}
    assert main(["convert", str(data), str(out), "--to", "csv", "--skip-bad", "-1"]) == 2


def test_formats_are_listed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ls", "formats"]) == 0
    assert "sharegpt     LLaMA-Factory's ShareGPT rows" in capsys.readouterr().out
    assert main(["show", "ms-swift"]) == 0
    assert "Refused: " in capsys.readouterr().out
