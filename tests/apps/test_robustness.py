"""Robustness with a real engine: curves and areas that are right, nothing asked twice, and bad input told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apps.attacks import Words, read_attacks, under_attack
from apps.choices import Fleet
from apps.cli import main
from apps.robustness import FILE, STRENGTHS, area, concerned, robustness
from apps.robustness_figures import attack_table, charts, curve_tables, write_figures
from studio.chart import drawing
from studio.data import write_jsonl
from studio.errors import ConfigError, TriptychError
from studio.log import QuietLog
from studio.media import save_image, save_sound
from studio.types import Image, Sample, Sound, Text, Turn
from studio.variants import Engine


class Listening(QuietLog):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)


@pytest.fixture(scope="module")
def base(tiny: Callable[[str], Path]) -> Path:
    return tiny("qwen_omni")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    """Four rows: two with a picture, two with a sound."""
    folder, draw = tmp_path_factory.mktemp("rows"), np.random.default_rng(0)
    made = []
    for i in range(4):
        if i < 2:
            save_image(folder / f"{i}.png", draw.integers(0, 256, (24, 32, 3), dtype=np.uint8))
            part: Any = Image(path=folder / f"{i}.png")
        else:
            save_sound(folder / f"{i}.wav", draw.normal(0, 0.1, 2000).astype(np.float32), 16_000)
            part = Sound(path=folder / f"{i}.wav")
        turns = (
            Turn(role="user", parts=(part, Text(text="what is it?"))),
            Turn(role="assistant", parts=(Text(text="a circle"),)),
        )
        made.append(Sample(turns=turns, file=folder / "test.jsonl", line=i + 1))
    write_jsonl(folder / "test.jsonl", made)
    return made


def test_curves_are_of_the_rows_that_a_perturbation_changes_and_a_second_run_asks_nothing(
    base: Path, rows: list[Sample], tmp_path: Path
) -> None:
    def measured(log: Any) -> dict[str, Any]:
        return robustness(
            Engine(base, {"base": None}), {"mixed": rows}, ["occlusion", "babble"],
            ["exact_match", "chrf"], log, out=tmp_path, max_new_tokens=4,
        )  # fmt: skip

    told = measured(QuietLog())
    assert json.loads((tmp_path / FILE).read_text()) == told
    assert told["partial"] is False
    assert [(c["perturbation"], c["metric"], c["n"]) for c in told["curves"]] == [
        ("occlusion", "exact_match", 2), ("occlusion", "chrf", 2), ("babble", "exact_match", 2),
        ("babble", "chrf", 2),
    ]  # fmt: skip
    for curve in told["curves"]:
        assert [point["strength"] for point in curve["points"]] == list(STRENGTHS)
        for figures in (*curve["points"], curve["area"]):
            assert figures["low"] <= figures["value"] <= figures["high"]
    again = Listening()
    assert measured(again) == told
    assert again.said.count("reused 12 of 12 answers") == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answers", FILE]


def test_the_area_is_the_mean_of_trapezoids_and_its_interval_draws_whole_rows() -> None:
    shares = [1.0, 0.9, 0.8, 0.6, 0.4, 0.2]
    table = [[1.0] * round(100 * share) + [0.0] * round(100 - 100 * share) for share in shares]
    cells = [{"value": share, "ci": [share - 0.1, share + 0.1]} for share in shares]
    found = area(cells, table, seed=0)
    assert found["value"] == pytest.approx((0.5 + 0.9 + 0.8 + 0.6 + 0.4 + 0.1) / 5)
    areas = np.array([0.1, 0.2, 0.2, 0.2, 0.2, 0.1]) @ np.array(table)
    half = 1.96 * areas.std() / 10
    assert found["high"] - found["low"] == pytest.approx(2 * half, rel=0.15)  # a bootstrap of 2,000 draws
    without = area(cells, [[] for _ in shares], seed=0)
    assert (without["low"], without["high"]) == pytest.approx((found["value"] - 0.1, found["value"] + 0.1))


def test_attacks_are_made_for_each_variant_and_found_again(
    base: Path, rows: list[Sample], tmp_path: Path
) -> None:
    fleet = Fleet([Engine(base, {"one": None, "two": None})])
    data = {"mixed": rows}
    words = Words(k=2)
    attacks = read_attacks(["pgd", "worst_of_k"], data, eps=8, sound_eps=0.004, steps=2, words=words)
    settings: dict[str, Any] = {"out": tmp_path, "max_new_tokens": 4}
    told = under_attack(fleet, data, attacks, ["exact_match"], QuietLog(), **settings)
    assert [(one["variant"], one["on"], one["n"]) for one in told] == [
        ("one", "picture", 2), ("two", "picture", 2), ("one", "sound", 2), ("two", "sound", 2),
        ("one", "text", 4), ("two", "text", 4),
    ]  # fmt: skip
    files = {path: path.stat().st_mtime_ns for path in tmp_path.glob("attacked/*/*")}
    assert len(files) == 4  # equal variants share what was found
    assert under_attack(fleet, data, attacks, ["exact_match"], QuietLog(), **settings) == told
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("attacked/*/*")} == files
    table = attack_table({"attacks": told}, "exact_match")
    assert table.row_count == 6


def test_the_charts_have_a_line_for_each_variant_with_its_interval(tmp_path: Path) -> None:
    points = [{"strength": s, "value": 1 - s / 10, "low": 0.4 - s / 20, "high": 1.0} for s in STRENGTHS]
    told = {
        "strengths": list(STRENGTHS),
        "perturbations": {"blur": {"levels": [1, 2, 3, 4, 6], "unit": "pixels"}},
        "curves": [
            {
                "domain": "<cloth>", "variant": name, "perturbation": "blur", "metric": "exact_match",
                "points": points, "area": {"value": 0.75, "low": 0.7, "high": 0.8}, "n": 9,
            }
            for name in ("ties", "base")
        ],
    }  # fmt: skip
    (chart,) = charts(told, "exact_match")
    assert [line.name for line in chart.lines if not line.faint] == ["ties", "base"]
    assert [line.colour for line in chart.lines] == [0, 0, 0, 1, 1, 1]
    assert "&lt;cloth&gt;: blur" in drawing(chart)
    (table,) = curve_tables(told, "exact_match")
    assert table.row_count == 2
    page, picture = write_figures(told, "exact_match", tmp_path)
    assert "<svg" in page.read_text()
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_command_measures_and_draws(
    base: Path, rows: list[Sample], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    status = main(
        ["robustness", f"one={base}", "--data", str(rows[0].file), "--perturbation", "case", "--attack",
         "worst_of_k", "--k", "1", "--limit", "2", "--max-new-tokens", "3", "--out", str(out)]
    )  # fmt: skip
    assert status == 0
    told = json.loads((out / FILE).read_text())
    assert [curve["perturbation"] for curve in told["curves"]] == ["case"]
    assert [attack["attack"] for attack in told["attacks"]] == ["worst_of_k"]
    assert (out / "robustness.png").is_file()
    shown = capsys.readouterr().out
    assert "interval of the area" in shown
    assert "under attack" in shown


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["--perturbation", "blurr"], "did you mean 'blur'"),
        (["--attack", "pgd", "--eps", "0.03"], "eps must be from 1 to 255 of 255 for a picture"),
        (["--attack", "worst_of_k", "--strength", "6"], "a strength from 1 to 5, not 8 and 6"),
        (["--limit", "0"], "--limit must be at least 1, not 0"),
    ],
)
def test_a_mistake_is_told_in_one_sentence_before_anything_is_written(
    base: Path, rows: list[Sample], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    given: list[str], sentence: str,
) -> None:  # fmt: skip
    out = tmp_path / "out"
    data = str(rows[0].file)
    assert main(["robustness", str(base), "--data", data, "--out", str(out), *given]) == 2
    assert sentence in capsys.readouterr().err
    assert not out.exists()


def test_what_no_row_has_is_neither_perturbed_nor_attacked(
    rows: list[Sample], base: Path, tmp_path: Path
) -> None:
    heard = {"sounds": rows[2:]}
    assert concerned(["blur", "gain", "typos"], heard) == ["gain", "typos"]
    with pytest.raises(ConfigError, match="--perturbation blur: it changes pictures, and no row has any"):
        robustness(Engine(base, {"base": None}), heard, ["blur"], ["exact_match"], QuietLog(), out=tmp_path)
    with pytest.raises(TriptychError, match="no perturbation changes anything in these rows"):
        concerned(["blur"], heard)
    bare = {"d": [Sample(turns=(Turn(role="user", parts=(Text(text="hm?"),)),))]}
    with pytest.raises(ConfigError, match="--attack fgsm changes pictures and sounds, and no row has any"):
        read_attacks(["fgsm"], bare, eps=8, sound_eps=0.01, steps=2, words=Words())
