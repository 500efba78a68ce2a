"""An evaluation folder as it lies on the disk: results, one row for each question and variant, and the rest.

evaluation.json and samples.jsonl are needed; groups.json and robustness.json are taken along where they are.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from studio import plugins
from studio.errors import DataError, TriptychError
from studio.files import sha256_file
from studio.intervals import Additive
from studio.scores import additive, needed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = NDArray[np.float64]

FILE, SAMPLES, SCORES = "evaluation.json", "samples.jsonl", "scores.json"
GROUPS, ROBUSTNESS = "groups.json", "robustness.json"
#: Columns of a row that metrics may need beside answer and reference.
_COLUMNS = ("confidence", "surprise", "tokens", "judgement")
Key = tuple[str, str, str, int]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One variant's answer to one question; ``media`` are paths with the sha256 of what was asked about."""

    domain: str
    where: str
    prompt: str
    reference: str
    variant: str
    output: str
    media: tuple[tuple[str, str], ...] = ()
    groups: Mapping[str, str] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)
    told: Mapping[str, Any] = field(default_factory=dict)

    @property
    def confidence(self) -> float | None:
        """The probability of all tokens of the answer, where it is known."""
        value = self.told.get("confidence")
        return float(value) if isinstance(value, int | float) and 0 <= value <= 1 else None


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What an evaluation folder holds.

    ``results[domain][variant]["metrics"][metric]`` holds value, n, ci and higher_is_better; ``rows`` the
    answers by domain, variant and question; ``told`` is all of evaluation.json; ``notes`` say what is odd.
    """

    folder: Path
    metrics: tuple[str, ...]
    results: Mapping[str, Mapping[str, Mapping[str, Any]]]
    rows: Mapping[str, Mapping[str, Mapping[Key, Row]]]
    told: Mapping[str, Any]
    groups: Mapping[str, Any] | None = None
    robustness: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()

    @cached_property
    def variants(self) -> tuple[str, ...]:
        """The variants in the order in which they were named; those without a result too."""
        named = [*self.told.get("variants", {}), *(name for cells in self.results.values() for name in cells)]
        return tuple(dict.fromkeys(named))

    @property
    def domains(self) -> tuple[str, ...]:
        """The domains that have results."""
        return tuple(self.results)

    @property
    def partial(self) -> bool:
        """Whether questions were left without an answer, or files do not belong together."""
        return bool(self.told.get("partial")) or bool(self.notes)

    def figure(self, domain: str, variant: str, metric: str) -> Mapping[str, Any] | None:
        """Return value, n, ci and higher_is_better; None where this was not measured."""
        cell = self.results.get(domain, {}).get(variant, {}).get("metrics", {}).get(metric)
        return cell if isinstance(cell, Mapping) else None

    def higher(self, metric: str) -> bool:
        """Return whether higher is better, as the results say."""
        found = (self.figure(d, v, metric) for d, cells in self.results.items() for v in cells)
        return bool(next((cell["higher_is_better"] for cell in found if cell), True))

    def shared(self, domain: str, *variants: str) -> list[list[Row]]:
        """Return the rows of each variant [N] for the questions of a domain that all of them answered."""
        tables = [self.rows.get(domain, {}).get(variant, {}) for variant in variants]
        keys = [key for key in tables[0] if all(key in table for table in tables[1:])]
        return [[table[key] for key in keys] for table in tables]

    def sums(self, metric: str, rows: Sequence[Row]) -> Additive | None:
        """Return a metric as a function of sums over these rows, whole clusters together; None if it is none.

        What the rows do not tell is None too.
        """
        if not rows:
            return None
        made = _scored_anew(metric, rows) or _kept(metric, rows)
        return made.gathered(self.marks(rows)) if made else None

    def marks(self, rows: Sequence[Row]) -> list[Hashable] | None:
        """Return what belongs together [N], as the evaluation had it."""
        group = self.told.get("clusters")
        return [row.groups.get(str(group), "") for row in rows] if group else None


def read_evaluation(folder: Path | str) -> Evaluation:
    """Return what an evaluation folder holds.

    Raises:
        DataError: a file is missing, damaged, or holds what no evaluation writes.
    """
    folder = Path(folder)
    if not (folder / FILE).is_file() or not (folder / SAMPLES).is_file():
        raise DataError(f"{folder} holds no evaluation: {FILE} and {SAMPLES} are needed")
    told = _mapping(folder / FILE)
    results = _results(told, folder / FILE)
    rows: dict[str, dict[str, dict[Key, Row]]] = {}
    seen: Counter[tuple[str, ...]] = Counter()
    for row in _rows(folder / SAMPLES):
        name = (row.where, row.prompt, row.reference)
        at = seen[(row.domain, row.variant, *name)]
        seen[(row.domain, row.variant, *name)] += 1
        rows.setdefault(row.domain, {}).setdefault(row.variant, {})[(*name, at)] = row
    return Evaluation(
        folder=folder,
        metrics=tuple(told["metrics"]),
        results=results,
        rows=rows,
        told=told,
        groups=_mapping(folder / GROUPS) if (folder / GROUPS).is_file() else None,
        robustness=_mapping(folder / ROBUSTNESS) if (folder / ROBUSTNESS).is_file() else None,
        notes=tuple(_notes(folder, told)),
    )


def _results(told: Mapping[str, Any], file: Path) -> Mapping[str, Mapping[str, Mapping[str, Any]]]:
    try:
        results = {
            str(domain): {str(name): {"metrics": _figures(cell)} for name, cell in cells.items()}
            for domain, cells in told["results"].items()
        }
        metrics = [str(metric) for metric in told["metrics"]]
        shown = told.get("variants", {}).items() and results
    except (KeyError, TypeError, AttributeError, ValueError):
        raise DataError(f"{file} does not hold the results of an evaluation; it is damaged") from None
    if not metrics or not shown or not any(results.values()):
        raise DataError(f"{file} holds no result yet; let `triptych eval` finish first")
    return results


def _figures(cell: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the figures by metric; `ValueError` or `KeyError` for what is no figure."""
    found = {}
    for metric, told in cell["metrics"].items():
        low, high = (float(end) for end in told["ci"])
        figure = {
            **told,
            "value": float(told["value"]),
            "n": int(told["n"]),
            "ci": [low, high],
            "higher_is_better": bool(told.get("higher_is_better", True)),
        }
        if not all(map(math.isfinite, (figure["value"], low, high))):
            raise ValueError(metric)
        found[str(metric)] = figure
    return found


def _rows(file: Path) -> Iterator[Row]:
    with file.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                yield _row(json.loads(line))
            except (ValueError, TypeError, KeyError, AttributeError):
                raise DataError(f"{file}:{number} is no row of an evaluation; the file is damaged") from None


def _row(told: Mapping[str, Any]) -> Row:
    more = {key: told[key] for key in _COLUMNS if key in told}
    if told.get("paraphrases"):
        more["paraphrase"] = [str(each["output"]) for each in told["paraphrases"]]
    return Row(
        **{key: str(told[key]) for key in ("domain", "where", "prompt", "reference", "variant", "output")},
        media=tuple((str(each["path"]), str(each["sha256"])) for each in told.get("media", ())),
        groups={str(key): str(value) for key, value in told.get("groups", {}).items()},
        scores={str(key): float(value) for key, value in told.get("scores", {}).items() if value is not None},
        told=more,
    )


def _mapping(file: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, Mapping):
        raise DataError(f"{file} is no JSON object; it is damaged or of another program")
    return found


def _notes(folder: Path, told: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence for each file that is not the one that belongs to evaluation.json."""
    files = told.get("files")
    for name, digest in files.items() if isinstance(files, Mapping) else ():
        if name in (SAMPLES, SCORES):
            file = folder / str(name)
            if not file.is_file() or sha256_file(file) != digest:
                yield f"{name} is not the one that {FILE} was written with: an evaluation was interrupted"


def _scored_anew(metric: str, rows: Sequence[Row]) -> Additive | None:
    """Return a metric of the answers in the rows; None if the rows do not hold what it needs."""
    try:
        module = plugins.load("metrics", metric)
        columns = {
            name: values
            for name in getattr(module, "NEEDS", ())
            if (values := [row.told.get(name, row.groups.get(name)) for row in rows]) and None not in values
        }
        return additive(
            module, [r.output for r in rows], [r.reference for r in rows], needed(module, metric, columns)
        )
    except (TriptychError, ValueError, TypeError):
        return None


def _kept(metric: str, rows: Sequence[Row]) -> Additive | None:
    """Return the mean of the values in the rows, if every row has one and the metric is such a mean."""
    try:
        module: Any = plugins.load("metrics", metric)
    except TriptychError:
        module = None
    if module and (hasattr(module, "counts") or hasattr(module, "sums") or not hasattr(module, "each")):
        return None
    if not all(metric in row.scores for row in rows):
        return None
    values = np.array([row.scores[metric] for row in rows], dtype=np.float64)
    return Additive(rows=np.stack([values, np.ones_like(values)], axis=1), value=_mean)


def _mean(totals: Values) -> Values:
    means: Values = totals[:, 0] / np.where(totals[:, 1] > 0, totals[:, 1], 1.0)
    return means
