"""What stands behind the Compare page: questions, rounds, panels, examples and what is kept of them."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from apps.web.desk import Desk, labels
from apps.web.examples import Examples
from apps.web.panels import panels_html, visible
from apps.web.question import MAX_CHARACTERS, Question, read_question, without_paths
from apps.web.rounds import Decoding, Panel, Round, Source
from apps.web.visitors import Visitor
from apps.web.voting import Ballot, Form
from studio.data import load_data
from studio.errors import DataError, TriptychError
from studio.store import Store
from studio.types import Image, Sample, Text, Turn
from studio.variants import Engine

QUICK = Decoding(max_new_tokens=6)
ME = Visitor(name="me")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Return an empty store."""
    with Store(f"sqlite:///{tmp_path / 'kept.db'}") as opened:
        yield opened


@pytest.fixture
def desk_over(store: Store, tmp_path: Path) -> Callable[..., Desk]:
    """Return a function that opens a desk over an engine."""
    return lambda engine: Desk(engine, store, Examples(), media=tmp_path / "media")


def sent(asked: Round, vote: str, **more: Any) -> dict[str, Any]:
    """Return what the page sends of a verdict on a round."""
    return {"vote": vote, "token": asked.ballot.token, **more}


def wait(asked: Round) -> list[tuple[Panel, ...]]:
    """Return all views of a round, to its end."""
    return list(asked.watch(every=0.0))


def test_a_question_puts_picture_sound_and_text_in_the_order_of_the_data(web_data: dict[str, str]) -> None:
    sample = load_data(web_data["helpdesk"])[0]
    question = Question(
        text="what is wrong here? 0", picture=sample.images[0].path, sound=sample.sounds[0].path
    )
    assert question.sample.prompt == sample.prompt


@pytest.mark.parametrize("what", ["picture", "sound"])
def test_a_broken_upload_is_told_without_its_path(what: str, tmp_path: Path) -> None:
    broken = tmp_path / "secret-folder" / "broken.bin"
    broken.parent.mkdir()
    for content in (b"", b"nothing of the kind", b"\x89PNG\r\n\x1a\n123", b"RIFF\x99\0\0\0WAVEfmt "):
        broken.write_bytes(content)
        upload = {"path": str(broken)}
        with pytest.raises(DataError) as told:
            read_question(
                upload if what == "picture" else None, upload if what == "sound" else None, "?", tmp_path
            )
        sentence = str(told.value)
        assert sentence.startswith("The picture" if what == "picture" else "The recording")
        assert sentence.endswith(".")
        assert str(tmp_path) not in sentence
        assert "secret" not in sentence


def test_empty_endless_and_forged_questions_are_refused(tmp_path: Path) -> None:
    for nothing in ("  \n", None, 7, {"text": "a"}):
        with pytest.raises(DataError, match="Nothing to ask yet"):
            read_question(None, None, nothing, tmp_path)
    with pytest.raises(DataError, match=f"has {MAX_CHARACTERS + 1} characters; at most {MAX_CHARACTERS}"):
        read_question(None, None, "a" * (MAX_CHARACTERS + 1), tmp_path)
    forged = ({"url": "data:image/png;base64,AAAA"}, "a.png", {"path": None}, {"path": "/etc/passwd"})
    for picture in (*forged, {"path": f"{tmp_path}/../a.png"}):
        with pytest.raises(DataError, match="The picture did not arrive"):
            read_question(picture, None, "?", tmp_path)


def test_an_engines_sentence_loses_its_paths_too(tmp_path: Path) -> None:
    question = Question(sound=tmp_path / "a.wav")
    sentence = f"{question.sample.where}: {question.sound}: 31.0 s of sound, the model takes at most 30 s"
    told = "The recording: 31.0 s of sound, the model takes at most 30 s."
    assert without_paths(sentence, question) == told


def test_variants_answer_at_once_and_everything_is_kept(
    web_variants: dict[str, Any], web_data: dict[str, str], desk_over: Callable[..., Desk], store: Store
) -> None:
    engine = Engine(web_variants["base"], web_variants["variants"])
    desk = desk_over(engine)
    sample = load_data(web_data["helpdesk"])[0]
    question = Question(text="why?", picture=sample.images[0].path)
    asked = desk.open("tab", ME, question, ["ties", "linear"], QUICK, source=Source(domain="helpdesk"))
    views = wait(asked)
    assert any([panel.state for panel in view] == ["answering"] * 2 for view in views)
    final = views[-1]
    assert [panel.name for panel in final] == ["ties", "linear"]
    for panel in final:
        assert panel.state == "done"
        assert panel.text == engine.answer(panel.name, question.sample, max_new_tokens=6)
        assert panel.together == 2
        assert 0 < (panel.first or 0) <= (panel.seconds or 0)
    assert "2 at once" in desk.board("tab")
    kept = store.comparison(asked.kept or 0)
    assert (kept.variants, kept.domain, kept.blind, kept.asker) == (
        ("ties", "linear"),
        "helpdesk",
        False,
        "me",
    )
    assert {answer.variant: answer.text for answer in kept.answers} == {p.name: p.text for p in final}
    assert kept.decoding == {"max_new_tokens": 6, "temperature": 0.0}
    assert [file.stem for file in (desk.media or Path()).iterdir()] == list(kept.media)


def test_variants_that_fit_in_no_batch_answer_in_turn_and_the_log_says_why(
    web_variants: dict[str, Any],
    desk_over: Callable[..., Desk],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = Path(shutil.copytree(web_variants["base"], tmp_path / "whole"))
    engine = Engine(web_variants["base"], {"whole": whole, **web_variants["variants"]})
    desk = desk_over(engine)
    asked = desk.open("tab", ME, Question(text="why?"), ["whole", "ties", "linear"], QUICK)
    views = wait(asked)
    for view in views:
        assert not (view[0].state == "answering" and "answering" in (view[1].state, view[2].state))
    assert [panel.together for panel in views[-1]] == [1, 2, 2]
    for panel in views[-1]:
        assert panel.text == engine.answer(panel.name, Question(text="why?").sample, max_new_tokens=6)
    assert "'whole' answers apart, because it is a model of its own" in capsys.readouterr().err
    blind = desk.open("tab", ME, Question(text="why?"), ["whole", "ties", "linear"], QUICK, blind=True)
    for view in wait(blind):  # who waits for whom would tell the whole model from the others
        assert sum(panel.state == "answering" for panel in view) <= 1
    assert [panel.text for panel in blind.panels] == [panel.text for panel in views[-1]]


def test_a_variant_that_disappears_is_told_in_its_panel_and_the_others_go_on(
    web_variants: dict[str, Any], tmp_path: Path, desk_over: Callable[..., Desk], store: Store
) -> None:
    gone = tmp_path / "gone"
    shutil.copytree(web_variants["variants"]["ties"], gone)
    desk = desk_over(Engine(web_variants["base"], {"gone": gone, "base": None}))
    shutil.rmtree(gone)
    asked = desk.open("tab", ME, Question(text="why?"), ["gone", "base"], QUICK)
    lost, there = wait(asked)[-1]
    assert lost.state == "failed"
    assert lost.note.endswith((".", "?"))
    assert there.state == "done"
    assert [answer.variant for answer in store.comparison(asked.kept or 0).answers] == ["base"]
    assert "Failed" in desk.board("tab")
    with pytest.raises(DataError, match="not a verdict"):
        desk.vote("tab", ME, sent(asked, "0"))
    desk.vote("tab", ME, sent(asked, "1"))
    assert store.votes()[0].choice == "base"


def test_stop_ends_the_running_answer_and_spares_the_waiting_ones(
    web_variants: dict[str, Any], desk_over: Callable[..., Desk]
) -> None:
    desk = desk_over(Engine(web_variants["base"], web_variants["variants"]))
    asked = desk.open("tab", ME, Question(text="why?"), ["ties", "linear"], Decoding(max_new_tokens=256))
    for view in asked.watch(every=0.0):
        if view[0].text:
            asked.stop()
    first, second = asked.panels
    assert (first.state, second.state) == ("stopped", "stopped")
    assert len(first.text) > 0


def test_visitors_wait_for_each_other_and_a_new_question_stops_the_old_one(
    web_variants: dict[str, Any], desk_over: Callable[..., Desk]
) -> None:
    engine = Engine(web_variants["base"], web_variants["variants"])
    desk = desk_over(engine)
    question = Question(text="why?")
    old = desk.open("a", ME, question, ["ties", "linear"], Decoding(max_new_tokens=256))
    rounds = [desk.open(tab, ME, question, ["ties", "linear"], QUICK) for tab in "abcd"]
    threads = [threading.Thread(target=wait, args=(asked,)) for asked in [old, *rounds]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {panel.state for panel in old.panels} == {"stopped"}
    right = [engine.answer(name, question.sample, max_new_tokens=6) for name in ("ties", "linear")]
    assert [[panel.text for panel in asked.panels] for asked in rounds] == [right] * 4
    assert desk.round("a") is rounds[0]


def test_a_verdict_counts_once_and_only_on_a_finished_comparison(
    web_variants: dict[str, Any], desk_over: Callable[..., Desk], store: Store
) -> None:
    desk = desk_over(Engine(web_variants["base"], web_variants["variants"]))
    with pytest.raises(DataError, match="no finished comparison"):
        desk.vote("tab", ME, {"vote": "tie"})
    asked = desk.open("tab", ME, Question(text="why?"), ["ties", "linear"], QUICK)
    wait(asked)
    with pytest.raises(DataError, match="not a verdict"):
        desk.vote("tab", ME, sent(asked, "2"))
    with pytest.raises(DataError, match="no finished comparison"):
        desk.vote("another tab", ME, sent(asked, "tie"))
    desk.vote("tab", ME, sent(asked, "tie"))
    with pytest.raises(DataError, match="judged before"):
        desk.vote("tab", ME, sent(asked, "0"))
    assert [(vote.choice, vote.rater) for vote in store.votes()] == [("tie", "me")]


def test_a_store_that_fails_is_told_and_costs_no_answer(
    web_variants: dict[str, Any], desk_over: Callable[..., Desk], store: Store, tmp_path: Path
) -> None:
    desk = desk_over(Engine(web_variants["base"], web_variants["variants"]))
    store.close()
    for file in tmp_path.glob("kept.db*"):
        file.unlink()
    (tmp_path / "kept.db").mkdir()
    asked = desk.open("tab", ME, Question(text="why?"), ["ties", "linear"], QUICK)
    assert [panel.state for panel in wait(asked)[-1]] == ["done", "done"]
    board = desk.board("tab")
    assert "could not all be kept" in board
    assert str(tmp_path) not in board
    assert "data-vote" not in board


def test_two_to_four_known_variants_can_be_chosen(
    web_variants: dict[str, Any], desk_over: Callable[..., Desk]
) -> None:
    desk = desk_over(Engine(web_variants["base"], web_variants["variants"]))
    for chosen, told in (
        ([], "none chosen"),
        (["ties"], "1 chosen"),
        (["ties", "ties"], "1 chosen"),
        ("ties", "none chosen"),
        (None, "none chosen"),
        (["base", "textiles", "commands", "linear", "ties"], "5 chosen"),
    ):
        with pytest.raises(DataError, match=told):
            desk.chosen(chosen)
    with pytest.raises(DataError, match="There is no variant 'tees' any more"):
        desk.chosen(["ties", "tees"])


def test_an_engine_with_one_variant_or_a_verdict_for_a_name_is_refused(
    web_variants: dict[str, Any], desk_over: Callable[..., Desk]
) -> None:
    base = web_variants["base"]
    with pytest.raises(TriptychError, match="at least two variants, this engine has alone"):
        desk_over(Engine(base, {"alone": None}))
    with pytest.raises(TriptychError, match="cannot be named 'tie'"):
        desk_over(Engine(base, {"tie": None, "base": None}))


def test_markup_in_names_answers_and_sentences_is_inert() -> None:
    evil = "<img src=x onerror=alert(1)>\"'&${1}{{2}}"
    panels = [
        Panel(name=evil, state="done", text=evil, seconds=1.0, first=0.1),
        Panel(name="b", state="failed", note=evil),
    ]
    page = panels_html(
        panels, expected=evil, matches=[True, False], ballot=Ballot(form=Form(reasons=(evil,))), problem=evil
    )
    assert "<img" not in page
    assert "&lt;img src=x onerror=alert(1)&gt;&quot;&#x27;&amp;" in page
    assert visible("a\0b\nc\x1b") == "a\u2400b\nc\u241b"


def test_every_state_of_a_panel_says_what_it_is() -> None:
    told = {
        "ready": "Its answer will appear here.",
        "waiting": "Waiting until it can begin.",
        "answering": "tp-caret",
        "done": "It answered with nothing.",
        "stopped": "Stopped before it said anything.",
        "failed": "no such folder",
    }
    for state, words in told.items():
        panel: Any = Panel(name="ties", state=state, note="no such folder")  # type: ignore[arg-type]
        assert words in panels_html([panel, panel]), state
    done = Panel(name="ties", state="done", text="one two", seconds=1.234)
    page = panels_html([done, done], ballot=Ballot())
    assert "1.23 s" in page
    assert "2 words" in page
    assert page.count("data-vote") == 5
    assert panels_html([done, done], ballot=Ballot(), vote="tie").count("data-vote") == 1


def test_labels_of_paths_are_short_and_tell_them_apart() -> None:
    names = ["base", "/home/me/runs/a/adapter", "/home/me/runs/b/adapter", "runs/c"]
    assert labels(names) == {"base": names[0], "adapter": names[1], "b/adapter": names[2], "runs/c": names[3]}
    assert list(labels(["adapter", "/adapter"])) == ["adapter", "adapter (2)"]


def test_examples_come_in_turn_and_only_those_that_the_page_can_ask(web_data: dict[str, str]) -> None:
    rows: Sequence[Sample] = load_data(web_data["helpdesk"])
    talk = Sample(turns=(*rows[0].turns, *rows[1].turns))
    two = Turn(role="user", parts=(*rows[0].images, *rows[1].images, Text(text="which?")))
    examples = Examples({"helpdesk": [*rows, talk, Sample(turns=(two,))], "empty": []})
    assert examples.domains == ["helpdesk"]
    picked = [examples.pick("helpdesk", turn) for turn in range(4)]
    assert sorted(example.number for example in picked[:3]) == [1, 2, 3]
    assert picked[3] == picked[0]
    assert picked[0].expected == "a hole at the top right"
    assert picked[0].question.picture == rows[0].images[0].path
    assert isinstance(rows[0].turns[0].parts[0], Image)
