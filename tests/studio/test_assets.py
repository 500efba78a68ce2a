from __future__ import annotations

from pathlib import Path

import pytest

from studio import assets
from studio.assets import asset, assets_root, find_data, find_model, shipped
from studio.errors import CheckpointError, DataError, TriptychError

MODEL = "models/nano-omni"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Lay out the package as a wheel does, with the assets inside it, and look from there."""
    package = tmp_path / "site-packages" / "studio"
    for name in ("_assets/models/nano-omni", "_assets/data/commands", "_assets/data/textiles"):
        (package / name).mkdir(parents=True)
    monkeypatch.setattr(assets, "_HERE", package)
    monkeypatch.chdir(tmp_path)
    return package / "_assets"


def test_a_checkouts_assets_are_found() -> None:
    assert assets_root() == Path(assets.__file__).parents[1] / "assets"


def test_a_wheels_assets_are_found(installed: Path) -> None:
    assert assets_root() == installed
    assert asset(MODEL) == installed / MODEL
    assert shipped("data") == ["commands", "textiles"]
    assert find_model("nano-omni") == installed / MODEL
    assert find_data("commands") == installed / "data/commands"


def test_folders_that_only_look_like_assets_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "assets").mkdir()  # of another package in the same site-packages
    monkeypatch.setattr(assets, "_HERE", tmp_path / "studio")
    with pytest.raises(TriptychError, match="this installation has no assets"):
        assets_root()
    assert shipped("models") == []


@pytest.mark.usefixtures("installed")
def test_a_wrong_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(TriptychError, match="did you mean 'models/nano-omni'"):
        asset("models/nano-omny")
    with pytest.raises(CheckpointError, match="did you mean 'nano-omni'"):
        find_model("nano-omny")
    with pytest.raises(DataError, match="did you mean 'textiles'"):
        find_data("textile")


@pytest.mark.usefixtures("installed")
def test_what_stands_beside_a_wrong_path_is_offered_if_it_is_of_the_kind(tmp_path: Path) -> None:
    (tmp_path / "runs/first").mkdir(parents=True)
    (tmp_path / "runs/first/config.json").write_text("{}")
    (tmp_path / "rows.jsonl").write_text("")
    with pytest.raises(CheckpointError, match="did you mean 'runs/first'"):
        find_model("runs/frist")
    with pytest.raises(DataError, match=r"did you mean 'rows\.jsonl'"):
        find_data("rows.json")


@pytest.mark.usefixtures("installed")
def test_a_folder_as_given_wins_over_a_shipped_name(tmp_path: Path) -> None:
    (tmp_path / "nano-omni").mkdir()
    assert find_model("nano-omni") == Path("nano-omni")


@pytest.mark.usefixtures("installed")
def test_a_public_id_is_looked_up_in_the_local_cache_and_never_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(CheckpointError, match="nor in the local hub cache"):
        find_model("some-org/some-model")
    snapshot = tmp_path / "hub/models--some-org--some-model/snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    refs = tmp_path / "hub/models--some-org--some-model/refs"
    refs.mkdir()
    (refs / "main").write_text("0" * 40)
    assert find_model("some-org/some-model") == snapshot


@pytest.mark.usefixtures("installed")
def test_a_file_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("x")
    with pytest.raises(CheckpointError, match="is a file, a folder is needed"):
        find_model("weights")
