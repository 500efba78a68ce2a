"""An explanation in words: what a picture of it shows, for whoever does not see the picture, and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from studio.explain import Explanation
from studio.explain_units import Unit

WHAT = {"region": "picture", "span": "sound", "word": "words"}
_ROWS, _COLUMNS = ("top", "middle", "bottom"), ("left", "middle", "right")
_HALF = 0.5
_MOST = 3  # places that one sentence names

Part = tuple[str, int, int]
"""A piece of the question: the kind of its units, its turn and its part there."""


def parts(explained: Explanation) -> dict[Part, list[int]]:
    """Return the places of the units of every picture, sound and text, in order of appearance."""
    found: dict[Part, list[int]] = {}
    for at, unit in enumerate(explained.units):
        found.setdefault((unit.kind, unit.turn, unit.part), []).append(at)
    return found


def title(explained: Explanation, key: Part) -> str:
    """Return what a picture, sound or text of the question is called: numbered where there are several."""
    alike = [other for other in parts(explained) if other[0] == key[0]]
    number = f" {alike.index(key) + 1}" if len(alike) > 1 else ""
    return f"the {WHAT[key[0]]}{number}"


def sentences(explained: Explanation, variant: str = "", against: str = "") -> list[str]:
    """Return where the weight lies, in words; ``variant`` and ``against`` are what to call them."""
    variant, against = variant or explained.variant, against or explained.against
    told = [_first(explained, variant, against)]
    whole = sum(abs(weight) for weight in explained.weights)
    if not whole:
        return [*told, "Nothing of the question made a difference to it."]
    by_part = parts(explained)
    for key, places in sorted(by_part.items(), key=lambda pair: -_size(explained, pair[1])):
        share = _size(explained, places) / whole
        units = [explained.units[at] for at in places]
        weights = [explained.weights[at] for at in places]
        told.append(_of_part(title(explained, key), share, units, weights))
    heaviest = max(range(len(explained.weights)), key=lambda at: abs(explained.weights[at]))
    if explained.errors and abs(explained.weights[heaviest]) < 2 * explained.errors[heaviest]:
        told.append("These weights are within their own error: allow more forward passes.")
    if explained.method == "shapley" and not explained.errors and len(explained.units) > 1:
        told.append("Too few orders were gone through to know the error: take these weights as rough.")
    return told


def _first(explained: Explanation, variant: str, against: str) -> str:
    gain = explained.value - explained.empty
    if against:
        return (
            f"{variant} finds this answer {_times(explained.value)} than {against} does; "
            f"without anything of the question it is {_times(explained.empty)}."
        )
    more = "less" if gain < 0 else "more"
    return (
        f"{variant} gives this answer log p {explained.value:.2f} with the question, {explained.empty:.2f} "
        f"without: {abs(gain):.2f} nats {more}."
    )


def _times(difference: float) -> str:
    """Return a difference of log-probabilities in words."""
    return f"{abs(difference):.2f} nats {'less' if difference < 0 else 'more'} likely"


def _of_part(name: str, share: float, units: Sequence[Unit], weights: Sequence[float]) -> str:
    lead = f"{share:.0%} of the weight lies on {name}"
    gained, lost = sum(w for w in weights if w > 0), -sum(w for w in weights if w < 0)
    if not gained and not lost:
        return f"{lead}."
    better = gained >= lost
    main = [max(w, 0) if better else max(-w, 0) for w in weights]
    where = _where(units, main)
    how = "for the answer" if better else "against the answer"
    told = f"{lead}, {how}, mostly {where}" if where else f"{lead}, {how}"
    small, large = sorted((gained, lost))
    if small > 0.2 * large:
        other = _where(units, [max(-w, 0) if better else max(w, 0) for w in weights])
        told += f"; what speaks {'against' if better else 'for'} it lies mostly {other}"
    return f"{told}."


def _where(units: Sequence[Unit], weights: Sequence[float]) -> str:
    """Return in words where at least half of weights, all 0 or above, lies."""
    names: dict[str, float] = {}
    if units[0].kind == "span":
        return _times_of(units, weights)
    for unit, weight in zip(units, weights, strict=True):
        name = _ninth(unit) if unit.kind == "region" else unit.name
        names[name] = names.get(name, 0) + weight
    chosen = _heaviest(list(names.values()))
    found = [name for at, name in enumerate(names) if at in chosen]
    return ("at " if units[0].kind == "region" else "on ") + _listed(found) if found else ""


def _times_of(units: Sequence[Unit], weights: Sequence[float]) -> str:
    """Return the stretches of time that hold at least half of the weight, neighbours joined."""
    chosen = _heaviest(weights)
    spans: list[tuple[float, float]] = []
    for at in sorted(chosen):
        start, end = units[at].place
        if spans and at - 1 in chosen:
            spans[-1] = spans[-1][0], end
        else:
            spans.append((start, end))
    told = _listed([f"{start:.1f} to {end:.1f}" for start, end in spans])
    return f"at {told} seconds" if spans else ""


def _heaviest(weights: Sequence[float]) -> set[int]:
    """Return the places of the largest weights that make up half of all, but no more than are told."""
    whole, chosen, held = sum(weights), set[int](), 0.0
    for at in sorted(range(len(weights)), key=lambda at: -weights[at]):
        if not whole or held >= _HALF * whole or len(chosen) == _MOST:
            break
        chosen.add(at)
        held += weights[at]
    return chosen


def _ninth(unit: Unit) -> str:
    row, column, rows, columns = unit.cell
    y, x = int((row + 0.5) * 3 / rows), int((column + 0.5) * 3 / columns)
    return "the middle" if (y, x) == (1, 1) else f"the {_ROWS[y]} {_COLUMNS[x]}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + (" and " if len(names) > 1 else "") + names[-1] if names else ""


def _size(explained: Explanation, places: Sequence[int]) -> float:
    return sum(abs(explained.weights[at]) for at in places)


def record(explained: Explanation) -> dict[str, Any]:
    """Return an explanation as JSON holds it: every unit with its weight, and the sentences."""
    errors = explained.errors or (None,) * len(explained.units)
    told = {
        key: value for key, value in asdict(explained).items() if key not in ("units", "weights", "errors")
    }
    told["units"] = [
        {
            "kind": unit.kind,
            "turn": unit.turn,
            "part": unit.part,
            "place": list(unit.place),
            "name": unit.name,
        }
        | {"weight": weight, "error": error}
        for unit, weight, error in zip(explained.units, explained.weights, errors, strict=True)
    ]
    return told | {"in_words": sentences(explained)}
