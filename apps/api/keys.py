"""Keys of the service: the file holds hashes only, so that who reads it cannot ask."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Callable
from pathlib import Path

from studio.errors import ConfigError
from studio.files import atomic_write


def add_key(file: Path, name: str) -> str:
    """Return a fresh key of 256 random bits; its hash is added to ``file``, the key is kept nowhere."""
    if not re.fullmatch(r"[\w.@-]{1,100}", name):
        raise ConfigError(f"the key's name '{name}' must be letters, digits and . _ @ -")
    before = read_keys(file) if file.exists() else {}
    if name in before.values():
        raise ConfigError(f"{file} has a key named '{name}' already; remove its line first")
    key = f"tp-{secrets.token_urlsafe(32)}"
    lines = [f"{digest} {owner}" for digest, owner in {**before, _digest(key): name}.items()]
    atomic_write(file, "\n".join(lines) + "\n")
    file.chmod(0o600)
    return key


def read_keys(file: Path) -> dict[str, str]:
    """Return hash -> name; `ConfigError` names the line that is not both."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"{file} cannot be read: {reason}") from None
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        digest, _, name = line.strip().partition(" ")
        if not re.fullmatch(r"[0-9a-f]{64}", digest) or not name.strip():
            raise ConfigError(f"{file}:{number}: a line is the key's sha256 and a name")
        found[digest] = name.strip()
    return found


def admission(file: Path) -> Callable[[str], str | None]:
    """Return what tells a key's name, or None; a changed file is read again, so keys can be taken back.

    Raises `ConfigError` if it cannot be read now, or holds no key.
    """
    state: dict[str, object] = {}

    def keys() -> dict[str, str]:
        stat = file.stat()
        stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        if state.get("stamp") != stamp:
            state.update(keys=read_keys(file), stamp=stamp)
        found = state["keys"]
        assert isinstance(found, dict)
        return found

    if not file.is_file() or not keys():
        raise ConfigError(
            f"{file} holds no key; triptych serve MODEL --key-file {file} --new-key NAME makes one"
        )

    def admit(key: str) -> str | None:
        digest, told = _digest(key), None
        try:
            known = keys()
        except (OSError, ConfigError):  # a file that is being edited admits nobody
            return None
        for each, name in known.items():
            if hmac.compare_digest(each, digest):
                told = name
        return told

    return admit


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
