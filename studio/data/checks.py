"""What is checked about data before a model is loaded or trained: every medium, every modality."""

from __future__ import annotations

from collections.abc import Sequence

from studio.cache import Kept
from studio.data.jsonl import SHOWN, together
from studio.data.kept_facts import Medium, examine
from studio.errors import DataError, MediaError
from studio.log import Log
from studio.media_facts import Facts
from studio.types import Family, Sample


def check_data(samples: Sequence[Sample], family: Family, log: Log) -> None:
    """Check that ``family`` takes these samples and that all their media decode.

    Raises:
        DataError: as `check_modalities` and `check_media`.
    """
    check_modalities(samples, family)
    check_media(samples, log)


def check_media(samples: Sequence[Sample], log: Log, kept: Kept | None = None) -> dict[Medium, Facts]:
    """Decode every medium of ``samples`` once, in threads, and return what each is.

    What is known from earlier is not decoded again.

    Raises:
        MediaError: naming each file that is missing, empty, truncated or of the wrong type with the
            first row that uses it (the first ten, and how many there are).
    """
    first: dict[Medium, str] = {}
    for sample in samples:
        for image in sample.images:
            first.setdefault((image.path, True), sample.where)
        for sound in sample.sounds:
            first.setdefault((sound.path, False), sample.where)
    found = examine(first, log, kept)
    wrong = [
        f"{where}: {found[medium].facts.sentence}"
        for medium, where in first.items()
        if found[medium].facts.trouble
    ]
    if wrong:
        raise MediaError(together(wrong[:SHOWN], len(wrong), "media files", len(first)))
    return {medium: one.facts for medium, one in found.items()}


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
