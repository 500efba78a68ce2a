"""The report of an evaluation: who is at home where, what was kept, gained and lost, what is behind it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from studio.errors import ConfigError, unknown
from studio.eval_report.calibration import Reliability, reliabilities
from studio.eval_report.evaluation import Evaluation
from studio.eval_report.gains import Comparison, comparisons
from studio.eval_report.regressions import Regression, per_sample, regressions
from studio.eval_report.retention import Home, Kept, homes, read_experts, retention

#: What a variant is: the base itself, an adapter or model that was trained, or a merge of such.
KINDS = ("base", "expert", "merge", "unknown")


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a variant, or an adapter that went into one, came from.

    kind      one of `KINDS`
    name      the variant's name, or an adapter's folder as it may be shown
    variant   whether it is one of the evaluation's variants
    sha256    of what decides its answers, for a variant; of its weights, for what went into a merge
    facts     what else is known of it, by name
    """

    name: str
    kind: str = "unknown"
    variant: bool = True
    sha256: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that a page shows of an evaluation.

    ``metric`` is the headline, ``against`` says in words what regressions fell behind.
    """

    evaluation: Evaluation
    metric: str
    baseline: str
    origins: tuple[Origin, ...]
    homes: Mapping[str, Home]
    retention: tuple[Kept, ...]
    comparisons: tuple[Comparison, ...]
    regressions: tuple[Regression, ...]
    against: str
    calibration: tuple[Reliability, ...]
    about: Mapping[str, Any] = field(default_factory=dict)
    examples: int = 0

    def of_kind(self, *kinds: str) -> list[str]:
        """Return the variants that are of one of these kinds."""
        known = {origin.name: origin.kind for origin in self.origins if origin.variant}
        return [name for name in self.evaluation.variants if known.get(name, "unknown") in kinds]


def assemble(
    evaluation: Evaluation,
    *,
    origins: Sequence[Origin] = (),
    experts: Sequence[str] = (),
    baseline: str = "",
    metric: str = "",
    about: Mapping[str, Any] | None = None,
    examples: int = 0,
) -> Report:
    """Return the report of an evaluation.

    Args:
        evaluation: what its folder holds.
        origins: where the variants come from; it tells experts and merges apart.
        experts: who is at home where (`studio.eval_report.retention.read_experts`), or which variants are
            single experts; told, it goes before ``origins``.
        baseline: what gains and losses are counted against; by default the evaluation's own, or the base.
        metric: the headline; by default the evaluation's first.
        about: what else stands at the top, by name (date, machine).
        examples: so many questions of each domain are shown with all answers.

    Raises:
        ConfigError: a variant, a domain or a metric that the evaluation does not have.
    """
    metric = metric or evaluation.metrics[0]
    if metric not in evaluation.metrics:
        raise ConfigError(f"--metric: {unknown('metric', metric, evaluation.metrics)}")
    if baseline and baseline not in evaluation.variants:
        raise ConfigError(f"--baseline: {unknown('variant', baseline, evaluation.variants)}")
    kinds = {origin.name: origin.kind for origin in origins if origin.variant}
    told, named = read_experts(experts, evaluation.domains, evaluation.variants)
    single = named or [name for name in evaluation.variants if kinds.get(name) == "expert"]
    baseline = baseline or str(evaluation.told.get("baseline") or "")
    if baseline not in evaluation.variants:
        baseline = next((name for name in evaluation.variants if kinds.get(name) == "base"), "")
    seed = _seed(evaluation)
    at_home = homes(evaluation, metric, told, single)
    judged, reference, against = _looked_at(evaluation, kinds, single, at_home, baseline)
    by = per_sample(evaluation, metric)
    return Report(
        evaluation=evaluation,
        metric=metric,
        baseline=baseline,
        origins=tuple(origins) or tuple(_unknown(evaluation)),
        homes=at_home,
        retention=tuple(retention(evaluation, metric, at_home, evaluation.variants, seed)),
        comparisons=tuple(comparisons(evaluation, baseline, evaluation.metrics, seed)) if baseline else (),
        regressions=tuple(regressions(evaluation, by, reference, judged)) if by else (),
        against=against,
        calibration=tuple(reliabilities(evaluation)),
        about=about or {},
        examples=examples,
    )


def as_json(report: Report) -> dict[str, Any]:
    """Return the report as JSON values; media stand in it by their sha256."""
    evaluation = report.evaluation
    own = {origin.name: origin for origin in report.origins if origin.variant}
    return {
        **report.about,
        "partial": evaluation.partial,
        "notes": list(evaluation.notes),
        "missing": evaluation.told.get("missing", {}),
        "failed": evaluation.told.get("failed", {}),
        "metric": report.metric,
        "metrics": list(evaluation.metrics),
        "baseline": report.baseline,
        "seed": _seed(evaluation),
        "decoding": evaluation.told.get("decoding", {}),
        "data": evaluation.told.get("data", {}),
        "variants": {
            name: {
                "kind": own[name].kind if name in own else "unknown",
                "sha256": evaluation.told.get("variants", {}).get(name, ""),
                **(own[name].facts if name in own else {}),
            }
            for name in evaluation.variants
        },
        "inputs": [dataclasses.asdict(origin) for origin in report.origins if not origin.variant],
        "results": evaluation.results,
        "experts": {domain: dataclasses.asdict(home) for domain, home in report.homes.items()},
        "retention": [dataclasses.asdict(kept) for kept in report.retention],
        "comparisons": [{**dataclasses.asdict(one), "verdict": one.verdict} for one in report.comparisons],
        "regressions": [_regression(one) for one in report.regressions],
        "calibration": [dataclasses.asdict(one) for one in report.calibration],
        "groups": evaluation.groups,
        "robustness": evaluation.robustness,
    }


def _looked_at(
    evaluation: Evaluation,
    kinds: Mapping[str, str],
    experts: Sequence[str],
    at_home: Mapping[str, Home],
    baseline: str,
) -> tuple[list[str], dict[str, str], str]:
    """Return which variants are looked at for regressions, against whom in each domain, and that in words.

    Merges against the experts at home; where there are no merges or no experts, all others against the
    baseline.
    """
    aside = {*experts, baseline} | {name for name, kind in kinds.items() if kind in ("base", "expert")}
    merged = [name for name in evaluation.variants if name not in aside]
    if at_home and merged:
        return merged, {domain: home.variant for domain, home in at_home.items()}, "the expert at home"
    others = [name for name in evaluation.variants if name != baseline]
    return others, dict.fromkeys(evaluation.domains, baseline) if baseline else {}, f"the baseline {baseline}"


def _unknown(evaluation: Evaluation) -> list[Origin]:
    prints = evaluation.told.get("variants", {})
    return [Origin(name=name, sha256=str(prints.get(name, ""))) for name in evaluation.variants]


def _seed(evaluation: Evaluation) -> int:
    seed = evaluation.told.get("seed", 0)
    return seed if isinstance(seed, int) and seed >= 0 else 0


def _regression(one: Regression) -> dict[str, Any]:
    return {
        "domain": one.domain,
        "where": one.of.where.replace("\\", "/").rsplit("/", 1)[-1],
        "prompt": one.of.prompt,
        "media": [sha256 for _, sha256 in one.of.media],
        "reference": one.of.reference,
        "metric": one.metric,
        "loss": one.loss,
        "lost": list(one.lost),
        "answers": {row.variant: row.output for row in (one.of, *one.answers)},
        "scores": {row.variant: row.scores[one.metric] for row in (one.of, *one.answers)},
    }
