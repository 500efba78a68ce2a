from __future__ import annotations

import json
from pathlib import Path

import pytest

from apps.cli import main
from studio.eval_report.evaluation import read_evaluation
from tests.studio.outside_layouts import card, lm_eval, table


def test_results_of_others_become_a_folder_that_groups_and_report_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, other = lm_eval(tmp_path / "one"), lm_eval(tmp_path / "two", filtered_resps=["wrong"])
    out = tmp_path / "out"
    line = ["scores", f"one={first}", f"two={other}", "--baseline", "one", "--out", str(out)]
    assert main([*line, "--must", "one: shapes.exact_match >= 0.7"]) == 0
    scores = json.loads((out / "scores.json").read_text())
    assert scores["one"]["shapes.exact_match"]["value"] == 0.75
    assert scores["one"]["shapes.lm_eval_exact_match"]["value"] == 0.5
    assert scores["two"]["shapes.exact_match"]["value"] == 0.5
    evaluation = read_evaluation(out)
    assert evaluation.metrics == ("exact_match", "lm_eval_exact_match")
    assert not evaluation.partial
    assert evaluation.results["shapes"]["two"]["metrics"]["exact_match"]["against"]["value"] == -0.25
    assert main(["groups", str(out), "--by", "kind", "--metric", "exact_match"]) == 0
    assert main(["report", str(out)]) == 0
    assert (out / "report.html").is_file()
    assert main([*line, "--must", "shapes.exact_match >= 0.7"]) == 1
    assert "BROKEN  two" in capsys.readouterr().out


def test_figures_alone_become_scores_and_are_judged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = card(tmp_path / "README.md")
    out = tmp_path / "out"
    assert (
        main(["scores", str(file), "--out", str(out), "--must", "shapes.model_index_exact_match > 0.8"]) == 1
    )
    assert [path.name for path in out.iterdir()] == ["scores.json"]
    assert "figures alone" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--metric", "exact_mach"], "did you mean 'exact_match'"),
        (["--metric", "calibration_error"], "needs confidence"),
        (["--must", "shapes.wer < 1"], "unknown figure 'shapes.wer'"),
        (["--baseline", "tinny"], "did you mean 'tiny'"),
    ],
)
def test_mistakes_are_one_sentence_and_write_nothing(
    more: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = table(tmp_path / "tiny_shapes.tsv")
    assert main(["scores", str(file), "--out", str(tmp_path / "out"), *more]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_two_files_of_one_name_want_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = table(tmp_path / "tiny_shapes.tsv"), table(tmp_path / "tiny_shapes.csv")
    assert main(["scores", str(one), str(other)]) == 2
    assert "name one of them as NAME=FILE" in capsys.readouterr().err
    assert main(["scores", str(one), f"other={other}", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {"tiny", "other"}
