"""What a visitor asks: a picture, a recording and a sentence, checked before any variant sees them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio.errors import DataError, TriptychError
from studio.media import load_image, read_sound
from studio.types import Image, Part, Sample, Sound, Text, Turn

MAX_CHARACTERS = 4000
"""Longest text of a question, in characters."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question: any of a picture, a recording and a text; media by path."""

    text: str = ""
    picture: Path | None = None
    sound: Path | None = None

    @property
    def sample(self) -> Sample:
        """The question as a conversation of one turn: picture, sound, text, in this order."""
        parts: list[Part] = []
        if self.picture is not None:
            parts.append(Image(path=self.picture))
        if self.sound is not None:
            parts.append(Sound(path=self.sound))
        if self.text:
            parts.append(Text(text=self.text))
        return Sample(turns=(Turn(role="user", parts=tuple(parts)),))


def read_question(picture: Any, sound: Any, text: Any, uploads: Path) -> Question:
    """Return the question behind the page's fields; every medium decodes, or the reason is told.

    ``picture`` and ``sound`` are what the page sends for an uploaded file: None or a mapping with
    the ``path`` of the upload, which must lie in the folder ``uploads``.

    Raises:
        DataError: nothing was asked, the text is too long, or a medium cannot be read; the
            sentence never names a path.
    """
    question = Question(
        text=text.strip() if isinstance(text, str) else "",
        picture=_path(picture, "picture", uploads),
        sound=_path(sound, "recording", uploads),
    )
    if not question.sample.turns[0].parts:
        raise DataError("Nothing to ask yet: add a picture, a recording or a text.")
    if len(question.text) > MAX_CHARACTERS:
        raise DataError(
            f"The text has {len(question.text)} characters; at most {MAX_CHARACTERS} are allowed."
        )
    try:
        if question.picture is not None:
            load_image(question.picture)
        if question.sound is not None:
            read_sound(question.sound)
    except TriptychError as error:
        raise DataError(without_paths(str(error), question)) from None
    return question


def read_choice(chosen: Any, known: Collection[str], least: int = 2, most: int = 4) -> list[str]:
    """Return the chosen variants' labels, each once.

    Raises:
        DataError: unless there are ``least`` to ``most`` of them, all ``known``.
    """
    labels = list(dict.fromkeys(map(str, chosen))) if isinstance(chosen, list) else []
    if not least <= len(labels) <= most:
        raise DataError(f"Choose {least} to {most} variants to compare; {len(labels) or 'none'} chosen.")
    for label in labels:
        if label not in known:
            raise DataError(f"There is no variant '{label}' any more; load the page again.")
    return labels


def without_paths(sentence: str, question: Question) -> str:
    """Return an error sentence as the page may show it: places on this machine replaced by words."""
    sentence = sentence.removeprefix(f"{question.sample.where}: ")
    for path, word in ((question.picture, "picture"), (question.sound, "recording")):
        if path is not None:
            for spelling in (f"picture '{path}'", f"sound '{path}'", f"'{path}'", str(path)):
                sentence = sentence.replace(spelling, f"the {word}")
    sentence = sentence[:1].upper() + sentence[1:]
    return sentence if sentence.endswith((".", "?", "!")) else f"{sentence}."


def _path(upload: Any, word: str, uploads: Path) -> Path | None:
    if upload is None:
        return None
    path = upload.get("path") if isinstance(upload, dict) else None
    if not isinstance(path, str) or not Path(path).resolve().is_relative_to(uploads.resolve()):
        raise DataError(f"The {word} did not arrive; send it again as a file.")
    return Path(path)
