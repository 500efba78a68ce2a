"""Pictures and sounds as parts of a page, by content and bounded in size.

A medium is shown only if the file is still the one that was asked about (by its sha256): a row may name any
path, and a page must not show what it was not made from.
"""

from __future__ import annotations

import base64
import html
from pathlib import Path

from studio import media
from studio.errors import MediaError
from studio.files import sha256_file
from studio.media_facts import sound_clip, thumbnail

#: A picture's longest side on the page in pixels, and how much of a sound is played in seconds.
SIDE, SECONDS = 260, 20.0
#: What all media of one page may take, in bytes before they are encoded.
BUDGET = 3 << 20


class Media:
    """The media of one page; each file is read once, and nothing is shown past the budget."""

    def __init__(self, budget: int = BUDGET) -> None:
        """Begin with nothing taken in."""
        self._left = budget
        self._known: dict[tuple[str, str], tuple[str, int]] = {}

    def html(self, path: str, sha256: str) -> str:
        """Return one medium as HTML: a picture, a player, or a sentence on why it is not there."""
        if (path, sha256) not in self._known:
            self._known[(path, sha256)] = _read(Path(path), sha256)
        found, size = self._known[(path, sha256)]
        if size > self._left:
            name = html.escape(_plain(Path(path).name))
            return _gone(f"{name} is left out: the media of this page would be too large")
        self._left -= size
        return found


def _read(path: Path, sha256: str) -> tuple[str, int]:
    """Return one medium as HTML, and what it takes in bytes."""
    name = html.escape(_plain(path.name))
    try:
        if not path.is_file():
            return _gone(f"{name} is not there any more"), 0
        if sha256_file(path) != sha256:
            return _gone(f"{name} is not the file that was asked about any more"), 0
        sound = "sound" in media.kind_of(path) or "OGG" in media.kind_of(path)
        data, kind = sound_clip(path, SECONDS) if sound else (thumbnail(path, SIDE), "image/png")
    except (MediaError, OSError, ValueError):
        return _gone(f"{name} cannot be read"), 0
    source = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    if sound:
        told = f'<audio controls preload="metadata" aria-label="sound {name}" src="{source}"></audio>'
        return told, len(data)
    return f'<img alt="picture {name}" src="{source}">', len(data)


def _gone(told: str) -> str:
    return f'<p class="soft gone">{told}</p>'


def _plain(name: str) -> str:
    return name.encode("utf-8", "replace").decode()
