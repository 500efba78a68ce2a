"""Rules that an evaluation must keep: what they read, what they judge, what they refuse."""

from __future__ import annotations

from typing import Any

import pytest

from apps.gate import check_names, judge, read_rule
from studio.errors import ConfigError

RESULTS: dict[str, Any] = {
    "textiles": {
        name: {
            "metrics": {
                "exact_match": {
                    "value": value,
                    "ci": [value - 0.1, value + 0.1],
                    "n": 50,
                    "higher_is_better": True,
                    "against": {"value": value - 0.1, "ci": [value - 0.25, value + 0.05], "p": 0.01},
                    "groups": {
                        "voice": {
                            "anna": {"value": value, "low": value - 0.2, "high": 1.0, "n": 25},
                            "ben": {"value": value - 0.05, "low": value - 0.25, "high": 1.0, "n": 25},
                        }
                    },
                }
            }
        }
        for name, value in {"base": 0.1, "ties": 0.9, "linear": 0.7}.items()
    }
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
        ("ties - linear: textiles.exact_match > 0", {"ties": True}),
        ("linear - base: textiles.exact_match.low > 0.5", {"linear": False}),
        ("textiles.exact_match.low - base > 0.4", {"ties": True, "linear": True}),
        ("textiles.exact_match[voice] >= 0.8", {"ties": True, "linear": False}),
        ("ties: textiles.exact_match[voice=anna].low >= 0.7", {"ties": True}),
    ],
)
def test_a_rule_is_judged_for_whom_it_is_about(rule: str, kept: dict[str, bool]) -> None:
    verdicts = judge([read_rule(rule)], RESULTS, baseline="base")
    assert {verdict.variant: verdict.kept for verdict in verdicts} == kept


def test_a_verdict_tells_the_value_it_is_about() -> None:
    (verdict,) = judge([read_rule("ties: textiles.exact_match - linear > 0.5")], RESULTS)
    assert (verdict.value, verdict.kept) == (pytest.approx(0.2), False)


@pytest.mark.parametrize(
    "text", ["", "textiles", "exact_match >= 0.9", "textiles.exact_match = 1", "a.b >= many"]
)
def test_what_is_no_rule_is_told_with_the_form_of_one(text: str) -> None:
    with pytest.raises(ConfigError, match=r"is no rule; it reads 'domain.metric >= 0.9'"):
        read_rule(text)


def test_unknown_figures_and_variants_are_told_with_the_nearest() -> None:
    figures, variants = ["textiles.exact_match"], ["ties", "base"]
    with pytest.raises(ConfigError, match="name it as --baseline base"):
        check_names([read_rule("textiles.exact_match.low - base > 0")], variants, figures)
    with pytest.raises(ConfigError, match="unknown voice 'ana'; did you mean 'anna'"):
        judge([read_rule("ties: textiles.exact_match[voice=ana] > 0")], RESULTS)
    with pytest.raises(ConfigError, match="a difference is of all rows"):
        read_rule("ties - base: textiles.exact_match[voice] > 0")
    with pytest.raises(ConfigError, match=r"did you mean 'textiles\.exact_match'"):
        check_names([read_rule("textile.exact_match > 0")], variants, figures)
    for rule in ("tie: textiles.exact_match > 0", "textiles.exact_match - tie > 0"):
        with pytest.raises(ConfigError, match="unknown variant 'tie'; did you mean 'ties'"):
            check_names([read_rule(rule)], variants, figures)
