"""Going on from an adapter on new data: the same modules, every key in its place, the same base."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from studio.adapter_format import WEIGHTS_FILE, is_adapter
from studio.adapter_note import AdapterNote, read_note
from studio.adapters import load_adapter
from studio.errors import CheckpointError, ConfigError
from studio.files import sha256_file
from studio.methods import method as named_method
from studio.quantise import NOTE
from studio.training.rules import TowerRule, tower_of
from studio.types import Family

_PREFIX = "base_model.model."


def find_start(start: Path) -> Path:
    """Return the adapter's folder in what a user names: the adapter, or a run that made one."""
    for folder in (start, start / "adapter"):
        if is_adapter(folder):
            return folder
    raise ConfigError(f"adapter.start: {start} holds no adapter (adapter_config.json) and no run with one")


def start_hash(start: Path, method: str, base_fingerprint: str) -> str:
    """Return the SHA-256 of the weights that a run starts from, before anything else is read of them.

    Raises:
        ConfigError: for another method than the adapter's.
        CheckpointError: if it was made for another base.
    """
    folder = find_start(start)
    _check_note(folder, read_note(folder), method, base_fingerprint)
    return sha256_file(folder / WEIGHTS_FILE)


def _check_note(folder: Path, note: AdapterNote, method: str, base_fingerprint: str) -> None:
    if note.kind != named_method(method).type:
        raise ConfigError(f"adapter.start: {folder} is of the kind {note.kind}, which method={method} is not")
    if note.base_fingerprint not in ("", base_fingerprint):
        raise CheckpointError(
            f"adapter.start: {folder} was made for {note.base or 'another base'} "
            f"({note.base_fingerprint[:12]}), not for this one ({base_fingerprint[:12]})"
        )


def go_on_from(
    model: Any,
    family: Family,
    rules: Mapping[str, TowerRule],
    start: Path,
    *,
    method: str,
    base_fingerprint: str,
) -> Any:
    """Return the model with an existing adapter on it, of which the towers that may learn do.

    Ranks and strengths are the adapter's. What it holds of a frozen tower stays as it is, in its place.

    Raises:
        ConfigError: for another method than the adapter's, or a tower that is to learn and of which it holds
            nothing.
        CheckpointError: if it was made for another base, or with another rounding of it, or if a key of it
            finds no place in the model.
    """
    folder = find_start(start)
    note = read_note(folder)
    _check_note(folder, note, method, base_fingerprint)
    seen, now = ((told or {}).get("kind", "") for told in (note.note.get(NOTE), getattr(model, NOTE, None)))
    if seen != now:
        raise CheckpointError(
            f"adapter.start: {folder} was trained on its base in {seen or 'full precision'}, not in "
            f"{now or 'full precision'}; set precision={seen or 'auto'}"
        )
    adapted = load_adapter(model, folder, trainable=True)
    learning: set[str | None] = set()
    for name, parameter in adapted.named_parameters():
        tower = tower_of(name.removeprefix(_PREFIX), family)
        if parameter.requires_grad:
            parameter.requires_grad_(tower is None or rules[tower].learns)
            learning |= {tower} if parameter.requires_grad else set()
    for tower, rule in rules.items():
        if rule.learns and tower not in learning:
            raise ConfigError(
                f"adapter.start: {folder} holds nothing of the tower '{tower}', which is to learn; freeze it "
                f"(towers.{tower}=frozen) or start without"
            )
    return adapted
