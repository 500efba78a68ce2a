"""The figures of a report: what was kept, gained and lost, how sure that is, and what was lost most."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from studio.errors import ConfigError, DataError
from studio.eval_report.assemble import Origin, as_json, assemble
from studio.eval_report.evaluation import read_evaluation
from studio.eval_report.words import summary
from tests.studio.evaluations import WANTED, answers, write_evaluation

KINDS = {"base": "base", "loom": "expert", "voice": "expert", "mix": "merge"}


def made(folder: Path, **more: Any) -> Any:
    evaluation = read_evaluation(folder)
    origins = [Origin(name=name, kind=KINDS.get(name, "unknown")) for name in evaluation.variants]
    return assemble(evaluation, **{"origins": origins, **more})


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """Return an evaluation of two domains of 40 questions: experts at 36 and 30, a merge at 27 and 33."""
    right = {
        "cloth": {"base": 4, "loom": 36, "voice": 2, "mix": 27},
        "speech": {"base": 3, "loom": 1, "voice": 30, "mix": 33},
    }
    said = {d: {name: answers(hits, 40) for name, hits in each.items()} for d, each in right.items()}
    return write_evaluation(tmp_path / "eval", said)


def test_what_was_kept_is_the_ratio_to_the_expert_who_is_best_at_home(two: Path) -> None:
    report = made(two)
    assert {d: (h.variant, h.value) for d, h in report.homes.items()} == {
        "cloth": ("loom", 0.9),
        "speech": ("voice", 0.75),
    }
    assert report.homes["cloth"].how == "the best single expert on these questions"
    kept = {(k.variant, k.domain): k for k in report.retention}
    assert kept["mix", "cloth"].value == pytest.approx(27 / 36)
    assert kept["mix", "speech"].value == pytest.approx(33 / 30)
    assert kept["mix", "mean"].value == pytest.approx((27 / 36 + 33 / 30) / 2)
    assert kept["loom", "cloth"].note == "at home"
    for one in (kept["mix", "cloth"], kept["mix", "speech"]):
        assert one.low < one.value < one.high
        assert one.n == 40
    below = [kept["mix", d].value - kept["mix", d].low for d in ("cloth", "speech")]
    assert kept["mix", "mean"].low == pytest.approx(kept["mix", "mean"].value - math.hypot(*below) / 2)


def test_the_interval_of_a_ratio_is_that_of_a_bootstrap_that_draws_both_answers_together(two: Path) -> None:
    one = next(k for k in made(two).retention if (k.variant, k.domain) == ("mix", "cloth"))
    ours = np.array([text == WANTED for text in answers(27, 40)], dtype=float)
    home = np.array([text == WANTED for text in answers(36, 40)], dtype=float)
    draws = np.random.default_rng(7).integers(0, 40, size=(40_000, 40))
    low, high = np.percentile(ours[draws].sum(1) / home[draws].sum(1), (2.5, 97.5))
    # The report's ends are bias corrected, with Student's quantiles: a little apart from plain percentiles.
    assert one.low == pytest.approx(low, abs=0.05)
    assert one.high == pytest.approx(high, abs=0.05)
    apart = np.percentile(ours[draws].sum(1) / home[draws[::-1]].sum(1), (2.5, 97.5))
    assert one.high - one.low < apart[1] - apart[0]  # drawn together, hard questions fall out


def test_where_lower_is_better_the_ratio_is_turned_round(tmp_path: Path) -> None:
    said = {"cloth": {"loom": answers(36, 40), "mix": answers(32, 40), "base": answers(40, 40)}}
    report = made(write_evaluation(tmp_path, said, ["wer"]))
    loom, mix = (report.evaluation.figure("cloth", name, "wer")["value"] for name in ("loom", "mix"))
    assert mix > loom > 0
    kept = {k.variant: k for k in report.retention}
    assert kept["mix"].value == pytest.approx(loom / mix)
    assert kept["mix"].value == pytest.approx(4 / 8)
    assert kept["base"].value is None
    assert kept["base"].note == "nothing is left to lose: it scores 0"
    worse = {c.variant: (c.value > 0, c.verdict) for c in report.comparisons}
    assert worse["mix"] == (True, "worse")  # than the base, which has no errors


def test_an_expert_that_scores_nothing_has_no_ratio_and_a_perfect_one_no_other_than_one(
    tmp_path: Path,
) -> None:
    nothing = {"cloth": {"loom": answers(0, 9), "mix": answers(3, 9)}}
    kept = {k.variant: k for k in made(write_evaluation(tmp_path / "a", nothing)).retention}
    assert (kept["mix"].value, kept["mix"].note) == (None, "the expert scores 0")
    perfect = {"cloth": {"loom": answers(9, 9), "mix": answers(9, 9)}}
    for metric in ("exact_match", "wer"):
        report = made(write_evaluation(tmp_path / metric, perfect, [metric]))
        one = next(k for k in report.retention if k.variant == "mix")
        assert one.value == 1.0
        assert one.low < 1.0 <= one.high


def test_experts_are_told_and_wrong_ones_refused(two: Path) -> None:
    told = made(two, experts=["cloth=voice", "loom"])
    assert told.homes["cloth"].variant == "voice"
    assert told.homes["cloth"].how == "told"
    assert told.homes["speech"].variant == "voice"
    unknown = made(two, origins=[])
    assert unknown.homes == {}
    assert unknown.retention == ()
    assert made(two, origins=[], experts=["loom, voice"]).homes["speech"].variant == "voice"
    for texts, sentence in (
        (["clot=loom"], "did you mean 'cloth'"),
        (["cloth=lom"], "did you mean 'loom'"),
        (["lom"], "unknown variant 'lom'"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            made(two, experts=texts)
    with pytest.raises(ConfigError, match="--baseline: unknown variant 'bas'; did you mean 'base'"):
        made(two, baseline="bas")
    with pytest.raises(ConfigError, match="--metric: unknown metric 'wer'"):
        made(two, metric="wer")


def test_gains_and_losses_are_adjusted_for_their_number(two: Path) -> None:
    report = made(two)
    assert report.baseline == "base"
    found = {(c.variant, c.domain): c for c in report.comparisons}
    assert len(found) == 6
    one = found["mix", "cloth"]
    assert one.value == pytest.approx((27 - 4) / 40)
    # All 23 questions that differ got better: two-sided 2 * 0.5^23, which so few draws never see.
    assert one.p == pytest.approx(0.5 / 10_001)
    assert one.p_holm == pytest.approx(6 * one.p)
    assert one.verdict == "better"
    least = found["voice", "cloth"]
    assert least.value == pytest.approx(-2 / 40)
    # Two questions got worse: one of four swaps is as large each way, half of which counts (mid-p).
    assert least.p == pytest.approx(0.25, abs=0.02)
    assert least.verdict == "not shown"


def test_what_the_evaluation_compared_itself_is_taken_over(two: Path) -> None:
    told = json.loads((two / "evaluation.json").read_text())
    told["baseline"] = "base"
    told["results"]["cloth"]["mix"]["metrics"]["exact_match"]["against"] = {
        "value": 0.1,
        "ci": [0, 0.2],
        "p": 0.04,
    }
    (two / "evaluation.json").write_text(json.dumps(told))
    one = next(c for c in made(two).comparisons if (c.variant, c.domain) == ("mix", "cloth"))
    assert (one.value, one.p) == (0.1, 0.04)
    assert one.p_holm > one.p


def test_the_worst_regressions_are_those_that_most_merges_lost(tmp_path: Path) -> None:
    said = {
        "cloth": {
            "loom": [WANTED] * 4 + ["x"],
            "mix": [WANTED, "nothing alike", "the hole!?", "the holes", WANTED],
            "mix2": [WANTED, "qqq", WANTED, "a hole", "x"],
        },
        "speech": {"loom": [WANTED] * 2, "mix": ["zzz", WANTED], "mix2": ["yyy", WANTED]},
    }
    evaluation = read_evaluation(write_evaluation(tmp_path, said))
    kinds = {"loom": "expert", "mix": "merge", "mix2": "merge"}
    report = assemble(evaluation, origins=[Origin(name=n, kind=k) for n, k in kinds.items()])
    told = [(one.domain, one.of.where, one.loss, one.lost) for one in report.regressions]
    assert told == [
        ("cloth", "cloth.jsonl:2", 1.0, ("mix", "mix2")),  # nothing like what was wanted
        ("speech", "speech.jsonl:1", 1.0, ("mix", "mix2")),  # the domains in turn
        ("cloth", "cloth.jsonl:4", 1.0, ("mix", "mix2")),
    ]
    assert report.against == "the expert at home"


def test_one_variant_and_one_domain_are_enough(tmp_path: Path) -> None:
    report = assemble(read_evaluation(write_evaluation(tmp_path, {"cloth": {"mix": answers(3, 8)}})))
    assert (report.homes, report.retention, report.comparisons, report.regressions) == ({}, (), (), ())
    assert as_json(report)["results"]["cloth"]["mix"]["metrics"]["exact_match"]["value"] == 3 / 8
    assert summary(report, "mix") == []


def test_a_reliability_diagram_bins_answers_by_how_sure_they_are(tmp_path: Path) -> None:
    sure = {"mix": [0.95, 0.95, 0.95, 0.95, 0.12, 0.18, 1.0, 0.0]}
    said = {"cloth": {"mix": [WANTED, WANTED, WANTED, "no", "no", WANTED, WANTED, "no"]}}
    report = assemble(
        read_evaluation(
            write_evaluation(tmp_path, said, ["exact_match", "calibration_error"], confidence=sure)
        )
    )
    (one,) = report.calibration
    told = [(round(b.low, 1), b.n, round(b.confidence, 3), b.right) for b in one.bins]
    assert told == [(0.0, 1, 0.0, 0.0), (0.1, 2, 0.15, 0.5), (0.9, 5, 0.96, 0.8)]
    assert one.error == pytest.approx((1 * 0 + 2 * 0.35 + 5 * 0.16) / 8)


def test_an_evaluation_in_part_pairs_only_what_both_answered(two: Path) -> None:
    lines = (two / "samples.jsonl").read_text().splitlines()
    kept = [line for line in lines if '"mix"' not in line or '"cloth.jsonl:1"' not in line]
    assert len(kept) == len(lines) - 1
    (two / "samples.jsonl").write_text("\n".join(kept) + "\n")
    told = json.loads((two / "evaluation.json").read_text())
    told |= {"partial": True, "missing": {"mix": {"cloth": 1}}, "failed": {}, "left_out": []}
    del told["results"]["speech"]["mix"]
    (two / "evaluation.json").write_text(json.dumps(told))
    report = made(two)
    kept_of = {(k.variant, k.domain): k for k in report.retention}
    assert kept_of["mix", "cloth"].n == 39
    assert kept_of["mix", "cloth"].value == pytest.approx(26 / 35)  # the first question was right for both
    assert ("mix", "speech") not in kept_of
    assert as_json(report)["partial"]
    assert summary(report, "mix")[-1] == "The evaluation is partial: some questions have no answer yet."


def test_a_summary_says_in_sentences_what_was_kept_gained_and_lost(two: Path) -> None:
    kept, against = summary(made(two), "mix")
    assert kept.startswith("Keeps 92 % [")
    assert kept.endswith("of what the experts score at home in the mean of 2 domains (exact_match): most in "
                         "speech (110 %), least in cloth (75 %).")  # fmt: skip
    assert (
        against
        == "Against base (exact_match): better in cloth, speech (paired tests, Holm over 6 comparisons)."
    )


@pytest.mark.parametrize(
    ("file", "text", "sentence"),
    [
        ("evaluation.json", "[]", "evaluation.json is no JSON object"),
        ("evaluation.json", '{"metrics": ["wer"]}', "evaluation.json does not hold the results"),
        ("evaluation.json", '{"metrics": ["wer"], "results": {}}', "evaluation.json holds no result yet"),
        ("samples.jsonl", '{"domain": 1}\n', "samples.jsonl:1 is no row of an evaluation"),
        ("groups.json", "{", "groups.json is no JSON object"),
    ],
)
def test_damaged_files_are_told_in_one_sentence(two: Path, file: str, text: str, sentence: str) -> None:
    (two / file).write_text(text)
    with pytest.raises(DataError, match=sentence):
        read_evaluation(two)


def test_a_figure_that_is_no_number_and_files_of_two_evaluations_are_found(two: Path) -> None:
    text = (two / "evaluation.json").read_text()
    (two / "evaluation.json").write_text(text.replace('"value": 0.9', '"value": NaN'))
    with pytest.raises(DataError, match="damaged"):
        read_evaluation(two)
    (two / "evaluation.json").write_text(
        json.dumps(json.loads(text) | {"files": {"samples.jsonl": "0" * 64}})
    )
    evaluation = read_evaluation(two)
    assert evaluation.partial
    assert evaluation.notes[0].startswith(
        "samples.jsonl is not the one that evaluation.json was written with"
    )
    (two / "samples.jsonl").unlink()
    with pytest.raises(DataError, match="holds no evaluation"):
        read_evaluation(two)
