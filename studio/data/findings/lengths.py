"""What is found in rows for one model: media it does not take, rows and sounds too long, media tokens."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from studio.cache import Kept
from studio.data.findings import kinds
from studio.data.findings.found import Finding
from studio.data.identity import sample_key
from studio.errors import DataError
from studio.log import Log
from studio.media_facts import Facts
from studio.shardwork import cut, each_shard
from studio.types import Sample

if TYPE_CHECKING:
    from studio.families._gauge import Gauge, Length

#: Rows in a shard.
SHARD = 64


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
    fresh = {key: sample for sample, key in zip(samples, keys, strict=True) if key not in known}
    if fresh:
        log.stage("measuring rows", len(fresh), "rows")
    refused: dict[str, str] = {}
    shards = cut(list(fresh), SHARD)
    work = each_shard(partial(_measured, gauge=gauge), [[fresh[key] for key in some] for some in shards])
    for some, told in zip(shards, work, strict=True):
        found = dict(zip(some, told, strict=True))
        refused |= {key: one for key, one in found.items() if isinstance(one, str)}
        made = {key: json.dumps(asdict(one)) for key, one in found.items() if isinstance(one, Length)}
        kept.put(made)
        known |= made
        log.advance(len(some))
    for sample, key in zip(samples, keys, strict=True):
        if key in refused:
            yield _at(sample, kinds.REFUSED, refused[key])
        else:
            yield from _judged(sample, Length(**json.loads(known[key])), gauge)


def _measured(samples: Sequence[Sample], gauge: Gauge) -> list[Length | str]:
    """Return how long each row is, or why the processor refuses it."""
    told: list[Length | str] = []
    for sample in samples:
        try:
            told.append(gauge.length(sample))
        except DataError as error:
            told.append(str(error).removeprefix(f"{sample.where}: "))
    return told


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
