"""All that votes say in one record: rankings, whom to believe, and how far; its tables as CSV and JSON."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from studio.ranking import Judgement, Ranking, Stability, Standing, rank, ranked_by, stability, telling
from studio.raters import Rater, Side, agreement, raters, sides

#: Shares of the votes that are left out to see whether the order stays.
LEFT_OUT = (0.05, 0.1, 0.2)
COLUMNS = ("variant", "score", "low", "high", "votes", "wins", "ties", "losses", "more")


@dataclass(frozen=True, kw_only=True)
class Results:
    """What a collection of verdicts says.

    ``agreement`` is Krippendorff's alpha with its interval and the number of questions that more than one
    rater judged, or None; ``flagged`` counts the verdicts that were left out.
    """

    ranking: Ranking
    domains: Mapping[str, Ranking]
    groups: Mapping[str, Ranking]
    agreement: tuple[float, float, float, int] | None
    stability: tuple[Stability, ...]
    sides: tuple[Side, ...]
    raters: tuple[Rater, ...]
    flagged: int = 0

    @property
    def repeats(self) -> tuple[int, int]:
        """How often all raters kept to a verdict, of how many questions that were asked again."""
        return sum(one.same for one in self.raters), sum(one.repeats for one in self.raters)


def results(
    judgements: Sequence[Judgement], *, flagged: int = 0, seed: int = 0, resamples: int = 1000
) -> Results:
    """Return what verdicts say; the same for the same verdicts and seed.

    Raises `ConfigError` for a choice that was not offered.
    """
    told = telling(judgements)
    leave = sorted({round(share * len(told)) for share in LEFT_OUT} - {0})
    return Results(
        ranking=rank(told, seed=seed, resamples=resamples),
        domains=ranked_by(told, lambda one: one.domain, seed=seed, resamples=resamples),
        groups=ranked_by(told, lambda one: one.group, seed=seed, resamples=resamples),
        agreement=agreement(judgements, seed=seed),
        stability=tuple(stability(told, count, seed=seed) for count in leave),
        sides=tuple(sides(judgements)),
        raters=tuple(raters(judgements)),
        flagged=flagged,
    )


def verdict(ranking: Ranking) -> str:
    """Return in a sentence what a ranking proves."""
    if not ranking.standings:
        return "No votes yet."
    first, *others = sorted(ranking.standings, key=lambda one: -one.score)
    missing = max(one.more for one in ranking.standings)
    close = [one.variant for one in others if one.high >= first.low]
    if not close and not missing:
        return f"{first.variant} is best: its interval is above all others."
    told = f"{first.variant} has the highest score"
    if close:
        told = f"{told}, but {_listed(close)} may be as good"
    # The bootstrap of a few votes that all say the same knows of no doubt: its intervals have no width.
    return f"{told}: not enough votes, about {missing} more." if missing else f"{told}: they are close."


def csv_table(results: Results) -> str:
    """Return the rankings as CSV: of all, and of every domain and group, as the first two columns say."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("of", "name", *COLUMNS))
    parts = [("all", "", results.ranking)]
    parts += [("domain", name, ranking) for name, ranking in results.domains.items()]
    parts += [("group", name, ranking) for name, ranking in results.groups.items()]
    for of, name, ranking in parts:
        for one in ranking.standings:
            writer.writerow((of, _inert(name), *(_inert(getattr(one, column)) for column in COLUMNS)))
    return text.getvalue()


def json_table(results: Results) -> str:
    """Return everything as JSON."""
    return json.dumps(told(results), indent=1, ensure_ascii=False) + "\n"


def told(results: Results) -> dict[str, Any]:
    """Return everything as what JSON knows."""
    alpha = dict(zip(("alpha", "low", "high", "questions"), results.agreement or (), strict=False))
    return {
        "votes": results.ranking.votes,
        "flagged": results.flagged,
        "ranking": dataclasses.asdict(results.ranking),
        "domains": {name: dataclasses.asdict(one) for name, one in results.domains.items()},
        "groups": {name: dataclasses.asdict(one) for name, one in results.groups.items()},
        "agreement": alpha or None,
        "stability": [dataclasses.asdict(one) for one in results.stability],
        "sides": [dataclasses.asdict(one) | {"share": one.share} for one in results.sides],
        "raters": [dataclasses.asdict(one) for one in results.raters],
    }


def won_share(ranking: Ranking, one: Standing, other: Standing) -> float | None:
    """Return the share of two variants' comparisons that the first won, ties as halves; None for none."""
    won = ranking.won.get(one.variant, {}).get(other.variant, 0.0)
    lost = ranking.won.get(other.variant, {}).get(one.variant, 0.0)
    return won / (won + lost) if won + lost else None


def _listed(names: Sequence[str]) -> str:
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _inert(value: Any) -> Any:
    """Return a cell that no spreadsheet takes for a formula; numbers to one place."""
    if isinstance(value, float):
        return round(value, 1)
    text = str(value)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else value
