"""A folder of media, each with its text in a file of the same name: ``1.png`` and ``1.txt``.

The text is the answer; one line break at its end does not count. What else a row says (the question, the
system's message, groups, weight, source, license, id, ``extra``, and so on) is kept in
``1.triptych.json``, which is only there when it is needed. Folders named ``train``, ``test`` ... are
splits. Refused: rows that are not about exactly one medium, with more than one question and one answer, or
with ``chosen``; on the way in a medium without its text.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from studio.data.formats import _columns, _medium_rows
from studio.data.formats._copies import media_name, put
from studio.data.formats._kept import kept
from studio.data.formats._ledger import Ledger
from studio.data.formats._medium_rows import METADATA, media_below
from studio.data.formats._rows import KEY, Values, samples_of
from studio.data.rows import row_of
from studio.errors import DataError
from studio.types import Image, Sample, Sound

splits = _medium_rows.splits
BESIDE = ".triptych.json"
_COLUMNS = ("prompt", "answer", "system", "image", "audio")
_LONGEST = 16 << 20


def detect(path: Path) -> str | None:
    """Return why the data at ``path`` is of this format, or None."""
    if not path.is_dir():
        return None
    for folder in splits(path).values():
        if any((folder / name).is_file() for name in METADATA):
            continue
        for medium in media_below(folder, depth=8):
            if medium.with_suffix(".txt").is_file() or medium.with_suffix(BESIDE).is_file():
                return f"{medium.relative_to(path)} has its text beside it"
    return None


def read(path: Path, ledger: Ledger) -> Iterator[Sample]:
    """Yield the samples of one split's folder."""
    for medium in media_below(path, depth=8):
        name = str(medium.relative_to(path))
        yield from samples_of(
            medium, [(1, {"file_name": name})], ledger, partial(decode, medium=medium), path
        )


def decode(row: Values, ledger: Ledger, medium: Path) -> Values:
    """Return the row of ours for one medium and the files beside it."""
    text, beside = _beside(medium.with_suffix(".txt")), _beside(medium.with_suffix(BESIDE))
    if text is None and beside is None:
        raise DataError(f"there is no '{medium.with_suffix('.txt').name}' beside it")
    more: Values = {}
    if beside is not None:
        try:
            more = json.loads(beside.removeprefix("\ufeff"))
        except (ValueError, RecursionError):
            more = {"": None}
        if not isinstance(more, dict) or "" in more:
            raise DataError(f"'{medium.with_suffix(BESIDE).name}' must hold one JSON object")
    if text is not None:
        bare = text.removeprefix("\ufeff").removesuffix("\n").removesuffix("\r")
        row["answer"] = text if more.pop("verbatim", False) else bare
    mean = {"medium": "file_name", "answer": "answer", "prompt": "prompt", "system": "system"}
    return _columns.decode(more | row, ledger, mean)


def _beside(file: Path) -> str | None:
    try:
        if file.is_symlink() or not file.is_file():
            return None
        if file.stat().st_size > _LONGEST:
            raise DataError(f"'{file.name}' has {file.stat().st_size} bytes; allowed: {_LONGEST}")
        return file.read_bytes().decode()
    except UnicodeDecodeError:
        raise DataError(f"'{file.name}' is not UTF-8") from None
    except OSError as error:
        raise DataError(f"'{file.name}' cannot be read ({error.strerror})") from None


def write(samples: Iterable[Sample], folder: Path, split: str, ledger: Ledger) -> int:
    """Write media and texts into ``split``/; return the number of rows."""
    here = folder / split
    here.mkdir(parents=True)
    count = 0
    for sample in samples:
        with ledger.row(sample.where):
            media: list[Image | Sound] = [*sample.images, *sample.sounds]
            if len(media) != 1:
                raise DataError(f"this format holds one medium a row, not {len(media)}")
            source = media[0].path
            made = _columns.encode(row_of(sample, source.parent), "folder", _COLUMNS)
            made = {key: value for key, value in made.items() if key not in ("image", "audio")}
            place = _free(here, media_name(source, ledger).removeprefix("media/"))
            put(source, place, ledger)
            answer = made.pop("answer", None)
            if answer is not None:
                place.with_suffix(".txt").write_bytes(answer.encode())
                if answer.endswith(("\n", "\r")) or answer.startswith("\ufeff"):
                    made["verbatim"] = True
            if made or answer is None:
                place.with_suffix(BESIDE).write_text(json.dumps(made, ensure_ascii=False), encoding="utf-8")
                ledger.unseen |= (made.keys() | kept(made).keys()) - {KEY, "format", "verbatim"}
            ledger.good += 1
            count += 1
    return count


def _free(folder: Path, name: str) -> Path:
    """Return a path whose stem no other medium has: the texts beside it are named after the stem."""
    wanted = folder / name
    place, number = wanted, 1
    while place.exists() or place.with_suffix(".txt").exists() or place.with_suffix(BESIDE).exists():
        number += 1
        place = wanted.with_name(f"{wanted.stem}-{number}{wanted.suffix}")
    return place
