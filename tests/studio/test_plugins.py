from __future__ import annotations

import sys
from pathlib import Path

import pytest

from studio import plugins
from studio.errors import TriptychError, UnknownName


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install a small package, the way pip lays it out, that brings a metric and a method."""
    package = tmp_path / "visitor"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('the package must not be imported to list it')\n")
    (package / "half.py").write_text('"""Counts half."""\n\nHIGHER_IS_BETTER = True\n')
    (tmp_path / "lonely.py").write_text('"""Needs what is not there."""\n\nimport no_such_package_here\n')
    info = tmp_path / "visitor-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: visitor\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[triptych.metrics]\nhalf = visitor.half\nlonely = lonely\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return package


@pytest.mark.parametrize("room", plugins.ROOMS)
def test_names_are_the_files_of_the_room_without_private_ones(room: str) -> None:
    folder = Path(plugins.__file__).parents[1].joinpath(*plugins.ROOMS[room].split("."))
    files = {file.stem for file in folder.glob("*.py") if not file.stem.startswith("_")}
    assert files <= set(plugins.names(room))
    assert plugins.names(room) == sorted(plugins.names(room))
    assert not [name for name in plugins.names(room) if name.startswith("_")]


@pytest.mark.parametrize("room", plugins.ROOMS)
def test_every_name_has_a_summary_of_one_sentence(room: str) -> None:
    for name in plugins.names(room):
        assert plugins.summary(room, name).endswith("."), f"{room}/{name}: {plugins.summary(room, name)!r}"


def test_unknown_room_offers_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean 'recipes'"):
        plugins.names("recipe")


def test_unknown_name_offers_the_nearest_and_the_list() -> None:
    with pytest.raises(UnknownName, match=r"unknown family 'qwen_omny'; did you mean 'qwen_omni'\? known: "):
        plugins.load("families", "qwen_omny")
    with pytest.raises(UnknownName):
        plugins.summary("families", "qwen_omny")


def test_private_files_cannot_be_loaded_by_name() -> None:
    with pytest.raises(UnknownName):
        plugins.load("families", "_chat")


def test_a_dash_stands_for_an_underscore() -> None:
    assert plugins.load("families", "qwen-omni").__name__ == "studio.families.qwen_omni"


def test_another_package_joins_by_an_entry_point_and_is_not_imported_to_be_listed(outside: Path) -> None:
    assert "half" in plugins.names("metrics")
    assert plugins.summary("metrics", "half") == "Counts half."
    assert "visitor" not in sys.modules
    (outside / "__init__.py").write_text("")
    assert plugins.load("metrics", "half").HIGHER_IS_BETTER is True
    assert "half" not in plugins.names("methods")


@pytest.mark.usefixtures("outside")
def test_a_plugin_whose_package_is_missing_names_the_package() -> None:
    with pytest.raises(TriptychError, match="metric 'lonely' needs the package 'no_such_package_here'"):
        plugins.load("metrics", "lonely")
