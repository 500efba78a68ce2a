"""Label errors by confident learning: rows whose answer a trained model holds for another one.

For each row the model says how probable each of the set's answers is; a row is suspect where the joint counts
of given and confidently predicted labels say so (Northcutt, Jiang and Chuang, Confident Learning, JAIR 70,
2021; by cleanlab). The model must not have been trained on these rows, or it repeats their errors: train it
on another part of the data. Scores come from a ``model``, which reads every row once for each answer, or
from a file ``scores`` with a line such as this for each row:

    {"file": "train.jsonl", "row": 17, "scores": {"yes": 0.9, "no": 0.1}}
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from studio.data.steps._packages import needed
from studio.data.steps._step import Bench, Outcome, Place, removal, within
from studio.errors import ConfigError, DataError
from studio.files import sha256_file
from studio.types import Sample

SHOWN = 100


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Where the scores come from, and how many errors are taken for such."""

    model: str | None = field(
        default=None, metadata={"help": "model, adapter or run that scores the answers"}
    )
    scores: Path | None = field(default=None, metadata={"help": "a JSONL file of scores, instead of a model"})
    action: Literal["remove", "report"] = field(
        default="remove", metadata={"help": "remove suspect rows, or only name them"}
    )
    filter: Literal["prune_by_noise_rate", "prune_by_class", "both", "confident_learning"] = field(
        default="prune_by_noise_rate", metadata={"help": "cleanlab's filter; both is the most careful"}
    )
    max_labels: int = field(default=100, metadata={"help": "most different answers a set may have"})
    device: str = field(default="cpu", metadata={"help": "where the model runs, as cpu or cuda"})


def check(settings: Settings) -> None:
    """Refuse none or two sources of scores."""
    within(settings, max_labels=(2, 10_000))
    if (settings.model is None) == (settings.scores is None):
        raise ConfigError("label_errors needs either model or scores")
    if settings.scores is not None and not settings.scores.is_file():
        raise ConfigError(f"scores '{settings.scores}' is no file")
    needed("cleanlab", "label_errors")


def inputs(settings: Settings) -> Mapping[str, str]:
    """Return the hash of the scores, or of the model's weights."""
    if settings.scores is not None:
        return {"scores": sha256_file(settings.scores)}
    from studio.data.steps._label_scores import weights_of

    return {"model": weights_of(str(settings.model))}


def run(samples: Sequence[Sample], settings: Settings, bench: Bench) -> Outcome:
    """Remove the rows, or report them, whose answer is probably wrong.

    Raises:
        DataError: if the set has more answers than ``max_labels``, or fewer than two.
    """
    find = needed("cleanlab.filter", "label_errors").find_label_issues
    rows = [sample for sample in samples if sample.answer.strip()]
    count = Counter(sample.answer.strip() for sample in rows)
    if not 2 <= len(count) <= settings.max_labels:
        raise DataError(
            f"{samples[0].file}: label_errors takes sets with 2 to {settings.max_labels} different answers, "
            f"not {len(count)}"
        )
    labels = sorted(count)
    if settings.scores is not None:
        scores: Mapping[Place, list[float]] = _read(settings.scores, rows, labels)
    else:
        from studio.data.steps._label_scores import answer_scores

        scores = answer_scores(str(settings.model), settings.device, rows, labels, bench)
    known = [row for row in rows if (row.file, row.line) in scores]
    given = np.array([labels.index(row.answer.strip()) for row in known])
    shares = np.array([scores[row.file, row.line] for row in known])
    suspect: Sequence[int] = []
    if len(known):
        suspect = find(
            given, shares, filter_by=settings.filter, return_indices_ranked_by="self_confidence", n_jobs=1
        )
    why = {
        int(at): f"answers '{labels[given[at]]:.60}' ({shares[at, given[at]]:.2f}), the model "
        f"'{labels[int(shares[at].argmax())]:.60}' ({shares[at].max():.2f})"
        for at in suspect
    }
    report: dict[str, Any] = {
        "labels": dict(count.most_common(SHOWN)),
        "scored": len(known),
        "not scored": len(samples) - len(known),
        "suspect": [
            f"{known[at].file.name}:{known[at].line}: {told}" for at, told in list(why.items())[:SHOWN]
        ],
    }
    edits = [removal(known[at], why[at]) for at in sorted(why)] if settings.action == "remove" else []
    return Outcome(edits=edits, report=report)


def _read(file: Path, rows: Sequence[Sample], labels: Sequence[str]) -> dict[tuple[Path, int], list[float]]:
    """Return the shares of each label by row.

    Raises:
        DataError: naming the line that is no score.
    """
    places = {(row.file.name, row.line): (row.file, row.line) for row in rows}
    names = {name for name, _ in places}
    found = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            told = json.loads(line)
            name = told.get("file", next(iter(names)) if len(names) == 1 else "")
            values = [float(told["scores"].get(label, 0.0)) for label in labels]
            place = places.get((name, int(told["row"])))
        except (ValueError, KeyError, TypeError, AttributeError):
            wanted = '{"file": "train.jsonl", "row": 17, "scores": {"yes": 0.9, "no": 0.1}}'
            raise DataError(f"{file}:{number}: this is no line of scores such as {wanted}") from None
        if not (min(values) >= 0 and 0 < sum(values) < float("inf")):
            raise DataError(f"{file}:{number}: scores must not be negative and sum up to more than 0")
        if place is not None:
            found[place] = [value / sum(values) for value in values]
    return found
