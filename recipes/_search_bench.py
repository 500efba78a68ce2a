"""The bench of a search for merges: the base in memory, experts, rows, and what candidates score.

A candidate is merged in memory, added to the base's weights for a while, and held against the references of
all domains in one pass each. Its score in a domain is divided by what the domain's own expert has there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mergers import merged_deltas
from recipes._search_makers import MAKERS, Ground
from recipes._search_space import Candidate, takes_weights
from studio import plugins
from studio.adapters import read_adapter
from studio.errors import ConfigError, DataError, unknown
from studio.families import detect
from studio.forced import Forced, Row
from studio.generate import answers
from studio.overlay import overlaid
from studio.types import Sample

#: Scores that one pass over the references gives, and what they are called of a row.
FORCED = {"exact": "exact", "tokens": "share", "likelihood": "likelihood"}
#: The score that still tells merges apart where all have 0 by another.
FINE = "likelihood"
#: What an objective may be beside a domain.
TOGETHER = ("mean", "worst")
#: The share of the rows that a candidate is tried on first.
FIRST = 4

#: Rows of a domain that are learned from together.
FIT_BATCH = 8

Values = dict[str, dict[str, float]]
"""Score -> domain -> mean over the rows, in [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """One figure to make large: a score, and the mean or worst of the domains, or one of them."""

    score: str
    what: str

    def value(self, normalised: Values) -> float:
        """Return the figure, from normalised scores."""
        of_domain = normalised[self.score]
        if self.what == "mean":
            return sum(of_domain.values()) / len(of_domain)
        return min(of_domain.values()) if self.what == "worst" else of_domain[self.what]


def read_objectives(texts: Sequence[str], score: str, domains: Sequence[str]) -> tuple[Objective, ...]:
    """Return objectives from their texts: mean, worst, domains (one each), DOMAIN, or SCORE.one of these.

    Raises:
        ConfigError: an objective or a score that does not exist.
    """
    known = [*TOGETHER, "domains", *domains]
    found: list[Objective] = []
    for text in texts:
        head, dot, tail = text.partition(".")
        own, what = (head, tail) if dot and text not in domains else (score, text)
        check_score(own)
        if what not in known:
            raise ConfigError(f"objectives: {unknown('objective', what, known)}")
        found += [Objective(score=own, what=each) for each in (domains if what == "domains" else [what])]
    if not found:
        raise ConfigError(f"objectives must name at least one of {', '.join(known)}")
    return tuple(dict.fromkeys(found))


def check_score(name: str) -> None:
    """Raise `ConfigError` for a score that does not exist or cannot be divided by the expert's."""
    if name in FORCED:
        return
    if name not in plugins.names("metrics"):
        raise ConfigError(f"score: {unknown('score', name, [*FORCED, *plugins.names('metrics')])}")
    module = plugins.load("metrics", name)
    if not module.HIGHER_IS_BETTER or not hasattr(module, "each") or getattr(module, "NEEDS", ()):
        raise ConfigError(
            f"score: {name} cannot be divided by an expert's, row by row; use exact, tokens or likelihood"
        )


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a bench is made from; ``scores`` are those that objectives ask for."""

    model: Path
    experts: Mapping[str, Path]
    search: Mapping[str, Sequence[Sample]]
    fit: Mapping[str, Sequence[Sample]]
    scores: Sequence[str]
    batch_size: int
    max_new_tokens: int
    device: str
    seed: int


class Bench:
    """The base in memory, and rows that are encoded once."""

    def __init__(self, setting: Setting) -> None:
        """Load the base, encode the rows and find out what each expert has at home.

        Raises:
            DataError: an expert that scores nothing on its own rows.
        """
        self.setting = setting
        self.family = detect(setting.model)
        self.loaded = self.family.load(setting.model, dtype=torch.float32, device=setting.device)
        self._parts: dict[str, list[tuple[Forced, Sequence[Sample]]]] = {}
        for domain, samples in setting.search.items():
            first = max(1, len(samples) // FIRST)
            cut = [part for part in (samples[:first], samples[first:]) if part]
            self._parts[domain] = [(self._forced(part), part) for part in cut]
        self._ground: Ground | None = None
        self._made: tuple[str, dict[str, Tensor]] = ("", {})
        self.home = self._at_home()

    def merge(self, candidate: Candidate) -> dict[str, Tensor]:
        """Return what a candidate adds to the base's weights, by module.

        Raises:
            TriptychError: what `triptych merge` would say of it.
        """
        paths = list(self.setting.experts.values())
        if candidate.method not in MAKERS:
            spec = candidate.spec(self.setting.model, paths, self.setting.seed)
            return merged_deltas(replace(spec, threads=1))  # each process has its share of cores
        settings = dict(candidate.settings)
        if takes_weights(candidate.method) and "" in candidate.weights:
            settings["weight"] = list(candidate.weights[""])
        asked = repr((candidate.method, sorted(settings.items())))
        if self._made[0] != asked:  # the best one is asked for again when it is written and reported
            self._made = asked, MAKERS[candidate.method].make(self._with_rows(), **settings)
        return self._made[1]

    def measure(
        self, deltas: Mapping[str, Tensor], early: Callable[[Values], bool] = lambda _: False
    ) -> Values | None:
        """Return a merge's scores divided by the experts', or None if ``early`` ends it.

        ``early`` is shown the scores on the first `FIRST`-th of the rows.
        """
        found: dict[str, dict[str, list[float]]] = {}
        with overlaid(self.loaded.model, deltas):
            for at in range(2):
                for domain, parts in self._parts.items():
                    for forced, samples in parts[at : at + 1]:
                        for score, values in self._scores(forced, samples).items():
                            found.setdefault(score, {}).setdefault(domain, []).extend(values)
                if at == 0 and early(self._normalised(found)):
                    return None
        return self._normalised(found)

    def _normalised(self, found: Mapping[str, Mapping[str, Sequence[float]]]) -> Values:
        return {
            score: {d: sum(v) / len(v) / self.home[score][d] for d, v in domains.items()}
            for score, domains in found.items()
        }

    def _at_home(self) -> Values:
        home: Values = {}
        for domain, path in self.setting.experts.items():
            deltas = {name: f.delta() for name, f in read_adapter(path).modules.items()}
            with overlaid(self.loaded.model, deltas):
                told = [self._scores(*part) for part in self._parts[domain]]
            for score in self.setting.scores:
                values = [value for part in told for value in part[score]]
                home.setdefault(score, {})[domain] = sum(values) / len(values)
                if not home[score][domain]:
                    raise DataError(
                        f"the expert for '{domain}' has 0 by '{score}' on its own rows, so nothing can be "
                        "divided by it; train it further, or use score=likelihood"
                    )
        return home

    def _scores(self, forced: Forced, samples: Sequence[Sample]) -> dict[str, list[float]]:
        """Return the value of each row, by score."""
        found: dict[str, list[float]] = {}
        if any(score in FORCED for score in self.setting.scores):
            rows: list[Row] = forced.ask()
            for score in self.setting.scores:
                if score in FORCED:
                    found[score] = [float(getattr(row, FORCED[score])) for row in rows]
        spoken = [score for score in self.setting.scores if score not in FORCED]
        if spoken:
            said = self.say(samples)
            for score in spoken:
                module: Any = plugins.load("metrics", score)
                found[score] = list(module.each(said, [sample.answer for sample in samples]))
        return found

    def say(self, samples: Sequence[Sample], **more: Any) -> list[str]:
        """Return the answers of the model as it is now."""
        return answers(
            self.loaded, self.family, samples, batch_size=self.setting.batch_size,
            max_new_tokens=self.setting.max_new_tokens, **more,
        )  # fmt: skip

    def _forced(self, samples: Sequence[Sample]) -> Forced:
        return Forced(self.loaded, self.family, samples, batch_size=self.setting.batch_size)

    def _with_rows(self) -> Ground:
        if self._ground is None:
            rows = {
                domain: [
                    batch
                    for _, batch in Forced(self.loaded, self.family, samples, batch_size=FIT_BATCH).batches
                ]
                for domain, samples in self.setting.fit.items()
            }
            self._ground = Ground(
                loaded=self.loaded, family=self.family, experts=self.setting.experts, rows=rows
            )
        return self._ground
