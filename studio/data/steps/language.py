"""Language filter: rows in another language than those to keep, told by py3langid's naive Bayes model.

The model (97 languages, inside the package, nothing is downloaded) looks at byte n-grams. On a few words it
guesses: texts with fewer than ``min_letters`` letters, and guesses below ``certain``, are kept and counted.

Lui and Baldwin, langid.py: An Off-the-shelf Language Identification Tool, ACL 2012.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

from studio.data.steps._packages import needed
from studio.data.steps._step import Bench, Edit, Outcome, removal, within
from studio.data.steps._texts import answered, asked
from studio.errors import ConfigError, unknown
from studio.types import Sample


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Which languages stay, and how sure the guess must be to remove a row."""

    keep: tuple[str, ...] = field(default=("en",), metadata={"help": "ISO 639-1 codes, en,de for instance"})
    of: Literal["all", "prompt", "answer"] = field(
        default="all", metadata={"help": "which text is looked at"}
    )
    certain: float = field(default=0.9, metadata={"help": "least probability, of a guess that removes a row"})
    min_letters: int = field(default=20, metadata={"help": "a text with fewer letters is not judged"})


def check(settings: Settings) -> None:
    """Refuse languages that the model does not know."""
    within(settings, certain=(0, 1), min_letters=(0, float("inf")))
    known = set(_model().labels)
    if not settings.keep:
        raise ConfigError("keep must name at least one language")
    for code in settings.keep:
        if code not in known:
            raise ConfigError(unknown("language", code, known))


def run(samples: Sequence[Sample], settings: Settings, bench: Bench) -> Outcome:
    """Remove the rows that are in another language for certain."""
    model = _model()
    bench.log.stage("language", len(samples), "rows")
    edits: list[Edit] = []
    found: Counter[str] = Counter()
    for sample in samples:
        bench.log.advance()
        both = {"prompt": asked(sample), "answer": answered(sample)}
        text = both.get(settings.of) or (
            f"{both['prompt']}\n{both['answer']}" if settings.of == "all" else ""
        )
        if sum(letter.isalpha() for letter in text) < settings.min_letters:
            found["not judged"] += 1
            continue
        language, share = model.classify(text)
        found[str(language)] += 1
        if language not in settings.keep and share >= settings.certain:
            edits.append(removal(sample, f"the language is {language} ({share:.2f})"))
    return Outcome(edits=edits, report={"languages": dict(found.most_common())})


@cache
def _model() -> Any:
    langid = needed("py3langid.langid", "language")
    return langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)
