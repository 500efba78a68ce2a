"""Results of VLMEvalKit: predictions ``MODEL_DATASET.xlsx`` (.tsv, .csv), and figures.

Figures are in ``_acc.csv`` or ``_score.json``. Predictions have the columns ``index``, ``question``,
``answer`` and ``prediction``; ``category``, ``l2-category`` and ``split`` become groups; a judge's ``hit`` or
``score`` is kept.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from studio.errors import DataError
from studio.outside_results._sheet import cells
from studio.outside_results.told import Answer, Figure, Outside, is_number, mapping, number

FORMAT = "vlmeval"
_GROUPS = ("category", "l2-category", "split")
_SCORES = ("hit", "score")


def fits(path: Path) -> bool:
    """Return whether the kit would have written this."""
    if path.suffix in (".xlsx", ".tsv", ".csv"):
        return path.is_file()
    return path.is_file() and path.name.endswith(("_score.json", "_acc.json"))


def read(path: Path) -> Outside:
    """Return the predictions or the figures of a file."""
    variant, domain = _names(path)
    if path.suffix == ".json":
        return Outside(format=FORMAT, figures=tuple(_nested(mapping(path), variant, domain, str(path))))
    table = list(_table(path))
    if not table:
        raise DataError(f"{path} holds no rows")
    head, *lines = table
    names = [name.strip().lower() for name in head]
    if "prediction" in names:
        return Outside(format=FORMAT, answers=tuple(_answers(path, names, lines, variant, domain)))
    if path.stem.endswith(("_acc", "_score")):
        return Outside(format=FORMAT, figures=tuple(_figures(path, head, lines, variant, domain)))
    raise DataError(f"{path}:1: there is no column 'prediction' among {', '.join(names)[:200]}")


def _names(path: Path) -> tuple[str, str]:
    """Return model and dataset; the kit joins them by an underscore, and a dataset may hold some, too."""
    stem = path.stem
    for end in ("_acc", "_score"):
        stem = stem.removesuffix(end)
    model, _, dataset = stem.partition("_")
    return (model, dataset) if dataset else ("model", model)


def _table(path: Path) -> Iterator[list[str]]:
    if path.suffix == ".xlsx":
        yield from cells(path)
        return
    try:
        told = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8") from None
    reader = csv.reader(io.StringIO(told, newline=""), delimiter="\t" if path.suffix == ".tsv" else ",")
    try:
        for row in reader:
            if row:
                yield row
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: {error}") from None


def _answers(
    path: Path, names: Sequence[str], lines: Sequence[Sequence[str]], variant: str, domain: str
) -> Iterator[Answer]:
    for needed in ("index", "answer"):
        if needed not in names:
            raise DataError(f"{path}:1: there is no column '{needed}'")
    for at, line in enumerate(lines, 2):
        where = f"{path}:{at}"
        if len(line) > len(names):
            raise DataError(f"{where}: {len(line)} cells under {len(names)} columns")
        row = dict(zip(names, [*line, *[""] * (len(names) - len(line))], strict=True))
        yield Answer(
            variant=variant,
            domain=domain,
            where=f"{domain}:{row['index']}",
            prompt=row.get("question", ""),
            reference=row["answer"],
            output=row["prediction"],
            groups={name: row[name] for name in _GROUPS if row.get(name)},
            scores={name: number(row[name], f"{where}: {name}") for name in _SCORES if row.get(name)},
        )


def _figures(
    path: Path, head: Sequence[str], lines: Sequence[Sequence[str]], variant: str, domain: str
) -> Iterator[Figure]:
    for at, line in enumerate(lines, 2):
        split = next((c for n, c in zip(head, line, strict=False) if n.lower() == "split"), "")
        more = "" if split in ("", "none") else f"_{split}"
        for name, cell in zip(head, line, strict=False):
            if name.lower() != "split" and cell:
                value = number(cell, f"{path}:{at}: {name}")
                yield Figure(variant=variant, domain=domain, metric=_metric(name) + more, value=value)


def _nested(
    told: Mapping[str, object], variant: str, domain: str, where: str, ahead: str = ""
) -> Iterator[Figure]:
    for key, value in told.items():
        name = f"{ahead}{_metric(str(key))}"
        if isinstance(value, dict):
            yield from _nested(value, variant, domain, where, f"{name}_")
        elif is_number(value):
            yield Figure(variant=variant, domain=domain, metric=name, value=number(value, f"{where}: {name}"))


def _metric(name: str) -> str:
    return "_".join(name.strip().split()).replace(".", "_")
