"""TRL's rows: messages, prompt with completion, or prompt with chosen and rejected; and ``images``.

    {"prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"}]}],
     "completion": [{"role": "assistant", "content": "A carpet."}], "images": ["media/1.png"]}

A row whose first assistant's turns are not learned becomes prompt and completion, since TRL learns
completions only. Texts instead of messages are taken as a question and its answer; pictures without a
place stand before the first user's text. Kept under the key ``triptych``: groups, weight, and loss by turn
where prompt and completion cannot say it. Refused: sound, which TRL's trainers do not take; on the way in
``label``, ``tools``, ``videos`` and rows of bare ``text``.
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
from studio.data.formats._tags import TAGS, Part, Pool, listed
from studio.data.formats._values import messages, no_more, path, paths, refuse
from studio.data.formats.ms_swift import fork
from studio.errors import DataError
from studio.types import Sample

REFUSED = {
    "label": "an answer marked good or bad without its rival",
    "labels": "steps marked good or bad",
    "tools": "tools",
    "videos": "videos",
    "text": "text that is no conversation",
}
LISTS = ("messages", "prompt", "completion", "chosen", "rejected")
_ROWS = (
    {"messages"},
    {"prompt"},
    {"prompt", "completion"},
    {"prompt", "chosen", "rejected"},
    {"chosen", "rejected"},
)
KEYS = (*LISTS, "images", "image", "audios", "audio", *REFUSED)
_PLACES = ("path", "url", "image", "audio", "base64")


def looks(row: Values) -> str | None:
    """Return why one row is of this format."""
    if "prompt" in row and "completion" in row:
        return "the rows have 'prompt' and 'completion'"
    if (
        "chosen" in row
        and "rejected" in row
        and not {"messages", "conversations", "instruction"} & row.keys()
    ):
        return "the rows have 'chosen' and 'rejected'" + (" after 'prompt'" if "prompt" in row else "")
    said = row.get("messages")
    if not isinstance(said, list) or not {"images", "image"} & row.keys():
        return None
    contents = [message.get("content") for message in said if isinstance(message, dict)]
    if any(isinstance(content, str) and TAGS["image"] in content for content in contents):
        return None
    parts = [part for content in contents if isinstance(content, list) for part in content]
    if any(isinstance(part, dict) and any(key in part for key in _PLACES) for part in parts):
        return None
    return "the rows have 'messages' without tags, and 'images'"


def detect(path: Path) -> str | None:
    """Return why the data at ``path`` is of this format, or None."""
    return look(path, "trl", looks)


def read(path: Path, ledger: Ledger) -> Iterator[Sample]:
    """Yield the samples of one file."""
    return read_rows(path, ledger, decode)


def decode(row: Values, ledger: Ledger) -> Values:
    """Return the row of ours that this row stands for."""
    row = dict(row)
    refuse(row, REFUSED)
    media = {k: paths(row, k, ledger) + paths(row, f"{k}s", ledger) for k in ("image", "audio")}
    pool = Pool(**media)
    lists: dict[str, list[Values]] = {}
    for key in LISTS:
        if row.get(key) is not None:
            lists[key] = _messages(row.pop(key), key, pool, ledger)
    if lists.keys() not in _ROWS:
        raise DataError(
            f"the keys {', '.join(lists) or 'of a conversation'} do not make a row; see `triptych show trl`"
        )
    if any(media.values()) and pool.untouched:
        _first_user(lists)[:0] = pool.rest()
    pool.settle()
    quiet = [{**m, "loss": False} if m["role"] == "assistant" else m for m in lists.get("prompt", [])]
    if "completion" in lists:
        made: Values = {"messages": quiet + lists["completion"]}
    elif "chosen" in lists:
        made = _preference(lists, kept(row).get("ask"))
    else:
        made = {"messages": lists.get("messages", lists.get("prompt", []))}
    return restore(row, made)


def _preference(lists: dict[str, list[Values]], ask: Any) -> Values:
    """Return the row for two ways, with or without the prompt they follow."""
    one, other = lists["chosen"], lists["rejected"]
    if "prompt" in lists:
        return {"messages": lists["prompt"], "chosen": one, "rejected": other}
    begin = ask if isinstance(ask, int) else fork(one, other)
    if not begin:
        raise DataError("'chosen' and 'rejected' without 'prompt' must begin with the same user's message")
    return {"messages": one[:begin], "chosen": one[begin:], "rejected": other[begin:]}


def _first_user(lists: dict[str, list[Values]]) -> list[Part]:
    for turns in lists.values():
        for message in turns:
            if message["role"] == "user":
                message["content"] = listed(message["content"])
                content: list[Part] = message["content"]
                return content
    raise DataError("no message has the role 'user'")


def _messages(value: Any, key: str, pool: Pool, ledger: Ledger) -> list[Values]:
    if isinstance(value, str):
        value = [{"role": "user" if key == "prompt" else "assistant", "content": value}]
    made = []
    for at, (role, content, rest) in enumerate(messages(value, key)):
        no_more(rest, f"{key}[{at}]")
        if isinstance(content, list):
            content = [
                _part(part, f"{key}[{at}].content[{i}]", pool, ledger) for i, part in enumerate(content)
            ]
        made.append({"role": role, "content": content})
    return made


def _part(part: Any, where: str, pool: Pool, ledger: Ledger) -> Any:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind not in TAGS:
        return part  # text, or something that the reader of rows names
    given = [key for key in _PLACES if part.get(key) is not None]
    if not given:
        return pool.take(kind)
    return {"type": kind, "path": path(part[given[0]], f"{where}.{given[0]}", ledger)}


def encode(row: Values) -> Values:
    """Return this format's row for a row of ours.

    Raises:
        DataError: if it cannot be said in this format.
    """
    images: list[str] = []

    def said(turns: list[Values]) -> list[Values]:
        made = []
        for message in turns:
            content = message["content"]
            if isinstance(content, list):
                content = [_placed(part, images) for part in content]
            made.append({"role": message["role"], "content": content})
        return made

    turns = row["messages"]
    first = _completion(turns)
    if "chosen" in row:
        made: Values = {"prompt": said(turns)} | {key: said(row[key]) for key in ("chosen", "rejected")}
    elif first:
        made = {"prompt": said(turns[:first]), "completion": said(turns[first:])}
        row = row | {"messages": [{k: v for k, v in m.items() if k != "loss"} for m in turns]}
    else:
        made = {"messages": said(turns)}
    if images:
        made["images"] = images
    return keep(row, "trl", made, KEYS, {"cuts"})


def _completion(turns: list[Values]) -> int:
    """Return where the completion begins, if all is learned from some assistant's turn on, else 0."""
    learned = [message["role"] != "assistant" or message.get("loss", True) for message in turns]
    if all(learned) or not all(m.get("loss", True) for m in turns if m["role"] != "assistant"):
        return 0
    last = max(at for at, loud in enumerate(learned) if not loud)
    rest = [at for at in range(last + 1, len(turns)) if turns[at]["role"] == "assistant"]
    before = [at for at in range(last) if turns[at]["role"] == "assistant" and learned[at]]
    return rest[0] if rest and not before else 0


def _placed(part: Part, images: list[str]) -> Part:
    if part["type"] == "audio":
        raise DataError("the row holds a sound; TRL's trainers take text and pictures")
    if part["type"] == "text":
        return part
    images.append(part["path"])
    return {"type": "image"}


def write(samples: Iterable[Sample], folder: Path, split: str, ledger: Ledger) -> int:
    """Write ``split``.jsonl and its media; return the number of rows."""
    return write_rows(samples, folder, split, ledger, encode)
