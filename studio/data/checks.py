"""What is checked about data before a model is loaded or trained: every medium, every modality."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from studio.data.jsonl import SHOWN, together
from studio.errors import DataError, MediaError
from studio.log import Log
from studio.media import load_image, read_sound
from studio.types import Family, Sample


def check_data(samples: Sequence[Sample], family: Family, log: Log) -> None:
    """Check that ``family`` takes these samples and that all their media decode.

    Raises:
        DataError: as `check_modalities` and `check_media`.
    """
    check_modalities(samples, family)
    check_media(samples, log)


def check_media(samples: Sequence[Sample], log: Log) -> None:
    """Decode every medium of ``samples`` once, in threads.

    Raises:
        MediaError: naming each file that is missing, empty, truncated or of the wrong type with the
            first row that uses it (the first ten, and how many there are).
    """
    first: dict[tuple[Path, bool], str] = {}
    for sample in samples:
        for image in sample.images:
            first.setdefault((image.path, True), sample.where)
        for sound in sample.sounds:
            first.setdefault((sound.path, False), sample.where)
    if not first:
        return
    log.stage("checking media", len(first), "files")
    wrong: list[str] = []
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for where, problem in zip(first.values(), pool.map(_problem, first), strict=True):
            log.advance()
            if problem:
                wrong.append(f"{where}: {problem}")
    if wrong:
        raise MediaError(together(wrong[:SHOWN], len(wrong), "media files", len(first)))


def _problem(medium: tuple[Path, bool]) -> str | None:
    """Return what is wrong with one picture (True) or sound (False)."""
    path, picture = medium
    try:
        if picture:
            load_image(path)
        else:
            read_sound(path)
    except MediaError as error:
        return str(error)
    return None


def check_modalities(samples: Sequence[Sample], family: Family) -> None:
    """Check that ``family`` can take every kind of part in ``samples``.

    Raises:
        DataError: naming the rows with a part it cannot take.
    """
    wrong = []
    for sample in samples:
        for kind, found in (("image", sample.images), ("audio", sample.sounds)):
            if found and kind not in family.modalities:
                allowed = ", ".join(sorted(family.modalities))
                wrong.append(f"{sample.where}: family '{family.name}' takes no {kind}; allowed: {allowed}")
    if wrong:
        raise DataError(together(wrong[:SHOWN], len(wrong), "rows", len(samples)))
