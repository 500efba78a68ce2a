"""Rows of ours as a task of lmms-eval, so that any model it knows answers them too.

    write_task(load_data("handwriting"), Path("tasks"), "handwriting")
    # lmms-eval --include_path tasks --tasks handwriting --model qwen2_5_omni ...

lmms-eval shows media first and the text behind them: a row that reads otherwise is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from studio.errors import ConfigError, DataError
from studio.files import atomic_write
from studio.types import Image, Sample, Text

_CODE = '''"""Media of this task's rows, as lmms-eval's models take them."""

from PIL import Image
from soundfile import read


def media(doc):
    """Return pictures and sounds in order."""
    found = []
    for kind, path in zip(doc["kinds"], doc["paths"]):
        if kind == "image":
            with Image.open(path) as picture:
                found.append(picture.convert("RGB"))
        else:
            samples, rate = read(path, dtype="float32")
            found.append({"type": "audio", "array": samples, "sampling_rate": rate})
    return found
'''


def write_task(samples: Sequence[Sample], folder: Path, name: str, *, max_new_tokens: int = 48) -> Path:
    """Write the task ``name`` into ``folder``/``name`` and return the path of its YAML file.

    Raises:
        ConfigError: for a name that lmms-eval cannot look up.
        DataError: for a row with several questions, without an answer, or with text before a medium.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise ConfigError(f"'{name}' is no name for a task: letters, digits, '_' and '-' are allowed")
    place = folder.absolute() / name
    rows = [json.dumps(_row(sample, at)) for at, sample in enumerate(samples)]
    about = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(place / "rows.jsonl")}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"max_new_tokens": max_new_tokens, "do_sample": False, "until": []},
        "metric_list": [
            {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True, "ignore_case": True}
        ],
        "metadata": {"version": 1.0},
    }
    # JSON is YAML, but for the mark of a function.
    lines = json.dumps(about, indent=2)[:-2] + ',\n  "doc_to_visual": !function utils.media\n}\n'
    atomic_write(place / "rows.jsonl", "\n".join(rows) + "\n")
    atomic_write(place / "utils.py", _CODE)
    return atomic_write(place / f"{name}.yaml", lines)


def _row(sample: Sample, number: int) -> dict[str, object]:
    prompt = sample.prompt
    if len(prompt) != 1 or prompt[0].role != "user":
        raise DataError(f"{sample.where}: a task's rows are one question each, not {len(prompt)} turns")
    if not sample.answer:
        raise DataError(f"{sample.where}: no answer to compare with; the last message must be 'assistant'")
    parts = prompt[0].parts
    media = [part for part in parts if not isinstance(part, Text)]
    if any(isinstance(part, Text) for part in parts[: len(media)]):
        raise DataError(f"{sample.where}: text stands before a medium; lmms-eval shows all media first")
    return {
        "id": sample.id or str(number),
        "question": prompt[0].text,
        "answer": sample.answer,
        "kinds": ["image" if isinstance(part, Image) else "audio" for part in media],
        "paths": [str(part.path) for part in media],
        "groups": json.dumps(dict(sample.groups)),
    }
