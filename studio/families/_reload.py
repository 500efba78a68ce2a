"""Does a model folder load, whatever its architecture: weights, processor, and an answer."""

from __future__ import annotations

import json
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from studio.errors import CheckpointError
from studio.families import detect
from studio.families._load import quiet
from studio.types import Loaded, Sample, Sound, Text, Turn


@dataclass(frozen=True, kw_only=True)
class Reloaded:
    """What came of loading a folder.

    failure    why the model did not load, or the empty string; ``no_processor`` and ``no_answer`` likewise
    missing    weights of the model that the folder lacks; ``unexpected`` weights that no model wants;
               ``misfits`` those of another shape
    answer     what the model said to one question; None for families that are not handled here
    """

    failure: str = ""
    missing: frozenset[str] = frozenset()
    unexpected: frozenset[str] = frozenset()
    misfits: frozenset[str] = frozenset()
    no_processor: str = ""
    no_answer: str = ""
    answer: str | None = None


def reload(folder: Path | str) -> Reloaded:
    """Load the model in ``folder`` by its own class, and its processor; ask it one thing if we know how."""
    try:
        with quiet():
            model, report = _kind(folder).from_pretrained(
                folder, dtype="auto", use_safetensors=True, output_loading_info=True, local_files_only=True
            )
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        return Reloaded(failure=_first(error))
    found: dict[str, Any] = {
        "missing": frozenset(report["missing_keys"]),
        "unexpected": frozenset(report["unexpected_keys"]),
        "misfits": frozenset(str(key) for key in report["mismatched_keys"]),
    }
    from transformers import AutoProcessor

    try:
        with quiet():
            processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        return Reloaded(**found, no_processor=_first(error))
    try:
        family = detect(folder)
    except CheckpointError:
        return Reloaded(**found)
    from studio.generate import answers

    with tempfile.TemporaryDirectory() as place:
        sample = _question(Path(place), "audio" in family.modalities)
        try:
            said = answers(
                Loaded(getattr(model, "thinker", model).eval(), processor), family, [sample], max_new_tokens=8
            )
        except (RuntimeError, KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            return Reloaded(**found, no_answer=_first(error))
    return Reloaded(**found, answer=said[0])


def _kind(folder: Path | str) -> Any:
    """Return the model class that config.json names."""
    import transformers

    config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    named = (config.get("architectures") or [""])[0]
    found = getattr(transformers, named, None) if named else None
    if found is None:
        raise ValueError(f"config.json names no class of transformers ({named or 'none'})")
    return found


def _question(place: Path, sound: bool) -> Sample:
    """Return a question, with half a second of a tone for families that listen."""
    parts: list[Any] = [Text(text="What is it?")]
    if sound:
        from studio.media import save_sound

        wave = torch.sin(torch.arange(8000) * (2 * math.pi * 440 / 16000)).mul(0.1).numpy()
        save_sound(place / "tone.wav", wave, 16000)
        parts.insert(0, Sound(path=place / "tone.wav"))
    return Sample(turns=(Turn(role="user", parts=tuple(parts)),))


def _first(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[
        :300
    ]
