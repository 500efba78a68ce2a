"""What attacks leave of every variant's answers: each is attacked for itself, and asked what was found.

Pictures and sounds are attacked by gradients (`studio.adversarial`), within ``eps``; questions by drawing k
of them (perturbed, at a strength) and asking the one at which the right answer is least probable. Rows that
have nothing to attack are left out, so that a figure is about those that have.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from apps.choices import Fleet
from apps.evaluate import evaluate
from apps.robustness import set_name
from studio.adversarial import UNITS, Attack, attacked
from studio.errors import ConfigError
from studio.log import Log
from studio.perturb._rows import STRONGEST, Perturber, perturbation
from studio.types import Sample

#: What questions are drawn with.
WORDS = "typos"


@dataclass(frozen=True, kw_only=True)
class Words:
    """The worst of ``k`` questions, each perturbed at a ``strength`` from 1 to 5."""

    k: int = 8
    strength: int = 2
    seed: int = 0

    name: Literal["worst_of_k"] = "worst_of_k"
    on: Literal["text"] = "text"

    def __post_init__(self) -> None:
        """Raise `ConfigError` for numbers that say nothing."""
        if self.k < 1 or not 1 <= self.strength <= STRONGEST:
            raise ConfigError(
                f"worst_of_k needs k of at least 1 and a strength from 1 to {STRONGEST}, "
                f"not {self.k} and {self.strength}"
            )

    def concerns(self, sample: Sample) -> bool:
        """Return whether a row has a question in words."""
        return perturbation(WORDS).concerns(sample)


def under_attack(
    fleet: Fleet,
    data: Mapping[str, Sequence[Sample]],
    attacks: Sequence[Attack | Words],
    metrics: Sequence[str],
    log: Log,
    *,
    out: Path,
    batch_size: int = 16,
    max_new_tokens: int = 48,
) -> list[dict[str, Any]]:
    """Return every variant's scores on clean rows and on what each attack made of them, with intervals.

    What was found is written into ``out/attacked``; answers are kept as those of any evaluation.

    Raises:
        ConfigError: for an attack on what no row has.
        DataError: if a family's processor is not one that gradients can be sent through.
    """
    for attack in attacks:
        if not any(attack.concerns(row) for rows in data.values() for row in rows):
            raise ConfigError(f"no row has a {attack.on} that could be attacked")
    settings: dict[str, Any] = {"batch_size": batch_size, "max_new_tokens": max_new_tokens}
    told = []
    for domain, rows in data.items():
        for attack in attacks:
            wanted = [row for row in rows if attack.concerns(row)]
            for variant in fleet.names if wanted else ():
                alone = fleet.only(variant)
                folder = out / "attacked" / _digest(fleet.fingerprint(variant), domain, attack)
                ask = partial(evaluate, alone, metrics=metrics, log=log, cache=out / "answers", **settings)
                clean, hit = set_name(domain, "clean", 0), set_name(domain, attack.name, 1)
                results = ask({clean: wanted})  # first: it is what refuses rows without answers
                if isinstance(attack, Words):
                    found = _worst_words(alone, variant, wanted, attack, log, batch_size)
                else:
                    held = fleet.engine(variant).held(variant)
                    found = attacked(held, wanted, attack, folder, log, batch_size=batch_size)
                results |= ask({hit: found})
                told += [
                    {
                        "domain": domain,
                        "variant": variant,
                        **_about(attack),
                        "metric": metric,
                        "n": len(wanted),
                        "clean": _figures(results[clean][variant]["metrics"][metric]),
                        "attacked": _figures(results[hit][variant]["metrics"][metric]),
                    }
                    for metric in metrics
                ]
    return told


def read_attacks(
    names: Sequence[str],
    data: Mapping[str, Sequence[Sample]],
    *,
    eps: float,
    sound_eps: float,
    steps: int,
    words: Words,
) -> list[Attack | Words]:
    """Return the attacks that are asked for, each on what the rows have.

    Raises:
        ConfigError: for a budget that allows nothing, or all, or attacks on what no row has.
    """
    found: list[Attack | Words] = []
    rows = [row for own in data.values() for row in own]
    for name in dict.fromkeys(names):
        if name == "worst_of_k":
            found.append(words)
            continue
        kind: Any = name
        both = [
            Attack(name=kind, on="picture", eps=eps, steps=steps, seed=words.seed),
            Attack(name=kind, on="sound", eps=sound_eps, steps=steps, seed=words.seed),
        ]
        able = [attack for attack in both if any(map(attack.concerns, rows))]
        if not able:
            raise ConfigError(f"--attack {name} changes pictures and sounds, and no row has any")
        found += able
    return found


def _worst_words(
    fleet: Fleet, variant: str, rows: Sequence[Sample], attack: Words, log: Log, batch_size: int
) -> list[Sample]:
    """Return each row with that of its k questions at which its answer is least probable."""
    log.stage(f"questions of {variant}", attack.k * len(rows))
    least: list[float] = []
    worst: list[Sample] = []
    for number in range(attack.k):
        perturber = Perturber(
            perturbation=perturbation(WORDS), seed=attack.seed + number, folder=Path("unused")
        )
        asked = [perturber.sample(row, attack.strength) for row in rows]
        likely = fleet.log_probs(variant, asked, [row.answer for row in rows], batch_size=batch_size, log=log)
        if not worst:
            worst, least = list(asked), [each for each, _ in likely]
        for at, (each, _) in enumerate(likely):
            if each < least[at]:
                worst[at], least[at] = asked[at], each
    return worst


def _about(attack: Attack | Words) -> dict[str, Any]:
    if isinstance(attack, Words):
        unit = f"of 5, {WORDS}, worst of {attack.k}"
        return {"attack": attack.name, "on": "text", "eps": attack.strength, "unit": unit, "steps": attack.k}
    steps = 1 if attack.name == "fgsm" else attack.steps
    unit = UNITS[attack.on]
    return {"attack": attack.name, "on": attack.on, "eps": attack.eps, "unit": unit, "steps": steps}


def _figures(cell: Mapping[str, Any]) -> dict[str, float]:
    return {"value": cell["value"], "low": cell["ci"][0], "high": cell["ci"][1]}


def _digest(*told: object) -> str:
    return hashlib.sha256(" ".join(map(str, told)).encode()).hexdigest()[:16]
