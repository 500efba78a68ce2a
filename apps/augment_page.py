"""Augmentation to look at: each step of a recipe alone, and all together, beside the row as it is."""

from __future__ import annotations

import base64
import dataclasses
import difflib
import html
import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from studio.augment._look import features_png
from studio.augment._rows import RATE, Augmenter, features_of
from studio.augment._steps import Step, read_steps
from studio.data.findings.page import waveform
from studio.errors import ConfigError, DataError
from studio.heatmap import page
from studio.media_facts import facts, thumbnail
from studio.types import Image, Part, Sample, Text

if TYPE_CHECKING:
    from studio.families._gauge import Gauge

#: The side of a picture in pixels, and the longest sound, in seconds, that the page plays.
SIDE, PLAYED = 168, 30.0
EPOCHS = 2
STYLE = """
main{max-width:90rem}.row{margin:2.4rem 0}.row h2{margin:0 0 .2rem;font-size:1.1rem}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(13rem,1fr));gap:.9rem;margin:.9rem 0}
.cell{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:.8rem;min-width:0;
overflow-wrap:anywhere;font-size:.92rem}
.cell.plain{border-color:var(--above);box-shadow:inset 0 0 0 1px var(--above)}
.cell>b{display:block;margin-bottom:.5rem}.cell>b small{font-weight:400;margin-left:.3rem}
.cell img{display:block;width:100%;border-radius:8px}
.cell img.picture{height:168px;object-fit:contain;background:var(--rest)}
.cell img.features{height:96px;object-fit:fill;image-rendering:pixelated;margin-top:.5rem}
.cell svg{display:block;width:100%;height:72px;background:var(--rest);border-radius:8px;color:var(--above)}
.cell audio{width:100%;height:32px;margin-top:.4rem}.cell p{margin:.5rem 0 0}
mark{background:color-mix(in oklab,var(--below) 24%,var(--card));color:inherit;border-radius:4px;
padding:0 .15em}
.cell:not(.plain) .same{opacity:.55}
"""


def read_file(path: Path) -> tuple[tuple[Step, ...], int]:
    """Return the steps and the seed that a file gives: YAML or JSON, a list of steps or a recipe's settings.

    The folder of a run gives those of the run.

    Raises:
        ConfigError: if it cannot be read, names no step, or is wrong about one.
    """
    import yaml

    file = path / "run.json" if path.is_dir() else path
    try:
        text = file.read_text(encoding="utf-8")
        given: Any = json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
    except (OSError, UnicodeDecodeError):
        raise ConfigError(f"cannot read the augmentation {file}") from None
    except json.JSONDecodeError as error:
        raise ConfigError(f"{file}:{error.lineno}: not valid JSON: {error.msg}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError(f"{file}{line}: not valid YAML: {getattr(error, 'problem', error)}") from None
    seed = 0
    if isinstance(given, dict):
        given = given.get("config", given)
        seed = given.get("seed", 0)
        given = given.get("augment", [] if "augment" in given or seed else given)
    steps = read_steps(given or [])
    if not steps:
        raise ConfigError(f"{file}: there is no 'augment' in it, a list of steps such as [{{blur: {{}}}}]")
    return steps, int(seed)


def augment_page(
    title: str, rows: Sequence[tuple[int, Sample]], steps: Sequence[Step], seed: int, gauge: Gauge | None
) -> str:
    """Return a self-contained page of rows with their numbers in the data, as a run with this seed has them.

    Steps for features need the ``gauge`` of a model.

    Raises:
        DataError: if a row's medium cannot be read.
    """
    told = ", ".join(step.name for step in steps)
    parts = [
        f"<h1>{html.escape(title)}</h1><p class=soft>{html.escape(told)}; seed {seed}. First the row as it "
        f"is, then each step alone, then all together as in the first {EPOCHS} epochs.</p>"
    ]
    with TemporaryDirectory() as scratch:
        for number, sample in rows:
            parts.append(_row(number, sample, steps, seed, gauge, Path(scratch)))
    return page(title, parts, STYLE)


def _row(
    number: int, sample: Sample, steps: Sequence[Step], seed: int, gauge: Gauge | None, scratch: Path
) -> str:
    plain = _features(sample, gauge)
    ends = (0.0, 1.0) if plain is None else (float(plain.min()), float(plain.max()))
    cells = [_cell("as it is", "", sample, sample, plain, ends, "plain")]

    def cell(title: str, steps: Sequence[Step], epoch: int, note: str = "") -> str:
        folder = scratch / f"{number}-{len(cells)}"
        folder.mkdir()
        rate = gauge.rate if gauge else RATE
        augmenter = Augmenter(steps=steps, seed=seed, epoch=epoch, folder=folder, rate=rate)
        changed = augmenter.sample(sample, number)
        features = None
        if gauge is not None and sample.sounds:
            features = features_of(augmenter.features(gauge.encode(changed), number, 0, sample))
        return _cell(title, note, changed, sample, features, ends)

    for step in steps:
        if step.concerns(sample):
            word = step.guard.found(sample) if step.guard else ""
            note = f"not done: it says '{word}'" if word else ""
            cells.append(cell(step.name, [dataclasses.replace(step, p=1.0)], 0, note))
    for epoch in range(EPOCHS):
        cells.append(cell(f"epoch {epoch + 1}", steps, epoch))
    answer = f'<p class="soft">answer: {html.escape(sample.answer)}</p>' if sample.answer else ""
    return (
        f'<section class="row"><h2><code>{html.escape(sample.file.name)}:{sample.line}</code></h2>{answer}'
        f'<div class="grid">{"".join(cells)}</div></section>'
    )


def _cell(
    title: str,
    note: str,
    changed: Sample,
    sample: Sample,
    features: Any,
    ends: tuple[float, float],
    kind: str = "",
) -> str:
    shown = []
    for turn, before in zip(changed.turns, sample.turns, strict=True):
        if turn.role == "user":
            shown += [_part(part, old) for part, old in zip(turn.parts, before.parts, strict=True)]
    if features is not None:
        source = _data("image/png", features_png(features, *ends))
        shown.append(f'<img class="features" alt="features" src="{source}">')
    small = f"<small>{html.escape(note)}</small>" if note else ""
    return f'<div class="cell {kind}"><b>{html.escape(title)}{small}</b>{"".join(shown)}</div>'


def _part(part: Part, old: Part) -> str:
    """Return a part as HTML; what a step left alone is pale."""
    same = "" if part is not old else " same"
    if isinstance(part, Text):
        return f"<p>{_marked(old.text, part.text) if isinstance(old, Text) else html.escape(part.text)}</p>"
    if isinstance(part, Image):
        source = _data("image/png", thumbnail(part.path, SIDE))
        return f'<img class="picture" alt="picture" src="{source}">'
    found = facts(part.path, False)
    if found.trouble:
        raise DataError(found.sentence)
    player = ""
    if found.seconds <= PLAYED:
        source = _data("audio/wav" if part.path.suffix == ".wav" else "audio/ogg", part.path.read_bytes())
        player = f'<audio controls preload="none" src="{source}"></audio>'
    return f'<div class="sound{same}">{waveform(found)}</div><small>{found.seconds:.2f} s</small>{player}'


def _marked(old: str, new: str) -> str:
    """Return a text with the words marked that were not there before."""
    before, after = old.split(), new.split()
    told: list[str] = []
    for what, _, _, begin, end in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        words = html.escape(" ".join(after[begin:end]))
        if words:
            told.append(words if what == "equal" else f"<mark>{words}</mark>")
    return " ".join(told)


def _features(sample: Sample, gauge: Gauge | None) -> Any:
    return features_of(gauge.encode(sample)) if gauge is not None and sample.sounds else None


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
