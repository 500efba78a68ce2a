"""What every family's record must say, found by discovery; what families do is tested in tests/families."""

from __future__ import annotations

import re

import pytest

from studio import plugins
from studio.families import family
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
