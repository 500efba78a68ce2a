"""Rules that an evaluation must keep, so that `triptych eval` can stand between a merge and its use.

handwriting.exact_match >= 0.9             every variant's value, the baseline's aside
ties: textiles.wer.high < 0.2              one variant's, and its interval's upper end
commands.exact_match - base >= -0.02       what is gained or lost against another variant
commands.exact_match.low - base > -0.05    the lower end of that difference's interval; base is the baseline
ties - base: commands.exact_match > 0      the same difference, of one variant
commands.exact_match[voice] >= 0.8         the worst value of a group, or with [voice=anna] that of one
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from studio.errors import ConfigError, unknown

Results = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""``results[domain][variant]``, as `apps.evaluate.evaluate` returns them."""

_SIGNS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_RULE = re.compile(
    r"(?:(?P<variant>[^:]+?)(?:\s+-\s+(?P<than>[^:]+?))?\s*:)?\s*(?P<figure>[^\s\[]+?)"
    r"(?:\[(?P<group>[^\]=]+)(?:=(?P<member>[^\]]+))?\])?(?:\.(?P<end>low|high))?"
    r"(?:\s+-\s+(?P<against>\S+))?\s*(?P<sign>>=|<=|>|<)\s*(?P<bound>[-+]?\d*\.?\d+)\s*"
)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One rule: a figure (``domain.metric``) of a variant, or of all, compared with a bound.

    ``against`` names the variant that it is told as a difference from; ``group`` one whose worst value is
    meant, or that of ``member``.
    """

    text: str
    variant: str
    figure: str
    end: str
    against: str
    sign: str
    bound: float
    group: str = ""
    member: str = ""

    @property
    def place(self) -> tuple[str, str]:
        """Domain and metric."""
        domain, _, metric = self.figure.rpartition(".")
        return domain, metric


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
    if match is None or "." not in match["figure"] or (match["than"] and match["against"]):
        raise ConfigError(
            f"--must {text!r} is no rule; it reads 'domain.metric >= 0.9', with 'variant:' in front, '.low' "
            "or '.high' behind the metric, '[group]' before that, or '- variant' before the sign where that "
            "is meant"
        )
    against = match["against"] or (match["than"] or "").strip()
    if against and match["group"]:
        raise ConfigError(f"--must {text!r}: a difference is of all rows, not of a group; state two rules")
    return Rule(
        text=text.strip(),
        variant=(match["variant"] or "").strip(),
        figure=match["figure"],
        end=match["end"] or "value",
        against=against,
        sign=match["sign"],
        bound=float(match["bound"]),
        group=match["group"] or "",
        member=match["member"] or "",
    )


def check_names(
    rules: Sequence[Rule], variants: Collection[str], figures: Collection[str], baseline: str = ""
) -> None:
    """Raise `ConfigError` before the first answer if a rule names what will not be there."""
    for rule in rules:
        if rule.figure not in figures:
            raise ConfigError(f"--must {rule.text!r}: {unknown('figure', rule.figure, sorted(figures))}")
        for name in (rule.variant, rule.against):
            if name and name not in variants:
                raise ConfigError(f"--must {rule.text!r}: {unknown('variant', name, sorted(variants))}")
        if rule.against and rule.end != "value" and rule.against != baseline:
            raise ConfigError(
                f"--must {rule.text!r}: the interval of a difference is known against the baseline; name it "
                f"as --baseline {rule.against}"
            )


def judge(rules: Sequence[Rule], results: Results, baseline: str = "") -> list[Verdict]:
    """Return what every rule says of the variant it names, or of all but the baseline.

    Raises:
        ConfigError: a group, or a value of it, that there is not.
    """
    verdicts = []
    for rule in rules:
        domain, metric = rule.place
        cells = results[domain]
        aside = {baseline, rule.against}
        for variant in [rule.variant] if rule.variant else [name for name in cells if name not in aside]:
            figures = cells[variant]["metrics"][metric]
            if rule.against and rule.end != "value":
                low, high = figures["against"]["ci"] if variant != baseline else (0.0, 0.0)
                value = float(low if rule.end == "low" else high)
            elif rule.against:
                value = float(figures["value"]) - float(cells[rule.against]["metrics"][metric]["value"])
            else:
                value = _grouped(rule, figures) if rule.group else _end(figures, rule.end)
            kept = _SIGNS[rule.sign](round(value, 12), rule.bound)
            verdicts.append(Verdict(rule=rule.text, variant=variant, value=value, kept=kept))
    return verdicts


def _end(figures: Mapping[str, Any], end: str) -> float:
    return float(figures["value"] if end == "value" else figures["ci"][end == "high"])


def _grouped(rule: Rule, figures: Mapping[str, Any]) -> float:
    """Return the figure of a group's member, or of the worst one."""
    members: Mapping[str, Any] = figures.get("groups", {}).get(rule.group, {})
    if not members:
        raise ConfigError(f"--must {rule.text!r}: {rule.figure} is not known by '{rule.group}'")
    if rule.member:
        if rule.member not in members:
            raise ConfigError(f"--must {rule.text!r}: {unknown(rule.group, rule.member, members)}")
        return float(members[rule.member][rule.end])
    values = [float(each[rule.end]) for each in members.values()]
    return min(values) if figures["higher_is_better"] else max(values)
