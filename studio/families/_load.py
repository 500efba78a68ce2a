"""A model and its processor from a local folder, or one sentence that says why not."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from studio.errors import CheckpointError
from studio.later import torch
from studio.types import Loaded

_ONE_AT_A_TIME = threading.RLock()
_LOCAL = {"local_files_only": True, "trust_remote_code": False}


def pretrained(kind: Any, path: Path | str, *, dtype: torch.dtype | None, device: str) -> Loaded:
    """Load a model of the transformers class ``kind`` and the processor that lies beside it.

    Safetensors only, no remote code, no download. Raises `CheckpointError` when a file is missing or
    damaged, or when a weight of the model is not in the checkpoint: transformers would go on with random
    numbers in its place.
    """
    with _one_sentence(path), quiet():
        model, report = kind.from_pretrained(
            path, dtype=dtype or torch.float32, use_safetensors=True, output_loading_info=True, **_LOCAL
        )
    made = processor(path)
    missing = sorted(report["missing_keys"])
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise CheckpointError(f"{path}: the weights of '{missing[0]}'{more} are missing from this checkpoint")
    return Loaded(model.to(device).eval(), made)


def processor(path: Path | str) -> Any:
    """Load the processor that lies in a folder; `CheckpointError` when a file of it is missing or damaged."""
    from transformers import AutoProcessor

    with _one_sentence(path), quiet():
        return AutoProcessor.from_pretrained(path, **_LOCAL)


def templated(processor: Any, template: str | None = None) -> Any:
    """Give a processor the chat template of its tokenizer, or ``template``, where it has none; return it.

    Some classes of transformers forget theirs when they are loaded, but the tokenizer beside them knows it.
    """
    if processor.chat_template is None:
        processor.chat_template = processor.tokenizer.chat_template or template
    return processor


def config(path: Path | str) -> Any:
    """Load the configuration in a folder with all its defaults; `CheckpointError` when it is damaged."""
    from transformers import AutoConfig

    with _one_sentence(path), quiet():
        return AutoConfig.from_pretrained(path, **_LOCAL)


@contextmanager
def _one_sentence(path: Path | str) -> Iterator[None]:
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError, RuntimeError, KeyError, ValueError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise CheckpointError(f"{path}: cannot be loaded: {' '.join(lines)[:400]}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Hide the library's progress bar for the block; progress is told through `studio.log`.

    One thread at a time: the bar's switch and the type that a loading model is made in are the process's.
    """
    from transformers.utils import logging

    with _ONE_AT_A_TIME:
        shown = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()
        try:
            yield
        finally:
            if shown:
                logging.enable_progress_bar()
