"""Figures of media, kept by content: a step that is run again decodes no file twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from studio.data.kept_facts import content_hashes, workers
from studio.data.steps._step import Bench
from studio.errors import MediaError
from studio.types import Sample

_AT_ONCE = 256
_PACKAGES = ("pillow", "soundfile", "numpy", "ImageHash", "datasketch", "py3langid", "cleanlab")


def measured(
    paths: Iterable[Path], measure: Callable[[Path], dict[str, Any]], stage: str, bench: Bench
) -> dict[Path, dict[str, Any]]:
    """Return what ``measure`` says of each file, in threads; plain JSON values by name.

    A file that cannot be decoded is left out: `triptych check` says what is wrong with it.
    """
    digests = content_hashes(list(dict.fromkeys(paths)), bench.kept)
    own = f"{measure.__module__}.{measure.__qualname__}:{code_hash()}"
    names = {path: f"measured:{own}:{digest}" for path, digest in digests.items()}
    known = {key: json.loads(text) for key, text in bench.kept.get(list(set(names.values()))).items()}
    todo = list({key: path for path, key in names.items() if key not in known}.items())
    if todo:
        bench.log.stage(stage, len(todo), "files")
        with ThreadPoolExecutor(workers()) as pool:
            for at in range(0, len(todo), _AT_ONCE):
                some = dict(todo[at : at + _AT_ONCE])
                fresh = {}
                for key, value in zip(some, pool.map(lambda p: _try(measure, p), some.values()), strict=True):
                    fresh[key] = value
                    bench.log.advance()
                known |= fresh
                bench.kept.put({key: json.dumps(value) for key, value in fresh.items()})
    return {path: known[key] for path, key in names.items() if known[key] is not None}


def digests(samples: Iterable[Sample], bench: Bench) -> Callable[[Path], str]:
    """Return a function from a medium of these rows to the hash of its bytes, or its path if it has none."""
    paths: dict[Path, None] = {}
    for sample in samples:
        paths |= dict.fromkeys(image.path for image in sample.images)
        paths |= dict.fromkeys(sound.path for sound in sample.sounds)
    found = content_hashes(list(paths), bench.kept)
    return lambda path: found.get(path) or str(path)


def _try(measure: Callable[[Path], dict[str, Any]], path: Path) -> dict[str, Any] | None:
    try:
        return measure(path)
    except MediaError:
        return None


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
