"""The ``model-index`` in the head of a model card (README.md): figures by task and data set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from studio.errors import DataError
from studio.outside_results.told import Figure, Outside, is_number, number, text

FORMAT = "model_index"
_LONGEST = 4 << 20


def fits(path: Path) -> bool:
    """Return whether this is a card with a head."""
    if not path.is_file() or path.suffix.lower() != ".md":
        return False
    with path.open("rb") as file:
        return file.read(3) == b"---"


def read(path: Path) -> Outside:
    """Return the figures of a card."""
    head = path.read_text(encoding="utf-8", errors="replace")[:_LONGEST].split("\n---", 1)[0].lstrip("-")
    if "&" in head and "*" in head:  # a text of a hundred bytes can stand for gigabytes
        raise DataError(f"{path}: the head refers to parts of itself; no model-index does")
    try:
        told = yaml.safe_load(head)
    except yaml.YAMLError:
        raise DataError(f"{path}: the head is no YAML") from None
    models = told.get("model-index") if isinstance(told, dict) else None
    if not isinstance(models, list):
        raise DataError(f"{path}: there is no model-index in the head")
    return Outside(format=FORMAT, figures=tuple(each for model in models for each in _figures(model, path)))


def _figures(model: Any, path: Path) -> Iterator[Figure]:
    if not isinstance(model, Mapping) or not isinstance(model.get("results"), list):
        raise DataError(f"{path}: a model of the model-index has no results")
    for at, result in enumerate(model["results"]):
        where = f"{path}: result {at + 1}"
        if not isinstance(result, Mapping) or not isinstance(result.get("metrics"), list):
            raise DataError(f"{where} has no metrics")
        data = result.get("dataset")
        named = data.get("name") or data.get("type") if isinstance(data, Mapping) else ""
        for metric in result["metrics"]:
            if not isinstance(metric, Mapping) or not (metric.get("type") or metric.get("name")):
                raise DataError(f"{where}: a metric has neither type nor name")
            value = metric.get("value")
            if isinstance(value, str | Mapping) and not is_number(value):
                continue  # told as words
            yield Figure(
                variant=text(model.get("name")) or "model",
                domain=text(named) or "all",
                metric="_".join(text(metric.get("type") or metric.get("name")).split()),
                value=number(value, where),
            )
