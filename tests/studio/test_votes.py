"""Votes become data: what was preferred, what was bad, what should have been said; and a ranking."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from apps.cli import main
from studio.data import check_data, load_data
from studio.errors import DataError
from studio.families import family
from studio.log import QuietLog
from studio.store import Store, media_folder
from studio.types import Sample
from studio.votes import export_votes


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'kept.db'}"


@pytest.fixture
def media(questions: Callable[[str, int], list[Sample]], url: str) -> list[str]:
    """Keep a picture and a sound as the app does; return their hashes."""
    sample = questions("qwen_omni", 4)[1]
    folder = media_folder(url)
    assert folder is not None
    folder.mkdir()
    kept = []
    for path in (sample.images[0].path, sample.sounds[0].path):
        kept.append(hashlib.sha256(path.read_bytes()).hexdigest())
        shutil.copy(path, folder / f"{kept[-1]}{path.suffix}")
    return kept


def asked(store: Store, said: dict[str, str], **more: Any) -> int:
    number = store.add_comparison("what is it?", list(said), **more)
    for name, text in said.items():
        store.add_answer(number, name, text)
    return number


def test_every_kind_of_verdict_teaches_what_it_says(url: str, media: list[str], tmp_path: Path) -> None:
    turns = [{"role": "user", "text": "look", "media": media[:1]}, {"role": "assistant", "text": "yes"}]
    with Store(url) as store:
        best = asked(store, {"a": "linen", "b": "wool", "c": "linen"}, media=media, domain="textiles")
        store.vote(best, "a", rater="jane", reasons=["wording"])
        bad = asked(store, {"a": "x", "b": "y"}, turns=turns)
        store.vote(bad, "both bad", rater="jane", correction=" cotton ")
        tie = asked(store, {"a": "x", "b": "x"})
        store.vote(tie, "tie", rater="joe")
        flagged = asked(store, {"a": "I am a", "b": "y"})
        store.vote(flagged, "a", rater="joe", flagged=True)
        gone = asked(store, {"a": "x", "b": "y"}, media=["f" * 64])
        store.vote(gone, "b", rater="joe")
        counts = export_votes(store, media_folder(url), tmp_path / "out")
    assert counts == {"preferences": 1, "labels": 3, "corrections": 1, "flagged": 1, "media gone": 1}
    (row,) = load_data(tmp_path / "out" / "preferences.jsonl", split="train")
    assert (row.chosen[0].text, row.rejected[0].text) == ("linen", "wool")
    assert (len(row.images), len(row.sounds), row.source) == (1, 1, "votes")
    assert row.groups == {"domain": "textiles"}
    assert row.images[0].path.is_relative_to(tmp_path / "out" / "media")
    labels = load_data(tmp_path / "out" / "labels.jsonl", split="train")
    assert [(one.answer, one.extra["label"]) for one in labels] == [
        ("linen", True),
        ("x", False),
        ("y", False),
    ]
    (corrected,) = load_data(tmp_path / "out" / "corrections.jsonl", split="train")
    assert [turn.text for turn in corrected.turns] == ["look", "yes", "what is it?", "cotton"]
    assert len(corrected.images) == 1
    for name in ("preferences", "labels", "corrections"):
        check_data(
            load_data(tmp_path / "out" / f"{name}.jsonl", split="train"), family("qwen_omni"), QuietLog()
        )
    text = "".join(path.read_text() for path in (tmp_path / "out").glob("*.jsonl"))
    assert "jane" not in text
    assert "joe" not in text


def test_nothing_to_write_writes_nothing(url: str, tmp_path: Path) -> None:
    with Store(url) as store:
        store.vote(asked(store, {"a": "x", "b": "y"}), "skip", rater="r")
        with pytest.raises(DataError, match="no vote that teaches anything"):
            export_votes(store, None, tmp_path / "out")
        assert not (tmp_path / "out").exists()
        (tmp_path / "out").mkdir()
        with pytest.raises(DataError, match="is there already"):
            export_votes(store, None, tmp_path / "out")


def test_the_command_ranks_and_exports(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Store(url) as store:
        for number in range(40):
            one = asked(store, {"good": f"right {number}", "poor": "wrong"}, domain=("x", "y")[number % 2])
            store.vote(one, "poor" if number % 5 == 0 else "good", rater=f"r{number % 2}")
    assert main(["votes", "--store", url]) == 0
    shown = capsys.readouterr().out
    assert shown.index("good") < shown.index("poor")
    assert "without 4 of the votes the order stays in 100%" in shown
    assert main(["votes", "--store", url, "--blind", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["votes"] == 0
    assert main(["votes", "--store", url, "--by", "domain", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told["rankings"]) == {"x", "y"}
    assert told["votes"] == 40
    assert told["rankings"]["x"]["standings"][0]["variant"] == "good"
    assert main(["votes", "--store", url, "--export", str(tmp_path / "out"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["preferences"] == 40
    assert main(["votes", "--store", f"sqlite:///{tmp_path / 'none.db'}"]) == 2
    assert "there is no store" in capsys.readouterr().err
    assert not (tmp_path / "none.db").exists()
