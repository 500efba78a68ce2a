"""What an adapter of any method says of itself: of which kind it is, and for which base."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio.adapter_format import CONFIG_FILE, NOTE_FILE, read_json
from studio.errors import CheckpointError


@dataclass(frozen=True, kw_only=True)
class AdapterNote:
    """An adapter's folder, PEFT's name of its kind, its base by name and fingerprint, and its family.

    ``apart`` says that it cannot share a base in memory with others: it is no LoRA, or changes the base's own
    biases. ``note`` is all of ``triptych.json``.
    """

    folder: Path
    kind: str
    base: str
    base_fingerprint: str
    family: str
    apart: bool
    note: dict[str, Any]


def read_note(folder: Path | str) -> AdapterNote:
    """Return what an adapter's two JSON files say; `CheckpointError` if it is none."""
    folder = Path(folder)
    config = read_json(folder / CONFIG_FILE)
    note = read_json(folder / NOTE_FILE) if (folder / NOTE_FILE).is_file() else {}
    kind = config.get("peft_type")
    if not isinstance(kind, str) or not kind:
        raise CheckpointError(f"{folder / CONFIG_FILE} names no peft_type")
    return AdapterNote(
        folder=folder,
        kind=kind,
        base=str(note.get("base") or config.get("base_model_name_or_path") or ""),
        base_fingerprint=str(note.get("base_fingerprint", "")),
        family=str(note.get("family", "")),
        apart=kind != "LORA" or str(config.get("bias", "none")) != "none",
        note=note,
    )
