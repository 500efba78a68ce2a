"""Finding what ships with Triptych: the base model and the sample data, in a checkout or installed."""

from __future__ import annotations

import difflib
from pathlib import Path

from studio.errors import CheckpointError, DataError, TriptychError

_HERE = Path(__file__).resolve().parent


def assets_root() -> Path:
    """Return the folder of the shipped assets: the checkout's, or else the wheel's own copy.

    Raises:
        TriptychError: if the installation has none.
    """
    checkout = _HERE.parent
    for folder, sign in ((checkout / "assets", checkout / "pyproject.toml"), (_HERE / "_assets", _HERE)):
        if folder.is_dir() and sign.exists():
            return folder
    raise TriptychError(f"this installation has no assets: neither {checkout / 'assets'} nor {_HERE}/_assets")


def asset(name: str) -> Path:
    """Return the path of a shipped file or folder, for example ``models/nano-omni`` or ``data/commands``.

    Raises:
        TriptychError: if nothing of that name ships; the sentence offers the nearest match.
    """
    path = assets_root() / name
    if path.exists():
        return path
    room = path.parent
    known = [f"{Path(name).parent}/{file.name}" for file in room.iterdir()] if room.is_dir() else []
    raise TriptychError(f"there is no asset '{name}'{_hint(name, known)}")


def shipped(kind: str) -> list[str]:
    """Return the sorted names of what ships under ``models`` or ``data``; empty if there is nothing."""
    try:
        room = assets_root() / kind
    except TriptychError:
        return []
    if not room.is_dir():
        return []
    return sorted(f.name for f in room.iterdir() if f.is_dir() and not f.name.startswith("."))


def find_model(name: str | Path) -> Path:
    """Return the folder of a model: a folder as given, a shipped name, or a public id already in the cache.

    Nothing is downloaded: a public id such as ``org/model`` is looked up in the local hub cache only.

    Raises:
        CheckpointError: if there is no such model; the sentence offers the nearest match.
    """
    text = str(name)
    given = Path(text).expanduser()
    if given.is_dir():
        return given
    if text in shipped("models"):
        return asset(f"models/{text}")
    if text.count("/") == 1 and not text.startswith((".", "/", "~")):
        cached = _cached(text)
        if cached is not None:
            return cached
    if given.exists():
        raise CheckpointError(f"model '{text}' is a file, a folder is needed")
    raise CheckpointError(
        f"there is no model '{text}': neither a folder, nor a shipped name, nor in the local hub cache"
        f"{_hint(text, _neighbours(given, 'models', 'config.json'))}"
    )


def find_data(name: str | Path) -> Path:
    """Return the path of a data set: a .jsonl file or a folder as given, or a shipped name.

    Raises:
        DataError: if there is no such data set; the sentence offers the nearest match.
    """
    text = str(name)
    given = Path(text).expanduser()
    if given.exists():
        return given
    if text in shipped("data"):
        return asset(f"data/{text}")
    raise DataError(
        f"there is no data set '{text}': neither a file or folder, nor a shipped name"
        f"{_hint(text, _neighbours(given, 'data', 'test.jsonl'))}"
    )


def _cached(model: str) -> Path | None:
    """Return the snapshot of a public model in the local hub cache, or None; never touches the network."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def _neighbours(path: Path, kind: str, sign: str) -> list[str]:
    """Return shipped names and what stands beside ``path`` and is of their kind: candidates for a hint."""
    beside = sorted(path.parent.iterdir()) if path.parent.is_dir() else []
    rows = ".jsonl" if sign.endswith(".jsonl") else None
    alike = [str(file) for file in beside if (file / sign).is_file() or file.suffix == rows]
    return shipped(kind) + alike


def _hint(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else ""
