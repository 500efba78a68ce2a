"""Text with tags in place of media, ``<image>`` and ``<audio>``, and what is lost when parts become text."""

from __future__ import annotations

import re
from collections import deque
from typing import Any

from studio.errors import DataError

TAGS = {"image": "<image>", "audio": "<audio>"}
_ANY = re.compile("(<image>|<audio>|<video>)")
Part = dict[str, Any]
"""A typed part of a row of ours: {"type": "text", "text"} or {"type": "image" or "audio", "path"}."""


def listed(content: Any) -> list[Part]:
    """Return a message's content as typed parts."""
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)


def merged(parts: list[Part]) -> list[Part]:
    """Return the parts with neighbouring texts joined and empty ones left out."""
    made: list[Part] = []
    for part in parts:
        if part["type"] != "text":
            made.append(part)
        elif made and made[-1]["type"] == "text":
            made[-1] = {"type": "text", "text": made[-1]["text"] + part["text"]}
        elif part["text"]:
            made.append(dict(part))
    return made


def cut(parts: list[Part]) -> list[int] | None:
    """Return the lengths of the texts (-1: a medium) if `merged` would lose them."""
    if merged(parts) == parts:
        return None
    return [len(part["text"]) if part["type"] == "text" else -1 for part in parts]


def recut(parts: list[Part], marks: Any) -> list[Part]:
    """Return `merged` parts as they were before, or as they are if ``marks`` do not fit them."""
    if not isinstance(marks, list) or not all(isinstance(mark, int) and mark >= -1 for mark in marks):
        return parts
    left, made, text = deque(merged(parts)), [], ""
    for mark in marks:
        if mark < 0:
            if text or not left or left[0]["type"] == "text":
                return parts
            made.append(left.popleft())
            continue
        if not text and mark and left and left[0]["type"] == "text":
            text = left.popleft()["text"]
        if len(text) < mark:
            return parts
        made.append({"type": "text", "text": text[:mark]})
        text = text[mark:]
    return parts if left or text else made


def tagged(parts: list[Part]) -> str:
    """Return the parts as one text with tags.

    Raises:
        DataError: if a text holds a tag of its own, which would be read back as a medium.
    """
    text = "".join(part["text"] if part["type"] == "text" else TAGS[part["type"]] for part in parts)
    media = sum(part["type"] != "text" for part in parts)
    if len(found := _ANY.findall(text)) != media:
        raise DataError(f"a text holds '{found[-1]}', which this format reads as a medium")
    return text


class Pool:
    """The media of one row, handed out in order as their tags appear."""

    def __init__(self, **media: list[str]) -> None:
        """Hold the paths of each kind, ``image`` and ``audio``."""
        self._left = {kind: deque(paths) for kind, paths in media.items()}
        self._given = {kind: len(paths) for kind, paths in media.items()}
        self._tags = dict.fromkeys(media, 0)

    def take(self, kind: str) -> Part:
        """Return the next medium of a kind as a part; `settle` tells of one that is missing."""
        self._tags[kind] = self._tags.get(kind, 0) + 1
        left = self._left.get(kind)
        return {"type": kind, "path": left.popleft() if left else ""}

    def parts(self, text: str) -> list[Part]:
        """Return a text with tags as parts.

        Raises:
            DataError: if it holds the tag of a video.
        """
        made: list[Part] = []
        for piece in _ANY.split(text):
            if piece == "<video>":
                raise DataError("the text holds '<video>'; allowed: <image> and <audio>")
            if piece in TAGS.values():
                made.append(self.take(piece[1:-1]))
            elif piece:
                made.append({"type": "text", "text": piece})
        return made

    def rest(self) -> list[Part]:
        """Return all media that are left, pictures first."""
        return [self.take(kind) for kind in TAGS for _ in range(len(self._left.get(kind, ())))]

    @property
    def untouched(self) -> bool:
        """Whether no tag was seen yet."""
        return not any(self._tags.values())

    def settle(self) -> None:
        """Compare tags with media.

        Raises:
            DataError: if there are more or fewer tags than media.
        """
        for kind in TAGS:
            tags, given = self._tags.get(kind, 0), self._given.get(kind, 0)
            if tags != given:
                raise DataError(
                    f"{tags} {TAGS[kind]} tags stand for {given} files; the numbers must be the same"
                )
