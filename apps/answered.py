"""The answers that `triptych eval --out DIR` wrote, read back: what any later look at them needs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apps.figures import filled
from studio import plugins
from studio.errors import DataError

_NEEDED = ("domain", "variant", "output", "reference")


@dataclass(frozen=True, kw_only=True)
class Answered:
    """The rows of `samples.jsonl` by domain and variant, and what `evaluation.json` says of the whole.

    ``partial`` says that the evaluation was interrupted, so that variants may lack answers.
    """

    cells: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]
    metrics: tuple[str, ...]
    partial: bool

    @property
    def domains(self) -> list[str]:
        """The domains in the order of the file."""
        return list(dict.fromkeys(domain for domain, _ in self.cells))

    @property
    def variants(self) -> list[str]:
        """The variants in the order of the file."""
        return list(dict.fromkeys(variant for _, variant in self.cells))


def read_answered(folder: Path) -> Answered:
    """Return what an evaluation folder holds.

    Raises:
        DataError: there is no `samples.jsonl`, it is empty, or a line of it is no answer.
    """
    file = folder / "samples.jsonl"
    if not file.is_file():
        raise DataError(f"{folder} holds no samples.jsonl; `triptych eval ... --out {folder}` writes one")
    cells: dict[tuple[str, str], list[dict[str, Any]]] = {}
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                row = _row(line, f"{file}:{number}")
                cells.setdefault((row["domain"], row["variant"]), []).append(row)
    if not cells:
        raise DataError(f"{file} holds no answers")
    about = _about(folder / "evaluation.json")
    scored = dict.fromkeys(name for rows in cells.values() for name in rows[0].get("scores") or {})
    metrics = tuple(about.get("metrics") or scored) or ("exact_match",)
    return Answered(cells=cells, metrics=metrics, partial=bool(about.get("partial", False)))


def needed_columns(metric: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return the columns that a metric needs and rows hold, in themselves or as a group: name -> [N].

    A column that no row has is left out, and the metric says so.
    """
    wanted = getattr(plugins.load("metrics", metric), "NEEDS", ())
    found = {name: [row.get(name, row["groups"].get(name, "")) for row in rows] for name in wanted}
    if "paraphrase" in wanted and any(row.get("paraphrases") for row in rows):
        found["paraphrase"] = [[str(told["output"]) for told in row.get("paraphrases") or ()] for row in rows]
    return filled(found)


def _row(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError:
        raise DataError(f"{where}: this is no JSON; the file may have been cut short") from None
    if not isinstance(row, dict) or any(not isinstance(row.get(name), str) for name in _NEEDED):
        raise DataError(f"{where}: an answer has the texts {', '.join(_NEEDED)}")
    groups = row.setdefault("groups", {})
    if not isinstance(groups, dict):
        raise DataError(f"{where}: 'groups' must map names to values")
    return row


def _about(file: Path) -> dict[str, Any]:
    """Return what `evaluation.json` says; nothing where there is none, or it is damaged."""
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}
