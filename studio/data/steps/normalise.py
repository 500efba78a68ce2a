"""Text normalisation: one Unicode form, plain white space, no control characters."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from studio.data.steps._step import Bench, Edit, Outcome, change, removal
from studio.data.steps._texts import rewritten
from studio.types import Sample

#: Controls (C0 without tab and line feed, DEL, C1), byte order marks, invisible direction overrides.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufeff\u202a-\u202e\u2066-\u2069]")
_BREAK = re.compile("\r\n?|[\x85\u2028\u2029]")
_BLANK = re.compile("[\t\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000 ]+")
_LINES = re.compile(r"\n{3,}")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is made the same."""

    form: Literal["NFC", "NFKC", "none"] = field(
        default="NFC", metadata={"help": "Unicode form; NFKC also makes ﬁ fi and ① 1"}
    )
    whitespace: bool = field(
        default=True, metadata={"help": "single spaces and line feeds, no spaces at either end"}
    )
    indented: bool = field(default=True, metadata={"help": "spaces that begin a line stay as they are"})
    control: bool = field(default=True, metadata={"help": "remove control and direction characters"})


def run(samples: Sequence[Sample], settings: Settings, bench: Bench) -> Outcome:
    """Change the rows whose texts are not normal; a row of which a turn would be empty is removed."""
    bench.log.stage("normalise", len(samples), "rows")
    edits: list[Edit] = []
    count: Counter[str] = Counter()
    passes = _passes(settings)
    for sample in samples:
        bench.log.advance()
        new, why = sample, []
        for name, rewrite, strip in passes:
            after = rewritten(new, rewrite, strip)
            if after is None:
                edits.append(removal(sample, f"a turn holds nothing but {name}"))
                break
            if after != new:
                new = after
                why.append(name)
        else:
            if why:
                edits.append(change(sample, new, ", ".join(why)))
        count.update(why)
    return Outcome(edits=edits, report={"reasons": dict(sorted(count.items()))})


def _passes(settings: Settings) -> list[tuple[str, Callable[[str], str], bool]]:
    """Return what is wrong with a text, what mends it, and whether the ends of a turn are stripped, too."""
    passes: list[tuple[str, Callable[[str], str], bool]] = []
    form = settings.form
    if settings.control:
        passes.append(("control characters", _without_controls, False))
    if form != "none":
        passes.append((f"text that is not {form}", lambda text: unicodedata.normalize(form, text), False))
    if settings.whitespace:
        passes.append(("white space", lambda text: _spaced(text, settings.indented), True))
    return passes


def _without_controls(text: str) -> str:
    return _CONTROL.sub("", _BREAK.sub("\n", text))


def _spaced(text: str, indented: bool) -> str:
    """Return a text with single spaces, no spaces at the end of a line and at most one empty line."""
    lines = []
    for line in text.split("\n"):
        body = line.lstrip(" \t") if indented else line
        lines.append(line[: len(line) - len(body)] + _BLANK.sub(" ", body))
    last = lines.pop()
    return _LINES.sub("\n\n", "\n".join([*(line.rstrip(" ") for line in lines), last]))
