"""What every metric must keep, found by discovery: a new file under studio/metrics is tested as it is."""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest

from studio import plugins
from studio.scores import additive, measure

NAMES = plugins.names("metrics")
RIGHT = ["a red circle", "two blue squares", "pump two to forty", "none"]
WRONG = ["hello there", "nobody knows", "seven seas", "what"]
TOLD_RIGHT: dict[str, list[Any]] = {
    "confidence": [0.9, 0.95, 1.0, 0.9],
    "surprise": [0.1, 0.2, 0.3, 0.4],
    "tokens": [2, 3, 4, 5],
    "paraphrase": ["a", "a", "b", "b"],
    "context": ["", "", "", ""],
    "judgement": [1.0, 0.9, 0.8, 0.7],
}
TOLD_WRONG = {**TOLD_RIGHT, "surprise": [9.0, 8.0, 7.0, 9.0], "judgement": [0.1, 0.0, 0.2, 0.3]}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A metric with answers of which one set is better, and the columns it needs beside them."""

    module: ModuleType
    name: str

    @property
    def right(self) -> list[str]:
        if self.name == "consistency":
            return ["a red circle", "a red circle", "none", "none"]
        return [good for good, _ in getattr(self.module, "EXAMPLES", ())] * 4 or RIGHT

    @property
    def wrong(self) -> list[str]:
        return [bad for _, bad in getattr(self.module, "EXAMPLES", ())] * 4 or WRONG

    def told(self, columns: dict[str, list[Any]], n: int = 4) -> dict[str, list[Any]]:
        return {name: (columns[name] * n)[:n] for name in getattr(self.module, "NEEDS", ())}

    def score(self, said: list[str], meant: list[str], columns: dict[str, list[Any]] = TOLD_RIGHT) -> float:
        return float(self.module.score(said, meant, **self.told(columns, len(meant))))


@pytest.fixture(scope="module", params=NAMES)
def metric(request: pytest.FixtureRequest) -> Case:
    return Case(module=plugins.load("metrics", request.param), name=request.param)


def test_there_are_metrics() -> None:
    assert {"exact_match", "token_f1", "wer"} <= set(NAMES)


def test_score_takes_predictions_and_references_and_gives_a_number(metric: Case) -> None:
    wanted = ["predictions", "references", *getattr(metric.module, "NEEDS", ())]
    assert list(inspect.signature(metric.module.score).parameters) == wanted
    assert isinstance(metric.module.HIGHER_IS_BETTER, bool)
    assert math.isfinite(metric.score(metric.wrong, metric.right, TOLD_WRONG))


def test_a_perfect_answer_is_better_than_a_wrong_one(metric: Case) -> None:
    perfect, wrong = (
        metric.score(metric.right, metric.right),
        metric.score(metric.wrong, metric.right, TOLD_WRONG),
    )
    assert perfect > wrong if metric.module.HIGHER_IS_BETTER else perfect < wrong


def test_the_order_of_the_samples_does_not_matter(metric: Case) -> None:
    said, meant = [metric.right[0], metric.wrong[1], metric.right[2], metric.wrong[3]], metric.right
    told = metric.told(TOLD_RIGHT)
    turned = metric.module.score(said[::-1], meant[::-1], **{name: c[::-1] for name, c in told.items()})
    # sums in another order
    assert metric.module.score(said, meant, **told) == pytest.approx(turned, abs=1e-12)


def test_lengths_that_differ_are_refused(metric: Case) -> None:
    with pytest.raises(ValueError, match=r"\d"):
        metric.module.score(metric.right, metric.right[:2], **metric.told(TOLD_RIGHT))
    with pytest.raises(ValueError, match=r"at least one|must be|no "):
        metric.module.score([], [], **{name: [] for name in getattr(metric.module, "NEEDS", ())})


def test_what_a_metric_adds_up_gives_its_score(metric: Case) -> None:
    said, told = [*metric.right[:2], *metric.wrong[2:]], metric.told(TOLD_RIGHT)
    sums = additive(metric.module, said, metric.right, told)
    assert sums is not None, (
        "a metric of ours tells what it adds up: `each`, `counts`, or `sums` and `of_sums`"
    )
    found = sums.value(sums.rows.sum(axis=0)[None])[0]
    assert found == pytest.approx(metric.module.score(said, metric.right, **told), abs=1e-9)


def test_the_interval_holds_the_value(metric: Case) -> None:
    said, meant = [*metric.right, *metric.wrong], [*metric.right, *metric.right]
    columns = {name: [*TOLD_RIGHT[name], *TOLD_WRONG[name]] for name in getattr(metric.module, "NEEDS", ())}
    score = measure(metric.name, said, meant, columns=columns)
    assert score.low <= score.value <= score.high
    assert score.n == 8


def test_a_missing_column_is_named(metric: Case) -> None:
    for column in getattr(metric.module, "NEEDS", ()):
        with pytest.raises(ValueError, match=column):
            measure(metric.name, metric.right, metric.right)
