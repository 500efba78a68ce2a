"""What the Mix page tells: the merge file, how far a merge is, and heat maps; every text is escaped."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import replace
from html import escape
from pathlib import Path

from apps.web.mixing.live import Standing
from apps.web.mixing.saving import Progress, as_yaml
from apps.web.panels import problem_html
from mergers import MergeSpec, diagnose
from mergers._diagnosis_page import heat_maps
from studio.heatmap import figure

_MAPS = ("Cosine between the changes", "Sign conflict", "Subspace overlap")


def note_html(sentence: str) -> str:
    """Return a sentence on what is going on."""
    return f'<p class="mx-note" role="status">{escape(sentence)}</p>'


def told_html(made: Standing, spec: MergeSpec) -> str:
    """Return that a mix answers, and its merge file to look at."""
    return (
        f'<p class="mx-note" role="status">Ready after {made.seconds:.2f} s.</p>'
        '<details class="mx-file"><summary>Merge file</summary>'
        f'<pre tabindex="0" aria-label="Merge file">{escape(as_yaml(spec))}</pre></details>'
    )


def file_html(file: Path) -> str:
    """Return where a merge file lies, what it is for, and the file itself to download."""
    data = base64.b64encode(file.read_bytes()).decode()
    path, out = escape(str(file)), escape(str(file.parent.parent / file.stem))
    return (
        f'<p class="mx-note" role="status">Saved as <code>{path}</code>.</p>'
        f'<p class="mx-note">To make the model: <code>triptych merge {path} -o {out}</code></p>'
        f'<p><a class="mx-download" download="{escape(file.name)}"'
        f' href="data:application/yaml;base64,{data}">Download the merge file</a></p>'
    )


def progress_html(progress: Progress, kind: str) -> str:
    """Return how far a merge into the runs' folder is."""
    name = escape(progress.name)
    if progress.state == "failed":
        return problem_html(progress.told)
    if progress.state == "done":
        told = f"The {escape(kind)} <b>{name}</b> is saved; Compare has it now."
        return f'<p class="mx-note mx-done" role="status">{told}</p>'
    if progress.state == "waiting":
        return note_html("Waiting for the merge before it.")
    share = f' max="{progress.total}" value="{min(progress.done, progress.total)}"' if progress.total else ""
    told = escape(progress.stage or "beginning")
    return f'<p class="mx-note">{told}</p><progress class="mx-bar"{share} aria-label="{told}"></progress>'


def maps_html(spec: MergeSpec, experts: Sequence[str]) -> str:
    """Return heat maps of how far the experts of a mix agree, by part and layer of the model."""
    if len(experts) < 2:
        return note_html("One expert alone has nobody to disagree with; choose two or more.")
    found = diagnose(spec)
    if len(found.models) == len(experts):
        found = replace(found, models=tuple(experts))
    maps = [each for each in heat_maps(found) if each.title in _MAPS]
    return f'<div class="maps">{"".join(figure(each) for each in maps)}</div>'
