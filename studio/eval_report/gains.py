"""What each variant gained or lost against a baseline on the same questions, and how sure that is.

Every variant, domain and metric is one comparison; with many of them some small p-values come by chance, so
all of a report are adjusted together (`studio.paired.holm`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from studio.eval_report.evaluation import Evaluation
from studio.intervals import interval
from studio.paired import difference, holm, p_value

LEVEL = 0.05


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A variant's score minus the baseline's, with 95 % interval, p-value, and p-value adjusted by Holm."""

    domain: str
    variant: str
    metric: str
    value: float
    low: float
    high: float
    p: float
    p_holm: float = 1.0
    n: int
    higher_is_better: bool

    @property
    def verdict(self) -> str:
        """Return "better", "worse", or "not shown" at the adjusted 5 %."""
        if self.p_holm >= LEVEL or self.value == 0:
            return "not shown"
        return "better" if (self.value > 0) is self.higher_is_better else "worse"


def comparisons(
    evaluation: Evaluation, baseline: str, metrics: Sequence[str], seed: int = 0
) -> list[Comparison]:
    """Return all comparisons with the baseline, adjusted for their number.

    What the evaluation found itself against this baseline is taken; the rest is computed from its rows.
    """
    made = [
        found
        for metric in metrics
        for domain in evaluation.domains
        for variant in evaluation.variants
        if variant != baseline and (found := _compared(evaluation, baseline, domain, variant, metric, seed))
    ]
    adjusted = holm([each.p for each in made])
    return [replace(each, p_holm=p) for each, p in zip(made, adjusted, strict=True)]


def _compared(
    evaluation: Evaluation, baseline: str, domain: str, variant: str, metric: str, seed: int
) -> Comparison | None:
    """Return one comparison; None where either was not measured, or not sample by sample."""
    own, theirs = (evaluation.figure(domain, name, metric) for name in (variant, baseline))
    if own is None or theirs is None:
        return None
    named: Any = {"domain": domain, "variant": variant, "metric": metric}
    higher = bool(own["higher_is_better"])
    told: Any = own.get("against")
    if isinstance(told, Mapping) and evaluation.told.get("baseline") == baseline:
        low, high = told["ci"]
        value, p, n = float(told["value"]), float(told["p"]), int(told.get("n", own["n"]))
        return Comparison(
            **named, value=value, low=float(low), high=float(high), p=p, n=n, higher_is_better=higher
        )
    ours, base = evaluation.shared(domain, variant, baseline)
    one, other = evaluation.sums(metric, ours), evaluation.sums(metric, base)
    if one is None or other is None:
        return None
    gap = difference(one, other)
    low, high = interval(gap, seed)
    p = p_value(one, other, seed)
    return Comparison(
        **named, value=gap.observed, low=low, high=high, p=p, n=len(ours), higher_is_better=higher
    )
