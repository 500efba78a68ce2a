"""LLaVA's rows: one JSON array of conversations about ``image``.

    [{"id": "1", "image": "media/1.png", "conversations": [
        {"from": "human", "value": "<image>\\nWhat is this?"}, {"from": "gpt", "value": "A carpet."}]}]

Several pictures make ``image`` a list. Kept under the key ``triptych``: groups, weight, loss by turn, the
borders of texts that stand side by side. Refused: sound, a system's message, ``chosen`` and ``rejected``,
messages that do not alternate, a text that holds a tag; on the way in ``video``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from studio.data.formats._kept import keep, restore
from studio.data.formats._ledger import Ledger
from studio.data.formats._look import look
from studio.data.formats._rows import SUFFIXES as SUFFIXES
from studio.data.formats._rows import Values, read_rows, write_rows
from studio.data.formats._tags import Pool
from studio.data.formats._values import messages, no_more, paths, plain, refuse
from studio.data.formats.sharegpt import FROM, spoken
from studio.errors import DataError
from studio.types import Sample

REFUSED = {"video": "a video"}
KEYS = ("image", "conversations", *REFUSED)


def looks(row: Values) -> str | None:
    """Return why one row is of this format."""
    if isinstance(row.get("conversations"), list) and "image" in row:
        return "the rows have 'conversations' and 'image'"
    return None


def detect(path: Path) -> str | None:
    """Return why the data at ``path`` is of this format, or None."""
    return look(path, "llava", looks)


def read(path: Path, ledger: Ledger) -> Iterator[Sample]:
    """Yield the samples of one file."""
    return read_rows(path, ledger, decode)


def decode(row: Values, ledger: Ledger) -> Values:
    """Return the row of ours that this row stands for."""
    row = dict(row)
    refuse(row, REFUSED)
    pool = Pool(image=paths(row, "image", ledger))
    made = []
    for at, (role, value, rest) in enumerate(
        messages(row.pop("conversations", None), "conversations", "from", "value")
    ):
        no_more(rest, f"conversations[{at}]")
        made.append({"role": role, "content": pool.parts(plain(value, f"conversations[{at}]"))})
    pool.settle()
    return restore(row, {"messages": made})


def encode(row: Values) -> Values:
    """Return this format's row for a row of ours.

    Raises:
        DataError: if it cannot be said in this format.
    """
    if "chosen" in row:
        raise DataError("LLaVA's rows hold no 'chosen' and 'rejected'")
    said, system, media = spoken(row["messages"])
    if system:
        raise DataError("LLaVA's rows hold no message of the system")
    if media["audio"]:
        raise DataError("LLaVA's rows hold no sound")
    made: Values = (
        {"image": media["image"] if len(media["image"]) > 1 else media["image"][0]} if media["image"] else {}
    )
    made["conversations"] = [{"from": FROM[role], "value": value} for role, value in said]
    return keep(row, "llava", made, KEYS)


def write(samples: Iterable[Sample], folder: Path, split: str, ledger: Ledger) -> int:
    """Write ``split``.json and its pictures; return the number of rows."""
    return write_rows(samples, folder, split, ledger, encode, ".json")
