"""The report of a training run: its curves, what it learned from, what it answers, and whether it overfits.

    report.html   to look at, self-contained
    report.json   the verdict and the speed, for programs
    curves.png    the loss and the learning rate, for slides and messages

All of it is made from the run's folder alone, at the end of a run or later by `triptych report RUN`.
"""

from __future__ import annotations

import dataclasses
import html
import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from studio import chart_picture
from studio.chart import STYLE as CHART_STYLE
from studio.chart import Chart, Line, drawing, smoothed
from studio.config import flatten
from studio.data.provenance import told
from studio.errors import CheckpointError
from studio.files import atomic_write
from studio.heatmap import page, plain_table
from studio.runs import Record, read_run
from studio.sample_card import STYLE as CARD_STYLE
from studio.sample_card import card
from studio.training import preference_verdict
from studio.training.tracking import read_metrics
from studio.training.verdict import Verdict, judge, running_mean
from studio.types import Sample

PAGE, FIGURES, PICTURE, ANSWERS = "report.html", "report.json", "curves.png", "answers.jsonl"
#: The word that a verdict is told with.
WORDS = {
    "overfits": "It overfits.",
    "underfits": "It underfits.",
    "fits": "It fits.",
    "unstable": "It was unstable.",
    "unclear": "No verdict.",
}
STYLE = """
.verdict{border-left:.3rem solid var(--above);padding:.2rem 1rem;margin:1.4rem 0;max-width:48rem}
.verdict.overfits,.verdict.unstable,.verdict.underfits{border-color:var(--below)}.verdict b{display:block}
details{margin:1rem 0}summary{cursor:pointer;font-weight:600}
td,th{overflow-wrap:anywhere}.plain td{white-space:normal}
"""


def write_run_report(folder: Path, samples: Sequence[Sample] = ()) -> Verdict:
    """Write the report of the run in ``folder`` into it, and return the verdict.

    ``samples`` are those whose answers stand in the run's `ANSWERS`: they are shown with their media.

    Raises:
        CheckpointError: if the folder holds no run that has trained.
    """
    record, rows = read_run(folder), read_metrics(folder)
    if record is None or not any("loss" in row for row in rows):
        raise CheckpointError(f"{folder} holds no training run: run.json and metrics.jsonl are needed")
    verdict, speed = judge(rows), speeds(rows)
    if preferred := preference_verdict.told(record.metrics, rows):
        verdict = dataclasses.replace(verdict, sentence=f"{preferred} {verdict.sentence}")
    drawn = charts(rows) + preference_verdict.charts(rows)
    figures = {"verdict": verdict.kind, "sentence": verdict.sentence, "speed": speed, "state": record.state}
    atomic_write(folder / FIGURES, json.dumps({**figures, "metrics": dict(record.metrics)}, indent=2) + "\n")
    atomic_write(folder / PICTURE, chart_picture.picture(drawn[:2]))
    parts = [
        f"<h1>{html.escape(folder.resolve().name)}</h1>",
        f'<p class="soft">{html.escape(_what(record))}</p>',
        f'<div class="verdict {verdict.kind}"><b>{WORDS[verdict.kind]}</b>',
        f"{html.escape(verdict.sentence)}</div>",
        f'<p class="soft">{html.escape(speed_line(speed))}</p>',
        f'<div class="charts">{"".join(map(drawing, drawn))}</div>',
        *_answers(folder, samples),
        *_towers(record),
        *_data(record),
        "<h2>Results</h2>",
        plain_table(("figure", "value"), [(key, f"{value:.6g}") for key, value in record.metrics.items()]),
        "<details><summary>Settings</summary>",
        plain_table(("setting", "value"), [(k, _short(v)) for k, v in flatten(record.config).items()]),
        "</details><details><summary>Made with</summary>",
        plain_table(("package", "version"), list(record.versions.items())),
        f'</details><p class="soft">seed {record.seed}, fingerprint '
        f"<code>{record.fingerprint[:16]}</code>, started {html.escape(record.started)}</p>",
    ]
    title = f"{folder.resolve().name}: training report"
    atomic_write(folder / PAGE, page(title, parts, STYLE + CHART_STYLE + CARD_STYLE))
    return verdict


def charts(rows: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """Return the curves of a run: loss, learning rate, gradient, speed, and the share of time it waited."""
    train, held = _points(rows, "loss"), _points(rows, "eval_loss")
    best = min(held, key=lambda point: point[1])[0] if held else None
    losses = [
        Line(name="training, each step", points=train, faint=True, colour=0),
        Line(name="training", points=running_mean(train, max(1, len(train) // 20)), colour=0),
        Line(name="held out", points=held, colour=1),
    ]
    waits = []
    for before, after in pairwise(row for row in rows if "waited" in row):
        passed = max(after["seconds"] - before["seconds"], 1e-9)
        waits.append((after["step"], 100 * min(1.0, (after["waited"] - before["waited"]) / passed)))
    return [
        Chart(
            title="Loss",
            x="step",
            y="loss",
            lines=losses if held else losses[:2],
            marks=[(best, "best")] if best is not None else [],
            note="mean over supervised tokens; the bold line is smoothed",
        ),
        Chart(title="Learning rate", x="step", y="lr", lines=[Line(name="lr", points=_points(rows, "lr"))]),
        Chart(
            title="Gradient's norm",
            x="step",
            y="norm",
            lines=[Line(name="norm", points=_points(rows, "grad_norm"))],
            note="before it is clipped",
        ),
        Chart(
            title="Speed",
            x="step",
            y="samples a second",
            lines=[Line(name="samples/s", points=smoothed(_points(rows, "samples_per_s"), 0.7))],
            note="samples a second, smoothed",
        ),
        Chart(
            title="Waiting for data",
            x="step",
            y="percent",
            lines=[Line(name="percent", points=smoothed(waits, 0.7))],
            note="percent of the time, smoothed",
        ),
    ]


def speeds(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the wall time of training in seconds, samples and tokens a second, and the share of waiting."""
    steps = [row for row in rows if "samples_per_s" in row]
    if not steps:
        return {}
    seconds = float(steps[-1]["seconds"])
    found = {"seconds": seconds}
    for key in ("samples_per_s", "tokens_per_s"):
        # A step's rate tells how long it took: slow steps count for as long as they lasted.
        took = sum(1 / row[key] for row in steps if row.get(key))
        if took:
            found[key] = sum(1 for row in steps if row.get(key)) / took
    if "waited" in steps[-1]:
        found["wait_share"] = min(1.0, float(steps[-1]["waited"]) / max(seconds, 1e-9))
    return found


def speed_line(speed: Mapping[str, float]) -> str:
    """Return the speed in words."""
    if not speed:
        return "no steps"
    minutes, seconds = divmod(speed["seconds"], 60)
    parts = [f"{minutes:.0f} min {seconds:.0f} s" if minutes else f"{seconds:.1f} s"]
    parts += [
        f"{speed[key]:,.{0 if speed[key] >= 100 else 1}f} {name}"
        for key, name in (("samples_per_s", "samples/s"), ("tokens_per_s", "tokens/s"))
        if key in speed
    ]
    if "wait_share" in speed:
        parts.append(f"{100 * speed['wait_share']:.1f} % of the time waiting for data")
    return ", ".join(parts)


def _points(rows: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    return [(float(row["step"]), float(row[key])) for row in rows if key in row]


def _what(record: Record) -> str:
    config = record.config
    steps = record.metrics.get("steps")
    done = f", {steps:.0f} steps" if steps else ""
    return (
        f"{config.get('model')} by {record.recipe}, {config.get('method')}, on {config.get('data')}: "
        f"{record.state}{done}"
    )


def _answers(folder: Path, samples: Sequence[Sample]) -> list[str]:
    """Return the cards of the held-out samples that the run has answered."""
    try:
        lines = (folder / ANSWERS).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    known = {sample.where: sample for sample in samples}
    given = [json.loads(line) for line in lines]
    cards = [
        card(known[row["where"]], {"this run": (row["answer"], float(row["answer"] == row["reference"]))})
        for row in given
        if row["where"] in known and all(p.path.is_file() for p in _media(known[row["where"]]))
    ]
    if cards:
        return ["<h2>Answers to held-out rows</h2>", *cards]
    rows = [(row["where"], row["reference"], row["answer"]) for row in given]
    return ["<h2>Answers to held-out rows</h2>", plain_table(("row", "reference", "answer"), rows)]


def _media(sample: Sample) -> list[Any]:
    return [*sample.images, *sample.sounds]


def _towers(record: Record) -> list[str]:
    if not record.towers:
        return []
    columns = list(dict.fromkeys(key for row in record.towers.values() for key in row))
    rows = [(name, *(_short(row.get(key)) for key in columns)) for name, row in record.towers.items()]
    return ["<h2>What learns</h2>", plain_table(("tower", *columns), rows)]


def _data(record: Record) -> list[str]:
    if not record.data:
        return []
    rows = [(key, _short(record.config.get(key)), told(found)) for key, found in record.data.items()]
    return ["<h2>Data</h2>", plain_table(("setting", "set", "holds"), rows)]


def _short(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    return (
        f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else str(value)
    )
