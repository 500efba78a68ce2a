"""The folder of an evaluation: answers by row, figures, and what they were made of, written together."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from apps.answer_cache import Contents
from apps.asking import Row
from studio.files import atomic_file

SAMPLES, SCORES, ABOUT = "samples.jsonl", "scores.json", "evaluation.json"


def sample_row(row: Row, variant: str, output: str, contents: Contents) -> dict[str, Any]:
    """Return what a line of ``samples.jsonl`` says of one answer, but its scores."""
    media = [*(image.path for image in row.sample.images), *(sound.path for sound in row.sample.sounds)]
    return {
        "domain": row.domain,
        "where": row.sample.where,
        "prompt": asked(row),
        "media": [{"path": str(path), "sha256": contents.medium(path)} for path in media],
        "groups": dict(row.sample.groups),
        "reference": row.sample.answer,
        "variant": variant,
        "output": output,
    }


def asked(row: Row) -> str:
    """Return the words of a question, with those of the turns before it."""
    return "\n".join(turn.text for turn in row.sample.prompt if turn.text)


def data_hash(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the number of a domain's rows and a hash over questions and references."""
    told = "\n".join(f"{row.key} {json.dumps(row.sample.answer)}" for row in rows)
    return {"n": len(rows), "sha256": hashlib.sha256(told.encode()).hexdigest()}


def write_evaluation(
    out: Path, lines: Sequence[Mapping[str, Any]], scores: Mapping[str, Any], about: Mapping[str, Any]
) -> None:
    """Write the three files of an evaluation: all of them are on the disk before the first takes its place.

    ``evaluation.json`` comes last and holds the hashes of the others, so a reader can tell whether the three
    belong together.

    Raises:
        OSError: the disk is full, or the folder cannot be written; the old files are as they were.
    """
    texts = {
        SAMPLES: "".join(json.dumps(line) + "\n" for line in lines).encode(),
        SCORES: (json.dumps(scores, indent=2) + "\n").encode(),
    }
    files = {name: hashlib.sha256(text).hexdigest() for name, text in texts.items()}
    texts[ABOUT] = (json.dumps({**about, "files": files}, indent=2) + "\n").encode()
    with ExitStack() as stack:  # they take their places in the reverse order
        for name, text in reversed(texts.items()):
            file = stack.enter_context(atomic_file(out / name))
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
