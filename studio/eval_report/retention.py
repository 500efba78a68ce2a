"""What a merge kept: its score in each domain over that of the expert who is at home there.

    kept = score of the variant / score of the expert        where higher is better
    kept = score of the expert / score of the variant        where lower is better

1 is all of it. Both answered the same questions, so the interval draws the questions and scores both on every
draw (a paired bootstrap of the ratio, `studio.intervals`). The mean over domains combines their intervals by
the method of variance estimates recovery (Zou and Donner 2008, Statistics in Medicine 27, 1693-1702).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from studio.errors import ConfigError, unknown
from studio.eval_report.evaluation import Evaluation
from studio.intervals import Additive, interval

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = NDArray[np.float64]

MEAN, HOME = "mean", "at home"
_HUGE = 1e9  # a ratio without a denominator, in a draw


@dataclass(frozen=True, kw_only=True)
class Home:
    """The expert at home in a domain, its score there, and how it was found."""

    domain: str
    variant: str
    value: float
    how: str


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What a variant kept in a domain (or in the mean of several) of its expert's score, with 95 % interval.

    ``value`` is None where there is no ratio, and ``note`` says why; ``high`` is None where draws of the
    questions bound it from nothing. ``n`` counts questions, of the mean the domains.
    """

    domain: str
    variant: str
    home: str
    value: float | None
    low: float | None = None
    high: float | None = None
    n: int
    note: str = ""


def read_experts(
    texts: Sequence[str], domains: Sequence[str], variants: Sequence[str]
) -> tuple[dict[str, str], list[str]]:
    """Return what ``--experts`` says: domain -> expert, and the experts that are named alone.

    Each text is ``DOMAIN=VARIANT`` or ``VARIANT``; several may stand in one, with commas between.

    Raises:
        ConfigError: a domain or a variant that the evaluation does not have.
    """
    told: dict[str, str] = {}
    alone: list[str] = []
    for text in (part.strip() for each in texts for part in each.split(",")):
        domain, equals, variant = text.rpartition("=")
        if not equals and text:
            alone.append(text)
        elif equals:
            if domain not in domains:
                raise ConfigError(f"--experts {text!r}: {unknown('domain', domain, domains)}")
            told[domain] = variant
    for variant in (*told.values(), *alone):
        if variant not in variants:
            raise ConfigError(f"--experts: {unknown('variant', variant, variants)}")
    return told, list(dict.fromkeys([*alone, *told.values()]))


def homes(
    evaluation: Evaluation, metric: str, told: Mapping[str, str], experts: Sequence[str]
) -> dict[str, Home]:
    """Return the expert at home in each domain: the one that was told, or the best of the single experts.

    A domain in which no expert was measured has none; among equals the first one named is taken.
    """
    found = {}
    sign = 1 if evaluation.higher(metric) else -1
    for domain in evaluation.domains:
        scores = {
            name: sign * figure["value"]
            for name in ([told[domain]] if domain in told else experts)
            if (figure := evaluation.figure(domain, name, metric))
        }
        if scores:
            best = max(scores, key=scores.__getitem__)
            equal = sum(value == scores[best] for value in scores.values()) - 1
            how = "told" if domain in told else "the best single expert on these questions"
            found[domain] = Home(
                domain=domain,
                variant=best,
                value=sign * scores[best],
                how=how + (f", first of {equal + 1} that are equal" if equal else ""),
            )
    return found


def retention(
    evaluation: Evaluation, metric: str, at_home: Mapping[str, Home], variants: Sequence[str], seed: int = 0
) -> list[Kept]:
    """Return what each variant kept in each domain that has an expert at home, and in their mean."""
    found = []
    for variant in variants:
        row = [_kept(evaluation, metric, home, variant, seed) for home in at_home.values()]
        measured = [kept for kept in row if kept is not None]
        found += measured
        if len(measured) > 1:
            found.append(mean(measured, len(at_home)))
    return found


def _kept(evaluation: Evaluation, metric: str, home: Home, variant: str, seed: int) -> Kept | None:
    own = evaluation.figure(home.domain, variant, metric)
    if own is None:
        return None
    if variant == home.variant:
        return Kept(
            domain=home.domain,
            variant=variant,
            home=variant,
            value=1.0,
            low=1.0,
            high=1.0,
            n=own["n"],
            note=HOME,
        )
    higher = evaluation.higher(metric)
    ours, theirs = evaluation.shared(home.domain, variant, home.variant)
    tables = evaluation.sums(metric, ours), evaluation.sums(metric, theirs)
    if tables[0] is None or tables[1] is None:
        value, why = _divided(own["value"], home.value, higher)
        why = why or "the folder does not hold what an interval needs"
        return Kept(domain=home.domain, variant=variant, home=home.variant, value=value, n=own["n"], note=why)
    return kept(tables[0], tables[1], higher, seed, domain=home.domain, variant=variant, home=home.variant)


def kept(
    ours: Additive, theirs: Additive, higher: bool, seed: int, *, domain: str, variant: str, home: str
) -> Kept:
    """Return the ratio of two scores of the same samples, with its interval."""
    value, why = _divided(ours.observed, theirs.observed, higher)
    low: float | None = None
    high: float | None = None
    if value is not None:
        low, high = interval(ratio(ours, theirs, higher), seed)
        high = high if high < _HUGE / 100 else None
    return Kept(
        domain=domain, variant=variant, home=home, value=value, low=low, high=high, n=len(ours.rows), note=why
    )


def ratio(ours: Additive, theirs: Additive, higher: bool) -> Additive:
    """Return the ratio of two scores of the same samples as one function of sums [N, 2 S].

    Where nothing stands below the line it is 1 if nothing stands above it either (no errors, both times), and
    very large if something does.
    """
    width = ours.rows.shape[1]

    def value(totals: Values) -> Values:
        own, home = ours.value(totals[:, :width]), theirs.value(totals[:, width:])
        over, under = (own, home) if higher else (home, own)
        ratios: Values = np.where(
            under > 0, over / np.where(under > 0, under, 1.0), np.where(over > 0, _HUGE, 1.0)
        )
        return ratios

    return Additive(rows=np.concatenate([ours.rows, theirs.rows], axis=1), value=value)


def mean(row: Sequence[Kept], domains: int) -> Kept:
    """Return the mean of what a variant kept in several domains; those without a ratio are left out."""
    values = [kept.value for kept in row if kept.value is not None]
    below = [kept.value - kept.low for kept in row if kept.value is not None and kept.low is not None]
    above = [kept.high - kept.value for kept in row if kept.value is not None and kept.high is not None]
    note = "" if len(values) == domains else f"of {len(values)} of {domains} domains"
    middle = sum(values) / len(values) if values else None
    low = high = None
    if middle is not None and len(below) == len(values):
        low = middle - math.hypot(*below) / len(values)
    if middle is not None and len(above) == len(values):
        high = middle + math.hypot(*above) / len(values)
    return Kept(
        domain=MEAN,
        variant=row[0].variant,
        home="",
        value=middle,
        low=low,
        high=high,
        n=len(values),
        note=note,
    )


def _divided(own: float, home: float, higher: bool) -> tuple[float | None, str]:
    """Return the ratio of two scores, or why there is none."""
    over, under = (own, home) if higher else (home, own)
    if over < 0 or under < 0:
        return None, "a ratio of scores below 0 says nothing"
    if under > 0:
        return over / under, ""
    if over == 0 and not higher:
        return 1.0, ""
    return None, "the expert scores 0" if higher else "nothing is left to lose: it scores 0"
