"""Weights by group: what they promise, and the step of curation that writes them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from recipes import curate
from studio.config import from_dict
from studio.data import load_data, write_jsonl
from studio.errors import ConfigError, TriptychError
from studio.log import QuietLog
from studio.reweight import balanced, by_loss, capped, independent
from studio.types import Sample, Text, Turn

GROUPS = ["a"] * 8 + ["b"] * 4
LABELS = ["x"] * 6 + ["y"] * 2 + ["x"] + ["y"] * 3


def totals(keys: list[Any], weights: list[float]) -> dict[Any, float]:
    found: Counter[Any] = Counter()
    for key, weight in zip(keys, weights, strict=True):
        found[key] += weight
    return dict(found)


def test_by_independent_weights_a_group_tells_nothing_of_the_label() -> None:
    weights = independent(GROUPS, LABELS)
    assert totals(GROUPS, weights) == pytest.approx({"a": 8, "b": 4})
    assert totals(LABELS, weights) == pytest.approx({"x": 7, "y": 5})
    both = totals(list(zip(GROUPS, LABELS, strict=True)), weights)
    assert both[("a", "x")] / 8 == pytest.approx(both[("b", "x")] / 4)
    assert both[("a", "x")] == pytest.approx(8 * 7 / 12)


def test_balanced_groups_count_the_same_and_a_group_that_loses_more_counts_more() -> None:
    assert totals(GROUPS, balanced(GROUPS)) == pytest.approx({"a": 6, "b": 6})
    weights = totals(GROUPS, by_loss(GROUPS, {"a": 0.1, "b": 0.6}, strength=2.0))
    assert weights["b"] / weights["a"] == pytest.approx(2.718281828459045)
    assert sum(weights.values()) == pytest.approx(12)


def test_capped_weights_keep_their_mean_and_their_order() -> None:
    weights = balanced(["a"] * 99 + ["b"])
    assert max(weights) == 50
    kept = capped(weights, 5.0)
    assert max(kept) == pytest.approx(5.0)
    assert sum(kept) == pytest.approx(100)
    assert kept[0] < kept[-1]
    assert capped([1.0, 1.0], 1.0) == [1.0, 1.0]
    assert max(capped([8.0, 3.0, 1.0, 0.5], 1.5)) == pytest.approx(1.5 * 12.5 / 4)


def test_a_group_without_a_finite_loss_is_named() -> None:
    for losses in ({"a": 0.1}, {"a": 0.1, "b": float("nan")}):
        with pytest.raises(ValueError, match="the group 'b' has no finite loss"):
            by_loss(GROUPS, losses)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    asked = Turn(role="user", parts=(Text(text="what is it?"),))
    rows = [
        Sample(
            turns=(asked, Turn(role="assistant", parts=(Text(text=label),))),
            groups={"site": group, "kind": label} if number else {"kind": label},
        )
        for number, (group, label) in enumerate(zip(["a", *GROUPS], ["x", *LABELS], strict=True))
    ]
    write_jsonl(tmp_path / "data/train.jsonl", rows)
    return tmp_path / "data"


def curated(data: Path, step: dict[str, Any]) -> list[Sample]:
    out = data.parent / f"out-{len(list(data.parent.iterdir()))}"
    given = {"data": str(data), "steps": [{"reweight": step}], "output": str(out)}
    curate.run(from_dict(curate.Config, given), QuietLog())
    return load_data(out, split="train")


def figures(folder: Path, **other: Any) -> Path:
    """Write what `triptych groups` writes: site a is right in 90 of 100, site b in 40."""
    groups = [{"name": n, "group": {"site": n}, "value": v, "note": ""} for n, v in (("a", 0.9), ("b", 0.4))]
    one = {
        "by": ["site"], "domain": "cloth", "metric": "exact_match", "variant": "mine",
        "higher_is_better": True, "overall": {"value": 0.7}, "groups": groups,
    }  # fmt: skip
    (folder / "groups.json").write_text(json.dumps({"results": [one, {**one, **other}] if other else [one]}))
    return folder / "groups.json"


def test_the_step_writes_weights_and_leaves_rows_that_do_not_know_their_group(data: Path) -> None:
    rows = curated(data, {"by": "site"})
    assert [row.weight for row in rows] == pytest.approx([1.0] + [0.75] * 8 + [1.5] * 4)
    rows = curated(data, {"by": "site", "how": "independent"})
    assert [row.weight for row in rows[1:]] == pytest.approx(independent(GROUPS, LABELS), abs=1e-6)
    by_kind = curated(data, {"by": "site", "how": "independent", "label": "kind"})
    assert [row.weight for row in by_kind] == [row.weight for row in rows]


def test_the_step_takes_losses_from_what_was_measured_by_group(data: Path, tmp_path: Path) -> None:
    rows = curated(data, {"by": "site", "how": "loss", "groups": str(figures(tmp_path))})
    assert [row.weight for row in rows[1:]] == pytest.approx(by_loss(GROUPS, {"a": 0.1, "b": 0.6}), abs=1e-6)


@pytest.mark.parametrize(
    ("step", "sentence"),
    [
        ({"by": "sites"}, "reweight: unknown group 'sites'; did you mean 'site'"),
        (
            {"by": "site", "how": "independent", "label": "kinds"},
            "unknown label 'kinds'; did you mean 'kind'",
        ),
        ({"by": "site", "how": "loss"}, "groups must be given with how: loss"),
        ({"by": "site", "most": 0.5}, "most must be at least 1, not 0.5"),
        ({"by": "site", "how": "loss", "groups": "nothing.json"}, "no figures by group"),
        ({"by": "kind", "how": "loss", "groups": "FIGURES"}, "no figures by kind that fit"),
    ],
)
def test_settings_that_make_no_weights_are_said_in_one_sentence(
    data: Path, tmp_path: Path, step: dict[str, Any], sentence: str
) -> None:
    if step.get("groups") == "FIGURES":
        step = {**step, "groups": str(figures(tmp_path))}
    with pytest.raises(ConfigError, match=sentence):
        curated(data, step)


def test_figures_of_several_variants_must_be_chosen_from(data: Path, tmp_path: Path) -> None:
    file = str(figures(tmp_path, variant="other"))
    with pytest.raises(TriptychError, match=r"must choose one of: cloth\.exact_match of mine; cloth"):
        curated(data, {"by": "site", "how": "loss", "groups": file})
    assert curated(data, {"by": "site", "how": "loss", "groups": file, "variant": "mine"})[1].weight < 1
