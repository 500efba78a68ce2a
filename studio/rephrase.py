"""Questions in other words, to see whether a model answers them alike.

A row may bring its own, as a list of texts under ``paraphrases`` in its ``extra``. Otherwise a step of
`studio.augment` that takes text makes them (``paraphrase`` or ``backtranslation``, by a model), or, without
one, `FRAMES` stand around the question: they change the wording about it and none of its own words, so the
meaning is certainly the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from studio.augment._rows import draw_of
from studio.augment._steps import Step, read_steps
from studio.errors import ConfigError, DataError
from studio.log import Log
from studio.types import Sample, Text

FRAMES = (
    "Please answer this: {text}",
    "{text} Please answer.",
    "Here is a question for you. {text}",
    "I would like to know: {text}",
    "Can you help me with this? {text}",
    "Listen carefully: {text}",
    "One question: {text}",
    "{text} Thank you.",
)
_TRIES = 3  # draws for each paraphrase, because a model may say the same again


def read_paraphraser(text: str) -> Step:
    """Return the step that a text names: a model, or a step of augmentation with its settings as YAML.

    Raises:
        ConfigError: it names neither.
    """
    import yaml

    try:
        given = yaml.safe_load(text)
    except yaml.YAMLError:
        given = text
    (step, *_) = read_steps([given if isinstance(given, dict) else {"paraphrase": {"model": text}}])
    if step.takes != "text":
        raise ConfigError(f"--paraphraser {step.name} changes no text; paraphrase and backtranslation do")
    return step


def rephrased(
    samples: Sequence[Sample], count: int, log: Log, *, step: Step | None = None, seed: int = 0
) -> list[list[Sample]]:
    """Return up to ``count`` samples for each one that ask the same in other words.

    The last text of the last user's turn is the question. A row that has none, or whose wordings come out
    equal, has fewer, perhaps none.

    Raises:
        ConfigError: no row's question can be put in other words.
        DataError: a row's own paraphrases are no list of texts.
    """
    if step is not None:
        log.stage(f"paraphrases by {step.name}", len(samples))
    found = []
    for row, sample in enumerate(samples):
        question, own = _question(sample), own_paraphrases(sample)
        texts: dict[str, None] = dict.fromkeys(own)
        if question and not own and step is None:
            texts = dict.fromkeys(frame.replace("{text}", question) for frame in FRAMES)
        elif question and not own and step is not None:
            for at in range(_TRIES * count):
                draw = draw_of(seed, "paraphrase", row, at)
                texts[step.augment(question, draw, **step.settings).strip()] = None
                if len(set(texts) - {question, ""}) >= count:
                    break
        others = [text for text in texts if text and text != question][:count] if question else []
        found.append([_asking(sample, text) for text in others])
        if step is not None:
            log.advance()
    if not any(found):
        raise ConfigError(f"none of {len(found)} questions in words could be put in other words")
    return found


def own_paraphrases(sample: Sample) -> list[str]:
    """Return the wordings that a row brings itself.

    Raises:
        DataError: they are no list of texts.
    """
    given = sample.extra.get("paraphrases", [])
    if not isinstance(given, list) or not all(isinstance(text, str) and text.strip() for text in given):
        raise DataError(f"{sample.where}: 'paraphrases' must be a list of texts, not {str(given)[:60]!r}")
    return [text.strip() for text in given]


def _question(sample: Sample) -> str:
    place = _place(sample)
    if place is None:
        return ""
    part = sample.turns[place[0]].parts[place[1]]
    return part.text.strip() if isinstance(part, Text) else ""


def _place(sample: Sample) -> tuple[int, int] | None:
    """Return where the question stands: the number of its turn, and of the part in it."""
    for at in reversed(range(len(sample.prompt))):
        turn = sample.prompt[at]
        if turn.role == "user":
            texts = [i for i, part in enumerate(turn.parts) if isinstance(part, Text) and part.text.strip()]
            return (at, texts[-1]) if texts else None
    return None


def _asking(sample: Sample, text: str) -> Sample:
    """Return the sample with another wording of its question."""
    place = _place(sample)
    assert place is not None
    at, number = place
    parts = list(sample.turns[at].parts)
    parts[number] = Text(text=text)
    turns = list(sample.turns)
    turns[at] = replace(turns[at], parts=tuple(parts))
    return replace(sample, turns=tuple(turns))
