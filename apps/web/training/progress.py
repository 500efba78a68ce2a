"""A training as the page shows it: the list, how far it is, its curve in words too, verdict and answers."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from apps.queue import Standing
from apps.web.training.report import example_html
from studio.chart import drawing
from studio.data import load_data
from studio.errors import TriptychError
from studio.run_report import ANSWERS, charts
from studio.training.tracking import read_metrics
from studio.training.verdict import judge
from studio.types import Sample

ROWS = 12
"""Rows of the table that says in figures what the curve shows."""
#: What the verdict's one word means for somebody who has chosen a way to train.
PLAIN = {
    "fits": "Its learning has levelled out: more of the same would change little. Its answers tell more.",
    "underfits": "It could learn more: train it once more with Thorough.",
    "overfits": "It began to learn by heart; its best moment was kept. More examples would help.",
    "unstable": "The training was unsteady: try Thorough, which takes smaller steps.",
    "unclear": "There were too few steps, or no held-out examples, to tell how well it has learned.",
}
#: Stages of a run in words.
_STAGES = {
    "checking": "looking at the data",
    "encoding": "preparing the examples",
    "encoding held-out": "preparing the held-out examples",
    "training": "learning",
    "answering": "answering held-out examples",
}


#: How `sft` says that it goes on, and with how many steps in all.
_RESUMED = re.compile(r"^going on after step \d+ of (\d+)$")


def list_html(jobs: Sequence[Standing], chosen: str) -> str:
    """Return the trainings as buttons, the chosen one pressed."""
    if not jobs:
        return '<p class="tp-soft">No training yet. Choose data and a name, and start one.</p>'
    items = "".join(
        f'<li><button type="button" class="tp-job tp-job-{one.state.name}" '
        f'data-job="{html.escape(one.job.id)}" '
        f'aria-pressed="{str(one.job.id == chosen).lower()}"><b>{html.escape(one.job.title)}</b>'
        f"<span>{html.escape(_short(one))}</span></button></li>"
        for one in jobs
    )
    return f'<ul class="tp-jobs" aria-label="Trainings, newest first">{items}</ul>'


def _short(one: Standing) -> str:
    if one.state.name == "running":
        done, total = steps(one)
        return f"{100 * done // total} %" if total else "starting"
    return one.told.partition(";")[0]


def steps(one: Standing, rows: Sequence[Mapping[str, Any]] | None = None) -> tuple[int, int]:
    """Return the optimiser steps that are done, and how many there will be; 0 while that is not known."""
    stage = one.stage()
    if stage.name != "training":
        return 0, 0
    resumed = [found for line in one.log(200) if (found := _RESUMED.search(line))]
    total = int(resumed[-1][1]) if resumed else stage.total
    found = read_metrics(Path(one.job.output)) if rows is None else rows
    return min(int(found[-1]["step"]), total) if found else 0, total


def status_html(one: Standing, rows: Sequence[Mapping[str, Any]]) -> str:
    """Return where a training stands: state, progress, time left, and why it failed."""
    stage, state = one.stage(), one.state.name
    done, total = steps(one, rows)
    parts = [f'<h3 class="tp-small">{html.escape(one.job.title)}</h3>']
    told = one.told
    if state == "running" and stage.name:
        told = _STAGES.get(stage.name, stage.name)
        done, total = (done, total) if stage.name == "training" else (stage.done, stage.total)
        unit = "steps" if stage.name == "training" else stage.unit
        told = f"{told}: {done:,} of {total:,} {unit}" if total else told
        if stage.left is not None and stage.left > 1:
            told += f", about {duration(stage.left)} left"
        share = 100 * done / total if total else 0
        parts.append(f'<p class="tp-told tp-state-{state}">{html.escape(told[:1].upper() + told[1:])}</p>')
        parts.append(
            f'<div class="tp-bar" role="progressbar" aria-label="{html.escape(told)}" aria-valuemin="0" '
            f'aria-valuemax="100" aria-valuenow="{share:.0f}"><i style="width:{share:.1f}%"></i></div>'
        )
    else:
        parts.append(f'<p class="tp-told tp-state-{state}">{html.escape(told[:1].upper() + told[1:])}.</p>')
    if state in ("failed", "interrupted") and one.state.reason:
        log = html.escape("\n".join(one.log(12)))
        parts.append(f'<p class="tp-why">{html.escape(one.state.reason)}</p>')
        parts.append(f'<details><summary>The last it said</summary><pre tabindex="0">{log}</pre></details>')
    return "".join(parts)


def curve_html(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the loss as a drawing and as a sentence; nothing before the first step."""
    losses = [row for row in rows if "loss" in row]
    if not losses:
        return ""
    return f'{drawing(charts(rows)[0])}<p class="tp-soft">{html.escape(curve_told(rows))}</p>'


def curve_told(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return what the curve of the loss shows, in a sentence."""
    losses = [row for row in rows if "loss" in row]
    first, last = losses[0], losses[-1]
    told = (
        f"The loss, how far its answers are off, was {first['loss']:.3g} at step {first['step']} and is "
        f"{last['loss']:.3g} at step {last['step']}"
    )
    held = [row for row in rows if "eval_loss" in row]
    if held:
        best = min(held, key=lambda row: row["eval_loss"])
        told += f"; on held-out examples {held[-1]['eval_loss']:.3g}"
        told += f", at best {best['eval_loss']:.3g} (step {best['step']})"
    return f"{told}."


def table_html(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the curve as a table of `ROWS` rows, and those of held-out examples if they are few."""
    losses = [row for row in rows if "loss" in row]
    held = {row["step"]: row["eval_loss"] for row in rows if "eval_loss" in row}
    every = -(-len(losses) // ROWS) or 1
    kept = {row["step"] for row in losses[::-1][::every]} | (set(held) if len(held) <= ROWS else set())
    shown = [row for row in losses if row["step"] in kept]
    lines = "".join(
        f"<tr><td>{row['step']}</td><td>{row['loss']:.4g}</td>"
        f"<td>{format(held[row['step']], '.4g') if row['step'] in held else ''}</td></tr>"
        for row in shown
    )
    head = "<tr><th scope=col>step</th><th scope=col>loss</th><th scope=col>held out</th></tr>"
    return f'<table class="tp-table"><thead>{head}</thead><tbody>{lines}</tbody></table>'


def end_html(one: Standing, rows: Sequence[Mapping[str, Any]], apart: str) -> str:
    """Return what a finished training has come to: the verdict, and where it is found."""
    parts = []
    if one.state.name == "finished":
        verdict = judge(rows)
        name = html.escape(str(one.job.about.get("expert", one.job.title)))
        parts.append(
            f'<div class="tp-told tp-good"><b>{html.escape(PLAIN[verdict.kind])}</b><br>'
            f'<span class="tp-soft">{html.escape(verdict.sentence)}</span></div>'
        )
        if apart:
            parts.append(f'<p class="tp-why">It cannot stand beside the others: {html.escape(apart)}.</p>')
        elif one.job.about.get("expert"):
            parts.append(
                f'<p class="tp-go"><a class="tp-find" href="./">Find it in Compare</a> '
                f'<span class="tp-soft">as {name}</span></p>'
            )
    return "".join(parts)


def said_html(one: Standing) -> str:
    """Return what a training's expert answers to held-out examples, once it has been asked."""
    said = answers(one)
    if not said:
        return ""
    shown = "".join(example_html(sample, answer) for sample, answer in said)
    return (
        '<h3 class="tp-small">What it answers to held-out examples</h3>'
        f'<div class="tp-examples">{shown}</div>'
    )


def answers(one: Standing) -> list[tuple[Sample, str]]:
    """Return held-out rows and what the model answered, as the run has written them."""
    output = Path(one.job.output)
    try:
        given = [json.loads(line) for line in (output / ANSWERS).read_text(encoding="utf-8").splitlines()]
        settings = json.loads((output / "run.json").read_text(encoding="utf-8"))["config"]
        data = Path(str(settings["eval_data"])) / "test.jsonl"
        known = _held_out(data, data.stat().st_mtime_ns)
        return [(known[row["where"]], str(row["answer"])) for row in given if row["where"] in known]
    except (OSError, ValueError, KeyError, TypeError, TriptychError):
        return []


@lru_cache(maxsize=8)
def _held_out(data: Path, changed: int) -> dict[str, Sample]:
    return {sample.where: sample for sample in load_data(data)}


def duration(seconds: float) -> str:
    """Return a time as people say it."""
    if seconds < 90:
        return f"{max(5, round(seconds / 5) * 5)} seconds"
    if seconds < 5400:
        return f"{round(seconds / 60)} minutes"
    return f"{seconds / 3600:.1f} hours"
