"""What every family's record must say, found by discovery; what families do is tested in tests/families."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from studio import plugins
from studio.errors import CheckpointError
from studio.families import claiming, detect, family
from studio.types import Family

NAMES = plugins.names("families")


@pytest.fixture(scope="module", params=NAMES)
def record(request: pytest.FixtureRequest) -> Family:
    return family(request.param)


def test_the_file_is_named_like_the_family(record: Family) -> None:
    assert record.name in NAMES


def test_it_says_what_it_takes_and_for_which_checkpoints(record: Family) -> None:
    assert record.model_types
    assert record.modalities <= {"text", "image", "audio"}
    assert record.modalities


def test_no_two_families_claim_the_same_checkpoints() -> None:
    claimed = [kind for name in NAMES for kind in family(name).model_types]
    assert len(claimed) == len(set(claimed))


def test_its_towers_are_of_the_four_kinds_and_lora_rules_are_regular_expressions(record: Family) -> None:
    assert set(record.towers) <= {"vision", "audio", "projector", "llm"}
    assert "llm" in record.towers
    assert set(record.lora_targets) <= set(record.towers)
    for rule in record.lora_targets.values():
        re.compile(rule)


def test_a_tower_for_every_kind_of_input(record: Family) -> None:
    assert ("vision" in record.towers) == ("image" in record.modalities)
    assert ("audio" in record.towers) == ("audio" in record.modalities)


def test_every_model_type_finds_the_family_that_claims_it(record: Family) -> None:
    assert [found.name for kind in record.model_types if (found := claiming(kind))] == [
        record.name for _ in record.model_types
    ]


def test_a_family_is_found_without_importing_the_others() -> None:
    code = (
        "import sys; from studio.families import claiming; assert claiming('qwen2_audio').name; "
        "assert claiming('no such type') is None; print(*sorted(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.rpartition(".")[2] for name in done.stdout.split() if name.startswith("studio.families.")}
    assert {name for name in loaded if not name.startswith("_")} <= {"qwen2_audio"}


def test_an_unknown_model_type_is_told_which_file_adds_it_and_what_is_nearest(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen4-vl"}))
    with pytest.raises(CheckpointError) as told:
        detect(tmp_path)
    sentence = str(told.value)
    assert "unknown model_type 'qwen4-vl'; did you mean 'qwen3_vl'?" in sentence
    assert all(kind in sentence for name in NAMES for kind in family(name).model_types)
    assert "studio/families/qwen4_vl.py" in sentence
    assert "\n" not in sentence
