"""Formats: what goes out comes back the same, and what a format cannot say is refused by name, never lost."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as Pictures

from studio import plugins
from studio.data.formats import Ledger, read
from studio.media import save_sound
from studio.types import Image, Part, Sample, Sound, Text, Turn

FORMATS = plugins.names("formats")
EVERYTHING = ("arrow", "parquet", "triptych", "webdataset")
"""What holds every row whole; the others refuse some rows by name."""
MEDIA = ("media/a.png", "media/deep/b.jpg", "media/c.wav", "media/d e.flac")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two pictures and two sounds, all different."""
    root = tmp_path_factory.mktemp("formats")
    for number, name in enumerate(MEDIA):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in (".png", ".jpg"):
            Pictures.new("RGB", (8, 8), (number * 60, 0, 0)).save(path)
        else:
            save_sound(path, np.full(80, number / 9, np.float32), 8_000)
    return root


_words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12)
_tricky = st.sampled_from(
    [
        "=1+1",
        '"',
        ",",
        "\t",
        "\r\n",
        "\n",
        " ",
        "\ufeff",
        "[1]",
        "null",
        "data:x",
        "#",
        "0",
        "<image>",
        "<video>",
    ]
)
_texts = st.one_of(_words, _tricky, st.tuples(_words, _tricky).map("".join))
_media = st.sampled_from(
    [Image(path=Path(name)) if name[-3:] in ("png", "jpg") else Sound(path=Path(name)) for name in MEDIA]
)
_parts: st.SearchStrategy[tuple[Part, ...]] = st.lists(
    st.one_of(st.builds(Text, text=st.one_of(_texts, st.just(""))), _media), min_size=1, max_size=4
).map(tuple)
_json = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**53), 2**53), _texts),
    lambda inner: st.lists(inner, max_size=2),
)


def _full(turn: Turn) -> bool:
    return any(not isinstance(part, Text) or part.text for part in turn.parts)


def _turn(role: str) -> st.SearchStrategy[Turn]:
    """A turn of one or more texts, with media if it is the user's."""
    texts = st.lists(st.builds(Text, text=_texts), min_size=1, max_size=2).map(tuple)
    parts: Any = _parts if role == "user" else texts
    return st.builds(Turn, role=st.just(role), parts=parts, loss=st.sampled_from([True, True, False])).filter(
        _full
    )


@st.composite
def rows(draw: st.DrawFn, simple: bool = False) -> Sample:
    """Any row; ``simple``: one question about one medium and at most one answer."""
    system = draw(st.lists(_turn("system"), max_size=1))
    if simple:
        medium = draw(_media)
        texts = draw(st.lists(st.builds(Text, text=_texts), max_size=2))
        at = draw(st.integers(0, len(texts)))
        turns = [
            Turn(role="user", parts=(*texts[:at], medium, *texts[at:])),
            *draw(st.lists(_turn("assistant"), max_size=1)),
        ]
    else:
        turns = [draw(_turn("user"))]
        pairs = ["assistant", "user"] * draw(st.integers(0, 2))
        for role in draw(
            st.one_of(st.just(pairs), st.lists(st.sampled_from(["assistant", "user"]), max_size=3))
        ):
            turns.append(draw(_turn(role)))
    more: dict[str, Any] = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "groups": st.dictionaries(_texts, _texts, max_size=2),
                "weight": st.floats(1e-3, 1e3),
                "source": _texts,
                "license": _texts,
                "id": _texts,
                "extra": st.dictionaries(
                    st.one_of(
                        _texts, st.sampled_from(["images", "Label", "id", "text", "triptych", "verbatim"])
                    ),
                    _json,
                    max_size=2,
                ),
            },
        )
    )
    if turns[-1].role == "user" and not simple:
        if draw(st.booleans()):
            for name in ("chosen", "rejected"):
                more[name] = (draw(_turn("assistant")), *draw(st.lists(_turn_text, max_size=1)))
        else:
            turns += draw(st.lists(_turn("assistant"), max_size=1))
    return Sample(turns=(*system, *turns), **more)


_turn_text = st.builds(Turn, role=st.just("user"), parts=st.tuples(st.builds(Text, text=_texts)))


def in_place(sample: Sample, root: Path, line: int = 1) -> Sample:
    """The sample with its media in ``root``."""

    def placed(part: Part) -> Part:
        return part if isinstance(part, Text) else type(part)(path=root / part.path)

    turns = tuple(dataclasses.replace(t, parts=tuple(map(placed, t.parts))) for t in sample.turns)
    return dataclasses.replace(sample, turns=turns, file=root / "rows.jsonl", line=line)


def content(sample: Sample) -> Sample:
    """The sample with the bytes of its media in place of their names, and without its place."""

    def known(part: Part) -> Part:
        return part if isinstance(part, Text) else type(part)(path=Path(part.path.read_bytes().hex()))

    turns = tuple(dataclasses.replace(t, parts=tuple(map(known, t.parts))) for t in sample.turns)
    return dataclasses.replace(sample, turns=turns, file=Path(), line=0)


def there_and_back(
    name: str, samples: list[Sample], folder: Path, root: Path
) -> tuple[list[Sample], list[str]]:
    """Write samples in a format and read them again; what came back, and what was refused."""
    module = plugins.load("formats", name)
    scratch = folder / "scratch"
    scratch.mkdir()
    ledger = Ledger(scratch, skip=99)
    ledger.folder(root)
    out = folder / "out"
    out.mkdir()
    module.write(samples, out, "train", ledger)
    refused = list(ledger.refused)
    back = [sample for _, part in read(out, ledger, name) for sample in part]
    assert ledger.refused == refused, "what was written was refused on the way back"
    return [content(sample) for sample in back], refused


@pytest.mark.parametrize("answer", ["\ufeff", "\ufeffa", "a\n", "a\r\n", "\n", " a ", "=1", "<b>"])
@pytest.mark.parametrize("name", sorted({*FORMATS} - {"audiofolder"}))
def test_an_answer_comes_back_to_the_letter(name: str, answer: str, place: Path, tmp_path: Path) -> None:
    turns = (
        Turn(role="user", parts=(Image(path=Path(MEDIA[0])),)),
        Turn(role="assistant", parts=(Text(text=answer),)),
    )
    sample = in_place(Sample(turns=turns), place)
    assert there_and_back(name, [sample], tmp_path, place) == ([content(sample)], [])


@pytest.mark.parametrize("name", FORMATS)
@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_what_a_format_writes_it_reads_back_the_same(
    name: str, place: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    simple = data.draw(st.booleans())
    drawn = data.draw(st.lists(rows(simple), min_size=1, max_size=3))
    samples = [in_place(sample, place, line) for line, sample in enumerate(drawn, start=1)]
    folder = tmp_path_factory.mktemp("round")
    try:
        back, refused = there_and_back(name, samples, folder, place)
    finally:
        shutil.rmtree(folder)
    if name in EVERYTHING:
        assert refused == []
    told = [f"{sample.where}: " for sample in samples]
    expected = [
        content(sample)
        for sample, where in zip(samples, told, strict=True)
        if not any(sentence.startswith(where) for sentence in refused)
    ]
    if name == "folder":  # it has the order of its names
        expected, back = sorted(expected, key=repr), sorted(back, key=repr)
    assert back == expected
    assert len(back) + len(refused) == len(samples)
