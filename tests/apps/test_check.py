"""`triptych check` and `triptych preview` as a user meets them: tables, pages, repaired copies."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from apps.cli import main
from apps.preview import preview_page, row_of
from studio import families
from studio.data import load_data
from studio.data.kept_facts import examine
from studio.log import QuietLog
from studio.types import Sample, Sound, Text, Turn
from tests.studio.defects import DEFECTS, WITH_MODEL, Set, seeded

ROOT = Path(__file__).resolve().parents[2]
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def clean(tmp_path: Path) -> Set:
    return seeded(tmp_path / "set", 20, 0, [])


@pytest.fixture
def defective(tmp_path: Path) -> Set:
    return seeded(tmp_path / "set", 200, 1, list(DEFECTS))


def shown(capsys: Capture) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)


def test_clean_data_is_one_line_and_no_error(clean: Set, capsys: Capture) -> None:
    assert main(["check", str(clean.folder)]) == 0
    assert shown(capsys) == "20 rows, 20 media: nothing found\n"


def test_without_a_model_no_torch_is_imported(clean: Set) -> None:
    code = (
        "import sys\nfrom apps.cli import main\n"
        f"assert main(['check', {str(clean.folder)!r}]) == 0\n"
        "assert not {'torch', 'transformers', 'gradio'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True)


def test_warnings_alone_are_no_error(tmp_path: Path, capsys: Capture) -> None:
    made = seeded(tmp_path / "set", 40, 1, ["rotation"])
    assert main(["check", str(made.folder)]) == 0
    assert "40 rows, 40 media: 0 errors, 1 warnings" in shown(capsys)


def test_errors_are_a_table_check_json_a_page_and_exit_status_1(
    defective: Set,
    tiny: Callable[[str], Path],
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    out = tmp_path / "out"
    model = str(tiny("qwen_omni"))
    assert main(["check", str(defective.folder), "--model", model, "--out", str(out)]) == 1
    table = shown(capsys)
    for name, row, kind in defective.planted:
        assert re.search(rf"^{kind} +(error|warning) +1 +{re.escape(name)}:{row} ", table, re.M), (
            kind,
            table,
        )
    told = json.loads((out / "check.json").read_text())
    assert told["rows"] == 200
    found = {(Path(f["file"]).name, f["row"], f["kind"]) for f in told["findings"]}
    assert found == defective.planted
    assert all(set(f) == {"row", "file", "kind", "severity", "message", "fix"} for f in told["findings"])
    assert (out / "check.html").read_text().startswith("<!doctype html>")
    capsys.readouterr()
    assert main(["check", str(defective.folder), "--model", model, "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == told


def test_fix_writes_a_copy_that_passes(defective: Set, tmp_path: Path, capsys: Capture) -> None:
    fixed = tmp_path / "fixed"
    assert main(["check", str(defective.folder), "--fix", str(fixed)]) == 1
    told = capsys.readouterr()
    without = {row for row in defective.planted if row[2] not in WITH_MODEL}
    lost = len({(f, r) for f, r, kind in without if kind in DROPPED})
    assert f"{200 - lost} rows kept, {lost} left out" in told.err
    assert main(["check", str(fixed)]) == 0
    assert main(["check", str(defective.folder), "--fix", str(fixed)]) == 2
    assert "exists already" in capsys.readouterr().err


DROPPED = {
    "row", "path", "empty_answer", "no_answer", "tags", "duplicate_row", "leak", "missing", "not_a_file",
    "empty_file", "truncated", "wrong_type", "bomb",
}  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["check", "handwritign"], "did you mean 'handwriting'"),
        (["check", "SET", "--split", "trian"], "did you mean 'train'"),
        (["check", "SET", "--model", "nano-omin"], "did you mean 'nano-omni'"),
        (["preview", "SET", "--model", "nano-omni", "-n", "0"], "-n must be at least 1"),
        (["preview", "SET", "--model", "SET"], "config.json is missing"),
        (["check", "SET", "--modle", "x"], "did you mean '--model'"),
    ],
    ids=" ".join,
)
def test_bad_usage_is_one_sentence_and_exit_status_2(
    clean: Set, capsys: Capture, arguments: list[str], hint: str
) -> None:
    assert main([str(clean.folder) if word == "SET" else word for word in arguments]) == 2
    told = capsys.readouterr().err
    assert told.startswith("triptych: ")
    assert hint in told


def test_one_split_of_a_folder_or_one_file_can_be_checked(clean: Set, capsys: Capture) -> None:
    assert main(["check", str(clean.folder), "--split", "test"]) == 0
    assert main(["check", str(clean.folder / "train.jsonl")]) == 0
    assert shown(capsys) == "2 rows, 2 media: nothing found\n18 rows, 18 media: nothing found\n"


def test_preview_marks_what_is_trained_and_where_media_stand(
    clean: Set, tiny: Callable[[str], Path], capsys: Capture
) -> None:
    assert main(["preview", str(clean.folder), "--model", str(tiny("qwen_omni")), "-n", "2"]) == 0
    told = shown(capsys)
    assert re.search(r"train\.jsonl:1  \d+ tokens, \d+ trained; image 6\n", told)
    assert "[image x 6]" in told
    assert "[audio x 1]" in told
    assert "It is number 1." in told


@pytest.mark.parametrize("name", ["qwen_omni", "smolvlm", "whisper"])
def test_trained_pieces_of_a_preview_spell_the_answer_and_counts_add_up(
    tiny: Callable[[str], Path], questions: Callable[..., list[Sample]], name: str
) -> None:
    gauge = families.gauge(tiny(name))
    for sample in questions(name, 6):
        row, length = row_of(sample, gauge), gauge.length(sample)
        assert "".join(p.text for p in row.pieces if p.kind == "trained").lstrip().startswith(sample.answer)
        assert sum(p.count for p in row.pieces if p.kind in gauge.places) == sum(length.wanted.values())
        assert sum(p.count for p in row.pieces) == length.tokens + (name == "whisper")
        assert sum(p.count for p in row.pieces if p.kind == "trained") == length.learned
        assert [medium for medium, _ in row.media] == [m.path for m in (*sample.images, *sample.sounds)]


def test_letters_of_several_tokens_are_shown_whole(tiny: Callable[[str], Path]) -> None:
    gauge = families.gauge(tiny("qwen_omni"))
    turns = (
        Turn(role="user", parts=(Text(text="für 猫?"),)),
        Turn(role="assistant", parts=(Text(text="naïve 🐈!"),)),
    )
    row = row_of(Sample(turns=turns), gauge)
    assert "".join(p.text for p in row.pieces if p.kind == "trained").startswith("naïve 🐈!")
    assert "\ufffd" not in "".join(p.text for p in row.pieces)


def test_a_page_of_a_preview_shows_tokens_pictures_and_waveforms(
    clean: Set, tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    page = tmp_path / "preview.html"
    model = str(tiny("qwen_omni"))
    assert main(["preview", str(clean.folder), "--model", model, "--html", str(page)]) == 0
    text = page.read_text()
    assert text.count('<section class="row">') == 3
    assert '<span class="medium">image x 6</span>' in text
    assert '<span class="trained">' in text
    assert "data:image/png;base64," in text
    assert 'aria-label="waveform"' in text
    assert "http" not in text


def test_a_row_that_cannot_be_shown_is_told_and_the_others_are_shown(
    tmp_path: Path, tiny: Callable[[str], Path], capsys: Capture
) -> None:
    made = seeded(tmp_path / "set", 20, 0, [])
    made.plant("missing", 0)
    made.rows[1] = '{"messages": 3}'
    made.write()
    assert main(["preview", str(made.folder), "--model", str(tiny("qwen_omni"))]) == 0
    told = shown(capsys).replace("\n", " ")
    assert "does not exist" in told
    assert "'messages' must be a list" in told
    assert "It is number 2." in told


def test_a_page_escapes_what_a_row_says(tiny: Callable[[str], Path], tmp_path: Path, clean: Set) -> None:
    gauge = families.gauge(tiny("qwen_omni"))
    sound = next(s for s in load_data(clean.folder, "train") if s.sounds).sounds[0]
    turns = (
        Turn(role="user", parts=(Sound(path=sound.path), Text(text="<script>alert(1)</script>"))),
        Turn(role="assistant", parts=(Text(text="<b>bold</b>"),)),
    )
    row = row_of(Sample(turns=turns), gauge)
    page = preview_page("<i>", [row], examine(row.media, QuietLog()))
    assert "<script" not in page
    assert "<b>" not in page
    assert "<i>" not in page
