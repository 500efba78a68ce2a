"""The card of a set, as a command; and that a run and its adapter know what they were trained on."""

from __future__ import annotations

import json
import logging
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apps.cli import main
from studio.assets import asset, shipped
from studio.data import load_data
from studio.data.identity import data_hash
from studio.files import sha256_file


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """Return a set of two splits: pictures of textiles, rows that name a licence, and rows that do not."""
    folder = tmp_path / "looms"
    folder.mkdir()
    rows = (asset("data/textiles") / "test.jsonl").read_text().splitlines()[:9]
    for name, lines in (("train", rows[:6]), ("test", rows[6:])):
        told = [json.loads(line) for line in lines]
        told[0] |= {"license": "CC0-1.0", "source": "a museum"}
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, told)) + "\n")
    for line in rows:
        name = next(p["path"] for p in json.loads(line)["messages"][0]["content"] if p["type"] == "image")
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(asset("data/textiles") / name, folder / name)
    return folder


def problems(card: Path) -> Iterator[str]:
    """Yield what mlcroissant's own validator finds wrong with a card; what it only recommends is left out."""
    mlcroissant = pytest.importorskip("mlcroissant")
    logging.getLogger("absl").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its parser uses names that its own library will drop
        try:
            found = mlcroissant.Dataset(jsonld=card)
        except mlcroissant.ValidationError as error:
            yield str(error)
            return
    yield from found.metadata.ctx.issues.errors


def card_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "croissant.json").read_text())
    return found


def test_a_card_is_valid_croissant_and_says_what_is_in_the_set(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["card", str(made), "--license", "CC-BY-4.0", "--source", "our own looms", "--creator", "Weavers"]
    assert main([*line, "--deidentified", "nobody is in it", "--out", str(made)]) == 0
    assert "croissant.json" in capsys.readouterr().out
    assert list(problems(made / "croissant.json")) == []
    card = card_of(made)
    assert card["name"] == "looms"
    assert card["license"] == ["CC-BY-4.0", "CC0-1.0"]
    assert card["rai:dataCollection"] == "our own looms"
    assert card["isBasedOn"] == ["a museum"]
    assert card["rai:personalSensitiveInformation"] == "nobody is in it"
    files = {entry["@id"]: entry for entry in card["distribution"]}
    assert files["train.jsonl"]["sha256"] == sha256_file(made / "train.jsonl")
    assert card["identifier"] == [f"sha256:{data_hash(load_data(made, s))}" for s in ("test", "train")]
    assert files["test/*.jpg"]["description"] == "9 files"
    assert {"defect", "ground"} & {group["name"] for group in card["variableMeasured"]}
    text = (made / "README.md").read_text()
    assert text.startswith('---\nlicense: "other"\ntags:\n- triptych\n- pictures\n---\n\n# looms\n')
    assert "| CC-BY-4.0 | 7 |" in text
    assert "| a museum | 2 |" in text


def test_the_validator_refuses_what_is_no_card(made: Path, tmp_path: Path) -> None:
    assert main(["card", str(made), "--out", str(tmp_path / "out")]) == 0
    card = card_of(tmp_path / "out")
    card["recordSet"][0]["field"][0]["source"]["fileObject"] = {"@id": "nothing.jsonl"}
    (tmp_path / "wrong.json").write_text(json.dumps(card))
    assert list(problems(tmp_path / "wrong.json"))


def test_what_a_card_said_stays_until_it_is_said_anew(made: Path) -> None:
    assert main(["card", str(made), "--license", "MIT", "--source", "looms", "--out", str(made)]) == 0
    first = card_of(made)
    assert main(["card", str(made), "--out", str(made)]) == 0
    assert card_of(made) == first
    assert main(["card", str(made), "--license", "CC-BY-4.0", "--out", str(made)]) == 0
    assert card_of(made)["license"] == ["CC-BY-4.0", "CC0-1.0"]
    assert card_of(made)["rai:dataCollection"] == "looms"


def test_without_out_nothing_is_written_and_a_readme_of_the_user_stays(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(file.name for file in made.iterdir())
    assert main(["card", str(made)]) == 0
    assert "## Licences" in capsys.readouterr().out
    assert main(["card", str(made), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["@type"] == "sc:Dataset"
    assert sorted(file.name for file in made.iterdir()) == before
    (made / "README.md").write_text("my own words\n")
    assert main(["card", str(made), "--out", str(made)]) == 2
    assert "was not written by `triptych card`" in capsys.readouterr().err
    assert (made / "README.md").read_text() == "my own words\n"
    assert not (made / "croissant.json").exists()


def test_a_curated_set_tells_its_steps_and_a_damaged_list_of_them_is_told(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = [
        {"name": "normalise", "removed": 0, "changed": 4},
        {"name": "length", "removed": 2, "changed": 0},
        {"name": "leakage", "removed": 0, "changed": 0},
    ]
    (made / "curate.json").write_text(json.dumps({"steps": steps}))
    assert main(["card", str(made), "--out", str(made)]) == 0
    told = ["normalise: 4 rows changed", "length: 2 rows removed", "leakage: nothing found"]
    assert card_of(made)["rai:dataPreprocessingProtocol"] == told
    assert list(problems(made / "croissant.json")) == []
    (made / "curate.json").unlink()
    assert main(["card", str(made), "--out", str(made)]) == 0
    assert card_of(made)["rai:dataPreprocessingProtocol"] == told
    (made / "curate.json").write_text("[]")
    assert main(["card", str(made)]) == 2
    assert "does not list steps of curation" in capsys.readouterr().err


def test_curation_passes_the_card_on_with_its_steps(made: Path, tmp_path: Path) -> None:
    assert main(["card", str(made), "--license", "MIT", "--source", "looms", "--out", str(made)]) == 0
    lines = (made / "train.jsonl").read_text().splitlines()
    (made / "train.jsonl").write_text("\n".join([*lines, lines[-1]]) + "\n")
    out = tmp_path / "clean"
    assert main(["run", "curate", f"data={made}", f"output={out}", "steps=normalise,exact_duplicates"]) == 0
    assert list(problems(out / "croissant.json")) == []
    card = card_of(out)
    assert (card["name"], card["license"], card["rai:dataCollection"]) == (
        "looms",
        ["MIT", "CC0-1.0"],
        "looms",
    )
    steps = ["normalise: nothing found", "exact_duplicates: 1 rows removed"]
    assert card["rai:dataPreprocessingProtocol"] == steps
    assert card["identifier"] == [f"sha256:{data_hash(load_data(out, s))}" for s in ("test", "train")]


@pytest.mark.parametrize("text", ["[]", "{", "\udc80"], ids=["list", "broken", "bytes"])
def test_a_damaged_card_is_told_and_not_guessed(
    text: str, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (made / "croissant.json").write_bytes(text.encode(errors="surrogateescape"))
    assert main(["card", str(made)]) == 2
    assert "croissant.json' is not a JSON object" in capsys.readouterr().err


@pytest.mark.parametrize("name", shipped("data"))
def test_every_shipped_set_has_a_valid_card_that_is_true(name: str, tmp_path: Path) -> None:
    folder = asset(f"data/{name}")
    card = card_of(folder)
    assert list(problems(folder / "croissant.json")) == []
    assert card["identifier"] == [f"sha256:{data_hash(load_data(folder, s))}" for s in ("test", "train")]
    licence = "CC-BY-4.0" if name == "handwriting" else "Apache-2.0"
    assert card["license"] == licence
    assert card["rai:dataCollection"]
    assert card["rai:personalSensitiveInformation"]
    for entry in card["distribution"]:
        if "sha256" in entry:
            assert entry["sha256"] == sha256_file(folder / entry["contentUrl"])


def test_a_run_and_its_adapter_answer_what_they_were_trained_on(
    made: Path, tmp_path: Path, tiny: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["card", str(made), "--license", "MIT", "--source", "our looms", "--out", str(made)]) == 0
    out = tmp_path / "run"
    line = ["run", "sft", f"model={tiny('qwen_omni')}", f"data={made}", f"eval_data={made}", f"output={out}"]
    assert main([*line, "max_steps=1", "batch_size=2", "adapter.r=2", "lr=1e-3"]) == 0
    capsys.readouterr()
    record = json.loads((out / "run.json").read_text())
    assert record["data"]["data"]["sha256"] == record["inputs"]["data"] == data_hash(load_data(made, "train"))
    assert record["data"]["eval_data"]["rows"] == 3
    assert main(["show", str(out)]) == 0
    told = capsys.readouterr().out
    assert "looms: 6 rows (6 pictures); licence: MIT (5), CC0-1.0 (1)" in told
    assert "source: our looms (5), a museum (1)" in told
    assert main(["show", str(out / "adapter")]) == 0
    assert "looms: 6 rows (6 pictures); licence: MIT (5)" in capsys.readouterr().out
    assert "| MIT, CC0-1.0 | our looms, a museum |" in (out / "README.md").read_text()
