"""What a visitor asks: a picture, a recording and a sentence, checked before any variant sees them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
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
    def turn(self) -> Turn:
        """The question as a turn: picture, sound, text, in this order."""
        parts: list[Part] = []
        if self.picture is not None:
            parts.append(Image(path=self.picture))
        if self.sound is not None:
            parts.append(Sound(path=self.sound))
        if self.text:
            parts.append(Text(text=self.text))
        return Turn(role="user", parts=tuple(parts))

    @property
    def sample(self) -> Sample:
        """The question as a conversation of one turn."""
        return conversation((), self)


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """A question that was asked before, and what one variant answered."""

    question: Question
    answer: str


def conversation(before: Sequence[Exchange], question: Question) -> Sample:
    """Return what was said before and the question after it, as a variant is given them."""
    turns: list[Turn] = []
    for past in before:
        turns += [past.question.turn, Turn(role="assistant", parts=(Text(text=past.answer),))]
    return Sample(turns=(*turns, question.turn))


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
    if not question.turn.parts:
        raise DataError("Nothing to ask yet: add a picture, a recording or a text.")
    _check_length(question.text)
    try:
        if question.picture is not None:
            load_image(question.picture)
        if question.sound is not None:
            read_sound(question.sound)
    except TriptychError as error:
        raise DataError(without_paths(str(error), question)) from None
    return question


def read_follow_up(text: Any) -> Question:
    """Return what is asked after an answer: a text alone, about the media that were there before.

    Raises:
        DataError: there is no text, or it is too long.
    """
    question = Question(text=text.strip() if isinstance(text, str) else "")
    if not question.text:
        raise DataError("Nothing to ask yet: write what you want to know further.")
    _check_length(question.text)
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


def without_paths(sentence: str, *questions: Question) -> str:
    """Return an error sentence as the page may show it: places on this machine replaced by words."""
    sentence = sentence.removeprefix(f"{Question().sample.where}: ")
    media = [(asked.picture, "picture") for asked in questions]
    for path, word in (*media, *((asked.sound, "recording") for asked in questions)):
        if path is not None:
            for spelling in (f"picture '{path}'", f"sound '{path}'", f"'{path}'", str(path)):
                sentence = sentence.replace(spelling, f"the {word}")
    sentence = sentence[:1].upper() + sentence[1:]
    return sentence if sentence.endswith((".", "?", "!")) else f"{sentence}."


def _check_length(text: str) -> None:
    if len(text) > MAX_CHARACTERS:
        raise DataError(f"The text has {len(text)} characters; at most {MAX_CHARACTERS} are allowed.")


def _path(upload: Any, word: str, uploads: Path) -> Path | None:
    if upload is None:
        return None
    path = upload.get("path") if isinstance(upload, dict) else None
    if not isinstance(path, str) or not Path(path).resolve().is_relative_to(uploads.resolve()):
        raise DataError(f"The {word} did not arrive; send it again as a file.")
    return Path(path)
