"""All that votes say in one record: the verdict in words, tables that no spreadsheet runs, whole JSON."""

from __future__ import annotations

import csv
import json
import random

import pytest

from studio.ranking import Judgement, rank
from studio.results import Results, csv_table, json_table, results, verdict, won_share

STRENGTH = {"=wool": 0.0, "linen": 60.0, "silk": 300.0}


def judged(count: int, seed: int = 0) -> list[Judgement]:
    draw = random.Random(seed)
    made = []
    for number in range(count):
        a, b = draw.sample(sorted(STRENGTH), 2)
        chance = 1 / (1 + 10 ** ((STRENGTH[b] - STRENGTH[a]) / 400))
        made.append(
            Judgement(
                variants=(a, b),
                choice=a if draw.random() < chance else b,
                question=str(number // 2),
                rater=f"r{number % 2}",
                group=("new", "old")[number % 2],
                domain=("x", "y")[number // 2 % 2],
            )
        )
    return made


@pytest.fixture(scope="module")
def found() -> Results:
    return results(judged(400), flagged=3, resamples=200)


def test_the_verdict_says_what_is_proved(found: Results) -> None:
    assert verdict(found.ranking) == "silk is best: its interval is above all others."
    few = verdict(rank(judged(6), resamples=200))
    assert "may be as good: not enough votes, about" in few
    one = Judgement(variants=("a", "b"), choice="a")
    assert verdict(rank([one])) == "a has the highest score: not enough votes, about 19 more."
    assert "is best" not in verdict(rank([one] * 10))
    assert verdict(rank([one] * 20)) == "a is best: its interval is above all others."
    even = [Judgement(variants=("a", "b"), choice="ab"[n % 2]) for n in range(400)]
    assert verdict(rank(even)).endswith("may be as good: they are close.")
    assert verdict(rank([])) == "No votes yet."


def test_the_table_holds_the_whole_and_its_parts_and_no_formula(found: Results) -> None:
    rows = list(csv.DictReader(csv_table(found).splitlines()))
    assert [row["variant"] for row in rows if row["of"] == "all"] == ["silk", "linen", "'=wool"]
    assert {(row["of"], row["name"]) for row in rows} == {
        ("all", ""), ("domain", "x"), ("domain", "y"), ("group", "new"), ("group", "old"),
    }  # fmt: skip
    assert float(rows[0]["low"]) < float(rows[0]["score"]) < float(rows[0]["high"])


def test_json_holds_everything(found: Results) -> None:
    told = json.loads(json_table(found))
    assert (told["votes"], told["flagged"]) == (400, 3)
    assert [one["left_out"] for one in told["stability"]] == [20, 40, 80]
    assert {one["rater"] for one in told["raters"]} == {"r0", "r1"}
    assert told["sides"][0]["decided"] == 400
    assert set(told["domains"]) == {"x", "y"}


def test_shares_won_are_of_the_pair(found: Results) -> None:
    silk, linen, wool = found.ranking.standings
    share, back = won_share(found.ranking, silk, wool), won_share(found.ranking, wool, silk)
    assert share is not None
    assert back is not None
    assert share > 0.7
    assert share + back == pytest.approx(1)
    assert won_share(found.ranking, silk, linen) != share
    assert won_share(found.ranking, silk, silk) is None


def test_the_same_votes_give_the_same_results() -> None:
    assert results(judged(50), resamples=50) == results(judged(50), resamples=50)
    assert results([]).stability == ()
