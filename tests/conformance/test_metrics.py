"""What every metric must keep, found by discovery: a new file under studio/metrics is tested as it is."""

from __future__ import annotations

import inspect
import math
from types import ModuleType

import pytest

from studio import plugins
from studio.scores import measure

NAMES = plugins.names("metrics")
SAID = ["a red circle", "two blue squares", "pump two to forty", "none"]
OTHER = ["hello there", "nobody knows", "seven seas", "what"]


@pytest.fixture(scope="module", params=NAMES)
def metric(request: pytest.FixtureRequest) -> ModuleType:
    return plugins.load("metrics", request.param)


def test_there_are_metrics() -> None:
    assert {"exact_match", "token_f1", "wer"} <= set(NAMES)


def test_score_takes_predictions_and_references_and_gives_a_number(metric: ModuleType) -> None:
    assert list(inspect.signature(metric.score).parameters) == ["predictions", "references"]
    assert isinstance(metric.HIGHER_IS_BETTER, bool)
    assert math.isfinite(metric.score(SAID, OTHER))


def test_a_perfect_answer_is_better_than_a_wrong_one(metric: ModuleType) -> None:
    perfect, wrong = metric.score(SAID, SAID), metric.score(OTHER, SAID)
    assert perfect > wrong if metric.HIGHER_IS_BETTER else perfect < wrong


def test_the_order_of_the_samples_does_not_matter(metric: ModuleType) -> None:
    said, meant = [SAID[0], OTHER[1], SAID[2], OTHER[3]], SAID
    turned = metric.score(said[::-1], meant[::-1])
    assert metric.score(said, meant) == pytest.approx(turned, abs=1e-12)  # sums in another order


def test_lengths_that_differ_are_refused(metric: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"\d"):
        metric.score(SAID, SAID[:2])


@pytest.mark.parametrize("name", NAMES)
def test_the_interval_holds_the_value(name: str) -> None:
    score = measure(name, [*SAID, *OTHER], [*SAID, *SAID])
    assert score.low <= score.value <= score.high
    assert score.n == 8
