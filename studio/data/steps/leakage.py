"""Leakage between splits: training rows that repeat, or share a medium with, a row of another split.

Rows are removed from the split that comes last, which is train where there is one: a test set stays as it
is. A near duplicate by text counts over the same media; a picture or sound counts whatever is asked about
it, for a model that has seen it in training is not tested on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from studio.data.identity import sample_key
from studio.data.steps._measured import digests
from studio.data.steps._near import Looks, Repeats, media_keys, worded_alike
from studio.data.steps._step import Bench, Edit, Outcome, name_of, removal, within
from studio.types import Sample


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How near is too near; 0 looks for the same bytes only."""

    text: float = field(default=0.7, metadata={"help": "as similarity of text_duplicates; 0: exact only"})
    image: float = field(default=0.988, metadata={"help": "as similarity of image_duplicates; 0: not"})
    sound: float = field(default=0.93, metadata={"help": "as similarity of sound_duplicates; 0: not"})
    crops: bool = field(default=True, metadata={"help": "find pictures of which up to 15 % was cut away"})


def check(settings: Settings) -> None:
    """Refuse shares that are none."""
    within(settings, text=(0, 1), image=(0, 1), sound=(0, 1))


def run(samples: Sequence[Sample], settings: Settings, bench: Bench) -> Outcome:
    """Remove the rows of a later split that an earlier split holds, too."""
    if len({sample.file for sample in samples}) < 2:
        return Outcome(report={"splits": len({sample.file for sample in samples})})
    edits: dict[int, Edit] = {}
    for at, earlier in _exact(samples, bench).items():
        edits[at] = removal(samples[at], f"says the same as {name_of(samples[earlier], samples[at])}")
    if settings.text:
        found = _texts(samples, settings.text, bench)
        for at, (earlier, share) in found.items():
            why = f"says nearly the same as {name_of(samples[earlier], samples[at])} ({share:.2f})"
            edits.setdefault(at, removal(samples[at], why))
    unread = 0
    for picture, least in ((True, settings.image), (False, settings.sound)):
        if least:
            looks, more = _media(samples, picture, least, settings.crops, bench)
            unread += looks.unread
            for at, (earlier, share) in more.items():
                kind = "picture" if picture else "sound"
                why = f"nearly a {kind} of {name_of(samples[earlier], samples[at])} ({share:.3f})"
                edits.setdefault(at, removal(samples[at], why))
    return Outcome(edits=[edits[at] for at in sorted(edits)], report={"not decoded": unread})


def _exact(samples: Sequence[Sample], bench: Bench) -> dict[int, int]:
    digest_of = digests(samples, bench)
    first: dict[str, int] = {}
    found = {}
    for at, sample in enumerate(samples):
        earlier = first.setdefault(sample_key(sample, digest_of), at)
        if samples[earlier].file != sample.file:
            found[at] = earlier
    return found


def _texts(samples: Sequence[Sample], least: float, bench: Bench) -> Repeats:
    return worded_alike(
        samples, media_keys(samples, bench), least, bench, lambda i, j: samples[i].file != samples[j].file
    )


def _media(
    samples: Sequence[Sample], picture: bool, least: float, crops: bool, bench: Bench
) -> tuple[Looks, Repeats]:
    own = [[part.path for part in (s.images if picture else s.sounds)] for s in samples]
    looks = Looks((path for paths in own for path in paths), picture, bench, crops)
    near = looks.pairs(least)
    users: dict[str, dict[str, int]] = {}
    for at, paths in enumerate(own):
        for path in paths:
            users.setdefault(str(path), {}).setdefault(str(samples[at].file), at)
    beside: dict[str, list[tuple[str, float]]] = {}
    for (one, two), share in near.items():
        beside.setdefault(str(one), []).append((str(two), share))
    found: Repeats = {}
    order = {file: number for number, file in enumerate(dict.fromkeys(str(s.file) for s in samples))}
    for at, paths in enumerate(own):
        for path in paths:
            for other, share in ((str(path), 1.0), *beside.get(str(path), ())):
                for file, user in users[other].items():
                    if order[file] < order[str(samples[at].file)]:
                        found.setdefault(at, (user, share))
    return looks, found
