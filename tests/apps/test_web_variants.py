"""Variants of a running app that change, vanish or are stopped: each is told in its own panel."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from apps.web.mixing.live import _KEPT, Mixes
from apps.web.mixing.recipe import first
from apps.web.panels import visible
from studio.variants import Engine
from tests.apps.asking import Person, asked
from tests.apps.knocking import handlers, stranger

QUESTION = "what is wrong here?"


@pytest.fixture(scope="module")
def folders(web_variants: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str | None]:
    """Return variants whose folders are this file's own."""
    root = tmp_path_factory.mktemp("own")
    made: dict[str, str | None] = {"base": None}
    for name in ("textiles", "commands"):
        made[name] = str(shutil.copytree(web_variants["variants"][name], root / name))
    return made


@pytest.fixture(scope="module")
def app(serve_app: Callable[..., Any], folders: dict[str, str | None]) -> Any:
    """Return an app over them."""
    return serve_app(folders)


@pytest.fixture
def page(app: Any) -> Iterator[Person]:
    """Return an open page."""
    with stranger(app.address) as client:
        yield Person(client, handlers(client), os.urandom(4).hex())


def alone(base: Path, adapter: str | Path | None) -> str:
    """Return what a variant says when nobody else is there."""
    return visible(Engine(base, {"one": adapter}).answer("one", asked(QUESTION), max_new_tokens=8))


def test_an_adapter_whose_files_change_answers_anew_and_one_that_is_gone_says_so(
    page: Person, app: Any, folders: dict[str, str | None], web_variants: dict[str, Any], tmp_path: Path
) -> None:
    before = {name: alone(app.base, path) for name, path in folders.items()}
    answers, _, _ = page.ask(QUESTION, list(folders))
    assert answers == before
    assert len(set(before.values())) == 3

    commands = Path(folders["commands"] or "")
    shutil.copytree(web_variants["variants"]["ties"], tmp_path / "new")
    commands.rename(tmp_path / "old")
    (tmp_path / "new").rename(commands)
    answers, _, _ = page.ask(QUESTION, list(folders))
    assert answers == {**before, "commands": alone(app.base, web_variants["variants"]["ties"])}
    assert answers["commands"] != before["commands"]

    shutil.rmtree(commands)
    answers, token, _ = page.ask(QUESTION, list(folders))
    assert answers == {**before, "commands": ""}
    assert "was it moved?" in page.notes["commands"]
    assert page.vote(1, token)


def test_an_adapter_that_goes_while_it_answers_ends_its_answer(
    page: Person, app: Any, web_variants: dict[str, Any], folders: dict[str, str | None]
) -> None:
    textiles = Path(folders["textiles"] or "")
    aside = textiles.with_name("aside")
    told: dict[str, str] = {}

    def ask() -> None:
        told.update(page.ask(QUESTION, ["base", "textiles"], 256)[0])

    asking = threading.Thread(target=ask)
    asking.start()
    assert page.begun.wait(60)
    textiles.rename(aside)
    asking.join(120)
    aside.rename(textiles)
    engine = Engine(app.base, {"base": None, "textiles": textiles})
    for name, text in told.items():
        assert text == visible(engine.answer(name, asked(QUESTION), max_new_tokens=256))


def test_a_stopped_answer_leaves_the_others_what_they_are(app: Any, folders: dict[str, str | None]) -> None:
    names = ["base", "textiles"]
    with stranger(app.address) as one, stranger(app.address) as other:
        stopper, stays = Person(one, handlers(one), "stopper"), Person(other, handlers(other), "stays")
        told: dict[str, dict[str, str]] = {}
        people = [
            threading.Thread(target=lambda: told.update(one=stopper.ask(QUESTION, names, 256)[0])),
            threading.Thread(target=lambda: told.update(other=stays.ask(QUESTION, names, 8)[0])),
        ]
        people[0].start()
        assert stopper.begun.wait(60)
        people[1].start()
        with stranger(app.address) as client:
            Person(client, handlers(client), "stopper").stop()
        for person in people:
            person.join(120)
    assert set(stopper.states.values()) <= {"stopped", "done"}
    whole = {name: alone(app.base, folders[name]) for name in names}
    assert told["other"] == whole


class _Desk:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine


def test_a_mix_that_made_room_is_made_again_when_it_is_asked(
    web_variants: dict[str, Any], folders: dict[str, str | None]
) -> None:
    experts = {name: web_variants["variants"][name] for name in ("textiles", "commands", "ties")}
    engine = Engine(web_variants["base"], {"base": None, **experts})
    mixes = Mixes(_Desk(engine))  # type: ignore[arg-type]
    made = mixes.make("first", first(list(experts)))
    said = engine.answer(made.name, asked(QUESTION))
    for other in range(_KEPT):
        mixes.make(f"other {other}", first(list(experts)))
    assert made.name not in engine.names
    assert len(engine.names) == len(engine.folders) + _KEPT
    again = mixes.again("first")
    assert again.mix == made.mix
    assert engine.answer(again.name, asked(QUESTION)) == said
