"""Which question of a set a rater is asked next, and how far the rater is: both follow from the store alone.

A rater answers every question of the set once, about two variants, and a tenth of them a second time with
the sides exchanged, unmarked (`REPEATS`): that measures how steady the verdicts are. Nothing about the order
is kept anywhere: the same store gives the same next question, so that a restart loses nothing, and a
question that was answered by the variants but not judged comes again.

Among the questions q that are left and the pairs of variants a, b, the one with the highest score comes next:

    score(q, a, b) = disagreement(q, a, b) * shortening(a, b)

``disagreement`` is 1 - F1 of the words of the two answers, at least `DIFFERENT` where they differ at all and
0 where they do not. Of answers that nobody has asked for yet it is what these variants' and this question's
averages, over that of all, let expect; each average begins with one observation of all's, and that with 1.
``shortening`` is by how much one more vote on this pair is expected to shorten the 95 % intervals of all
differences between two variants, on average and in Elo. With the covariance C of the scores, the chance p
that a beats b and u = e_a - e_b, a vote has the information w = p (1 - p) / 173.7^2 and leaves

    C - w C u u' C / (1 + w u' C u)

(a rank-one update of the inverse information: A-optimal design, Atkinson, Donev and Tobias 2007, Optimum
Experimental Designs, chapter 10). That is large where intervals are wide and the outcome is open, as in the
rule of Chiang et al. 2024, arXiv:2403.04132, section 5. Every `SHARED`-th question is taken from those that
another rater has judged, or agreement could not be measured. Equal scores are ordered by a hash.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from studio.bradley_terry import ELO, Array, chances, covariance, scores
from studio.kept import Comparison, Vote
from studio.metrics import token_f1
from studio.ranking import TIES

#: Share of the questions that a rater is asked a second time.
REPEATS = 0.1
#: Least number of other questions between a question and its repeat, in a set that is large enough.
APART = 5
#: Every so many questions one that another rater has judged.
SHARED = 5
#: Least disagreement of two answers that are not the same text.
DIFFERENT = 0.1
#: A 95 % interval is so many standard deviations wide.
WIDTH_OF = 2 * 1.959964

Pair = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Next:
    """A question to ask: its identity, the variants as they are to be shown, and whether it is a repeat."""

    question: str
    variants: Pair
    repeat: bool = False


@dataclass(frozen=True, kw_only=True)
class Place:
    """How far a rater is: ``done`` of ``total`` questions, repeats among them; ``next`` None at the end."""

    done: int
    total: int
    next: Next | None


@dataclass
class _Known:
    """What the store holds about one set, sorted by what the choice asks for."""

    answers: dict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))
    judged: dict[tuple[str, Pair], set[str]] = field(default_factory=lambda: defaultdict(set))
    own: list[tuple[Comparison, str]] = field(default_factory=list)
    open: Comparison | None = None


def place(
    questions: Sequence[str],
    variants: Sequence[str],
    comparisons: Iterable[Comparison],
    votes: Iterable[Vote],
    rater: str,
    *,
    repeats: float = REPEATS,
) -> Place:
    """Return where ``rater`` is in a set and what comes next.

    Args:
        questions: identities of the set's questions.
        variants: names of the variants that can answer now, at least two.
        comparisons: all that were made from this set, oldest first, with their answers.
        votes: all on these comparisons, oldest first.
        rater: pseudonym of who is asked, as ``asker`` of the comparisons.
        repeats: share of the questions that is asked again.
    """
    comparisons, votes = list(comparisons), list(votes)
    known = _sort(comparisons, votes, rater)
    first: dict[str, tuple[Comparison, str]] = {}
    again: set[str] = set()
    order: list[str] = []
    for comparison, choice in known.own:
        if comparison.question in first:
            again.add(comparison.question)
        else:
            first[comparison.question] = comparison, choice
            order.append(comparison.question)
    left = [question for question in questions if question not in first]
    done = sum(question in first for question in questions)
    wanted = math.ceil(repeats * len(questions) - 1e-9)
    can = [q for q in order if q not in again and _repeatable(*first[q], questions, variants)]
    if not left:
        wanted = min(wanted, len(again) + len(can))
    place = Place(done=done + min(len(again), wanted), total=len(questions) + wanted, next=None)
    if known.open is not None and known.open.question in questions:
        shown = known.open.variants
        if len(shown) == 2 and set(shown) <= set(variants):
            repeat = known.open.question in first
            return _with(
                place, Next(question=known.open.question, variants=(shown[0], shown[1]), repeat=repeat)
            )
    far = [q for q in can if order.index(q) < len(order) - APART]
    old = far if left else far or can
    due = wanted if not left else min(wanted, int(repeats * done + 1e-9))
    if old and len(again) < due:
        question = min(old, key=lambda q: _hash(rater, q, "again"))
        shown = first[question][0].variants
        return _with(place, Next(question=question, variants=(shown[1], shown[0]), repeat=True))
    if not left:
        return place
    question, pair = _best(left, variants, known, won(variants, comparisons, votes), rater, done)
    turned = int(_hash(rater, question, *pair), 16) % 2
    return _with(place, Next(question=question, variants=(pair[1], pair[0]) if turned else pair))


def won(variants: Sequence[str], comparisons: Iterable[Comparison], votes: Iterable[Vote]) -> Array:
    """Return how often each variant beat each other [V, V], ties as halves; none flagged, no repeats."""
    at, asked = {name: place for place, name in enumerate(variants)}, {one.id: one for one in comparisons}
    found = np.zeros((len(variants), len(variants)))
    seen = set()
    for vote in votes:
        of = asked.get(vote.comparison)
        if of is None or vote.flagged or (vote.rater, of.question) in seen:
            continue
        seen.add((vote.rater, of.question))
        shown = [name for name in of.variants if name in at]
        for a, b in combinations(shown, 2):
            if vote.choice in TIES:
                found[at[a], at[b]] += 0.5
                found[at[b], at[a]] += 0.5
            elif vote.choice in (a, b):
                found[at[vote.choice], at[b if vote.choice == a else a]] += 1
    return found


def disagreement(one: str, other: str) -> float:
    """Return how much two answers differ, from 0 (the same text) to 1 (no word in common)."""
    if one.strip() == other.strip():
        return 0.0
    return max(DIFFERENT, 1.0 - token_f1.each([one], [other])[0])


def shortening(won: Array) -> Array:
    """Return by how much one more vote on each pair [V, V] shortens the mean 95 % interval, in Elo."""
    size, found = len(won), scores(won)
    chance, spread = chances(found), covariance(found, won + won.T)
    pairs = list(combinations(range(size), 2))
    signs = np.zeros((len(pairs), size))
    for row, (a, b) in enumerate(pairs):
        signs[row, a], signs[row, b] = 1, -1
    shared = signs @ spread @ signs.T  # covariances of all differences with each other
    own = np.diagonal(shared)
    weight = np.array([chance[a, b] * (1 - chance[a, b]) for a, b in pairs]) / ELO**2
    after = own[:, None] - weight * shared**2 / (1 + weight * own)
    shorter = WIDTH_OF * (np.sqrt(own)[:, None] - np.sqrt(after)).mean(axis=0)
    gain = np.zeros((size, size))
    for value, (a, b) in zip(shorter, pairs, strict=True):
        gain[a, b] = gain[b, a] = value
    return gain


def _best(
    left: Sequence[str], variants: Sequence[str], known: _Known, won: Array, rater: str, done: int
) -> tuple[str, Pair]:
    """Return the question and the pair, sorted by name, with the highest score."""
    gain = shortening(won)
    pairs = list(combinations(range(len(variants)), 2))
    names = {(i, j): _sorted(variants[i], variants[j]) for i, j in pairs}
    apart = {
        (question, pair): disagreement(said[pair[0]], said[pair[1]])
        for pair in names.values()
        for question, said in known.answers.items()
        if pair[0] in said and pair[1] in said
    }
    overall = (1 + sum(apart.values())) / (1 + len(apart))
    by_pair, by_question = _Mean(overall), _Mean(overall)
    for (question, pair), value in apart.items():
        by_pair.add(pair, value)
        by_question.add(question, value)
    choices = [(question, place) for question in left for place in pairs]
    if done % SHARED == SHARED - 1:
        by_others = [(q, p) for q, p in choices if known.judged.get((q, names[p]), set()) - {rater}]
        choices = by_others or choices

    def rating(choice: tuple[str, tuple[int, int]]) -> tuple[float, str]:
        question, place = choice
        pair = names[place]
        expected = min(1.0, by_pair[pair] * by_question[question] / overall) if overall else 0.0
        score = apart.get((question, pair), expected) * float(gain[place])
        return -round(score, 9), _hash(rater, question, *pair)

    question, place = min(choices, key=rating)
    return question, names[place]


class _Mean:
    """Means of what was observed, by key, each with one observation of ``start`` before."""

    def __init__(self, start: float) -> None:
        self._start, self._sums, self._counts = start, defaultdict[Any, float](float), Counter[Any]()

    def add(self, key: Any, value: float) -> None:
        self._sums[key] += value
        self._counts[key] += 1

    def __getitem__(self, key: Any) -> float:
        return (self._start + self._sums.get(key, 0.0)) / (1 + self._counts[key])


def _sorted(one: str, other: str) -> Pair:
    return (one, other) if one < other else (other, one)


def _sort(comparisons: Sequence[Comparison], votes: Sequence[Vote], rater: str) -> _Known:
    known = _Known()
    asked = {one.id: one for one in comparisons}
    verdicts: dict[int, str] = {}
    for vote in votes:
        of = asked.get(vote.comparison)
        if of is None:
            continue
        if len(of.variants) == 2:
            known.judged[of.question, _sorted(*of.variants)].add(vote.rater)
        if vote.rater == rater and of.asker == rater:
            verdicts[of.id] = vote.choice
    for one in comparisons:
        for answer in one.answers:
            known.answers[one.question][answer.variant] = answer.text
        if one.asker == rater:
            if one.id in verdicts:
                known.own.append((one, verdicts[one.id]))
            known.open = None if one.id in verdicts else one
    return known


def _repeatable(
    comparison: Comparison, choice: str, questions: Sequence[str], variants: Sequence[str]
) -> bool:
    """Return whether a verdict can be asked for again: it said something, and all is still there."""
    shown = comparison.variants
    return (
        choice != "skip"
        and comparison.question in questions
        and len(shown) == 2
        and set(shown) <= set(variants)
    )


def _with(place: Place, next: Next) -> Place:
    return Place(done=place.done, total=place.total, next=next)


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
