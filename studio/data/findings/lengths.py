"""What is found in rows for one model: media it does not take, rows and sounds too long, media tokens."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from studio.cache import Kept
from studio.data.findings import kinds
from studio.data.findings.found import Finding
from studio.data.identity import sample_key
from studio.errors import DataError
from studio.log import Log
from studio.media_facts import Facts
from studio.types import Sample

if TYPE_CHECKING:
    from studio.families._gauge import Gauge, Length

_ABOUT_EVERY = 50


def modalities(sample: Sample, gauge: Gauge) -> Iterator[Finding]:
    """Yield a finding for each kind of medium that the model does not take."""
    for kind, found in (("image", sample.images), ("audio", sample.sounds)):
        if found and kind not in gauge.family.modalities:
            allowed = ", ".join(sorted(gauge.family.modalities))
            told = f"family '{gauge.family.name}' takes no {kind}; allowed: {allowed}"
            yield _at(sample, kinds.MODALITY, told)


def long_sounds(sample: Sample, gauge: Gauge, facts: Mapping[Path, Facts]) -> Iterator[Finding]:
    """Yield a finding for each sound that is longer than the model's window: it would be refused or cut."""
    for sound in sample.sounds:
        seconds = facts[sound.path].seconds
        if gauge.max_seconds and seconds > gauge.max_seconds:
            told = (
                f"sound '{sound.path}' lasts {seconds:.1f} s, the model takes at most {gauge.max_seconds:g} s"
            )
            yield Finding(
                row=sample.line,
                file=sample.file,
                kind=kinds.LONG_SOUND.name,
                message=told,
                medium=(sound.path, False),
            )


def lengths(
    samples: Sequence[Sample], gauge: Gauge, kept: Kept, digest_of: Callable[[Path], str], log: Log
) -> Iterator[Finding]:
    """Yield rows that the model's processor refuses, makes too long or writes the wrong places into.

    Each row is encoded as for training; its length is kept by what it says and what made it.
    """
    from studio.families._gauge import Length

    keys = [f"length:{gauge.maker}:{sample_key(sample, digest_of)}" for sample in samples]
    known = kept.get(list(dict.fromkeys(keys)))
    missing = sum(key not in known for key in keys)
    if missing:
        log.stage("measuring rows", missing, "rows")
    fresh: dict[str, str] = {}
    for sample, key in zip(samples, keys, strict=True):
        if key in known:
            length = Length(**json.loads(known[key]))
        else:
            log.advance()
            try:
                length = gauge.length(sample)
            except DataError as error:
                yield _at(sample, kinds.REFUSED, str(error).removeprefix(f"{sample.where}: "))
                continue
            known[key] = fresh[key] = json.dumps(asdict(length))
            if len(fresh) % _ABOUT_EVERY == 0:
                kept.put(fresh)
                fresh = {}
        yield from _judged(sample, length, gauge)
    kept.put(fresh)


def _judged(sample: Sample, length: Length, gauge: Gauge) -> Iterator[Finding]:
    for modality, wanted in length.wanted.items():
        there = length.there.get(modality, 0)
        if there != wanted:
            told = f"the text has {there} places for {modality}, the model makes {wanted} features of it"
            yield _at(sample, kinds.MEDIA_TOKENS, told)
    if gauge.max_tokens and length.tokens > gauge.max_tokens:
        told = f"the row has {length.tokens} tokens, the model takes at most {gauge.max_tokens}"
        yield _at(sample, kinds.LONG_ROW, told)


def _at(sample: Sample, kind: kinds.Kind, message: str) -> Finding:
    return Finding(row=sample.line, file=sample.file, kind=kind.name, message=message)
