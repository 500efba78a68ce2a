"""Rows that repeat an earlier one, by text, picture or sound; what was removed repeats nothing."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from studio.data.steps._cuts import best_place, may_be_cut
from studio.data.steps._likeness import Wording, near_texts
from studio.data.steps._measured import digests, measured
from studio.data.steps._pairs import near_codes, near_vectors
from studio.data.steps._pictures import Pictures, picture_print
from studio.data.steps._sounds import Sounds, sound_print
from studio.data.steps._step import Bench
from studio.types import Image, Sample, Sound, Text

#: Bits of 64 in which the hashes of candidates may differ, for whole pictures; verified afterwards.
BITS = 12
_COARSE = 0.85
_FACE = 0.94


Repeats = dict[int, tuple[int, float]]
"""Row -> the earlier row that it repeats, and how alike they are."""


def media_keys(samples: Sequence[Sample], bench: Bench) -> list[tuple[str, ...]]:
    """Return the hashes of each row's media."""
    digest_of = digests(samples, bench)
    return [
        tuple(digest_of(part.path) for turn in row.turns for part in turn.parts if not isinstance(part, Text))
        for row in samples
    ]


def worded_alike(
    samples: Sequence[Sample],
    rooms: Sequence[Hashable],
    least: float,
    bench: Bench,
    may: Callable[[int, int], bool] = lambda later, earlier: True,
) -> Repeats:
    """Return the rows with text that are worded like an earlier one of the same room."""
    every = {at: Wording(sample) for at, sample in enumerate(samples)}
    wordings = {at: wording for at, wording in every.items() if any(wording.sides)}
    places = list(wordings)
    bench.log.stage("comparing texts", len(places), "rows")
    found: Repeats = {}
    pairs = near_texts(
        list(wordings.values()),
        [rooms[at] for at in places],
        least,
        bench.seed,
        lambda at: places[at] in found,
        bench.log.advance,
    )
    for one, two in pairs:
        later, earlier = places[one], places[two]
        if later not in found and earlier not in found and may(later, earlier):
            share = wordings[later].alike(wordings[earlier])
            if share >= least:
                found[later] = earlier, share
    return found


class Looks:
    """The pictures or the sounds of a set, and which of them are nearly the same."""

    def __init__(self, paths: Iterable[Path], picture: bool, bench: Bench, crops: bool = True) -> None:
        """Measure the files that can be decoded."""
        wanted = list(dict.fromkeys(paths))
        what = "pictures" if picture else "sounds"
        measure = picture_print if picture else sound_print
        self._prints = measured(wanted, measure, f"looking at {what}", bench)
        self._what, self._picture, self._crops, self._bench = what, picture, crops, bench
        self.unread = len(wanted) - len(self._prints)

    def pairs(self, least: float) -> dict[tuple[Path, Path], float]:
        """Return the pairs of files that are nearly the same, both ways round, with how alike they are."""
        paths, prints = list(self._prints), list(self._prints.values())
        self._bench.log.stage(f"comparing {self._what}", len(paths), "files")
        found: dict[tuple[Path, Path], float] = {}
        near = self._pictures(paths, prints, least) if self._picture else self._sounds(prints, least)
        for i, j, share in near:
            found[paths[i], paths[j]] = found[paths[j], paths[i]] = share
        return found

    def _pictures(
        self, paths: Sequence[Path], prints: Sequence[dict[str, Any]], least: float
    ) -> Iterable[tuple[int, int, float]]:
        pictures = Pictures(prints, self._crops)
        seen: set[tuple[int, int]] = set()
        for i, j in near_vectors(pictures.vectors, _FACE, lambda _: None):
            if (share := pictures.alike(i, j)) >= least:
                seen.add((i, j))
                yield i, j, share
        for i, j, view, other in near_codes(pictures.codes, BITS, self._bench.log.advance):
            if (i, j) not in seen:
                share = pictures.alike(i, j)
                if share < least and (view or other):
                    whole, cut = (j, i) if view else (i, j)
                    share = pictures.cut_alike(whole, cut, view or other, least)
                for large, small in ((i, j), (j, i)):
                    sizes = pictures.sizes[large], pictures.sizes[small]
                    if share < least and self._crops and may_be_cut(*sizes):
                        share = max(share, best_place(paths[large], paths[small]))
                if share >= least:
                    yield i, j, share

    def _sounds(self, prints: Sequence[dict[str, Any]], least: float) -> Iterable[tuple[int, int, float]]:
        sounds = Sounds(prints)
        for i, j in near_vectors(sounds.vectors, _COARSE, self._bench.log.advance):
            if sounds.stretch(i, j) <= 1.07:
                whole, piece = sounds.alike(i, j)
                if whole >= least and piece >= least - 0.35:
                    yield i, j, whole


def repeated_media(
    samples: Sequence[Sample], picture: bool, least: float, crops: bool, bench: Bench
) -> tuple[Repeats, dict[str, Any]]:
    """Return the rows that repeat an earlier one of their file over nearly the same pictures (or sounds).

    Their texts must say the same, and their other media be the same bytes. The report counts the files that
    could not be decoded, and names rows with nearly the same medium and question but another answer.
    """
    own = [tuple(part.path for part in (s.images if picture else s.sounds)) for s in samples]
    other = media_keys([_without(s, picture) for s in samples], bench)
    looks = Looks((path for paths in own for path in paths), picture, bench, crops)
    near = looks.pairs(least)
    beside: dict[Path, list[Path]] = {}
    for one, two in near:
        beside.setdefault(one, []).append(two)
    said = [Wording(sample).sides for sample in samples]
    users: dict[Path, list[int]] = {}
    found: Repeats = {}
    conflicts: list[str] = []
    for at, (sample, paths) in enumerate(zip(samples, own, strict=True)):
        for earlier in sorted({j for p in _first(paths, beside) for j in users.get(p, ())}):
            share = _all_near(paths, own[earlier], near)
            same_place = sample.file == samples[earlier].file and other[at] == other[earlier]
            if not same_place or share < least or earlier in found or said[at][0] != said[earlier][0]:
                continue
            if said[at][1] == said[earlier][1]:
                found[at] = earlier, share
                break
            conflicts.append(f"{sample.file.name}:{sample.line} and {samples[earlier].line}")
        for path in dict.fromkeys(paths[:1]):
            users.setdefault(path, []).append(at)
    report = {"not decoded": looks.unread, "other answer": len(conflicts), "for instance": conflicts[:10]}
    return found, report


def _without(sample: Sample, picture: bool) -> Sample:
    kind = Image if picture else Sound
    turns = tuple(
        replace(turn, parts=tuple(part for part in turn.parts if not isinstance(part, kind)))
        for turn in sample.turns
    )
    return replace(sample, turns=turns)


def _first(paths: tuple[Path, ...], beside: dict[Path, list[Path]]) -> list[Path]:
    """Return the files that stand for a row's first medium: itself, and those nearly the same."""
    return [paths[0], *beside.get(paths[0], ())] if paths else []


def _all_near(one: tuple[Path, ...], two: tuple[Path, ...], near: dict[tuple[Path, Path], float]) -> float:
    """Return the least likeness of media that stand at the same place, 0 where their number differs."""
    if len(one) != len(two):
        return 0.0
    return min(1.0 if a == b else near.get((a, b), 0.0) for a, b in zip(one, two, strict=True))
