"""Rules that an evaluation must keep, so that `triptych eval` can stand between a merge and its use.

handwriting.exact_match >= 0.9             every variant's value, the baseline's aside
ties: textiles.wer.high < 0.2              one variant's, and its interval's upper end
commands.exact_match - base >= -0.02       what is gained or lost against another variant
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from studio.errors import ConfigError, unknown

Scores = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""``scores[variant]["domain.metric"]``: ``value``, ``low``, ``high``, ``n``."""

_SIGNS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_RULE = re.compile(
    r"(?:(?P<variant>[^:]+):)?\s*(?P<figure>\S+?)(?:\.(?P<end>low|high))?"
    r"(?:\s+-\s+(?P<against>\S+))?\s*(?P<sign>>=|<=|>|<)\s*(?P<bound>[-+]?\d*\.?\d+)\s*"
)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One rule: a figure (``domain.metric``) of a variant, or of all, compared with a bound."""

    text: str
    variant: str
    figure: str
    end: str
    against: str
    sign: str
    bound: float


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a rule said of one variant."""

    rule: str
    variant: str
    value: float
    kept: bool


def read_rule(text: str) -> Rule:
    """Return the rule that a text states.

    Raises:
        ConfigError: it states none.
    """
    match = _RULE.fullmatch(text.strip())
    if match is None or "." not in match["figure"]:
        raise ConfigError(
            f"--must {text!r} is no rule; it reads 'domain.metric >= 0.9', with 'variant:' in front, '.low' "
            "or '.high' behind the metric, or '- variant' before the sign where that is meant"
        )
    return Rule(
        text=text.strip(),
        variant=(match["variant"] or "").strip(),
        figure=match["figure"],
        end=match["end"] or "value",
        against=match["against"] or "",
        sign=match["sign"],
        bound=float(match["bound"]),
    )


def check_names(rules: Sequence[Rule], variants: Collection[str], figures: Collection[str]) -> None:
    """Raise `ConfigError` before the first answer if a rule names what will not be there."""
    for rule in rules:
        if rule.figure not in figures:
            raise ConfigError(f"--must {rule.text!r}: {unknown('figure', rule.figure, sorted(figures))}")
        for name in (rule.variant, rule.against):
            if name and name not in variants:
                raise ConfigError(f"--must {rule.text!r}: {unknown('variant', name, sorted(variants))}")


def judge(rules: Sequence[Rule], scores: Scores, baseline: str = "") -> list[Verdict]:
    """Return what every rule says of the variant it names, or of all but the baseline."""
    verdicts = []
    for rule in rules:
        aside = {baseline, rule.against}
        for variant in [rule.variant] if rule.variant else [name for name in scores if name not in aside]:
            value = float(scores[variant][rule.figure][rule.end])
            if rule.against:
                value -= float(scores[rule.against][rule.figure][rule.end])
            kept = _SIGNS[rule.sign](round(value, 12), rule.bound)
            verdicts.append(Verdict(rule=rule.text, variant=variant, value=value, kept=kept))
    return verdicts
