"""Rules as a command line has them: one text each, with the meaning of a file's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mergers import MergeSpec
from mergers._rules import Rule
from studio.errors import ConfigError

TEXTS: dict[str, dict[str, Any]] = {
    "vision: weight=0.2": {"match": ["vision"], "weight": 0.2},
    "llm: method=ties density=0.2 elect=raw": {
        "match": ["llm"], "method": "ties", "density": 0.2, "elect": "raw",
    },
    "norms, embeddings: freeze": {"match": ["norms", "embeddings"], "freeze": True},
    r"head, re:\.[qk]_proj\.{1,2}: weight = [0.5, 0.25]": {
        "match": ["head", r"re:\.[qk]_proj\.{1,2}"], "weight": [0.5, 0.25],
    },
    "llm.layers.0-3: weight={layers: [0, 0.5, 1], over: [0, 3]} density = 1": {
        "match": ["llm.layers.0-3"], "weight": {"layers": [0, 0.5, 1], "over": [0, 3]}, "density": 1,
    },
}  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_a_rule_in_one_text_is_the_rule_of_a_file(text: str) -> None:
    assert Rule.from_mapping(text) == Rule.from_mapping(TEXTS[text])
    spec = MergeSpec.from_flags(method="linear", models=["a", "b"], rules=[text])
    assert spec.rules == (Rule.from_mapping(TEXTS[text]),)
    assert MergeSpec.from_mapping(spec.to_mapping()) == spec


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("vision", "a rule is written 'WHERE: KEY=VALUE ...' or 'WHERE: freeze', as in"),
        ("vision:weight=1", "a rule is written 'WHERE: KEY=VALUE"),
        (": freeze", "a rule is written 'WHERE: KEY=VALUE"),
        ("vision: weight=", "a rule is written 'WHERE: KEY=VALUE"),
        ("vision: freez", "unknown word 'freez'; did you mean 'freeze'?"),
        ("vision: weight=[1", "the value of weight cannot be read"),
        ("vision: weight=1 freeze", "a rule that freezes has no other key than match"),
        ("re:(: freeze", "neither a group nor a regular expression"),
    ],
)
def test_a_text_that_is_no_rule_is_told(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as told:
        MergeSpec.from_flags(method="linear", models=["a", "b"], rules=[text])
    assert sentence in str(told.value)


def test_rules_given_beside_a_file_come_first_and_a_preset_into_its_settings(tmp_path: Path) -> None:
    file = tmp_path / "merge.yaml"
    file.write_text(
        "method: ties\nmodels: [a, b]\nsettings: {density: 0.4}\nrules: [{match: llm, weight: 1}]\n"
    )
    spec = MergeSpec.from_yaml(file, rules=["vision: freeze"], preset="paper")
    assert [rule.match for rule in spec.rules] == [("vision",), ("llm",)]
    assert spec.settings == {"density": 0.4, "preset": "paper"}
    file.write_text("merge_method: linear\nmodels: [{model: a}]\nparameters: {weight: 1}\n")
    with pytest.raises(ConfigError, match="is a mergekit file, which has no rules; say it by its parameters"):
        MergeSpec.from_yaml(file, rules=["vision: freeze"])
