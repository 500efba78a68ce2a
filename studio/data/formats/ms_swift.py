"""ms-swift's rows: messages with tags, ``images`` and ``audios``, and ``rejected_messages``.

    {"messages": [{"role": "user", "content": "<image>What is this?"},
                  {"role": "assistant", "content": "A carpet."}],
     "images": ["media/1.png"], "rejected_messages": [..., {"role": "assistant", "content": "A cat."}]}

``rejected_messages`` repeats the conversation and ends in another way; ``loss`` stands in each message.
Kept under the key ``triptych``: groups, weight, the borders of texts that stand side by side, and where a
preference begins if both ways begin alike. Refused: a text that holds a tag; on the way in ``videos``,
``tools``, ``objects``, ``label``, ``margin`` and media that only the rejected way has.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from studio.data.formats._kept import keep, kept, restore
from studio.data.formats._ledger import Ledger
from studio.data.formats._look import look
from studio.data.formats._rows import SUFFIXES as SUFFIXES
from studio.data.formats._rows import Values, read_rows, write_rows
from studio.data.formats._tags import TAGS, Pool, listed, tagged
from studio.data.formats._values import messages, no_more, paths, plain, refuse
from studio.errors import DataError
from studio.types import Sample

REFUSED = {
    "videos": "videos",
    "tools": "tools",
    "objects": "boxes for grounding",
    "label": "an answer marked good or bad without its rival, or a class",
    "margin": "by how much one answer is better",
    "rejected_videos": "videos",
    "rejected_tools": "tools",
    "positive_messages": "contrastive pairs",
    "negative_messages": "contrastive pairs",
}
MEDIA = {"image": "images", "audio": "audios"}
REJECTED = ("rejected_messages", "rejected_response", "rejected_images", "rejected_audios")
KEYS = ("messages", *MEDIA.values(), *REJECTED, *REFUSED)


def looks(row: Values) -> str | None:
    """Return why one row is of this format."""
    said = row.get("messages")
    if not isinstance(said, list):
        return None
    for key in ("rejected_messages", "rejected_response", "audios", "objects"):
        if row.get(key) is not None:
            return f"the rows have 'messages' and '{key}'"
    contents = [message.get("content") for message in said if isinstance(message, dict)]
    if any(isinstance(content, str) and TAGS["image"] in content for content in contents) and "images" in row:
        return "the rows have 'messages' with tags, and 'images'"
    return None


def detect(path: Path) -> str | None:
    """Return why the data at ``path`` is of this format, or None."""
    return look(path, "ms_swift", looks)


def read(path: Path, ledger: Ledger) -> Iterator[Sample]:
    """Yield the samples of one file."""
    return read_rows(path, ledger, decode)


def decode(row: Values, ledger: Ledger) -> Values:
    """Return the row of ours that this row stands for."""
    row = dict(row)
    refuse(row, REFUSED)
    media = {kind: paths(row, key, ledger) for kind, key in MEDIA.items()}
    for kind, key in MEDIA.items():
        if (other := paths(row, f"rejected_{key}", ledger)) and other != media[kind]:
            raise DataError(f"'rejected_{key}' differs from '{key}': a preference is about the same media")
    pool = Pool(**media)
    one = _messages(row.pop("messages", None), "messages")
    other_way = row.pop("rejected_messages", None)
    response = row.pop("rejected_response", None)
    if other_way is None and response is not None:
        other_way = [*one[:-1], {"role": "assistant", "content": plain(response, "'rejected_response'")}]
    elif other_way is not None:
        other_way = _messages(other_way, "rejected_messages")
    begin = len(one)
    if other_way is not None:
        begin = kept(row).get("ask", fork(one, other_way))
        if not isinstance(begin, int) or not 0 < begin < len(one) or one[:begin] != other_way[:begin]:
            raise DataError(
                "'rejected_messages' must begin as 'messages' does and part after a user's message"
            )
    made: Values = {"messages": [m | {"content": pool.parts(m["content"])} for m in one[:begin]]}
    if other_way is not None:
        made |= {"chosen": one[begin:], "rejected": other_way[begin:]}
    pool.settle()
    return restore(row, made)


def fork(one: list[Values], other: list[Values]) -> int:
    """Return how many messages two conversations share, up to the last user's among them."""
    same = 0
    while same < min(len(one), len(other)) and one[same] == other[same]:
        same += 1
    same = min(same, len(one) - 1, len(other) - 1)
    while same > 0 and one[same - 1]["role"] != "user":
        same -= 1
    return same


def _messages(value: Any, key: str) -> list[Values]:
    """Return messages with role, text and ``loss``."""
    made = []
    for at, (role, content, rest) in enumerate(messages(value, key)):
        where = f"{key}[{at}]"
        message: Values = {"role": role, "content": plain(content, where)}
        if "loss" in rest:
            message["loss"] = _loss(rest.pop("loss"))
        no_more(rest, where)
        made.append(message)
    return made


def _loss(value: Any) -> Any:
    """Return whether a turn is learned; ms-swift also takes 0 and 1."""
    return bool(value) if value in (0, 1, 0.0, 1.0) else value


def encode(row: Values) -> Values:
    """Return this format's row for a row of ours.

    Raises:
        DataError: if it cannot be said in this format.
    """
    media: dict[str, list[str]] = {kind: [] for kind in MEDIA}

    def said(turns: list[Values], count: bool) -> list[Values]:
        made = []
        for message in turns:
            parts = listed(message["content"])
            for part in parts:
                if count and part["type"] != "text":
                    media[part["type"]].append(part["path"])
            made.append(message | {"content": tagged(parts)})
        return made

    asked = said(row["messages"], True)
    made: Values = {"messages": asked}
    more: dict[str, Any] = {}
    if "chosen" in row:
        made["messages"] = asked + said(row["chosen"], False)
        made["rejected_messages"] = asked + said(row["rejected"], False)
        if fork(made["messages"], made["rejected_messages"]) != len(asked):
            more["ask"] = len(asked)
    made |= {key: media[kind] for kind, key in MEDIA.items() if media[kind]}
    return keep(row, "ms_swift", made, KEYS, {"loss"}, **more)


def write(samples: Iterable[Sample], folder: Path, split: str, ledger: Ledger) -> int:
    """Write ``split``.jsonl and its media; return the number of rows."""
    return write_rows(samples, folder, split, ledger, encode)
