"""A run's folder of HELM: ``scenario_state.json`` with the answers, ``stats.json`` with the figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from studio.errors import DataError
from studio.outside_results.told import Answer, Figure, Outside, array, field_of, mapping, number, text

FORMAT = "helm"
STATE, STATS = "scenario_state.json", "stats.json"


def fits(path: Path) -> bool:
    """Return whether this is such a folder, or its ``scenario_state.json``."""
    return (path / STATE).is_file() or path.name == STATE


def read(path: Path) -> Outside:
    """Return the answers of a run, and its figures over all test instances."""
    folder = path if path.is_dir() else path.parent
    state = mapping(folder / STATE)
    adapter = state.get("adapter_spec")
    variant = text(adapter.get("model")) if isinstance(adapter, dict) else "model"
    domain = folder.resolve().name.split(":")[0]
    answers = tuple(_answers(state, variant or "model", domain, folder / STATE))
    figures: list[Figure] = []
    if (folder / STATS).is_file():
        figures = list(_figures(folder / STATS, variant or "model", domain))
    return Outside(format=FORMAT, answers=answers, figures=tuple(figures))


def _answers(state: Mapping[str, Any], variant: str, domain: str, file: Path) -> Iterator[Answer]:
    requests = field_of(state, "request_states", str(file))
    for at, each in enumerate(requests if isinstance(requests, list) else [None]):
        where = f"{file}: request {at + 1}"
        try:
            instance, said = each["instance"], each["result"]["completions"][0]["text"]
            right = [
                reference["output"]["text"]
                for reference in instance["references"]
                if "correct" in reference["tags"]
            ]
            prompt, name = instance["input"]["text"], instance.get("id", str(at))
        except (TypeError, KeyError, IndexError, AttributeError):
            raise DataError(f"{where} has not the fields of an answered instance") from None
        choices = each.get("output_mapping")
        said = text(said).strip()
        if isinstance(choices, dict):  # the letters of a multiple choice
            said = text(choices.get(said, said))
        yield Answer(
            variant=variant,
            domain=domain,
            where=f"{domain}:{name}",
            prompt=text(prompt),
            reference=text(right),
            output=said,
            groups={"split": text(instance["split"])} if instance.get("split") else {},
        )


def _figures(file: Path, variant: str, domain: str) -> Iterator[Figure]:
    for at, each in enumerate(array(file)):
        where = f"{file}: figure {at + 1}"
        name = each.get("name") if isinstance(each, dict) else None
        if not isinstance(name, dict) or "mean" not in each:
            continue
        if name.get("split") != "test" or name.get("perturbation") or name.get("sub_split"):
            continue
        yield Figure(
            variant=variant,
            domain=domain,
            metric=text(name.get("name")),
            value=number(each["mean"], where),
            n=int(number(each["count"], where)) if "count" in each else None,
        )
