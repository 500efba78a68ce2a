"""What a check finds: every planted defect, nothing else, the second time for free; and a repaired copy."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image as Pictures

from studio import families, media_facts
from studio.cache import Kept
from studio.data import load_data
from studio.data.findings import KINDS, Report, check, check_before_training
from studio.data.findings.page import SHOWN, findings_page
from studio.data.findings.repair import repair
from studio.data.findings.source import data_files
from studio.errors import DataError, MediaError
from studio.log import QuietLog
from studio.media import load_image, read_sound
from studio.media_facts import facts
from tests.studio.defects import DEFECTS, WITH_MODEL, Set, seeded, write_wave

Tiny = Callable[[str], Path]


def checked(made: Set, tmp_path: Path, tiny: Tiny | None = None) -> Report:
    gauge = families.gauge(tiny("qwen_omni")) if tiny else None
    return check(data_files(made.folder), QuietLog(), gauge=gauge, kept=Kept(tmp_path / "kept"))


def places(report: Report) -> set[tuple[str, int, str]]:
    return {(finding.file.name, finding.row, finding.kind) for finding in report.findings}


def test_every_one_of_thirty_kinds_of_defect_in_1000_rows_is_found_and_nothing_else(
    tmp_path: Path, tiny: Tiny
) -> None:
    made = seeded(tmp_path / "set", 1000, 6, list(DEFECTS))
    report = checked(made, tmp_path, tiny)
    assert len({kind for _, _, kind in made.planted}) == len(DEFECTS) >= 14
    assert len(made.planted) > 170
    assert made.planted - places(report) == set(), "missed"
    assert places(report) - made.planted == set(), "false alarms"
    assert report.rows == 1000


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_other_seeds_plant_other_rows_and_all_are_found(tmp_path: Path, seed: int) -> None:
    made = seeded(tmp_path / "set", 200, 1, [name for name in DEFECTS if name not in WITH_MODEL], seed)
    assert places(checked(made, tmp_path)) == made.planted


def test_clean_rows_have_no_findings(tmp_path: Path, tiny: Tiny) -> None:
    report = checked(seeded(tmp_path / "set", 60, 0, []), tmp_path, tiny)
    assert (report.findings, report.told) == ([], "60 rows, 60 media: nothing found")


def test_every_kind_of_finding_but_one_is_planted_and_all_say_how_they_are_mended() -> None:
    assert set(KINDS) - set(DEFECTS) == {"modality", "media_tokens"}  # tested with models of their own
    assert all(kind.means and kind.fix and kind.severity in ("error", "warning") for kind in KINDS.values())


def test_a_second_check_decodes_and_encodes_nothing(
    tmp_path: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = seeded(tmp_path / "set", 120, 0, [])
    first = checked(made, tmp_path, tiny)
    monkeypatch.setattr("studio.data.kept_facts.facts", None)
    monkeypatch.setattr("studio.data.kept_facts._digest", None)
    monkeypatch.setattr("studio.families._gauge.encode", None)
    began = time.process_time()
    assert checked(made, tmp_path, tiny).findings == first.findings
    assert time.process_time() - began < 2


def test_a_changed_file_is_decoded_again_and_a_moved_one_is_named_where_it_lies(tmp_path: Path) -> None:
    made = seeded(tmp_path / "set", 40, 0, [])
    assert not checked(made, tmp_path).findings
    made.medium(9).write_bytes(made.medium(9).read_bytes()[:500])
    assert places(checked(made, tmp_path)) == {("train.jsonl", 10, "truncated")}
    moved = tmp_path / "moved"
    made.folder.rename(moved)
    made.folder = moved
    (finding,) = checked(made, tmp_path).findings
    assert f"'{moved}/media/9.wav'" in finding.message


def test_a_damaged_cache_costs_time_and_no_answer(tmp_path: Path) -> None:
    made = seeded(tmp_path / "set", 40, 1, ["truncated", "rotation"])
    first = checked(made, tmp_path)
    (tmp_path / "kept/facts.sqlite").write_bytes(b"no database at all" * 100)
    assert checked(made, tmp_path).findings == first.findings
    assert checked(made, tmp_path).findings == first.findings
    (tmp_path / "kept/facts.sqlite").unlink()
    (tmp_path / "kept/facts.sqlite").mkdir()
    assert checked(made, tmp_path).findings == first.findings


def test_a_model_that_does_not_hear_is_told_of_sounds(tmp_path: Path, tiny: Tiny) -> None:
    made = seeded(tmp_path / "set", 20, 0, [])
    report = check(data_files(made.folder), QuietLog(), gauge=families.gauge(tiny("smolvlm")))
    assert report.counts() == {"modality": 10}


@pytest.mark.parametrize(("name", "setting"), [("smolvlm", "image_seq_len"), ("qwen_omni", "merge_size")])
def test_a_processor_of_another_model_is_found_by_its_media_tokens(
    tmp_path: Path, tiny: Tiny, name: str, setting: str
) -> None:
    """The text then holds places for another number of features than the towers make."""
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(tiny(name), folder)
    file = folder / "processor_config.json"
    text = json.loads(file.read_text())
    (text if setting in text else text["image_processor"])[setting] = 1
    file.write_text(json.dumps(text))
    made = seeded(tmp_path / "set", 20, 0, [])
    report = check(data_files(made.folder), QuietLog(), gauge=families.gauge(folder))
    assert report.counts()["media_tokens"] == 10
    assert "places for image" in next(f.message for f in report.findings if f.kind == "media_tokens")


@pytest.mark.parametrize("name", ["qwen_omni", "smolvlm", "whisper"])
def test_the_gauge_has_the_processor_that_the_model_is_loaded_with(
    tiny: Tiny, questions: Callable[..., list], name: str
) -> None:
    gauge, loaded = families.gauge(tiny(name)), families.family(name).load(tiny(name))
    for sample in questions(name, 6):
        item = families.family(name).encode(loaded.processor, sample, True)
        length = gauge.length(sample)
        assert length == gauge.length_of(item)
        assert length.there == length.wanted
    assert gauge.max_tokens == (448 if name == "whisper" else 2048)
    assert gauge.max_seconds == {"qwen_omni": 8, "smolvlm": 0, "whisper": 30}[name]


def test_a_repaired_copy_has_no_errors_and_the_set_stays_as_it_is(tmp_path: Path, tiny: Tiny) -> None:
    made = seeded(tmp_path / "set", 300, 1, list(DEFECTS))
    before = _bytes(made.folder)
    report = checked(made, tmp_path, tiny)
    done = repair(report, tmp_path / "fixed", QuietLog())
    assert _bytes(made.folder) == before
    told = json.loads((tmp_path / "fixed/repairs.json").read_text())
    assert (told["kept"], len(told["dropped"])) == (done.kept, len(done.dropped))
    dropped = {(f.file.name, f.row) for f in report.findings if f.about.repair == "drop"}
    assert {(row["file"], row["row"]) for row in told["dropped"]} == dropped
    assert done.kept == 300 - len(dropped)
    again = check(data_files(tmp_path / "fixed"), QuietLog(), gauge=families.gauge(tiny("qwen_omni")))
    assert again.errors == []
    mended = {f.kind for f in report.findings if f.about.repair}
    assert mended & set(again.counts()) == set()
    assert {"rotation", "cmyk", "channels", "rate", "extension", "animation"} <= mended


def test_repaired_media_look_and_sound_as_a_model_gets_them(tmp_path: Path) -> None:
    made = seeded(tmp_path / "set", 40, 0, [])
    for kind, number in (("rotation", 8), ("channels", 9), ("rate", 13)):
        made.plant(kind, number)
    made.write()
    repair(checked(made, tmp_path), tmp_path / "fixed", QuietLog())
    rows = load_data(tmp_path / "fixed", "train")
    picture = rows[8].images[0].path
    assert load_image(picture).tobytes() == load_image(made.medium(8)).tobytes()
    with Pictures.open(picture) as stored:
        assert (stored.size, dict(stored.getexif())) == ((16, 20), {})
    for number in (9, 13):
        found = facts(rows[number].sounds[0].path, False)
        assert (found.channels, found.rate) == (1, 16_000)
    (wave, _), (mixed, _) = read_sound(rows[9].sounds[0].path), read_sound(made.medium(9))
    assert abs(wave - mixed).max() < 1 / 16_000  # 16 bits: one step of rounding


def test_a_repaired_copy_goes_to_a_new_folder_only_and_nothing_is_left_of_a_failed_one(
    tmp_path: Path,
) -> None:
    made = seeded(tmp_path / "set", 20, 0, [])
    with pytest.raises(DataError, match="exists already; give --fix a new folder"):
        repair(checked(made, tmp_path), made.folder, QuietLog())
    made.rows = ["{"] * 3
    made.write()
    with pytest.raises(DataError, match=r"no row of .* would be left"):
        repair(checked(made, tmp_path), tmp_path / "fixed", QuietLog())
    assert sorted(file.name for file in tmp_path.iterdir()) == ["kept", "set"]


def test_media_of_one_name_and_two_endings_do_not_overwrite_each_other(tmp_path: Path) -> None:
    made = seeded(tmp_path / "set", 20, 0, [])
    made.plant("animation", 8)
    shutil_target = made.folder / "media/8.png"
    made.picture(16, 16).save(shutil_target)
    made.rows[10] = json.loads(json.dumps(made.rows[10]).replace("media/10.png", "media/8.png"))
    made.write()
    repair(checked(made, tmp_path), tmp_path / "fixed", QuietLog())
    rows = load_data(tmp_path / "fixed", "train")
    assert rows[8].images[0].path.name == "8-1.png"
    assert rows[10].images[0].path.read_bytes() == shutil_target.read_bytes()


def test_check_json_names_file_line_kind_severity_and_fix(tmp_path: Path) -> None:
    made = seeded(tmp_path / "set", 40, 1, ["truncated", "rotation"])
    told = checked(made, tmp_path).as_json()
    assert told["rows"] == 40
    assert {tuple(finding) for finding in told["findings"]} == {
        ("row", "file", "kind", "severity", "message", "fix")
    }
    assert {finding["severity"] for finding in told["findings"]} == {"error", "warning"}


def test_the_page_needs_no_network_and_escapes_what_data_say(tmp_path: Path) -> None:
    made = seeded(tmp_path / "set", 200, 1, [name for name in DEFECTS if name not in WITH_MODEL])
    evil = made.folder / "media/<script>alert(1)<script>.png"
    evil.write_bytes(b"")
    made.rows[10] = json.loads(json.dumps(made.rows[10]).replace("media/10.png", f"media/{evil.name}"))
    made.write()
    text = findings_page(checked(made, tmp_path))
    assert "<script" not in text
    assert "http:" not in text
    assert "https:" not in text
    assert text.count("data:image/png;base64,") >= 4
    assert 'aria-label="waveform"' in text
    assert all(f'id="{kind}"' in text for _, _, kind in made.planted)


def test_the_page_of_many_findings_stays_short(tmp_path: Path) -> None:
    made = seeded(tmp_path / "set", 200, 0, [])
    made.rows = [row | {"id": "same"} for row in made.rows if isinstance(row, dict)]
    made.write()
    text = findings_page(checked(made, tmp_path))
    assert text.count('class="card"') == SHOWN
    assert "and 186 more, all in check.json" in text


def test_errors_stop_a_training_and_warnings_are_counted(tmp_path: Path) -> None:
    class Saying(QuietLog):
        def __init__(self) -> None:
            self.said: list[str] = []

        def say(self, message: str) -> None:
            self.said.append(message)

    made = seeded(tmp_path / "set", 60, 2, ["rotation", "channels"])
    log = Saying()
    counts = check_before_training(load_data(made.folder, "train"), log)
    assert counts == {"channels": 2, "rotation": 2}
    assert log.said == ["data: 2 channels, 2 rotation; `triptych check` tells where"]
    made.plant("truncated", 9)
    made.write()
    with pytest.raises(MediaError, match=r"train\.jsonl:10: .*truncated"):
        check_before_training(load_data(made.folder, "train"), log)
    made.plant("tags", 20)
    made.write()
    with pytest.raises(DataError, match=r"2 of .* are wrong:\n.*train\.jsonl:(10|21)"):
        check_before_training(load_data(made.folder, "train"), log)


def test_rows_of_one_file_are_no_leak_and_train_is_told_of_what_it_shares(tmp_path: Path) -> None:
    made = seeded(tmp_path / "set", 100, 1, ["duplicate_row", "leak"])
    assert [file.name for file in data_files(made.folder)] == ["test.jsonl", "train.jsonl"]
    report = checked(made, tmp_path)
    assert {(f.file.name, f.kind) for f in report.findings} == {
        ("train.jsonl", "leak"),
        ("train.jsonl", "duplicate_row"),
    }
    only = check(data_files(made.folder, "train"), QuietLog())
    assert only.counts() == {"duplicate_row": 1}


def test_parquet_files_are_checked_as_lines_are(tmp_path: Path) -> None:
    from studio.data.formats import convert

    made = seeded(tmp_path / "set", 40, 1, ["tags", "empty_file", "rotation"])
    found = {(row, kind) for _, row, kind in places(checked(made, tmp_path))}
    convert(made.folder, tmp_path / "table", "parquet")
    report = check(data_files(tmp_path / "table"), QuietLog())
    assert {file.suffix for file in report.files} == {".parquet"}
    assert {(row, kind) for _, row, kind in places(report)} == found
    with pytest.raises(
        DataError, match=r"neither \.jsonl nor \.parquet; `triptych convert .* --to triptych`"
    ):
        data_files(next((made.folder / "media").iterdir()))


def test_a_repaired_copy_can_be_converted_and_checked_with_its_papers_beside_it(tmp_path: Path) -> None:
    from studio.data.formats import convert

    made = seeded(tmp_path / "set", 40, 1, ["rotation"])
    repair(checked(made, tmp_path), tmp_path / "fixed", QuietLog())
    (tmp_path / "fixed/croissant.json").write_text('{"@context": {}}')
    convert(tmp_path / "fixed", tmp_path / "out", "sharegpt")
    assert {"train", "test"} <= {file.stem for file in (tmp_path / "out").iterdir()}


def test_groups_that_are_names_are_not_rare(tmp_path: Path) -> None:
    made = seeded(tmp_path / "set", 90, 0, [])
    made.rows = [
        row | {"groups": {"speaker": f"s{i}"}} for i, row in enumerate(made.rows) if isinstance(row, dict)
    ]
    made.write()
    assert checked(made, tmp_path).counts() == {}
    made.rows = [row | {"groups": {"site": "A" if i else "B"}} for i, row in enumerate(made.rows)]
    made.write()
    assert checked(made, tmp_path).counts() == {"rare_group": 1}


def test_a_loud_sound_that_touches_full_scale_is_not_clipped(tmp_path: Path) -> None:
    import numpy as np

    wave = np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000)
    write_wave(tmp_path / "loud.wav", wave)
    assert facts(tmp_path / "loud.wav", False).peak > 0.999
    assert facts(tmp_path / "loud.wav", False).clipped < media_facts.BINS // 8
    write_wave(tmp_path / "cut.wav", np.clip(1.2 * wave, -1, 1))
    assert facts(tmp_path / "cut.wav", False).clipped > 4000


def test_a_photograph_with_a_second_view_is_an_ordinary_jpeg(tmp_path: Path) -> None:
    views = [Pictures.effect_noise((32, 24), 60).convert("RGB") for _ in range(2)]
    views[0].save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=views[1:])
    found = facts(tmp_path / "a.jpg", True)
    assert (found.trouble, found.form, found.moving) == ("", "JPEG", False)


def _bytes(folder: Path) -> dict[str, str]:
    return {
        str(file): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
