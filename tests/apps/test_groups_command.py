"""`triptych groups`: what it reads, prints, writes and refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apps.answered import read_answered
from apps.cli import main
from apps.group_report import group_report, judge, read_rule
from studio.errors import ConfigError, DataError
from studio.log import QuietLog
from studio.paired import holm


def evaluation(folder: Path, rows: list[dict[str, Any]], **about: Any) -> Path:
    """Write an evaluation folder as `triptych eval --out` does."""
    folder.mkdir(exist_ok=True)
    whole = [{"domain": "cloth", "variant": "mine", "reference": "yes", "scores": {}, **row} for row in rows]
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in whole))
    (folder / "evaluation.json").write_text(json.dumps({"metrics": ["exact_match"], **about}))
    return folder


def answers(n: int, seed: int, gap: float, **more: Any) -> list[dict[str, Any]]:
    """Return rows of two sites: the north is right in 90 of 100, the south by ``gap`` less."""
    draw = np.random.default_rng(seed)
    return [
        {
            "output": "yes" if draw.random() < 0.9 - gap * (at % 2) else "no",
            "groups": {"site": ("north", "south")[at % 2], "shift": "ab"[at // 2 % 2]},
            **more,
        }
        for at in range(n)
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [*answers(160, 0, 0.4), *answers(160, 1, 0.0, variant="other")]
    return evaluation(tmp_path / "eval", rows)


def test_a_table_a_file_and_no_rule_is_success(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["groups", str(folder), "--by", "site", "--by", "site,shift"]) == 0
    told = capsys.readouterr().out
    assert "cloth.exact_match by site x shift, 95 % interval" in told
    assert "higher is better" in told
    report = json.loads((folder / "groups.json").read_text())
    mine = next(r for r in report["results"] if (r["variant"], r["by"]) == ("mine", ["site"]))
    assert (mine["worst"], mine["n"], mine["gap"]["p_holm"] < 0.001) == ("south", 160, True)
    crossed = next(r for r in report["results"] if r["by"] == ["site", "shift"])
    assert [group["name"] for group in crossed["groups"]] == [
        "north / a", "north / b", "south / a", "south / b",
    ]  # fmt: skip
    assert crossed["groups"][0]["group"] == {"site": "north", "shift": "a"}
    assert report["partial"] is False


def test_p_values_are_adjusted_over_what_is_asked_of_a_variant(folder: Path) -> None:
    report = group_report(
        read_answered(folder), [["site"], ["shift"]], QuietLog(), metrics=["exact_match", "wer"]
    )
    for variant in ("mine", "other"):
        gaps = [r["gap"] for r in report["results"] if r["variant"] == variant]
        assert len(gaps) == 4
        assert [gap["p_holm"] for gap in gaps] == holm([gap["p"] for gap in gaps])


def test_a_gap_beyond_the_rule_exits_1_and_one_within_it_0(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["groups", str(folder), "--by", "site"]
    assert main([*command, "--max-gap", "0.2"]) == 1
    told = capsys.readouterr().out
    assert "BROKEN  mine: cloth.exact_match by site: at most 0.2" in told
    assert "kept    other" in told
    assert main([*command, "--variant", "other", "--max-gap", "exact_match=0.2"]) == 0
    assert main([*command, "--variant", "mine", "--max-gap", "cloth.exact_match.low=0.05", "--json"]) == 1
    rules = json.loads((folder / "groups.json").read_text())["rules"]
    assert [(rule["variant"], rule["kept"]) for rule in rules] == [("mine", False)]


def test_a_broken_rule_says_where_the_gap_may_be_chance(tmp_path: Path) -> None:
    report = group_report(
        read_answered(evaluation(tmp_path / "few", answers(24, 7, 0.1))), [["site"]], QuietLog()
    )
    [verdict] = judge([read_rule("0")], report)
    assert (verdict["kept"], verdict["chance"]) == (False, True)


def test_pairs_tell_what_changes_when_only_the_side_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {
            "output": "no" if side == "black" and pair % 3 == 0 else "yes",
            "groups": {"pair": str(pair), "colour": side, "defect": "hole" if pair % 2 else "none"},
        }
        for pair in range(40)
        for side in ("red", "black")
    ]
    folder = evaluation(tmp_path / "eval", rows)
    command = ["groups", str(folder), "--by", "colour", "--by", "defect", "--pairs", "pair"]
    assert main(command) == 0
    assert "black - red" in capsys.readouterr().out
    report = json.loads((folder / "groups.json").read_text())
    [pairs] = report["pairs"]  # no pair differs in its defect
    assert (pairs["by"], pairs["sets"], pairs["same_answer"]["value"]) == (["colour"], 40, 0.65)
    [difference] = pairs["differences"]
    assert difference["value"] == pytest.approx(-0.35)
    assert difference["p_holm"] < 0.001
    with pytest.raises(DataError, match="no two rows of one pair differ in what --by names: defect"):
        group_report(read_answered(folder), [["defect"]], QuietLog(), pairs="pair")


def test_a_partial_evaluation_is_marked_and_a_metric_without_its_column_passed_over(tmp_path: Path) -> None:
    metrics = ["exact_match", "calibration_error"]
    folder = evaluation(tmp_path / "eval", answers(40, 0, 0.0), partial=True, metrics=metrics)
    report = group_report(read_answered(folder), [["site"]], QuietLog())
    assert report["partial"] is True
    assert [result["metric"] for result in report["results"]] == ["exact_match"]
    assert report["left_out"] == ["cloth: calibration_error needs for every sample: confidence"]
    with pytest.raises(DataError, match="domain 'cloth': calibration_error needs for every sample"):
        group_report(read_answered(folder), [["site"]], QuietLog(), metrics=["calibration_error"])


def test_a_column_beside_the_answer_feeds_the_metric_that_needs_it(tmp_path: Path) -> None:
    rows = [{**row, "confidence": 0.9} for row in answers(80, 0, 0.5)]
    report = group_report(
        read_answered(evaluation(tmp_path / "eval", rows)),
        [["site"]],
        QuietLog(),
        metrics=["calibration_error"],
    )
    assert report["results"][0]["worst"] == "south"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--by", "sites"], "unknown group 'sites'; did you mean 'site'"),
        (["--by", "site", "--variant", "mina"], "unknown variant 'mina'; did you mean 'mine'"),
        (["--by", "site", "--metric", "exact_mach"], "unknown metric 'exact_mach'"),
        (["--by", "site", "--max-gap", "small"], "--max-gap 'small' is no rule"),
        (["--by", "site", "--max-gap", "wer=0.1"], "unknown figure 'wer'"),
        (["--by", "site", "--small", "1"], "--small must be at least 2"),
        (["--by", "site", "--clusters", "voice"], "unknown group 'voice'"),
    ],
)
def test_a_mistake_is_one_sentence_and_nothing_is_written(
    folder: Path, options: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["groups", str(folder), *options]) == 2
    assert sentence in capsys.readouterr().err
    assert not (folder / "groups.json").exists()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"domain": "c", "var', r"samples.jsonl:1: this is no JSON; the file may have been cut short"),
        ('{"domain": "c"}', r"samples.jsonl:1: an answer has the texts"),
        ("", "holds no answers"),
    ],
)
def test_a_damaged_file_is_named_with_its_line(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "samples.jsonl").write_text(text)
    with pytest.raises(DataError, match=sentence):
        read_answered(tmp_path)


def test_a_folder_without_answers_says_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no samples\.jsonl; `triptych eval"):
        read_answered(tmp_path)


def test_groups_that_no_domain_has_together_are_refused(tmp_path: Path) -> None:
    rows = [*answers(8, 0, 0), *({**row, "domain": "d", "groups": {"age": "1"}} for row in answers(8, 0, 0))]
    with pytest.raises(ConfigError, match="no domain of these variants has the groups site and age together"):
        group_report(read_answered(evaluation(tmp_path / "eval", rows)), [["site", "age"]], QuietLog())
