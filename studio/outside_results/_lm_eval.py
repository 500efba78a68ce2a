"""Results of lm-eval and lmms-eval: ``*results*.json`` with ``*samples_TASK*.jsonl`` beside it.

The layout is that of lm-eval 0.4 and lmms-eval 0.7: a task's figures are named ``METRIC,FILTER`` and its
samples hold ``doc_id``, ``target``, ``filtered_resps`` (or ``resps``) and a number for each metric.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from studio.errors import DataError
from studio.outside_results.told import (
    Answer,
    Figure,
    Outside,
    field_of,
    is_number,
    mapping,
    number,
    peek,
    rows,
    text,
)

FORMAT = "lm_eval"
_NO_METRIC = frozenset({"doc_id", "idx", "schema_version", "token_counts"})


def fits(path: Path) -> bool:
    """Return whether the tools would have written this."""
    if path.is_dir():
        return bool(_results(path)) or bool(_samples(path))
    head = peek(path)
    if path.suffix == ".jsonl":
        return "doc_id" in head and bool({"filtered_resps", "resps"} & set(head))
    return isinstance(head.get("results"), dict) and bool({"configs", "versions"} & set(head))


def read(path: Path) -> Outside:
    """Return figures and answers of one or more runs."""
    if path.suffix == ".jsonl":
        return Outside(format=FORMAT, answers=tuple(_answers(path, _task(path), "model")))
    answers: list[Answer] = []
    figures: list[Figure] = []
    taken: set[Path] = set()
    for file in _results(path) if path.is_dir() else [path]:
        told = mapping(file)
        variant = _variant(told)
        figures += _figures(told, variant, file)
        for samples in _samples(file.parent):
            if _stamp(samples) == _stamp(file) and samples not in taken:
                taken.add(samples)
                answers += _answers(samples, _task(samples), variant)
    if path.is_dir() and not figures:
        for samples in _samples(path):
            answers += _answers(samples, _task(samples), "model")
    return Outside(format=FORMAT, answers=tuple(answers), figures=tuple(figures))


def _results(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.rglob("*results*.json")) if fits(file)]


def _samples(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.rglob("*samples_*.jsonl")) if fits(file)]


def _stamp(file: Path) -> str:
    """Return the time in a file's name: what a run's files have in common."""
    name = file.name
    if not name.startswith(("results_", "samples_")):
        return name.split("_results")[0].split("_samples_")[0]
    return name.rsplit(".", 1)[0].rsplit("_", 1)[-1]


def _task(file: Path) -> str:
    name = file.name.rsplit(".", 1)[0].split("samples_", 1)[-1]
    return name.rsplit("_", 1)[0] if file.name.startswith("samples_") and "_" in name else name


def _variant(told: Mapping[str, Any]) -> str:
    config = told.get("config")
    arguments = config.get("model_args") if isinstance(config, dict) else None
    if isinstance(arguments, dict):
        arguments = ",".join(f"{key}={value}" for key, value in arguments.items())
    for pair in str(arguments or "").split(","):
        key, _, value = pair.partition("=")
        if key in ("variant", "pretrained", "model", "model_version") and value:
            return value
    return str(told.get("model_name") or told.get("model_source") or "model")


def _figures(told: Mapping[str, Any], variant: str, file: Path) -> Iterator[Figure]:
    higher, sizes = _table(told, "higher_is_better"), _table(told, "n-samples")
    for task, scores in field_of(told, "results", str(file)).items():
        if not isinstance(scores, dict):
            raise DataError(f"{file}: the results of '{task}' are no object")
        for key, value in scores.items():
            metric, _, kind = key.partition(",")
            if "_stderr" in metric or not is_number(value) or metric in _NO_METRIC:
                continue
            error = scores.get(f"{metric}_stderr,{kind}")
            size = sizes.get(task)
            count = size.get("effective") if isinstance(size, dict) else size
            better = higher.get(task)
            yield Figure(
                variant=variant,
                domain=str(task),
                metric=metric if kind in ("", "none") else f"{metric}_{kind}",
                value=number(value, f"{file}: {task}.{metric}"),
                stderr=number(error, f"{file}: {task}.{metric}_stderr") if is_number(error) else None,
                n=int(number(count, f"{file}: n-samples of {task}")) if is_number(count) else None,
                higher_is_better=bool(better.get(metric, True)) if isinstance(better, dict) else True,
            )


def _table(told: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = told.get(name)
    return found if isinstance(found, dict) else {}


def _answers(file: Path, task: str, variant: str) -> Iterator[Answer]:
    for where, row in rows(file):
        said = row.get("filtered_resps", row.get("resps"))
        if said is None:
            raise DataError(f"{where}: there is neither 'filtered_resps' nor 'resps'")
        doc = row.get("doc") if isinstance(row.get("doc"), dict) else {}
        yield Answer(
            variant=variant,
            domain=task,
            where=f"{task}:{text(field_of(row, 'doc_id', where))}",
            prompt=_prompt(row, doc or {}),
            reference=text(field_of(row, "target", where)),
            output=_said(said),
            groups=_groups(doc or {}),
            scores={
                key: number(value, f"{where}: {key}")
                for key, value in row.items()
                if key not in _NO_METRIC and is_number(value) and key != "target"
            },
        )


def _said(told: Any) -> str:
    """Return the answer; of the log-likelihoods of choices, the number of the likeliest."""
    if isinstance(told, list) and told and all(_likely(each) for each in told):
        return str(max(range(len(told)), key=lambda at: float(told[at][0])))
    return text(told)


def _likely(told: Any) -> bool:
    """Return whether this is a log-likelihood: a number, and whether it is the greedy answer."""
    return (
        isinstance(told, list) and len(told) == 2 and _numeric(told[0]) and str(told[1]) in ("True", "False")
    )


def _numeric(told: Any) -> bool:
    try:
        float(told)
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def _prompt(row: Mapping[str, Any], doc: Mapping[str, Any]) -> str:
    for told in (row.get("input"), doc.get("question"), doc.get("query")):
        if isinstance(told, str):
            return told
    arguments = row.get("arguments")
    if isinstance(arguments, dict):  # {"gen_args_0": {"arg_0": ...}}
        first = next(iter(arguments.values()), None)
        arguments = first.get("arg_0") if isinstance(first, dict) else first
    return text(arguments)


def _groups(doc: Mapping[str, Any]) -> dict[str, str]:
    groups = doc.get("groups")
    if isinstance(groups, str):
        try:
            groups = json.loads(groups)
        except ValueError:
            return {}
    return {str(key): text(value) for key, value in groups.items()} if isinstance(groups, dict) else {}
