"""Sets of any size and of any format are checked row by row, and an unchanged one is not checked again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from apps.cli import main
from studio.cache import Kept
from studio.data.findings import check, spool
from studio.data.findings.found import Finding
from studio.data.findings.source import data_files, source_of
from studio.data.findings.spool import Findings, merged
from studio.data.formats import convert
from studio.errors import DataError
from studio.log import QuietLog
from tests.studio.defects import DEFECTS, WITH_MODEL, seeded

ROOT = Path(__file__).resolve().parents[2]
module = sys.modules["studio.data.findings.check"]


def told(report: Any) -> list[tuple[Any, ...]]:
    return [(f.file.name, f.row, f.kind, f.message, f.medium) for f in report.findings]


def test_parts_of_any_size_and_findings_on_the_disk_give_the_same_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = seeded(tmp_path / "set", 400, 2, [name for name in DEFECTS if name not in WITH_MODEL])
    files = data_files(made.folder)
    whole = check(files, QuietLog(), kept=Kept(tmp_path / "one"))
    monkeypatch.setattr(module, "PART", 7)
    monkeypatch.setattr(spool, "IN_MEMORY", 5)
    parts = check(files, QuietLog(), kept=Kept(tmp_path / "two"))
    assert len(whole.findings) > 50
    assert told(parts) == told(whole)
    assert (parts.rows, parts.media, parts.rate, parts.counts()) == (
        whole.rows,
        whole.media,
        whole.rate,
        whole.counts(),
    )
    assert parts.findings[-1] == whole.findings[len(whole.findings) - 1]
    assert parts.as_json() == whole.as_json()


def test_findings_beyond_memory_come_back_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "IN_MEMORY", 3)
    streams = [Findings() for _ in range(3)]
    for at in range(40):
        file = Path("a") / os.fsdecode(b"caf\xe9.jsonl")
        one = Finding(row=at, file=file, kind="missing", message=f"no. {at} é", medium=(file, at % 2 == 0))
        streams[at % 3].add(one, at)
    found = merged(streams)
    assert [one.row for one in found] == list(range(40))
    assert found[-1] == streams[0][13]
    assert [one.row for one in found[10:13]] == [10, 11, 12]
    assert found.counts == {"missing": 40}
    with pytest.raises(IndexError, match="finding 40 of 40"):
        found[40]


def test_memory_does_not_grow_with_the_rows() -> None:
    code = (
        "import json, resource, sys, tempfile; from pathlib import Path\n"
        "from studio.cache import Kept; from studio.data.findings import check\n"
        "from studio.log import QuietLog\n"
        "import numpy\n"
        "peaks = []\n"
        "for rows in (3_000, 24_000):\n"
        "    with tempfile.TemporaryDirectory() as name:\n"
        "        file = Path(name) / 'train.jsonl'\n"
        "        with open(file, 'w') as out:\n"
        "            for at in range(rows):\n"
        "                said = [{'role': 'user', 'content': f'What is {at}?'},\n"
        "                        {'role': 'assistant', 'content': 'A number.'}]\n"
        "                out.write(json.dumps({'messages': said, 'id': str(at // 2)}) + '\\n')\n"
        "        report = check([file], QuietLog(), kept=Kept(Path(name) / 'kept'))\n"
        "        assert report.counts() == {'duplicate_id': rows // 2}, report.counts()\n"
        "    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)\n"
        "print(*peaks)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    small, large = map(int, done.stdout.split())
    assert large - small < 21, (
        "MB for 21,000 rows more, of which half are found; held whole, they would be 70"
    )


def test_an_unchanged_set_is_told_from_one_look_at_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = seeded(tmp_path / "set", 250, 1, [name for name in DEFECTS if name not in WITH_MODEL])
    files, kept = data_files(made.folder), Kept(tmp_path / "kept")
    first = check(files, QuietLog(), kept=kept)
    with monkeypatch.context() as patch:
        patch.setattr(module, "examine", None)
        again = check(files, QuietLog(), kept=kept)
    assert told(again) == told(first)
    assert (again.rows, again.media, again.rate) == (first.rows, first.media, first.rate)
    made.medium(3).unlink()
    assert "missing" in {f.kind for f in check(files, QuietLog(), kept=kept).findings if f.row == 4}
    train = next(file for file in files if file.stem == "train")
    train.write_text(train.read_text() + "{}\n")
    assert check(files, QuietLog(), kept=kept).rows == first.rows + 1


@pytest.mark.parametrize("target", ["sharegpt", "ms_swift", "axolotl", "parquet", "webdataset", "arrow"])
def test_data_of_other_tools_are_checked_as_they_lie(tmp_path: Path, target: str) -> None:
    made = seeded(tmp_path / "set", 30, 0, [])
    convert(made.folder, tmp_path / "out", target)
    source = source_of(tmp_path / "out")
    assert source.own == (target == "parquet")
    report = check(source, QuietLog(), kept=Kept(tmp_path / "kept"))
    assert (report.rows, report.media, [f for f in report.findings if f.error]) == (30, 30, [])


def test_what_is_wrong_in_data_of_other_tools_is_told_with_file_and_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yes."}]},
        {"conversations": [{"from": "human", "value": "<image>Hi"}, {"from": "gpt", "value": "Yes."}]},
        {
            "conversations": [{"from": "human", "value": "<image>Hi"}, {"from": "gpt", "value": "Yes."}],
            "images": ["gone.png"],
        },
        {
            "conversations": [{"from": "human", "value": "<image>Hi"}, {"from": "gpt", "value": "Yes."}],
            "images": ["../../etc/passwd"],
        },
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yes."}]},
    ]
    file = tmp_path / "set.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)) + "\n")
    assert main(["check", str(file), "--out", str(tmp_path / "out")]) == 1
    assert "is sharegpt: " in capsys.readouterr().out
    found = json.loads((tmp_path / "out/check.json").read_text())
    assert found["rows"] == 5
    assert [(one["row"], one["kind"]) for one in found["findings"]] == [
        (2, "row"),
        (3, "missing"),
        (4, "path"),
        (5, "duplicate_row"),
    ]
    assert {one["file"] for one in found["findings"]} == {str(file)}
    assert main(["check", str(file), "--fix", str(tmp_path / "fixed")]) == 2
    assert "first convert it: triptych convert" in capsys.readouterr().err
    with pytest.raises(DataError, match="looks like none of the formats"):
        source_of(ROOT / "README.md")


def test_rows_of_ours_with_a_wrong_key_stay_ours(tmp_path: Path) -> None:
    good = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes."}]}
    (tmp_path / "train.jsonl").write_text(json.dumps(good | {"images": []}) + "\n" + json.dumps(good) + "\n")
    report = check(source_of(tmp_path), QuietLog(), kept=Kept(tmp_path / "kept"))
    assert [(f.row, f.kind) for f in report.findings] == [(1, "row")]
