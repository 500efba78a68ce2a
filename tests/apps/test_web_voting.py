"""Verdicts, draws, conversations and marks: what the Compare page does around an answer."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from apps.web.desk import Desk
from apps.web.difference import differences
from apps.web.draw import Draw
from apps.web.examples import Examples
from apps.web.question import Exchange, Question, conversation, read_follow_up
from apps.web.rounds import Decoding, Round
from apps.web.visitors import Visitor
from apps.web.voting import Form, make_form, read_form, write_form
from studio.errors import DataError, TriptychError
from studio.media import save_sound
from studio.store import Store
from studio.variants import Engine
from studio.votes import export_votes

QUICK = Decoding(max_new_tokens=6)
ME = Visitor(name="me", group="weavers")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Return an empty store."""
    with Store(f"sqlite:///{tmp_path / 'kept.db'}") as opened:
        yield opened


@pytest.fixture
def desk(web_variants: dict[str, Any], store: Store, tmp_path: Path) -> Desk:
    """Return a desk over the tiny variants."""
    engine = Engine(web_variants["base"], web_variants["variants"])
    return Desk(engine, store, Examples(), media=tmp_path / "media", runs=tmp_path / "runs")


def ended(opened: Round) -> Round:
    """Return a round once it is over."""
    for _ in opened.watch(every=0.0):
        pass
    return opened


def sent(opened: Round, vote: str, **more: Any) -> dict[str, Any]:
    """Return what the page sends of a verdict on a round."""
    return {"vote": vote, "token": opened.ballot.token, **more}


def test_a_verdict_is_kept_with_everything_that_was_said(desk: Desk, store: Store) -> None:
    asked = ended(desk.open("tab", ME, Question(text="why?"), ["ties", "linear"], QUICK))
    told = sent(
        asked,
        "1",
        reasons=["unsafe", "unsafe", "wording"],
        scores=[{"place": 0, "criterion": "usefulness", "points": 2}],
        note="  it says nothing of the hole ",
        correction="a hole at the top right'; DROP TABLE triptych_vote; --",
    )
    desk.vote("tab", ME, told)
    (vote,) = store.votes()
    assert (vote.choice, vote.rater, vote.rater_group) == ("linear", "me", "weavers")
    assert vote.reasons == ("unsafe", "wording")
    assert vote.scores == {"usefulness: ties": 2}
    assert vote.note == "it says nothing of the hole"
    assert vote.correction == "a hole at the top right'; DROP TABLE triptych_vote; --"
    assert 0 <= (vote.seconds or -1) < 600
    assert not vote.flagged


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"token": "another"}, "belongs to other answers"),
        ({"token": None}, "belongs to other answers"),
        ({"vote": "ties"}, "not a verdict"),
        ({"vote": None}, "not a verdict"),
        ({"reasons": ["ugly"]}, "not a reason"),
        ({"reasons": "wrong"}, "not a reason"),
        ({"reasons": [{}]}, "not a reason"),
        ({"scores": [{"place": 0, "criterion": "usefulness", "points": 6}]}, "Points go from 1 to 5"),
        ({"scores": [{"place": 2, "criterion": "usefulness", "points": 3}]}, "Points go from 1 to 5"),
        ({"scores": [{"place": 0, "criterion": "beauty", "points": 3}]}, "Points go from 1 to 5"),
        ({"scores": {"place": 0}}, "Points go from 1 to 5"),
        ({"note": "n" * 2001}, "note has 2001 characters; at most 2000"),
        ({"correction": "n" * 4001}, "correction has 4001 characters; at most 4000"),
    ],
)
def test_a_forged_verdict_is_refused_and_nothing_is_kept(
    desk: Desk, store: Store, changed: dict[str, Any], told: str
) -> None:
    asked = ended(desk.open("tab", ME, Question(text="why?"), ["ties", "linear"], Decoding(max_new_tokens=1)))
    with pytest.raises(DataError, match=told):
        desk.vote("tab", ME, sent(asked, "0") | changed)
    assert store.votes() == []
    desk.vote("tab", ME, sent(asked, "0"))


def test_a_token_counts_once_and_never_for_another_question(desk: Desk, store: Store) -> None:
    one = ended(desk.open("tab", ME, Question(text="why?"), ["ties", "linear"], QUICK))
    assert one.ballot.token in desk.board("tab")
    two = ended(desk.open("tab", ME, Question(text="who?"), ["ties", "linear"], QUICK))
    assert one.ballot.token not in desk.board("tab")
    with pytest.raises(DataError, match="belongs to other answers"):
        desk.vote("tab", ME, sent(one, "0"))
    desk.vote("tab", ME, sent(two, "0"))
    assert two.ballot.token not in desk.board("tab")
    with pytest.raises(DataError, match="judged before"):
        desk.vote("tab", ME, sent(two, "1"))
    assert [vote.choice for vote in store.votes()] == ["ties"]


def test_names_stay_hidden_until_the_verdict_and_errors_do_not_tell_them(
    web_variants: dict[str, Any], store: Store, tmp_path: Path
) -> None:
    import shutil

    gone = tmp_path / "quokka-adapter"
    shutil.copytree(web_variants["variants"]["ties"], gone)
    names = {"wombat-nine": None, "quokka-seven": gone, "numbat-two": web_variants["variants"]["linear"]}
    engine = Engine(web_variants["base"], names)
    desk = Desk(engine, store, Examples(), runs=tmp_path, blind=True)
    shutil.rmtree(gone)
    asked = ended(desk.open("tab", ME, Question(text="why?"), list(names), QUICK, blind=True))
    assert [panel.state for panel in asked.panels] == ["done", "failed", "done"]
    before = desk.board("tab")
    assert "could not answer" in before
    for secret in (*names, str(gone), gone.name, "Adapter", " s <small>"):
        assert secret not in before, secret
    desk.vote("tab", ME, sent(asked, "0"))
    after = desk.board("tab")
    assert all(name in after for name in names)
    assert store.votes()[0].choice == "wombat-nine"
    assert store.comparisons()[0].blind
    with pytest.raises(DataError, match="The names are known now"):
        desk.follow("tab", ME, Question(text="and?"), QUICK)


def test_a_blind_answer_that_names_its_variant_is_flagged(
    web_variants: dict[str, Any], store: Store, tmp_path: Path
) -> None:
    base, folders, question = web_variants["base"], web_variants["variants"], Question(text="why?")
    engine, long = Engine(base, folders), Decoding(max_new_tokens=48)
    said = {name: re.findall(r"[^\W_]{3,}", engine.answer(name, question.sample)) for name in folders}
    word, folder = next((words[0], folders[name]) for name, words in said.items() if words)
    desk = Desk(Engine(base, {word: folder, "other": None}), store, Examples(), runs=tmp_path)
    for blind in (True, False):
        asked = ended(desk.open("tab", ME, question, [word, "other"], long, blind=blind))
        desk.vote("tab", ME, sent(asked, "tie"))
    assert [vote.flagged for vote in store.votes()] == [True, False]


def test_draws_keep_the_pairs_even_and_the_sides_random() -> None:
    names = ["a", "b", "c", "d", "e"]
    draw, pairs, left = Draw(random=Random(3)), Counter[frozenset[str]](), Counter[str]()
    for _ in range(200):
        drawn = draw.pick(names, 2)
        draw.count(drawn)
        pairs[frozenset(drawn)] += 1
        left[drawn[0]] += 1
    assert set(pairs.values()) == {20}
    assert min(left.values()) > 20
    assert sorted(draw.pick(names, 9)) == names
    three = Draw([("a", "b"), ("a", "c"), ("b", "c")] * 5, Random(1))
    for _ in range(10):
        drawn = three.pick(["a", "b", "c", "d"], 3)
        assert len(set(drawn)) == 3
        assert "d" in drawn
        three.count(drawn)
    assert Draw().pick([], 2) == []


def test_the_desk_draws_what_the_store_has_compared_least(desk: Desk, store: Store) -> None:
    names = list(desk.labels.values())
    desk.engine.live("mine", {})  # type: ignore[attr-defined]
    for pair in combinations(names, 2):
        if set(pair) != {"ties", "commands"}:
            store.add_comparison("why?", pair)
    assert set(desk.drawn()) == {"ties", "commands"}
    assert len(desk.drawn(4)) == len(desk.drawn(9)) == 4
    for forged in ("4", None, -1, [2], 1.5):
        assert len(desk.drawn(forged)) == 2
    assert "mine" not in desk.labels
    with pytest.raises(DataError, match="no variant 'mine'"):
        desk.chosen(["mine", "base"])


def test_each_variant_goes_on_from_its_own_answer(
    desk: Desk, store: Store, web_data: dict[str, str], tmp_path: Path
) -> None:
    picture = Path(web_data["helpdesk"]).parent / "cloth-1.png"
    first = Question(text="why?", picture=picture)
    with pytest.raises(DataError, match="send a question first"):
        desk.follow("tab", ME, Question(text="and?"), QUICK)
    one = ended(desk.open("tab", ME, first, ["ties", "linear"], QUICK))
    desk.vote("tab", ME, sent(one, "1"))
    second = read_follow_up(" and the rest? ")
    two = ended(desk.follow("tab", ME, second, QUICK))
    for panel, before in zip(two.panels, one.panels, strict=True):
        past = (Exchange(question=first, answer=before.text),)
        assert panel.before == past
        assert panel.text == desk.engine.answer(panel.name, conversation(past, second), max_new_tokens=6)
    three = ended(desk.follow("tab", ME, Question(text="really?"), QUICK))
    board = desk.board("tab")
    for said in ("why?", "and the rest?", "really?"):
        assert board.count(said) == 2
    kept = store.comparison(three.kept or 0)
    assert kept.prompt == "really?"
    assert kept.media == ()
    assert [turn["role"] for turn in kept.turns] == ["user", "assistant"] * 2
    assert list(kept.turns[0]["media"]) == list(store.comparison(one.kept or 0).media)
    assert kept.turns[1]["answers"] == {panel.name: panel.text for panel in one.panels}
    assert store.comparison(two.kept or 0).turns[1]["text"] == one.panels[1].text  # the chosen one's
    again = ended(desk.again("tab", ME, ["linear", "ties"], QUICK))
    assert [panel.text for panel in again.panels] == [panel.text for panel in three.panels]
    with pytest.raises(DataError, match="goes on with the variants it began with"):
        desk.again("tab", ME, ["base", "ties"], QUICK)
    desk.vote("tab", ME, sent(again, "0"))
    counts = export_votes(store, desk.media, tmp_path / "out")
    assert counts["preferences"] >= 1
    rows = [json.loads(line) for line in (tmp_path / "out" / "preferences.jsonl").read_text().splitlines()]
    assert len(rows[-1]["messages"]) == 5
    chosen = again.panels[0]
    assert rows[-1]["messages"][1]["content"] == chosen.before[0].answer
    for nothing in ("", "  ", None, 3):
        with pytest.raises(DataError, match="Nothing to ask yet"):
            read_follow_up(nothing)


def test_a_conversation_ends_somewhere(desk: Desk) -> None:
    short = Decoding(max_new_tokens=2)
    ended(desk.open("tab", ME, Question(text="why?"), ["ties", "linear"], short))
    for _ in range(7):
        ended(desk.follow("tab", ME, Question(text="and?"), short))
    with pytest.raises(DataError, match="at most 8 questions"):
        desk.follow("tab", ME, Question(text="and?"), short)


def test_a_recording_of_half_an_hour_is_told_in_the_panels(desk: Desk, tmp_path: Path) -> None:
    file = tmp_path / "long.wav"
    save_sound(file, np.zeros(1800 * 16_000, np.float32), 16_000)
    asked = ended(desk.open("tab", ME, Question(text="?", sound=file), ["ties", "linear"], QUICK, blind=True))
    for panel in asked.panels:
        assert panel.state == "failed"
        assert "1800" in panel.note
        assert str(tmp_path) not in panel.note
    assert "data-vote" not in desk.board("tab")


def test_a_variant_taken_away_fails_alone(desk: Desk) -> None:
    desk.engine.remove("linear")  # type: ignore[attr-defined]
    asked = ended(desk.open("tab", ME, Question(text="why?"), ["ties", "linear", "commands"], QUICK))
    assert [panel.state for panel in asked.panels] == ["done", "failed", "done"]
    assert "linear" not in desk.labels


def test_lists_of_reasons_and_criteria_are_checked_and_outlive_the_app(
    desk: Desk, tmp_path: Path, web_variants: dict[str, Any], store: Store
) -> None:
    form = make_form("wrong\n\n  too   long \n", "tone")
    assert form == Form(reasons=("wrong", "too long"), criteria=("tone",))
    desk.edit_form(form)
    engine = Engine(web_variants["base"], web_variants["variants"])
    assert Desk(engine, store, Examples(), runs=tmp_path / "runs").form == form
    asked = ended(desk.open("tab", ME, Question(text="why?"), ["ties", "linear"], QUICK))
    assert "too long" in desk.board("tab")
    desk.edit_form(Form(reasons=(), criteria=()))
    desk.vote("tab", ME, sent(asked, "0", reasons=["too long"]))  # as it was when the answers were shown
    for reasons, criteria, told in (
        ("a\na", "", "'a' stands twice"),
        ("\n".join(map(str, range(13))), "", "13 reasons are too many; at most 12"),
        ("x" * 41, "", "too long; at most 40 characters"),
        ("", "a: b", "holds no colon"),
    ):
        with pytest.raises(DataError, match=told):
            make_form(reasons, criteria)
    broken = tmp_path / "form.json"
    assert read_form(broken) == Form()
    write_form(broken, form)
    assert read_form(broken) == form
    for text in ("{", "[]", '{"reasons": 3}', '{"reasons": ["a", "a"], "criteria": []}'):
        broken.write_text(text)
        with pytest.raises(TriptychError, match=r"form\.json holds no reasons and criteria"):
            read_form(broken)


def test_words_that_no_other_answer_has_there_are_marked() -> None:
    texts = ["a hole at the top left", "a hole at  the top right corner", "a hole in the top left", ""]
    cut = differences(texts)
    assert ["".join(piece for piece, _ in pieces) for pieces in cut] == texts
    alone = [[piece.strip() for piece, marked in pieces if marked] for pieces in cut]
    assert alone == [[], ["right corner"], ["in"], []]
    assert differences(["  \n", "x"]) == [[("  \n", False)], [("x", True)]]


def test_any_texts_are_cut_without_losing_a_character() -> None:
    draw = Random(5)
    for _ in range(200):
        texts = ["".join(draw.choices("ab \n\tß", k=draw.randrange(12))) for _ in range(draw.randrange(1, 5))]
        assert ["".join(piece for piece, _ in pieces) for pieces in differences(texts)] == texts
