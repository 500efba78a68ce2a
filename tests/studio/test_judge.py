"""A judge's verdicts are its probabilities of ratings; they are kept, and held against people's."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apps.answer_cache import AnswerCache
from apps.judging import rank_correlation
from studio.errors import ConfigError
from studio.judge import PAIR_PROMPT, PROMPT, Case, Judge, read_prompt
from studio.judge_agreement import _kappa, agreement
from studio.log import QuietLog
from studio.store import Store
from studio.types import Sample, Text, Turn
from studio.variants import Engine

CASES = [
    Case(question="what is it?", reference="a red circle", answer="a red circle", second="nothing"),
    Case(question="what is it?", reference="a red circle", answer="two {answer} squares", second="a circle"),
    Case(question="how many?", reference="", answer="seven", second="eight or nine, who can tell"),
]


class Counted:
    """A real engine that counts what it is asked."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.fingerprint, self.asked = engine, engine.fingerprint, 0

    def log_probs(self, name: str, samples: Sequence[Sample], answers: Sequence[str], **more: Any) -> Any:
        self.asked += len(samples)
        return self.engine.log_probs(name, samples, answers, **more)


@pytest.fixture(scope="module")
def engine(tiny: Callable[[str], Path]) -> Engine:
    return Engine(tiny("qwen_omni"), {"judge": None})


def asked(text: str) -> Sample:
    return Sample(turns=(Turn(role="user", parts=(Text(text=text),)),))


def test_a_verdict_is_the_mean_place_of_the_ratings_by_their_probabilities(engine: Engine) -> None:
    judge = Judge(engine=engine, name="judge", ratings=("bad", "fair", "good"))
    prompt = PROMPT.replace("{question}", "what is it?").replace("{reference}", "a red circle")
    prompt = prompt.replace("{answer}", "a red circle")
    logs = [p for p, _ in engine.log_probs("judge", [asked(prompt)] * 3, ["bad", "fair", "good"])]
    weights = np.exp(logs) / np.exp(logs).sum()
    (found, *others) = judge.verdicts(CASES, AnswerCache(None, ""), QuietLog())
    assert found == pytest.approx(weights @ [0, 0.5, 1], abs=1e-4)  # batches pad to another length
    assert all(0 <= value <= 1 for value in others)


def test_verdicts_are_kept_by_what_was_judged_and_by_whom(engine: Engine, tmp_path: Path) -> None:
    counted = Counted(engine)
    judge = Judge(engine=counted, name="judge")
    first = judge.verdicts([*CASES, CASES[0]], AnswerCache(tmp_path, judge.fingerprint), QuietLog())
    assert counted.asked == 3 * 2
    assert first[0] == first[3]
    kept = AnswerCache(tmp_path, judge.fingerprint)
    assert judge.known(CASES, kept)
    assert judge.verdicts([*CASES, CASES[0]], kept, QuietLog()) == first
    assert counted.asked == 3 * 2
    stricter = Judge(engine=counted, name="judge", prompt=PROMPT + " Be strict.")
    assert stricter.fingerprint != judge.fingerprint
    assert not stricter.known(CASES, kept)


def test_a_pair_is_judged_in_both_orders(engine: Engine) -> None:
    judge, kept = Judge(engine=engine, name="judge"), AnswerCache(None, "")
    turned = [
        Case(question=c.question, reference=c.reference, answer=c.second, second=c.answer) for c in CASES
    ]
    ours, theirs = judge.preferences(CASES, kept, QuietLog()), judge.preferences(turned, kept, QuietLog())
    for (as_a, as_b), (other_a, other_b) in zip(ours, theirs, strict=True):
        assert (as_a, as_b) == (pytest.approx(1 - other_b), pytest.approx(1 - other_a))
    prompt = PAIR_PROMPT.replace("{question}", "how many?").replace("{reference}", "(none is known)")
    prompt = prompt.replace("{first}", "seven").replace("{second}", "eight or nine, who can tell")
    (a, _), (b, _) = engine.log_probs("judge", [asked(prompt)] * 2, ["A", "B"])
    assert ours[2][0] == pytest.approx(1 / (1 + math.exp(b - a)), abs=1e-4)


def test_a_prompt_or_ratings_that_are_none_are_refused(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the judge's prompt needs \{answer\}"):
        Judge(engine=engine, name="judge", prompt="Is {reference} right?")
    for ratings in ((), ("yes",), ("yes", "yes"), ("", "yes")):
        with pytest.raises(ConfigError, match="at least two different ratings"):
            Judge(engine=engine, name="judge", ratings=ratings)
    with pytest.raises(ConfigError, match="cannot be read as text"):
        read_prompt(tmp_path / "none.txt")


def test_kappa_is_that_of_cohen() -> None:
    """Of 50 cases 20 and 15 are told alike, 5 and 10 are not: 0.4 by hand, (0.7 - 0.5) / (1 - 0.5)."""
    table = np.zeros((2, 3, 3))
    table[0, :2, :2] = [[20, 5], [10, 15]]
    table[1, 0, 0] = 50  # both always say the same: chance explains it all
    assert _kappa(table.reshape(2, 9)) == pytest.approx([0.4, 0.0])


@pytest.mark.parametrize("people", ["as the judge", "against it"])
def test_agreement_with_people_is_told_with_intervals(engine: Engine, tmp_path: Path, people: str) -> None:
    """People who vote as the judge would, in both orders, agree with it; those who vote otherwise do not."""
    judge, kept = Judge(engine=engine, name="judge"), AnswerCache(None, "")
    with Store(f"sqlite:///{tmp_path / 'votes.db'}") as store:
        told = 0
        for number in range(12):
            words = [f"it is number {number}", "no"]
            case = Case(question=f"which is {number}?", reference="", answer=words[0], second=words[1])
            ((one, other),) = judge.preferences([case], kept, QuietLog())
            first = min(one, other) > 0.5
            if not first and max(one, other) > 0.5:
                choice = "tie" if people == "as the judge" else "one"
            else:
                choice = "one" if first is (people == "as the judge") else "two"
            asked_of = store.add_comparison(case.question, ["one", "two"])
            for name, text in zip(("one", "two"), words, strict=True):
                store.add_answer(asked_of, name, text)
            store.vote(asked_of, choice, rater="r1")
            store.vote(asked_of, "both bad", rater="r2")
            store.vote(asked_of, choice, rater="r3", flagged=True)
            told += 1
        found = agreement(judge, store.comparisons(), store.votes(), kept, QuietLog())
        assert found is not None
        assert (found.n, found.value) == (told, 1.0 if people == "as the judge" else 0.0)
        assert found.ci[0] <= found.value <= found.ci[1]
        assert found.ci[1] - found.ci[0] > 0.1  # twelve votes are few
        assert found.kappa_ci[0] <= found.kappa <= found.kappa_ci[1]
        assert agreement(judge, [], store.votes(), kept, QuietLog()) is None


def test_verbosity_is_a_rank_correlation() -> None:
    assert rank_correlation([0.1, 0.4, 0.9], [1, 5, 70]) == pytest.approx(1.0)
    assert rank_correlation([0.9, 0.4, 0.1], [1, 5, 70]) == pytest.approx(-1.0)
    assert rank_correlation([0.5, 0.5, 0.5], [1, 5, 70]) is None
