"""What a report says in sentences, for the top of its page and for the model card of a merge."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePath

from studio.eval_report.assemble import Report
from studio.eval_report.retention import MEAN, Kept


def summary(report: Report, variant: str) -> list[str]:
    """Return what a variant kept, and what it gained and lost, one sentence each."""
    rows = [kept for kept in report.retention if kept.variant == variant]
    found = []
    if sentence := kept_sentence(rows, report.metric):
        found.append(f"Keeps {sentence}.")
    counted = [c for c in report.comparisons if c.variant == variant and c.metric == report.metric]
    if counted:
        told = [
            f"{what} in {', '.join(short(c.domain) for c in counted if c.verdict == what)}"
            for what in ("better", "worse")
            if any(c.verdict == what for c in counted)
        ]
        left = sum(c.verdict == "not shown" for c in counted)
        told += [f"no difference shown in {left} of {len(counted)}"] if left else []
        found.append(
            f"Against {report.baseline} ({report.metric}): {'; '.join(told)} "
            f"(paired tests, Holm over {len(report.comparisons)} comparisons)."
        )
    if report.evaluation.partial:
        found.append("The evaluation is partial: some questions have no answer yet.")
    return found


def kept_sentence(rows: Iterable[Kept], metric: str) -> str:
    """Return what a variant kept of its experts' scores, as a clause after "keeps"; empty if unknown."""
    told = {kept.domain: kept for kept in rows if kept.value is not None}
    mean = told.pop(MEAN, None)
    if mean is None and len(told) != 1:
        return ""
    whole = mean or next(iter(told.values()))
    where = f"in the mean of {whole.n} domains" if mean else f"in {short(whole.domain)}"
    sentence = f"{percent(whole)} of what the experts score at home {where} ({metric})"
    if mean and len(told) > 1:
        ordered = sorted(told.values(), key=lambda kept: kept.value or 0.0)
        least, most = ordered[0], ordered[-1]
        sentence += (
            f": most in {short(most.domain)} ({100 * (most.value or 0):.0f} %), "
            f"least in {short(least.domain)} ({100 * (least.value or 0):.0f} %)"
        )
    return sentence


def percent(kept: Kept) -> str:
    """Return a ratio in percent with its interval: ``81 % [76, 86]``."""
    if kept.value is None:
        return kept.note
    value = f"{100 * kept.value:.0f} %"
    return f"{value} [{ends(kept)}]" if kept.low is not None else value


def ends(kept: Kept) -> str:
    """Return the ends of a ratio's interval in percent, ``76, 86``; empty if there is none."""
    if kept.low is None:
        return ""
    high = "no end" if kept.high is None else f"{100 * kept.high:.0f}"
    return f"{100 * kept.low:.0f}, {high}"


def chance(p: float) -> str:
    """Return a p-value as it is written: ``p 0.012``, ``p < 0.001``."""
    return "p < 0.001" if p < 0.001 else f"p {p:.3f}"


def short(name: str) -> str:
    """Return the last part of a name that is a path, any other name as it is."""
    return PurePath(name).name if "/" in name and PurePath(name).name else name


def number(value: float) -> str:
    """Return a score as it is written: three places below 100, fewer above."""
    return f"{value:.3f}" if abs(value) < 100 else f"{value:,.0f}"
