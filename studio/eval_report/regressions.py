"""The questions on which a merge lost most of what the expert at home, or the baseline, had right.

A question's loss is the mean, over the variants looked at, of how far each falls behind the reference variant
by a metric that tells single samples. Questions that lost equally (with 0 or 1 for each answer they are many)
are ordered by how far the answers are from what was wanted, and come from the domains in turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from studio import plugins
from studio.errors import TriptychError
from studio.eval_report.evaluation import Evaluation, Key, Row

SHOWN = 10
_COMPARED = 400  # characters of an answer that are compared with the reference


@dataclass(frozen=True, kw_only=True)
class Regression:
    """One question with the answers of the reference variant ``of`` and of those that were looked at.

    ``loss`` is in the metric's unit and above 0; ``lost`` are the variants that fell behind.
    """

    domain: str
    metric: str
    of: Row
    answers: tuple[Row, ...]
    loss: float
    lost: tuple[str, ...]


def per_sample(evaluation: Evaluation, headline: str) -> str:
    """Return the metric by which single samples are judged: the headline, or the next that tells them."""
    rows = [next(iter(t.values())) for tables in evaluation.rows.values() for t in tables.values() if t]
    for metric in dict.fromkeys((headline, *evaluation.metrics)):
        if rows and all(metric in row.scores for row in rows):
            return metric
    return ""


def regressions(
    evaluation: Evaluation,
    metric: str,
    reference: Mapping[str, str],
    variants: Sequence[str],
    most: int = SHOWN,
) -> list[Regression]:
    """Return the worst regressions, at most ``most``.

    ``reference`` names by domain the variant to fall behind;
    ``metric`` is one that stands in every row's scores (`per_sample`).
    """
    sign = 1 if _higher(metric, evaluation) else -1
    ranked: list[tuple[float, int, Regression]] = []
    for domain, of in reference.items():
        found = _of_domain(evaluation, metric, sign, domain, of, [v for v in variants if v != of])
        ranked += [(each.loss, place, each) for place, each in enumerate(found)]
    order = sorted(ranked, key=lambda one: (-round(one[0], 9), one[1]))
    return [each for _, _, each in order[:most]]


def _of_domain(
    evaluation: Evaluation, metric: str, sign: int, domain: str, of: str, variants: Sequence[str]
) -> list[Regression]:
    tables = evaluation.rows.get(domain, {})
    found = []
    for key, row in tables.get(of, {}).items():
        answers = _answers(tables, variants, key, metric)
        behind = {each.variant: sign * (row.scores[metric] - each.scores[metric]) for each in answers}
        lost = tuple(name for name, loss in behind.items() if loss > 1e-12)
        if lost and (mean := sum(behind.values()) / len(behind)) > 0:
            found.append(
                Regression(domain=domain, metric=metric, of=row, answers=tuple(answers), loss=mean, lost=lost)
            )
    if not found:
        return []
    worst = max(round(each.loss, 9) for each in found)
    top = [each for each in found if round(each.loss, 9) == worst]
    rest = sorted((each for each in found if round(each.loss, 9) != worst), key=lambda each: -each.loss)
    return sorted(top, key=_likeness) + rest


def _answers(
    tables: Mapping[str, Mapping[Key, Row]], variants: Sequence[str], key: Key, metric: str
) -> list[Row]:
    found = (tables.get(variant, {}).get(key) for variant in variants)
    return [row for row in found if row is not None and metric in row.scores]


def _likeness(regression: Regression) -> float:
    """Return how like the wanted answer the lost ones are, from 0 to 1, in the mean."""
    wanted = regression.of.reference[:_COMPARED].lower()
    said = [row.output[:_COMPARED].lower() for row in regression.answers if row.variant in regression.lost]
    return sum(SequenceMatcher(None, wanted, text, autojunk=False).ratio() for text in said) / len(said)


def _higher(metric: str, evaluation: Evaluation) -> bool:
    try:
        return bool(plugins.load("metrics", metric).HIGHER_IS_BETTER)
    except TriptychError:
        return evaluation.higher(metric)
