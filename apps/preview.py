"""Rows as a model is trained on them: tokens coloured by label, media spans with their counts."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from studio.data.findings.page import STYLE as LOOKS
from studio.data.findings.page import look
from studio.data.kept_facts import Examined, Medium
from studio.heatmap import page
from studio.types import Sample

if TYPE_CHECKING:
    from rich.text import Text

    from studio.families._gauge import Gauge

IGNORE = -100
STYLE = """
.row{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:1.1rem;margin:1rem 0}
.row h2{margin:0 0 .6rem;font-size:1.05rem}
.tokens{font:.92rem/1.9 ui-monospace,monospace;overflow-wrap:anywhere;white-space:pre-wrap}
.tokens span{border-radius:4px;padding:.12em 0;box-shadow:inset 1px 0 var(--card)}
.read{background:var(--rest)}
.trained{background:color-mix(in oklab,var(--above) 34%,var(--card));font-weight:600}
.tokens .medium{background:var(--below);color:var(--strong);padding:.12em .5em;font-weight:600}
.media{display:flex;flex-wrap:wrap;gap:.6rem;margin:.8rem 0}.key span{font-family:ui-monospace,monospace;
padding:.1em .5em;border-radius:4px;margin-right:.8rem}
.key .medium{background:var(--below);color:var(--strong)}
"""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A token, or all the places of one medium: ``kind`` is "trained", "read", "image" or "audio"."""

    text: str
    kind: str
    count: int = 1


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row to show: where it is from, what the model gets, and a sentence where it gets nothing."""

    where: str
    pieces: Sequence[Piece] = ()
    media: Sequence[Medium] = ()
    problem: str = ""

    @property
    def told(self) -> str:
        """How long the row is, and how much of it is learned."""
        tokens = sum(piece.count for piece in self.pieces)
        trained = sum(piece.count for piece in self.pieces if piece.kind == "trained")
        media = [f"{piece.kind} {piece.count}" for piece in self.pieces if piece.kind in ("image", "audio")]
        return f"{tokens} tokens, {trained} trained" + (f"; {', '.join(media)}" if media else "")


def row_of(sample: Sample, gauge: Gauge) -> Row:
    """Return a sample as the model gets it.

    Raises:
        DataError: if the model's processor refuses it.
    """
    item = gauge.encode(sample)
    labels = item["labels"].tolist()
    if "input_ids" in item:
        ids = item["input_ids"].tolist()
        trained = [label != IGNORE for label in labels]
    else:  # an encoder-decoder's labels are what follows each of its tokens
        ids = [*item["decoder_input_ids"].tolist(), labels[-1]]
        trained = [False, *(label != IGNORE for label in labels)]
    kinds = {place: name for name, place in gauge.places.items()}
    pieces: list[Piece] = []
    marked = [
        kinds.get(at) or ("trained" if learn else "read") for at, learn in zip(ids, trained, strict=True)
    ]
    for kind, group in groupby(zip(marked, ids, strict=True), key=lambda pair: pair[0]):
        run = [at for _, at in group]
        if kind in gauge.places:
            pieces.append(Piece(text="", kind=kind, count=len(run)))
        else:
            pieces += [Piece(text=text, kind=kind, count=n) for text, n in _spelt(gauge, run)]
    media = [(image.path, True) for image in sample.images] + [(sound.path, False) for sound in sample.sounds]
    return Row(where=f"{sample.file.name}:{sample.line}", pieces=pieces, media=media)


def _spelt(gauge: Gauge, ids: Sequence[int]) -> Iterable[tuple[str, int]]:
    """Yield the tokens as text; those that are only together a letter stay together."""
    waiting: list[int] = []
    for at in ids:
        waiting.append(at)
        text = gauge.processor.tokenizer.decode(waiting, skip_special_tokens=False)
        if "\ufffd" not in text or len(waiting) > 3:
            yield text, len(waiting)
            waiting = []
    if waiting:
        yield gauge.processor.tokenizer.decode(waiting), len(waiting)


def terminal(row: Row) -> Text:
    """Return a row for a terminal: trained tokens stand out, media are marks with their counts."""
    from rich.text import Text

    shown = Text.assemble(
        (row.where, "bold"), "  ", (row.problem or row.told, "red" if row.problem else "dim"), "\n"
    )
    for at, piece in enumerate(row.pieces):
        if piece.kind in ("image", "audio"):
            shown.append(f"[{piece.kind} x {piece.count}]", "bold black on yellow")
        else:
            colour = "bold green" if piece.kind == "trained" else "dim"
            visible = "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in piece.text)
            shown.append(visible, f"{colour} underline" if at % 2 else colour)
    shown.append("\n")
    return shown


def preview_page(title: str, rows: Sequence[Row], examined: dict[Medium, Examined]) -> str:
    """Return the rows as a self-contained HTML page, with thumbnails and waveforms."""
    key = (
        '<p class="key"><span class="trained">trained</span><span class="read">read only</span>'
        '<span class="medium">image x 64</span>places that a medium\'s features take</p>'
    )
    parts = [f"<h1>{html.escape(title)}</h1>", key, *(_row(row, examined) for row in rows)]
    return page(title, parts, LOOKS + STYLE)


def _row(row: Row, examined: dict[Medium, Examined]) -> str:
    looks = "".join(look(medium, examined[medium].facts) for medium in row.media)
    body = html.escape(row.problem) if row.problem else "".join(map(_piece, row.pieces))
    kind = "soft error" if row.problem else "tokens"
    return (
        f'<section class="row"><h2><code>{html.escape(row.where)}</code> '
        f"<small>{html.escape('' if row.problem else row.told)}</small></h2>"
        f'<div class="media">{looks}</div><div class="{kind}">{body}</div></section>'
    )


def _piece(piece: Piece) -> str:
    if piece.kind in ("image", "audio"):
        return f'<span class="medium">{piece.kind} x {piece.count}</span>'
    return f'<span class="{piece.kind}">{html.escape(piece.text)}</span>'
