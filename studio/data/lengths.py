"""What is done about rows that are too long for a model; nothing ever cuts inside a medium's tokens.

    policy   error  the row is told with file and line, and nothing is trained (the default)
             fit    earlier exchanges of text go, oldest first; then pictures get fewer pixels, if the model
                    then needs fewer tokens for them; then a sound with a transcript by segments is split
                    (``audio: chunk``); what is still too long is dropped, and counted
             drop   the row is dropped, and counted
    audio    error  a sound longer than the model's window is told, and nothing is trained (the default)
             chunk  it becomes several rows, cut between the segments of its transcript, each with its text
             cut    the sound's beginning stays; so does the answer, or of a transcript the part that is heard

A transcript by segments stands in a row's ``extra``, in seconds, in the form that Whisper writes:
{"segments": [{"start": 0.0, "end": 2.5, "text": "..."}]}. A row that is chunked has one sound and one answer,
the transcript.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from studio.data.identity import media_hash
from studio.errors import ConfigError, DataError, LengthError, unknown
from studio.media import read_sound, save_sound
from studio.media_facts import write_smaller
from studio.types import Image, Part, Sample, Sound, Text, Turn

Policy = Literal["error", "fit", "drop"]
Audio = Literal["error", "chunk", "cut"]

#: Shares of their pixels that a row's pictures are tried with.
SHARES = (0.5, 0.25, 0.125, 0.0625)
#: How often the window is halved to split a sound.
HALVINGS = 6


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What to do about long rows; ``max_tokens`` 0 stands for the model's own limit."""

    max_tokens: int = 0
    policy: Policy = "error"
    audio: Audio = "error"


def rules(settings: Mapping[str, Any]) -> Rules:
    """Return the rules that a recipe's setting ``length`` describes.

    Raises:
        ConfigError: with everything that is wrong about it.
    """
    wrong = [unknown("setting of length", name, [f.name for f in fields(Rules)]) for name in settings
             if name not in {f.name for f in fields(Rules)}]  # fmt: skip
    limit = settings.get("max_tokens", 0)
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 0:
        wrong.append(f"length.max_tokens must be a whole number, 0 or more, not {limit!r}")
    for name, allowed in (("policy", get_args(Policy)), ("audio", get_args(Audio))):
        if settings.get(name, allowed[0]) not in allowed:
            wrong.append(f"length.{name}: {unknown('choice', str(settings[name]), allowed)}")
    if wrong:
        raise ConfigError("; ".join(wrong))
    return Rules(**settings)


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What became of one row: the rows in its place, and the names of the steps that were taken."""

    samples: Sequence[Sample]
    steps: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Makes rows fit.

    tokens_of   a row's length by the model's own processor, media included
    max_tokens  what is allowed; 0 allows anything
    window      the longest sound in seconds; 0 allows any
    folder      where shorter sounds and smaller pictures are written
    """

    rules: Rules
    tokens_of: Callable[[Sample], int]
    max_tokens: int
    window: float
    folder: Path

    def row(self, sample: Sample, seconds: Mapping[Path, float]) -> Fitted:
        """Return what becomes of ``sample``; ``seconds`` are the lengths of its sounds.

        Raises:
            DataError: with file and line, where the rules say so or a transcript is missing or wrong.
        """
        long = [sound for sound in sample.sounds if self.window and seconds[sound.path] > self.window]
        if not long:
            return self._shortened(sample, ())
        if self.rules.audio == "error":
            raise DataError(
                f"{sample.where}: sound '{long[0].path}' lasts {seconds[long[0].path]:.1f} s, the model "
                f"takes at most {self.window:g} s; length.audio may be 'chunk' (by its transcript) or 'cut'"
            )
        if self.rules.audio == "cut":
            return self._shortened(self._cut(sample, long), ("cut",))
        done = [self._shortened(chunk, ("chunked",)) for chunk in self._chunks(sample, self.window)]
        steps = dict.fromkeys(step for one in done for step in one.steps)
        return Fitted(samples=[row for one in done for row in one.samples], steps=tuple(steps))

    def _shortened(self, sample: Sample, before: tuple[str, ...]) -> Fitted:
        """Return the row if its tokens are few enough, or what the policy makes of it."""
        if self._fits(sample):
            return Fitted(samples=[sample], steps=before)
        if self.rules.policy == "error":
            raise LengthError(
                f"{sample.where}: {self.tokens_of(sample)} tokens, allowed are {self.max_tokens}; "
                "length.policy may be 'fit' or 'drop'"
            )
        if self.rules.policy == "fit":
            trimmed = self._trimmed(sample)
            steps = before if trimmed is sample else (*before, "trimmed")
            if self._fits(trimmed):
                return Fitted(samples=[trimmed], steps=steps)
            smaller = self._smaller(trimmed)
            if smaller is not None:
                return Fitted(samples=[smaller], steps=(*steps, "fewer pixels"))
            if chunks := self._split(trimmed):
                return Fitted(samples=chunks, steps=(*steps, "chunked"))
        return Fitted(samples=[], steps=(*before, "dropped"))

    def _length(self, sample: Sample) -> float:
        """Return a row's tokens; infinity where the model's family refuses to count so many."""
        try:
            return self.tokens_of(sample)
        except LengthError:
            return math.inf

    def _fits(self, sample: Sample) -> bool:
        return self._length(sample) <= (self.max_tokens or sys.maxsize)

    def _trimmed(self, sample: Sample) -> Sample:
        """Return the row without as many of its earlier exchanges of text as need to go, oldest first."""
        exchanges = _exchanges(sample.turns)
        plain = [
            at
            for at, turns in enumerate(exchanges[:-1])
            if all(t.role != "system" and _plain(t) for t in turns)
        ]

        def without(count: int) -> Sample:
            gone = set(plain[:count])
            turns = [turn for at, turns in enumerate(exchanges) if at not in gone for turn in turns]
            return replace(sample, turns=tuple(turns))

        low, high = 0, len(plain)
        while low < high:  # the least number that is enough, or all of them
            middle = (low + high) // 2
            if self._fits(without(middle)):
                high = middle
            else:
                low = middle + 1
        return without(low) if low else sample

    def _smaller(self, sample: Sample) -> Sample | None:
        """Return the row with pictures of fewer pixels, if that makes it short enough."""
        if not sample.images:
            return None
        before = self._length(sample)
        for share in SHARES:
            smaller = _with_media(sample, partial(self._picture, share=share))
            tokens = self._length(smaller)
            if tokens <= self.max_tokens:
                return smaller
            if tokens >= before:
                return None  # the model brings every picture to the same size
            before = tokens
        return None

    def _split(self, sample: Sample) -> list[Sample]:
        """Return rows with shorter sounds that are all short enough; none if that cannot be."""
        if self.rules.audio != "chunk" or len(sample.sounds) != 1 or "segments" not in sample.extra:
            return []
        wave, rate = read_sound(sample.sounds[0].path)
        window = len(wave) / rate
        for _ in range(HALVINGS):
            window /= 2
            try:
                chunks = self._chunks(sample, window)
            except DataError:  # a segment is longer
                return []
            if all(map(self._fits, chunks)):
                return chunks
        return []

    def _cut(self, sample: Sample, long: Sequence[Sound]) -> Sample:
        """Return the row with the beginnings of its long sounds, and what is heard of its transcript."""
        names = {sound.path for sound in long}

        def shorter(part: Part) -> Part:
            return self._sound(part, 0.0, self.window) if _path(part) in names else part

        cut = _with_media(sample, shorter)
        if "segments" not in sample.extra:
            return cut
        heard = [text for _, end, text in _segments(sample) if end <= self.window]
        if not heard:
            raise DataError(f"{sample.where}: no segment of the transcript ends within {self.window:g} s")
        return _answered(cut, heard)

    def _chunks(self, sample: Sample, window: float) -> list[Sample]:
        """Return a row for each stretch of segments that fits into ``window`` seconds."""
        if (
            len(sample.sounds) != 1
            or sum(turn.role == "assistant" for turn in sample.turns) != 1
            or sample.chosen
        ):
            raise DataError(f"{sample.where}: only a row of one sound and one answer can be chunked")
        chunks = []
        for stretch in _stretches(sample, window):
            begin, end = stretch[0][0], stretch[-1][1]
            heard = _with_media(sample, partial(self._sound, begin=begin, end=end))
            chunks.append(_answered(heard, [text for _, _, text in stretch]))
        return chunks

    def _sound(self, part: Part, begin: float, end: float) -> Part:
        """Return a stretch of a sound, in seconds, as a sound of its own."""
        if not isinstance(part, Sound):
            return part
        wave, rate = read_sound(part.path)
        first, last = round(begin * rate), min(round(end * rate), len(wave))
        path = self.folder / f"{media_hash(part.path)[:24]}-{first}-{last}.wav"
        if not path.exists():
            save_sound(path, wave[first:last], rate)
        return Sound(path=path)

    def _picture(self, part: Part, share: float) -> Part:
        """Return a picture with a share of its pixels."""
        if not isinstance(part, Image):
            return part
        path = self.folder / f"{media_hash(part.path)[:24]}-{share}.png"
        if not path.exists():
            write_smaller(part.path, path, share)
        return Image(path=path)


def _exchanges(turns: Sequence[Turn]) -> list[list[Turn]]:
    """Cut a conversation behind each of the assistant's turns; a system turn stands alone."""
    exchanges: list[list[Turn]] = [[]]
    for turn in turns:
        exchanges[-1].append(turn)
        if turn.role in ("assistant", "system"):
            exchanges.append([])
    return [turns for turns in exchanges if turns]


def _path(part: Part) -> Path | None:
    return None if isinstance(part, Text) else part.path


def _plain(turn: Turn) -> bool:
    return all(isinstance(part, Text) for part in turn.parts)


def _with_media(sample: Sample, change: Callable[[Part], Part]) -> Sample:
    """Return the row with every medium changed."""
    turns = [
        replace(turn, parts=tuple(part if isinstance(part, Text) else change(part) for part in turn.parts))
        for turn in sample.turns
    ]
    return replace(sample, turns=tuple(turns))


def _answered(sample: Sample, texts: Sequence[str]) -> Sample:
    """Return the row with these texts as the answer that is last."""
    at = max(at for at, turn in enumerate(sample.turns) if turn.role == "assistant")
    answer = replace(sample.turns[at], parts=(Text(text=" ".join(text.strip() for text in texts)),))
    return replace(sample, turns=(*sample.turns[:at], answer, *sample.turns[at + 1 :]))


def _stretches(sample: Sample, window: float) -> Iterator[list[tuple[float, float, str]]]:
    stretch: list[tuple[float, float, str]] = []
    for segment in _segments(sample):
        if segment[1] - segment[0] > window:
            raise DataError(
                f"{sample.where}: a segment of the transcript lasts {segment[1] - segment[0]:.1f} s, at most "
                f"{window:g} s fit"
            )
        if stretch and segment[1] - stretch[0][0] > window:
            yield stretch
            stretch = []
        stretch.append(segment)
    yield stretch


def _segments(sample: Sample) -> list[tuple[float, float, str]]:
    """Return the segments of a row's transcript: start and end in seconds, and text.

    Raises:
        DataError: if there is none, or its segments are not in order and within the sound.
    """
    given = sample.extra.get("segments")
    if not isinstance(given, list) or not given:
        raise DataError(
            f"{sample.where}: to chunk a sound its transcript is needed, as 'segments' in the row's "
            '\'extra\': a list of {"start": 0.0, "end": 2.5, "text": "..."}; or set length.audio to \'cut\''
        )
    found: list[tuple[float, float, str]] = []
    for number, one in enumerate(given):
        here = f"{sample.where}: extra.segments[{number}]"
        try:
            start, end, text = float(one["start"]), float(one["end"]), str(one["text"])
        except (TypeError, KeyError, ValueError):
            raise DataError(f"{here} needs 'start' and 'end' in seconds, and 'text'") from None
        if not (0 <= start < end < math.inf) or (found and start < found[-1][1] - 0.01):
            raise DataError(f"{here} must begin after the segment before it, and end after it begins")
        if text.strip():
            found.append((start, end, text))
    if not found:
        raise DataError(f"{sample.where}: all segments of the transcript are empty")
    return found
