"""Rules that an evaluation must keep: what they read, what they judge, what they refuse."""

from __future__ import annotations

import pytest

from apps.gate import check_names, judge, read_rule
from studio.errors import ConfigError

SCORES = {
    name: {"textiles.exact_match": {"value": value, "low": value - 0.1, "high": value + 0.1, "n": 50}}
    for name, value in {"base": 0.1, "ties": 0.9, "linear": 0.7}.items()
}


@pytest.mark.parametrize(
    ("rule", "kept"),
    [
        ("textiles.exact_match >= 0.7", {"ties": True, "linear": True}),
        ("textiles.exact_match>0.7", {"ties": True, "linear": False}),
        ("ties: textiles.exact_match.low >= 0.8", {"ties": True}),
        ("textiles.exact_match.high < 0.9", {"ties": False, "linear": True}),
        ("base: textiles.exact_match <= 0.1", {"base": True}),
        ("linear: textiles.exact_match - ties >= -0.2", {"linear": True}),
        ("textiles.exact_match - linear >= 0", {"ties": True}),
    ],
)
def test_a_rule_is_judged_for_whom_it_is_about(rule: str, kept: dict[str, bool]) -> None:
    verdicts = judge([read_rule(rule)], SCORES, baseline="base")
    assert {verdict.variant: verdict.kept for verdict in verdicts} == kept


def test_a_verdict_tells_the_value_it_is_about() -> None:
    (verdict,) = judge([read_rule("ties: textiles.exact_match - linear > 0.5")], SCORES)
    assert (verdict.value, verdict.kept) == (pytest.approx(0.2), False)


@pytest.mark.parametrize(
    "text", ["", "textiles", "exact_match >= 0.9", "textiles.exact_match = 1", "a.b >= many"]
)
def test_what_is_no_rule_is_told_with_the_form_of_one(text: str) -> None:
    with pytest.raises(ConfigError, match=r"is no rule; it reads 'domain.metric >= 0.9'"):
        read_rule(text)


def test_unknown_figures_and_variants_are_told_with_the_nearest() -> None:
    figures, variants = ["textiles.exact_match"], ["ties", "base"]
    with pytest.raises(ConfigError, match=r"did you mean 'textiles\.exact_match'"):
        check_names([read_rule("textile.exact_match > 0")], variants, figures)
    for rule in ("tie: textiles.exact_match > 0", "textiles.exact_match - tie > 0"):
        with pytest.raises(ConfigError, match="unknown variant 'tie'; did you mean 'ties'"):
            check_names([read_rule(rule)], variants, figures)
