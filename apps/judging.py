"""A judging model in an evaluation: its verdict on every answer, its biases, and whom it prefers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from apps.answer_cache import AnswerCache
from apps.asking import Row
from apps.evaluation_folder import asked
from studio.intervals import Additive, interval
from studio.judge import Case, Judge
from studio.judge_agreement import Agreement
from studio.log import Log

if TYPE_CHECKING:
    from apps.figures import Told


@dataclass(frozen=True, kw_only=True)
class Judging:
    """A judge, what it is called, and where its verdicts are kept; ``pairs`` compares with the baseline, too.

    ``agreement`` is how it agrees with people, where that is known.
    """

    judge: Judge
    title: str
    kept: AnswerCache
    pairs: bool = False
    agreement: Agreement | None = None

    def judgements(
        self, questions: Sequence[str], references: Sequence[str], answers: Sequence[str], log: Log | None
    ) -> dict[str, list[float]]:
        """Return the column ``judgement`` [N]; nothing where there is no log and a verdict is not kept."""
        cases = [
            Case(question=question, reference=reference, answer=answer)
            for question, reference, answer in zip(questions, references, answers, strict=True)
        ]
        if log is None and not self.judge.known(cases, self.kept):
            return {}
        return {"judgement": self.judge.verdicts(cases, self.kept, log)}

    def beside(
        self, own: Sequence[Row], told: Mapping[str, Told], baseline: str, seed: int, log: Log
    ) -> dict[str, Any]:
        """Return what the judge says of one domain beside its verdicts: ``verbosity``, and ``pairs``."""
        found: dict[str, Any] = {"verbosity": {}, "pairs": {}}
        for name, each in told.items():
            lengths = [float(len(answer.split())) for answer in each.answers]
            found["verbosity"][name] = rank_correlation(each.columns["judgement"], lengths)
            if self.pairs and baseline in told and name != baseline:
                found["pairs"][name] = self._pairs(own, each, told[baseline], seed, log)
        return found

    def about(self, judged: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """Return what ``evaluation.json`` says of the judge."""
        return {
            "model": self.title,
            "sha256": self.judge.fingerprint,
            "prompt": self.judge.prompt,
            "ratings": list(self.judge.ratings),
            "verbosity": {domain: each["verbosity"] for domain, each in judged.items()},
            "pairs": {domain: each["pairs"] for domain, each in judged.items() if each["pairs"]},
            "agreement": asdict(self.agreement) if self.agreement else None,
        }

    def _pairs(self, own: Sequence[Row], ours: Told, theirs: Told, seed: int, log: Log) -> dict[str, Any]:
        """Return how often the judge prefers a variant's answers, where they differ from the baseline's."""
        cases = [
            Case(question=asked(row), reference=row.sample.answer, answer=said, second=other)
            for row, said, other in zip(own, ours.answers, theirs.answers, strict=True)
        ]
        different = [case for case in cases if case.answer != case.second]
        orders = iter(self.judge.preferences(different, self.kept, log))
        both = [(0.5, 0.5) if case.answer == case.second else next(orders) for case in cases]
        value = np.array([[sum(pair) / 2, 1.0] for pair in both])
        table = Additive(rows=value, value=lambda totals: totals[:, 0] / totals[:, 1]).gathered(ours.clusters)
        told = [pair for pair, case in zip(both, cases, strict=True) if case.answer != case.second]
        # as A in the first order and as B in the second: standing first wins where both say "A"
        first = [share for one, other in told for share in (one, 1 - other)]
        return {
            "value": table.observed,
            "ci": list(interval(table, seed)),
            "n": len(cases),
            "differ": len(told),
            "first": float(np.mean(first)) if first else None,
            "steady": float(np.mean([(one > 0.5) == (other > 0.5) for one, other in told])) if told else None,
        }


def verdicts_in(cache: Path | None, judge: Judge) -> AnswerCache:
    """Return the verdicts of a judge that a folder of answers holds."""
    return AnswerCache(cache, f"{judge.fingerprint}-judge")


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Return Spearman's rank correlation, or None where either side is all alike."""
    from scipy.stats import rankdata

    ranks = np.stack([rankdata(one), rankdata(other)])
    if len(one) < 2 or not ranks.std(axis=1).all():
        return None
    return float(np.corrcoef(ranks)[0, 1])
