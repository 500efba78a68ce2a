"""Models that rewrite texts: loaded once, asked once for each variant of a text."""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import TYPE_CHECKING

from studio._convert import Wrong
from studio.assets import find_model
from studio.errors import TriptychError
from studio.types import Sample, Text, Turn

if TYPE_CHECKING:
    from pathlib import Path

    from studio.variants import Engine

_loading = threading.Lock()


def check_model(model: str, prompt: str) -> None:
    """Raise `Wrong`, as a sentence, if there is no such model, or its prompt has no place for the text."""
    if "{text}" not in prompt:
        raise Wrong(f"a prompt needs {{text}} where the text is to stand; there is none in {prompt!r}")
    try:
        folders(model)
    except TriptychError as error:
        raise Wrong(str(error)) from None


def rewritten(text: str, model: str, prompt: str, variant: int, temperature: float, limit: int) -> str:
    """Return the ``variant``-th answer of a model to the prompt with the text in it, or else the text.

    ``limit`` is the most tokens. The answer depends on the model and these arguments alone, and is
    remembered.
    """
    return _answer(text, model, prompt, variant, temperature, limit) or text


@lru_cache(maxsize=1 << 16)
def _answer(text: str, model: str, prompt: str, variant: int, temperature: float, limit: int) -> str:
    turn = Turn(role="user", parts=(Text(text=prompt.replace("{text}", text.strip())),))
    engine = _engine(model)
    answer = engine.answer(
        "model", Sample(turns=(turn,)), max_new_tokens=limit, temperature=temperature, seed=variant
    )
    return " ".join(answer.split())


def _engine(model: str) -> Engine:
    with _loading:
        return _loaded(model)


@lru_cache(maxsize=2)
def _loaded(model: str) -> Engine:
    from studio.variants import Engine

    base, adapter = folders(model)
    return Engine(base, {"model": adapter})


def weights(model: str) -> str:
    """Return a hash of what a model answers with."""
    return _engine(model).fingerprint("model")


def folders(model: str) -> tuple[Path, Path | None]:
    """Return base and adapter of ``model``: a model's name or folder, an adapter's, or ``base+adapter``.

    The folder of a run stands for what it made; an adapter says itself which base it belongs to.

    Raises:
        CheckpointError: if there is no such model, or an adapter names no base.
    """
    from studio.adapters import is_adapter, read_adapter
    from studio.errors import CheckpointError

    first, plus, second = model.partition("+")
    folder = find_model(second if plus else first)
    folder = next((f for f in (folder / "adapter", folder / "model") if f.is_dir()), folder)
    if not is_adapter(folder):
        if plus:
            raise CheckpointError(f"{second} is no adapter (adapter_config.json is missing)")
        return folder, None
    base = first if plus else read_adapter(folder).base
    if not base:
        raise CheckpointError(f"{folder} does not say which model it adapts; write BASE+{folder}")
    return find_model(base), folder
