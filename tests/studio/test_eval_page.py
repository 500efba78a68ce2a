"""The page of a report: whole in one file, safe whatever it shows, bounded, honest about what is missing."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from studio.eval_report.assemble import Origin, assemble
from studio.eval_report.embed import Media
from studio.eval_report.evaluation import read_evaluation
from studio.eval_report.page import html_page, write_report
from studio.files import sha256_file
from tests.studio.evaluations import WANTED, answers, write_evaluation

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"' & \ud800 \x00 \u202e"
KINDS = {"base": "base", "loom": "expert", "mix": "merge"}


class Seen(HTMLParser):
    """Tags with their attributes, the text, and the tags that were not closed."""

    def __init__(self, page: str) -> None:
        """Read a page."""
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self._open, self.wrong = "", [], []  # type: ignore[var-annotated]
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def media(tmp_path: Path) -> list[Path]:
    """Return a picture and a sound."""
    picture, sound = tmp_path / "cloth <b>&.png", tmp_path / "voice.wav"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (600, 400, 3), dtype=np.uint8)).save(picture)
    soundfile.write(sound, 0.2 * np.sin(np.arange(40_000) / 9), 16_000)
    return [picture, sound]


def report(folder: Path, **more: Any) -> Any:
    evaluation = read_evaluation(folder)
    origins = [Origin(name=n, kind=KINDS.get(n, "unknown"), sha256="a" * 64) for n in evaluation.variants]
    return assemble(evaluation, **{"origins": origins, **more})


def said(**more: list[str]) -> dict[str, dict[str, list[str]]]:
    return {"cloth": {"base": answers(1, 12), "loom": answers(11, 12), "mix": answers(4, 12), **more}}


def test_the_page_is_whole_in_one_file_and_shows_media(tmp_path: Path, media: list[Path]) -> None:
    folder = write_evaluation(tmp_path / "eval", said(), media=media)
    page = write_report(folder, report(folder)).read_text(encoding="utf-8")
    seen = Seen(page)
    assert seen.wrong == []
    tags = [tag for tag, _ in seen.tags]
    assert not {"script", "link", "iframe", "object"} & set(tags)
    sources = [attrs["src"] or "" for _, attrs in seen.tags if "src" in attrs]
    assert len(sources) == 14  # seven questions were lost, with a picture and a sound each
    kinds = ("data:image/png;base64,", "data:audio/mpeg;base64,")
    assert all(source.startswith(kinds) for source in sources)
    assert len(set(sources)) == 2
    assert all(
        attrs.get("alt") or attrs.get("aria-label") for tag, attrs in seen.tags if tag in ("img", "audio")
    )
    assert "http" not in page
    assert str(tmp_path) not in page
    for told in (
        "What was kept",
        "36%",
        "Gains and losses",
        "The worst regressions",
        "a" * 64,
        "d" * 64,
        "at home",
    ):
        assert told in page, told
    figures = json.loads((folder / "report.json").read_text())
    assert figures["retention"][-1]["variant"] == "mix"
    assert figures["retention"][-1]["value"] == pytest.approx(4 / 11)
    assert str(tmp_path) not in json.dumps(figures)
    assert len(figures["regressions"]) == 7


def test_hostile_text_and_names_stay_text(tmp_path: Path, media: list[Path]) -> None:
    domain = f"cloth {HOSTILE}"
    texts = {"base": [HOSTILE] * 4, "loom": [WANTED] * 4, HOSTILE: [HOSTILE, WANTED, "x", "y"]}
    more = {
        "partial": True,
        "failed": {HOSTILE: HOSTILE},
        "missing": {HOSTILE: {domain: 3}},
        "decoding": {HOSTILE: HOSTILE},
    }
    folder = write_evaluation(tmp_path / "eval", {domain: texts}, media=media, more=more, prompt=HOSTILE * 40)
    curve = {"domain": domain, "variant": HOSTILE, "perturbation": HOSTILE, "metric": "exact_match", "n": 4}
    point = {"value": 0.5, "low": 0.1, "high": 0.9}
    curve |= {"higher_is_better": True, "points": [{"strength": s, **point} for s in range(6)], "area": point}
    (folder / "robustness.json").write_text(json.dumps({"curves": [curve], "attacks": []}))
    facts = {HOSTILE: {HOSTILE: [HOSTILE]}}
    origins = [Origin(name="loom", kind="expert"), Origin(name=HOSTILE, kind="merge", facts=facts)]
    page = (
        write_report(folder, report(folder, origins=origins, about={HOSTILE: HOSTILE})).read_bytes().decode()
    )
    seen = Seen(page)
    assert seen.wrong == []
    assert "script" not in [tag for tag, _ in seen.tags]
    assert not any(name.startswith("on") for _, attrs in seen.tags for name in attrs)
    assert all((attrs.get("src") or "").startswith("data:") for tag, attrs in seen.tags if tag == "img")
    assert "<script>alert(1)</script>" in seen.text
    assert json.loads((folder / "report.json").read_text())["variants"][HOSTILE]["kind"] == "merge"


def test_media_that_are_gone_changed_or_broken_are_told(tmp_path: Path, media: list[Path]) -> None:
    folder = write_evaluation(tmp_path / "eval", said(), media=media)
    media[0].unlink()
    media[1].write_bytes(media[1].read_bytes()[:-9])
    page = html_page(report(folder))
    assert "<img" not in page
    assert "<audio" not in page
    assert "cloth &lt;b&gt;&amp;.png is not there any more" in page
    assert "voice.wav is not the file that was asked about any more" in page
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    assert "broken.png cannot be read" in Media().html(str(broken), sha256_file(broken))


def test_no_file_that_was_not_asked_about_is_shown(tmp_path: Path, media: list[Path]) -> None:
    secret = tmp_path / "secret.png"
    Image.new("RGB", (9, 9), "red").save(secret)
    assert "<img" not in Media().html(str(secret), sha256_file(media[0]))
    assert "<img" in Media().html(str(secret), sha256_file(secret))
    for path in (str(tmp_path), "/dev/zero", "\x00", "x" * 5000, ""):
        assert 'class="soft gone"' in Media().html(path, "0" * 64)


def test_the_size_of_a_page_is_bounded(tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    long = tmp_path / "long.wav"
    soundfile.write(long, 0.5 * draw.standard_normal(44_100 * 120).clip(-1, 1), 44_100)
    assert len(Media().html(str(long), sha256_file(long))) < 500_000  # 20 of 120 seconds
    shown = Media(budget=100_000)
    kept = []
    for at in range(3):
        picture = tmp_path / f"{at}.png"
        Image.fromarray(draw.integers(0, 255, (150, 150, 3), dtype=np.uint8)).save(picture)
        kept.append("<img" in shown.html(str(picture), sha256_file(picture)))
    kept.append("<img" in shown.html(str(tmp_path / "0.png"), sha256_file(tmp_path / "0.png")))  # once more
    assert kept == [True, False, False, False]
    text = {"cloth": {"loom": [WANTED], "mix": ["x" * 1_000_000]}}
    assert len(html_page(report(write_evaluation(tmp_path / "eval", text)))) < 60_000


def test_a_partial_evaluation_says_so_before_all_else(tmp_path: Path) -> None:
    more = {"partial": True, "missing": {"mix": {"cloth": 3}}, "failed": {"late": "its folder is gone"}}
    page = html_page(report(write_evaluation(tmp_path, said(), more={**more, "left_out": ["judge"]})))
    top = page[: page.index("part-retention")]
    for told in ("Partial.", "late: its folder is gone", "not computed yet: judge", "<td>3</td>"):
        assert told in top, told
    assert "Partial." not in html_page(report(write_evaluation(tmp_path / "whole", said())))


def test_groups_and_robustness_are_shown_where_they_are(tmp_path: Path) -> None:
    folder = write_evaluation(tmp_path, said())
    point = {"value": 0.8, "low": 0.7, "high": 0.9}
    one = {"domain": "cloth", "variant": "mix", "metric": "exact_match", "higher_is_better": True}
    group = {"by": ["site"], "n": 12, "left_out": 0, "overall": point, "worst": "b", "best": "a"}
    group |= {
        "groups": [
            {"name": "a", **point, "n": 6, "note": "few"},
            {"name": "b", "value": 0.25, "low": 0.1, "high": 0.5, "n": 5, "note": "few"},
            {"name": "c", "value": 1.0, "low": None, "high": None, "n": 1, "note": "alone"},
        ],
        "gap": {"value": 0.55, "low": 0.2, "high": 0.8, "p": 0.004, "p_holm": 0.012},
        "warnings": ["group c has a single member"],
    }
    (folder / "groups.json").write_text(json.dumps({"results": [{**one, **group}], "pairs": []}))
    curve = {**one, "perturbation": "blur", "n": 12, "area": point}
    curve["points"] = [{"strength": s, "value": 1 - s / 10, "low": 0.1, "high": 1.0} for s in range(6)]
    attack = {**one, "attack": "pgd", "on": "picture", "eps": 2, "unit": "of 255", "steps": 5, "n": 12}
    attack |= {"clean": point, "attacked": {"value": 0.2, "low": 0.1, "high": 0.3}}
    (folder / "robustness.json").write_text(json.dumps({"curves": [curve], "attacks": [attack]}))
    page = html_page(report(folder))
    assert Seen(page).wrong == []
    for told in ("b (0.250)", "0.550 [0.200, 0.800]", "0.012", "group c has a single member", "alone",
                 "over all strengths", "pgd on picture", "2 of 255", "0.200 [0.100, 0.300]"):  # fmt: skip
        assert told in page, told
    assert page.count("<svg") == 1
    (folder / "groups.json").write_text(json.dumps({"results": [{"groups": [{"name": 3}]}]}))
    (folder / "robustness.json").write_text(
        json.dumps({"curves": [{**curve, "points": [{"strength": "<i>"}]}]})
    )
    page = html_page(report(folder))
    assert "groups.json is damaged or of another version" in page
    assert "robustness.json is damaged or of another version" in page


def test_a_reliability_diagram_is_drawn_where_confidences_are_known(tmp_path: Path) -> None:
    folder = write_evaluation(tmp_path, said(), confidence={"mix": [0.9, 0.2] * 6, "loom": [0.8] * 12})
    page = html_page(report(folder))
    assert Seen(page).wrong == []
    assert "Reliability" in page
    assert re.search(r"loom</th><td>0\.117</td><td>12</td>", page)  # sure of 0.8, right in 11 of 12
    assert "Reliability" not in html_page(report(write_evaluation(tmp_path / "other", said())))


def test_one_variant_alone_still_makes_a_page(tmp_path: Path) -> None:
    page = html_page(report(write_evaluation(tmp_path, {"cloth": {"mix": answers(3, 8)}}), origins=[]))
    assert "Which variants are single experts is not known" in page
    assert "No baseline is known" in page
    assert "Nothing is known to fall behind" in page


def test_examples_show_the_first_questions_with_all_answers(tmp_path: Path, media: list[Path]) -> None:
    folder = write_evaluation(tmp_path / "eval", said(), media=media[:1])
    page = html_page(report(folder, examples=2))
    examples = page[page.index('id="part-samples"') :]
    assert examples.count("<article") == 2
    assert examples.count('<span class="live">right: </span>') >= 2
