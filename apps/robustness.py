"""How variants bear perturbed rows: every perturbation at every strength, evaluated as any other rows are.

told = robustness(engine, {"textiles": samples}, ["blur", "jpeg"], ["exact_match"], log, out=folder)
told["curves"][0]["points"][3]  # {"strength": 3, "value": 0.71, "low": 0.64, "high": 0.77}

Answers are kept by content beside those of `triptych eval` of the same folder, so that a run that was cut off
goes on, and strength 0 has often been answered before. Perturbed media are made anew from the seed and
removed after they were answered.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from apps.evaluate import Answerer, Results, evaluate
from studio import plugins
from studio.errors import ConfigError, TriptychError
from studio.files import atomic_write
from studio.intervals import Additive, interval
from studio.log import Log
from studio.perturb._rows import STRONGEST, Perturbation, Perturber, perturbation
from studio.types import Sample

FILE = "robustness.json"
STRENGTHS = tuple(range(STRONGEST + 1))
#: What each strength weighs in the area under a curve: trapezoids over a width of 1.
WEIGHTS = np.array([0.5, 1, 1, 1, 1, 0.5]) / STRONGEST
_KINDS = {"picture": "pictures", "samples": "sounds", "text": "questions in words"}


def robustness(
    engine: Answerer,
    data: Mapping[str, Sequence[Sample]],
    names: Sequence[str],
    metrics: Sequence[str],
    log: Log,
    *,
    out: Path,
    seed: int = 0,
    batch_size: int = 16,
    max_new_tokens: int = 48,
    more: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Evaluate every variant on the rows of ``data`` at strengths 0 to 5 of each perturbation.

    Args:
        engine: the variants.
        data: domain -> samples with reference answers.
        names: the perturbations; each is done to the rows that have what it changes.
        metrics: names of metrics; the first one is the headline.
        log: is told the stages.
        out: folder for ``robustness.json``, which holds what is done already and says whether it is
            ``partial``, and for the answers.
        seed: of what is drawn for each row, and of the intervals.
        batch_size: samples answered together.
        max_new_tokens: longest answer, in tokens.
        more: further entries of the file, as the results of attacks.

    Returns:
        What the file holds: ``curves`` with ``points`` by strength and the ``area`` under each, which is the
        mean over the strengths, in the metric's own unit.

    Raises:
        ConfigError: for a perturbation that changes nothing in any row.
        UnknownName: if there is no such perturbation or metric.
        DataError: as `apps.evaluate.evaluate`.
    """
    chosen = [perturbation(name) for name in names]
    wanted = {
        (domain, each.name): [row for row in rows if each.concerns(row)]
        for domain, rows in data.items()
        for each in chosen
    }
    for each in chosen:
        if not any(wanted[domain, each.name] for domain in data):
            raise ConfigError(
                f"--perturbation {each.name}: it changes {_KINDS[each.takes]}, and no row has any"
            )
    told: dict[str, Any] = {
        "seed": seed,
        "strengths": list(STRENGTHS),
        "metrics": list(metrics),
        "n": {domain: len(rows) for domain, rows in data.items()},
        "perturbations": {each.name: _about(each) for each in chosen},
        "partial": True,
        "curves": [],
        "attacks": [],
        **(more or {}),
    }
    for (domain, name), rows in wanted.items():
        if not rows:
            continue
        each = next(one for one in chosen if one.name == name)
        others = list(dict.fromkeys(sound.path for row in data[domain] for sound in row.sounds))
        log.say(f"{domain}: {name}, {len(rows)} rows at strengths 1 to {STRONGEST}")
        with TemporaryDirectory(dir=_made(out), prefix=".perturbed-") as scratch:
            perturber = Perturber(perturbation=each, seed=seed, folder=Path(scratch), others=others)
            sets = {
                set_name(domain, name, strength): [perturber.sample(row, strength) for row in rows]
                for strength in STRENGTHS
            }
            results = evaluate(
                engine, sets, metrics, log, cache=out / "answers", out=Path(scratch) / "evaluation",
                batch_size=batch_size, max_new_tokens=max_new_tokens, seed=seed,
            )  # fmt: skip
            values = _by_sample(Path(scratch) / "evaluation" / "samples.jsonl")
        told["curves"] += [
            _curve(results, values, domain, name, variant, metric, seed)
            for variant in engine.names
            for metric in metrics
        ]
        write(told, out)
    told["partial"] = False
    write(told, out)
    return told


def write(told: Mapping[str, Any], out: Path) -> None:
    """Write what is known into the evaluation's folder."""
    atomic_write(out / FILE, json.dumps(told, indent=2) + "\n")


def check_names(names: Sequence[str]) -> list[str]:
    """Return the names as their files have them, all of them if none is given.

    Raises:
        UnknownName: for one without a file.
    """
    return [plugins.canonical("perturb", name) for name in dict.fromkeys(names or plugins.names("perturb"))]


def concerned(names: Sequence[str], data: Mapping[str, Sequence[Sample]]) -> list[str]:
    """Return those of the perturbations that change something in some row.

    Raises:
        TriptychError: if none does.
    """
    rows = [row for own in data.values() for row in own]
    found = [name for name in names if any(map(perturbation(name).concerns, rows))]
    if not found:
        raise TriptychError("no perturbation changes anything in these rows")
    return found


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def set_name(domain: str, name: str, strength: int) -> str:
    """Return what an evaluation calls the rows of a domain at a strength."""
    return f"{domain}, {name} {strength}"


def _about(each: Perturbation) -> dict[str, Any]:
    return {
        "takes": each.takes,
        "summary": plugins.summary("perturb", each.name),
        "levels": list(each.levels),
        "unit": each.unit,
    }


def _by_sample(file: Path) -> dict[tuple[str, str, str], list[float]]:
    """Return the value of every sample [N] by set, variant and metric."""
    found: dict[tuple[str, str, str], list[float]] = {}
    with open(file, encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            for metric, value in row["scores"].items():
                found.setdefault((row["domain"], row["variant"], metric), []).append(value)
    return found


def _curve(
    results: Results,
    values: Mapping[tuple[str, str, str], Sequence[float]],
    domain: str,
    name: str,
    variant: str,
    metric: str,
    seed: int,
) -> dict[str, Any]:
    """Return one variant's scores by strength, and the area under them."""
    sets = [set_name(domain, name, strength) for strength in STRENGTHS]
    cells = [results[each][variant]["metrics"][metric] for each in sets]
    table = [values.get((each, variant, metric), ()) for each in sets]
    return {
        "domain": domain,
        "variant": variant,
        "perturbation": name,
        "metric": metric,
        "higher_is_better": cells[0]["higher_is_better"],
        "n": cells[0]["n"],
        "points": [
            {"strength": strength, "value": cell["value"], "low": cell["ci"][0], "high": cell["ci"][1]}
            for strength, cell in zip(STRENGTHS, cells, strict=True)
        ],
        "area": area(cells, table, seed),
    }


def area(cells: Sequence[Mapping[str, Any]], table: Sequence[Sequence[float]], seed: int) -> dict[str, float]:
    """Return the area under a curve with its interval, as ``value``, ``low`` and ``high``.

    Where a score is the mean of its samples, whole rows are drawn, each with all of its strengths [6, N].
    Other scores have the mean of their intervals' ends, which is at least as wide.
    """
    value = float(WEIGHTS @ [cell["value"] for cell in cells])
    if all(table) and np.allclose([np.mean(each) for each in table], [cell["value"] for cell in cells]):
        areas = WEIGHTS @ np.array(table, dtype=np.float64)
        rows = np.stack([areas, np.ones_like(areas)], axis=1)
        low, high = interval(Additive(rows=rows, value=lambda sums: sums[:, 0] / sums[:, 1]), seed)
    else:
        low, high = (float(WEIGHTS @ [cell["ci"][end] for cell in cells]) for end in (0, 1))
    return {"value": value, "low": low, "high": high}
