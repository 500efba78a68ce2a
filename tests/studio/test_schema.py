"""The JSON Schema of a row and the reader say the same about every row."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from studio.data.rows import Folder, sample_of
from studio.errors import DataError

SCHEMA = json.loads((Path(__file__).parents[2] / "studio" / "data" / "schema.json").read_text())
VALIDATOR = Draft202012Validator(SCHEMA)

_words = st.text("ab <é\n", min_size=1, max_size=6)
_text_part = st.fixed_dictionaries({"type": st.just("text"), "text": _words})
_medium = st.fixed_dictionaries(
    {
        "type": st.sampled_from(["image", "audio"]),
        "path": st.text("ab/.", min_size=1, max_size=3).map("m".__add__),
    }
)
_loss = {"loss": st.booleans()}


def _message(role: str, *parts: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    content = st.one_of(_words, st.lists(st.one_of(*parts), min_size=1, max_size=3))
    return st.fixed_dictionaries({"role": st.just(role), "content": content}, optional=_loss)


_user, _assistant = _message("user", _text_part, _medium), _message("assistant", _text_part)
_head = st.lists(_message("system", _text_part), max_size=1)
_about = {
    "groups": st.one_of(st.none(), st.dictionaries(_words, _words, max_size=2)),
    "weight": st.one_of(st.integers(1, 9), st.floats(1e-6, 1e6)),
    **{name: _words for name in ("source", "license", "id")},
    "extra": st.dictionaries(_words, st.one_of(st.none(), _words, st.integers(), st.lists(st.booleans()))),
}


@st.composite
def rows(draw: st.DrawFn) -> dict[str, Any]:
    """A good row."""
    messages = draw(_head) + draw(st.lists(st.one_of(_user, _assistant), max_size=2)) + [draw(_user)]
    row: dict[str, Any] = {"messages": messages, **draw(st.fixed_dictionaries({}, optional=_about))}
    if draw(st.booleans()):
        for name in ("chosen", "rejected"):
            row[name] = [draw(_assistant), *draw(st.lists(st.one_of(_user_text, _assistant), max_size=2))]
    else:
        row["messages"] = messages + draw(st.lists(_assistant, max_size=1))
    return row


_user_text = _message("user", _text_part)
_JUNK = (
    None,
    True,
    0,
    -1.5,
    "",
    "x",
    "/etc",
    "text",
    "image",
    "system",
    [],
    ["x"],
    {},
    {"type": "text"},
    {"a": 1},
)


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) inside ``value``."""
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    else:
        return []
    return [(value, key) for key, _ in inner] + [place for _, child in inner for place in _places(child)]


@st.composite
def spoilt(draw: st.DrawFn) -> dict[str, Any]:
    """A good row with one to three things replaced, removed or added anywhere."""
    row = copy.deepcopy(draw(rows()))
    for _ in range(draw(st.integers(1, 3))):
        places = _places(row)
        if not places:
            break
        container, key = draw(st.sampled_from(places))
        junk = copy.deepcopy(draw(st.sampled_from(_JUNK)))
        match draw(st.sampled_from(("replace", "remove", "add"))):
            case "replace":
                container[key] = junk
            case "remove":
                del container[key]
            case _ if isinstance(container, dict):
                container[draw(st.sampled_from(("loss", "path", "name", "chosen", "weight")))] = junk
            case _:
                container.insert(draw(st.integers(0, len(container))), junk)
    return row


def _read(row: object) -> str | None:
    """What the reader refuses the row with."""
    try:
        sample_of(row, Folder(Path("/nowhere/data")), Path("a.jsonl"), 1)
    except DataError as error:
        return str(error)
    return None


@given(rows())
@settings(max_examples=150, deadline=None)
def test_a_good_row_is_good_for_both(row: dict[str, Any]) -> None:
    if _leaves(row):
        return
    assert _read(row) is None
    assert [error.message for error in VALIDATOR.iter_errors(row)] == []


@given(spoilt())
@settings(max_examples=400, deadline=None)
def test_a_spoilt_row_is_judged_alike_by_both(row: dict[str, Any]) -> None:
    said = _read(row)
    if said is not None and ("leads out" in said or "must end with the user" in said):
        return  # what only the reader can see, as the schema says of itself
    assert VALIDATOR.is_valid(row) == (said is None), said


def _leaves(row: dict[str, Any]) -> bool:
    said = _read(row)
    return said is not None and "leads out" in said


def test_the_schema_is_a_schema_and_describes_every_key() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert all("description" in rule for rule in SCHEMA["properties"].values())


@pytest.mark.parametrize("domain", ["handwriting", "textiles", "commands", "helpdesk"])
def test_the_shipped_rows_are_valid(domain: str) -> None:
    file = Path(__file__).parents[2] / "assets" / "data" / domain / "test.jsonl"
    for line in file.read_text().splitlines()[:50]:
        VALIDATOR.validate(json.loads(line))
