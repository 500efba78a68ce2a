"""Figures of media, kept by content: a step that is run again decodes no file twice."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from studio.data.kept_facts import content_hashes
from studio.data.steps._step import Bench, Edit, Outcome, removal
from studio.errors import MediaError
from studio.shardwork import cut, each_shard
from studio.types import Sample

#: Files in a shard.
SHARD = 64
_PACKAGES = ("pillow", "soundfile", "numpy", "ImageHash", "datasketch", "py3langid", "cleanlab")


def measured(
    paths: Iterable[Path], measure: Callable[[Path], dict[str, Any]], stage: str, bench: Bench
) -> dict[Path, dict[str, Any]]:
    """Return what ``measure``, a function of a module, says of each file; plain JSON values by name.

    A file that cannot be decoded is left out: `triptych check` says what is wrong with it.
    """
    digests = content_hashes(list(dict.fromkeys(paths)), bench.kept)
    own = f"{measure.__module__}.{measure.__qualname__}:{code_hash()}"
    names = {path: f"measured:{own}:{digest}" for path, digest in digests.items()}
    known = {key: json.loads(text) for key, text in bench.kept.get(list(set(names.values()))).items()}
    todo = list({key: path for path, key in names.items() if key not in known}.items())
    if todo:
        bench.log.stage(stage, len(todo), "files")
        shards = cut(todo, SHARD)
        work = each_shard(partial(_measure, measure), [[path for _, path in some] for some in shards])
        for some, values in zip(shards, work, strict=True):
            fresh = {key: value for (key, _), value in zip(some, values, strict=True)}
            known |= fresh
            bench.kept.put({key: json.dumps(value) for key, value in fresh.items()})
            bench.log.advance(len(some))
    return {path: known[key] for path, key in names.items() if known[key] is not None}


def beyond_limits(
    samples: Sequence[Sample],
    media: Callable[[Sample], Sequence[Path]],
    measure: Callable[[Path], dict[str, Any]],
    faults: Callable[[dict[str, Any]], dict[str, str]],
    stage: str,
    bench: Bench,
) -> Outcome:
    """Remove the rows with a medium that has faults; the reason names the first of them and its figures.

    ``faults`` says of a medium's figures which limits they break, each with the words for a reason.
    """
    found = measured((path for sample in samples for path in media(sample)), measure, stage, bench)
    edits: list[Edit] = []
    count: Counter[str] = Counter()
    for sample in samples:
        for path in media(sample):
            why = faults(found[path]) if path in found else {}
            if why:
                count.update(why.keys())
                edits.append(removal(sample, f"'{path.name}' {', '.join(why.values())}"))
                break
    unread = len({path for sample in samples for path in media(sample)} - found.keys())
    return Outcome(edits=edits, report={"reasons": dict(count), "not decoded": unread})


def digests(samples: Iterable[Sample], bench: Bench) -> Callable[[Path], str]:
    """Return a function from a medium of these rows to the hash of its bytes, or its path if it has none."""
    paths: dict[Path, None] = {}
    for sample in samples:
        paths |= dict.fromkeys(image.path for image in sample.images)
        paths |= dict.fromkeys(sound.path for sound in sample.sounds)
    found = content_hashes(list(paths), bench.kept)
    return lambda path: found.get(path) or str(path)


def _measure(measure: Callable[[Path], dict[str, Any]], paths: Sequence[Path]) -> list[dict[str, Any] | None]:
    """Return the figures of each file, None for one that cannot be decoded."""
    found: list[dict[str, Any] | None] = []
    for path in paths:
        try:
            found.append(measure(path))
        except MediaError:
            found.append(None)
    return found


@cache
def code_hash() -> str:
    """Return a hash over the code of all steps, the decoders they use and the packages they call."""
    digest = hashlib.sha256()
    here = Path(__file__).parent
    studio = here.parent.parent
    for file in (*sorted(here.glob("*.py")), studio / "media.py", studio / "data/identity.py"):
        digest.update(file.read_bytes())
    for package in _PACKAGES:
        try:
            digest.update(f"{package} {version(package)}\n".encode())
        except PackageNotFoundError:
            continue
    return digest.hexdigest()[:16]
