from __future__ import annotations

import json
from pathlib import Path

import pytest

from apps.choices import Choice, Fleet, by_base, one_base, read_choices
from studio.errors import CheckpointError, TriptychError


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with two bases, a run with an adapter on the first, and a run of all weights."""
    monkeypatch.chdir(tmp_path)
    for name in ("base", "other", "runs/whole/model"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_text("{}")
    for name, base in (("runs/expert/adapter", "base"), ("runs/stranger/adapter", "other"), ("lost", "gone")):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "adapter_config.json").write_text("{}")
        (tmp_path / name / "triptych.json").write_text(json.dumps({"base": base}))
    return tmp_path


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("base", Choice(name="base", base=Path("base"))),
        ("base+runs/expert", Choice(name="expert", base=Path("base"), adapter=Path("runs/expert/adapter"))),
        ("base+lost", Choice(name="lost", base=Path("base"), adapter=Path("lost"))),
        ("runs/expert", Choice(name="expert", base=Path("base"), adapter=Path("runs/expert/adapter"))),
        ("mine=runs/expert", Choice(name="mine", base=Path("base"), adapter=Path("runs/expert/adapter"))),
        ("runs/whole", Choice(name="whole", base=Path("runs/whole/model"))),
    ],
)
@pytest.mark.usefixtures("shelf")
def test_what_a_text_names(text: str, choice: Choice) -> None:
    assert read_choices([text]) == [choice]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("bse", "did you mean 'base'"),
        ("base+other", "other is no adapter"),
        ("runs", "runs is no model: there is no config.json in it"),
        ("lost", r"lost belongs to a base that is not here .* name it as MODEL\+lost"),
    ],
)
@pytest.mark.usefixtures("shelf")
def test_what_a_text_cannot_name(text: str, says: str) -> None:
    with pytest.raises(CheckpointError, match=says):
        read_choices([text])


def test_a_folder_with_a_sign_in_its_name_is_taken_as_it_is(shelf: Path) -> None:
    for name in ("a+b", "c=d"):
        (shelf / name).mkdir()
        (shelf / name / "config.json").write_text("{}")
    assert [choice.name for choice in read_choices(["a+b", "c=d"])] == ["a+b", "c=d"]


@pytest.mark.usefixtures("shelf")
def test_names_that_are_alike_get_numbers() -> None:
    assert [c.name for c in read_choices(["base", "./base", "base"])] == ["base", "base-2", "base-3"]


@pytest.mark.usefixtures("shelf")
def test_variants_share_the_base_of_the_adapters() -> None:
    base, variants = one_base(read_choices(["other", "base", "runs/expert"]))
    assert base == Path("base")
    assert variants == {"other": Path("other"), "base": None, "expert": Path("runs/expert/adapter")}


@pytest.mark.usefixtures("shelf")
def test_adapters_of_different_bases_cannot_share_one() -> None:
    with pytest.raises(TriptychError, match="'stranger' is an adapter on other, but 'expert' is on base"):
        one_base(read_choices(["runs/expert", "runs/stranger"]))
    groups = by_base(read_choices(["runs/expert", "runs/stranger", "base"]))
    assert [(base.name, [c.name for c in group]) for base, group in groups] == [
        ("base", ["expert", "base"]),
        ("other", ["stranger"]),
    ]


class Echo:
    """An engine that answers with its variants' names."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def answers(self, name: str, samples: list[str], **settings: int) -> list[str]:
        return [f"{name} {sample} {settings}" for sample in samples]

    def fingerprint(self, name: str) -> str:
        return f"print of {name}"


def test_a_fleet_asks_the_engine_that_has_the_variant() -> None:
    fleet = Fleet([Echo("a", "b"), Echo("c")])  # type: ignore[list-item]
    assert fleet.names == ("a", "b", "c")
    assert fleet.answers("c", ["x"], n=1) == ["c x {'n': 1}"]  # type: ignore[list-item]
    assert fleet.fingerprint("b") == "print of b"
