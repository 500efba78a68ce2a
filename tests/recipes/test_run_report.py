"""The report of a run: made at its end, made again from its folder, and honest about what is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from apps.cli import main
from recipes import sft
from studio.chart import Axis, Chart, Line, drawing, number, thinned
from studio.config import from_dict
from studio.data import load_data
from studio.log import QuietLog
from studio.run_report import speed_line, speeds, write_run_report


@pytest.fixture
def finished(settings: dict[str, Any]) -> Path:
    config = from_dict(sft.Config, {**settings, "eval_data": settings["data"], "evaluate": {"answers": 3}})
    return sft.run(config, QuietLog()).folder


def test_a_run_ends_with_a_report_that_shows_curves_answers_and_what_learns(finished: Path) -> None:
    page = (finished / "report.html").read_text()
    assert page.count("<svg") == 5
    for told in ("Learning rate", "What learns", "Waiting for data", "seed 0", "5 rows", "<td>lora</td>"):
        assert told in page, told
    given = [json.loads(line) for line in (finished / "answers.jsonl").read_text().splitlines()]
    held_out = load_data(json.loads((finished / "run.json").read_text())["config"]["data"], split="test")
    assert [row["reference"] for row in given] == [held_out[at].answer for at in (0, 1, 3)]
    assert page.count('class="card"') == 3
    assert page.count("data:image/png;base64,") + page.count("data:audio") == sum(
        len(held_out[at].images) + len(held_out[at].sounds) for at in (0, 1, 3)
    )
    assert "http://" not in page.replace("http://www.w3.org", "")
    with Image.open(finished / "curves.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > 600
        assert len(picture.convert("RGB").getcolors(100_000) or []) > 10
    assert json.loads((finished / "report.json").read_text())["verdict"] == "unclear"


def test_the_command_makes_the_report_again_and_asks_the_trained_model(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (finished / "answers.jsonl").read_text()
    (finished / "report.html").unlink()
    assert main(["report", str(finished), "--answers", "3"]) == 0
    assert (finished / "report.html").is_file()
    # The adapter on disk answers as the model in memory did.
    assert (finished / "answers.jsonl").read_text() == before
    assert "4 steps are too few to tell" in capsys.readouterr().out


def test_a_report_does_without_media_that_are_gone(finished: Path) -> None:
    write_run_report(finished, [])
    page = (finished / "report.html").read_text()
    assert 'class="card"' not in page
    assert "made.jsonl" in page or "test.jsonl:1" in page


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (["report", "nowhere"], "nowhere holds no run"),
        (["report", "nowhere", "--answers", "-1"], "--answers must be at least 0"),
    ],
)
def test_mistakes_are_one_sentence(line: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line) == 2
    assert told in capsys.readouterr().err


def test_a_run_that_stopped_before_its_first_step_has_no_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.json").write_text(
        json.dumps({"recipe": "sft", "config": {}, "seed": 0, "fingerprint": "0"})
    )
    assert main(["report", str(tmp_path)]) == 2
    assert "holds no training run" in capsys.readouterr().err


def test_speeds_count_slow_steps_for_as_long_as_they_last() -> None:
    rows = [
        {"step": 1, "samples_per_s": 10.0, "tokens_per_s": 100.0, "seconds": 1.0, "waited": 0.5},
        {"step": 2, "samples_per_s": 2.5, "tokens_per_s": 25.0, "seconds": 5.0, "waited": 1.0},
    ]
    found = speeds(rows)
    assert found == pytest.approx({"seconds": 5, "samples_per_s": 4, "tokens_per_s": 40, "wait_share": 0.2})
    assert speed_line(found) == "5.0 s, 4.0 samples/s, 40.0 tokens/s, 20.0 % of the time waiting for data"
    assert speed_line(speeds([])) == "no steps"


def test_a_chart_leaves_out_what_it_cannot_draw() -> None:
    line = Line(name="a", points=[(1, 2), (2, float("nan")), (0, 1), (10, 5)])
    chart = Chart(title="<t>", x="x", y="y", lines=[line], log_x=True)
    assert [point for _, points in chart.drawn for point in points] == [(1, 2), (10, 5)]
    assert "&lt;t&gt;" in drawing(chart)
    assert "nothing yet" in drawing(Chart(title="", x="", y="", lines=[]))


def test_ticks_are_round_and_within_the_axis() -> None:
    assert Axis(low=0.03, high=1.01).ticks() == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert Axis(low=1e-6, high=1.0, log=True).ticks(6) == pytest.approx([10.0**p for p in range(-6, 1)])
    assert Axis(low=1e-6, high=1.0, log=True).place(1e-3) == pytest.approx(0.5)
    assert [number(value) for value in (0.25, 3000, 1e-5, 0)] == ["0.25", "3,000", "1e-05", "0"]


def test_many_points_are_drawn_as_the_means_of_stretches() -> None:
    points = [(float(i), float(i % 2)) for i in range(1000)]
    found = thinned(points, 100)
    assert len(found) == 100
    assert all(y == 0.5 for _, y in found)
