"""LLaMA-Factory's Alpaca rows: instruction, input, output and the history before them.

    {"instruction": "<image>What is this?", "input": "", "output": "A carpet.", "system": "You are brief.",
     "history": [["Hello.", "Good day."]], "images": ["media/1.png"], "chosen": "A rug.", "rejected": "A
     cat."}

``dataset_info.json`` may rename the columns. On the way in, ``input`` follows ``instruction`` on a line of
its own. Kept under the key ``triptych``: groups, weight, loss by turn, the borders of texts that stand
side by side. Refused: messages that do not alternate, more than one message in ``chosen`` or ``rejected``,
a text that holds a tag; on the way in ``videos``, ``tools`` and ``kto_tag``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from studio.data.formats._kept import keep, restore
from studio.data.formats._ledger import Ledger
from studio.data.formats._look import info, look
from studio.data.formats._rows import SUFFIXES as SUFFIXES
from studio.data.formats._rows import Values, read_rows, write_rows
from studio.data.formats._tags import Pool
from studio.data.formats._values import paths, plain, refuse, text
from studio.data.formats.sharegpt import REFUSED, describe, only, renamed, spoken
from studio.errors import DataError
from studio.types import Sample

COLUMNS = {"prompt": "instruction", "query": "input", "response": "output"} | {
    name: name for name in ("history", "system", "images", "audios", "chosen", "rejected", *REFUSED)
}


def looks(row: Values) -> str | None:
    """Return why one row is of this format."""
    if isinstance(row.get("instruction"), str) and ("output" in row or "chosen" in row):
        return "the rows have 'instruction' and 'output'"
    return None


def detect(path: Path) -> str | None:
    """Return why the data at ``path`` is of this format, or None."""
    return look(path, "alpaca", looks)


def read(path: Path, ledger: Ledger) -> Iterator[Sample]:
    """Yield the samples of one file."""
    columns = renamed(info(path), "columns", COLUMNS)
    names = {name: COLUMNS[key] for key, name in columns.items() if key in COLUMNS}
    return read_rows(
        path, ledger, lambda row, ledger: decode({names.get(k, k): v for k, v in row.items()}, ledger)
    )


def decode(row: Values, ledger: Ledger) -> Values:
    """Return the row of ours that this row stands for."""
    row = dict(row)
    refuse(row, REFUSED)
    pool = Pool(image=paths(row, "images", ledger), audio=paths(row, "audios", ledger))
    messages: list[Values] = []
    if system := text(row, "system", ""):
        messages.append({"role": "system", "content": system})
    for at, pair in enumerate(row.pop("history", None) or ()):
        if not isinstance(pair, list) or len(pair) != 2:
            raise DataError(f"history[{at}] must be a list of a question and its answer")
        for role, said in zip(("user", "assistant"), pair, strict=True):
            messages.append({"role": role, "content": pool.parts(plain(said, f"history[{at}]"))})
    question, more = text(row, "instruction"), text(row, "input", "")
    messages.append({"role": "user", "content": pool.parts(f"{question}\n{more}" if more else question)})
    made: Values = {"messages": messages}
    for key in ("chosen", "rejected"):
        if row.get(key) is not None:
            made[key] = [{"role": "assistant", "content": text(row, key)}]
    if answer := text(row, "output", ""):
        messages.append({"role": "assistant", "content": pool.parts(answer)})
    pool.settle()
    return restore(row, made)


def encode(row: Values) -> Values:
    """Return this format's row for a row of ours.

    Raises:
        DataError: if it cannot be said in this format.
    """
    said, system, media = spoken(row["messages"])
    answer = said.pop()[1] if said[-1][0] == "assistant" else ""
    question = said.pop()[1]
    made: Values = {"instruction": question, "input": "", "output": answer}
    if said:
        made["history"] = [[said[at][1], said[at + 1][1]] for at in range(0, len(said), 2)]
    if system:
        made["system"] = system
    made |= {name: media[kind] for kind, name in (("image", "images"), ("audio", "audios")) if media[kind]}
    made |= {key: only(row[key], key) for key in ("chosen", "rejected") if key in row}
    return keep(row, "alpaca", made, COLUMNS.values())


def write(samples: Iterable[Sample], folder: Path, split: str, ledger: Ledger) -> int:
    """Write ``split``.jsonl, its media, and an entry in ``dataset_info.json``; return the number of rows."""
    seen: set[str] = set()

    def one(row: Values) -> Values:
        made = encode(row)
        seen.update(made)
        return made

    count = write_rows(samples, folder, split, ledger, one)
    columns = {key: name for key, name in COLUMNS.items() if name in seen}
    describe(folder, split, {"formatting": "alpaca", "ranking": "chosen" in seen, "columns": columns})
    return count
