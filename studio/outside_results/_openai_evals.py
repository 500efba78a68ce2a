"""Logs of OpenAI's evals: lines of ``spec``, of events (``sampling``, ``match``), and of ``final_report``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from studio.errors import DataError
from studio.outside_results.told import Answer, Figure, Outside, field_of, is_number, number, peek, rows, text

FORMAT = "openai_evals"


def fits(path: Path) -> bool:
    """Return whether evals would have written this."""
    return path.is_file() and path.suffix == ".jsonl" and isinstance(peek(path).get("spec"), dict)


def read(path: Path) -> Outside:
    """Return the answers that a log tells of, and its final report's figures."""
    variant, domain = "model", path.stem
    sampled: dict[str, Mapping[str, Any]] = {}
    matched: dict[str, tuple[str, Mapping[str, Any]]] = {}
    report: Mapping[str, Any] = {}
    where = str(path)
    for where, row in rows(path):
        if isinstance(row.get("spec"), dict):
            spec = row["spec"]
            models = spec.get("completion_fns")
            variant = text(models) or variant
            domain = text(spec.get("base_eval") or spec.get("eval_name")) or domain
        elif "final_report" in row:
            if not isinstance(row["final_report"], dict):
                raise DataError(f"{where}: the final report is no object")
            report, place = row["final_report"], where
        elif "type" in row:
            data, sample = field_of(row, "data", where), text(field_of(row, "sample_id", where))
            if not isinstance(data, dict):
                raise DataError(f"{where}: 'data' is no object")
            if row["type"] == "sampling":
                sampled[sample] = data
            elif row["type"] == "match":
                matched[sample] = where, data
        else:
            raise DataError(f"{where}: this is no spec, no event and no final report")
    answers = [
        Answer(
            variant=variant,
            domain=domain,
            where=sample,
            prompt=_prompt(data.get("prompt") or sampled.get(sample, {}).get("prompt")),
            reference=text(data.get("expected")),
            output=text(data.get("picked") or data.get("sampled") or sampled.get(sample, {}).get("sampled")),
            scores={"correct": float(bool(field_of(data, "correct", at)))},
        )
        for sample, (at, data) in matched.items()
    ]
    figures = [
        Figure(variant=variant, domain=domain, metric=str(key), value=number(value, f"{place}: {key}"))
        for key, value in report.items()
        if is_number(value)
    ]
    return Outside(format=FORMAT, answers=tuple(answers), figures=tuple(figures))


def _prompt(told: Any) -> str:
    if isinstance(told, list) and told and all(isinstance(each, dict) for each in told):
        return "\n".join(text(each.get("content")) for each in told)
    return text(told)
