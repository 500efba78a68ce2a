"""A model as judge of answers: how probable it finds each rating, never what it writes.

    verdict = sum over ratings r of p(r) * place(r),  place from 0 (the worst) to 1 (the best)

with p the judge's probabilities of the ratings as its whole answer, normalised over them (Liu et al. 2023,
G-Eval, section 2, https://arxiv.org/abs/2303.16634). The judge reads question, reference and answer as
text; pictures and sounds it does not get, the reference stands for what they show.

Judges have biases (Zheng et al. 2023, Judging LLM-as-a-Judge, section 3.3, https://arxiv.org/abs/2306.05685).
*Verbosity*: longer answers please, so evaluations tell the rank correlation of verdict and length.
*Position*: the answer that stands first pleases, so pairs are judged in both orders and averaged, and how
often the first one won is told. A judge also likes what it would have said itself: hold it against people's
verdicts (`agreement`) before it is believed.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from studio.errors import ConfigError
from studio.log import Log
from studio.types import Sample, Text, Turn

PROMPT = (
    "Question: {question}\nReference: {reference}\nAnswer: {answer}\n"
    "Does the answer say the same as the reference? Answer no or yes."
)
RATINGS = ("no", "yes")
PAIR_PROMPT = (
    "Question: {question}\nReference: {reference}\nAnswer A: {first}\nAnswer B: {second}\n"
    "Which answer is better? Answer A or B."
)
PLACES = ("A", "B")


class Prober(Protocol):
    """What a judge needs of `studio.variants.Engine`."""

    def log_probs(
        self, name: str, samples: Sequence[Sample], answers: Sequence[str], **settings: Any
    ) -> list[tuple[float, int]]:
        """Return log p of given answers, and their lengths in tokens."""

    def fingerprint(self, name: str) -> str:
        """Return a hash of all that decides what the model finds probable."""


class Memory(Protocol):
    """Where verdicts are kept, as text."""

    def __contains__(self, key: str) -> bool:
        """Return whether there is a verdict under ``key``."""

    def __getitem__(self, key: str) -> str:
        """Return the verdict under ``key``."""

    def add(self, keys: Sequence[str], answers: Sequence[str]) -> None:
        """Keep verdicts."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One answer to be judged, or, with a ``second`` one, two to be compared."""

    question: str
    reference: str
    answer: str
    second: str = ""


@dataclass(frozen=True, kw_only=True)
class Judge:
    """A model that judges: variant ``name`` of an engine, what it is asked, and its ratings, worst first."""

    engine: Prober
    name: str
    prompt: str = PROMPT
    ratings: tuple[str, ...] = RATINGS

    def __post_init__(self) -> None:
        """Refuse a prompt without a place for the answer, and ratings that are none."""
        if "{answer}" not in self.prompt:
            raise ConfigError("the judge's prompt needs {answer}, and may have {question} and {reference}")
        if len(self.ratings) < 2 or len(set(self.ratings)) < len(self.ratings) or not all(self.ratings):
            raise ConfigError(
                f"a judge needs at least two different ratings, worst first, not {list(self.ratings)}"
            )

    @property
    def fingerprint(self) -> str:
        """A SHA-256 over all that decides a verdict on a case."""
        about = [self.engine.fingerprint(self.name), self.prompt, list(self.ratings), PAIR_PROMPT]
        return hashlib.sha256(json.dumps(about).encode()).hexdigest()

    def verdicts(
        self, cases: Sequence[Case], kept: Memory, log: Log | None, batch_size: int = 16
    ) -> list[float]:
        """Return the verdict on each case, in [0, 1]; those that are ``kept`` are not asked again."""
        prompts = [_filled(self.prompt, case, answer=case.answer) for case in cases]
        values = [place / (len(self.ratings) - 1) for place in range(len(self.ratings))]
        return self._expected(prompts, self.ratings, values, kept, log, batch_size)

    def known(self, cases: Sequence[Case], kept: Memory) -> bool:
        """Return whether the verdicts on all cases are kept."""
        return all(
            _key(_filled(self.prompt, case, answer=case.answer), self.ratings) in kept for case in cases
        )

    def preferences(
        self, cases: Sequence[Case], kept: Memory, log: Log, batch_size: int = 16
    ) -> list[tuple[float, float]]:
        """Return how probable it is that ``answer`` is better than ``second``: as A, and as B [N]."""
        prompts = [_filled(PAIR_PROMPT, case, first=case.answer, second=case.second) for case in cases]
        turned = [_filled(PAIR_PROMPT, case, first=case.second, second=case.answer) for case in cases]
        found = self._expected([*prompts, *turned], PLACES, [1.0, 0.0], kept, log, batch_size)
        return [(found[at], 1 - found[len(cases) + at]) for at in range(len(cases))]

    def _expected(
        self,
        prompts: Sequence[str],
        ratings: Sequence[str],
        values: Sequence[float],
        kept: Memory,
        log: Log | None,
        batch_size: int,
    ) -> list[float]:
        """Return the mean of the ratings' values by their probabilities, prompt by prompt."""
        keys = [_key(prompt, ratings) for prompt in prompts]
        missing = list({key: at for at, key in enumerate(keys) if key not in kept}.values())
        if missing and log is not None:
            log.stage("judging", len(missing) * len(ratings))
        for start in range(0, len(missing), 8 * batch_size):
            some = missing[start : start + 8 * batch_size]
            samples = [_asked(prompts[at]) for at in some for _ in ratings]
            told = self.engine.log_probs(
                self.name, samples, [*ratings] * len(some), batch_size=batch_size, log=log
            )
            found: list[str] = []
            for number in range(len(some)):
                logs = [p for p, _ in told[number * len(ratings) : (number + 1) * len(ratings)]]
                weights = [math.exp(p - max(logs)) for p in logs]
                expected = sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
                found.append(repr(min(max(expected, 0.0), 1.0)))
            kept.add([keys[at] for at in some], found)
        return [float(kept[key]) for key in keys]


def read_prompt(file: Path) -> str:
    """Return the prompt in a file.

    Raises:
        ConfigError: it cannot be read as text.
    """
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--judge-prompt: {file} cannot be read as text ({error})") from None


def _filled(prompt: str, case: Case, **texts: str) -> str:
    """Return a prompt with a case in it; braces in the texts stay as they are."""
    places = {"question": case.question, "reference": case.reference or "(none is known)", **texts}
    parts: list[str] = []
    rest = prompt
    while rest:
        found = [(rest.find(f"{{{name}}}"), name) for name in places if f"{{{name}}}" in rest]
        if not found:
            break
        at, name = min(found)
        parts += [rest[:at], places[name].strip()]
        rest = rest[at + len(name) + 2 :]
    return "".join([*parts, rest])


def _key(prompt: str, ratings: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps([prompt, list(ratings)]).encode()).hexdigest()


def _asked(prompt: str) -> Sample:
    return Sample(turns=(Turn(role="user", parts=(Text(text=prompt),)),))
