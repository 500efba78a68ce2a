"""Why a model answered as it did: what each region, span of sound and word added to log p of the answer.

    explained = explain(engine, "textiles", sample)                    # one variant
    explained = explain(engine, "merged", sample, against="textiles")  # where two of them part

Three methods of captum over the same units (`studio.explain_units`):

shapley
    Shapley values by sampled orders (Castro et al. 2009; each order is also gone through backwards, Mitchell
    et al. 2022, arXiv:2104.12199). A black box: nothing but forward passes. The weights add up to what all
    units together are worth, and each has a standard error.
occlusion
    What is lost when one unit alone goes (Zeiler and Fergus 2014, arXiv:1311.2901): one pass a unit, and
    blind to what two units say twice.
gradients
    Integrated gradients (Sundararajan et al. 2017, arXiv:1703.01365) on pixels, features and embeddings,
    along the line from the erased question to the whole one: the fast one for many units.
"""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from studio.errors import ConfigError, TriptychError, UnknownName
from studio.explain_units import Eraser, Fill, Unit, cut
from studio.explain_value import Value, Within
from studio.log import Log, QuietLog
from studio.types import Sample

if TYPE_CHECKING:
    from torch import Tensor

    from studio.variants import Engine

METHODS = ("shapley", "occlusion", "gradients")
BUDGET = 600
"""Forward passes that are taken by default."""
_LEAST_STEPS, _MOST_STEPS = 8, 64  # of the integral


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """What every unit of a question added to log p of an answer, in nats.

    ``value`` is log p(answer) of ``variant``, or its difference from that of ``against``, with the whole
    question, ``empty`` the same with nothing of it. ``delta`` is the sum of the weights less
    ``value - empty``: 0 where a method shares out all there is. ``errors`` are standard errors of the
    weights, where there were orders enough to tell; ``rounds`` counts the orders, or the steps of the
    integral. ``passes`` counts the forward passes, each of one question through one model.
    """

    variant: str
    against: str = ""
    answer: str
    method: str
    units: tuple[Unit, ...]
    weights: tuple[float, ...]
    errors: tuple[float, ...] = ()
    value: float
    empty: float
    delta: float
    rounds: int = 1
    passes: int
    seed: int = 0


def explain(
    engine: Engine,
    variant: str,
    sample: Sample,
    *,
    against: str = "",
    answer: str | None = None,
    method: str = "shapley",
    grid: int = 6,
    spans: int = 12,
    words: bool = True,
    fill: Fill = "blur",
    budget: int = BUDGET,
    seconds: float = 0,
    batch_size: int = 16,
    seed: int = 0,
    log: Log | None = None,
    within: Within = nullcontext,
) -> Explanation:
    """Return what each unit of a question added to the log-probability of one variant's answer.

    Args:
        engine: the variants; it is held for one batch at a time, so others are answered in between.
        variant: whose answer.
        sample: the question; what the assistant says last in it is not looked at.
        against: another variant: explained is log p of the answer there less here.
        answer: any answer; by default what ``variant`` answers greedily.
        method: one of `METHODS`.
        grid: rows and columns of a picture's longer side; 0: pictures are never taken away.
        spans: how many spans a sound is cut into; 0: sounds are never taken away.
        words: whether the words of the prompt are units.
        fill: what stands where a region was: its blur, the mean colour, or grey.
        budget: most forward passes, of one question through one model each.
        seconds: no further order is begun after so long; 0: without limit. The first is always gone through.
        batch_size: questions computed together.
        seed: of the orders.
        log: is told of the passes.
        within: is entered around every batch; raising there ends the work.

    Raises:
        ConfigError: a setting out of range, or a budget that is not enough for the units.
        DataError: nothing to take away, or media that do not decode.
        UnknownName: an unknown variant or method.
        TriptychError: captum is not installed.
    """
    _require()
    if method not in METHODS:
        raise UnknownName("method of explaining", method, METHODS)
    if batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}; at least 1 is needed")
    if against == variant:
        raise ConfigError(f"'{variant}' cannot be explained against itself; name another variant")
    names = (variant, against) if against else (variant,)
    units = cut(sample, grid=grid, spans=spans, words=words)
    rounds = _rounds(method, len(units), len(names), budget)
    for name in names:
        engine.fingerprint(name)  # an unknown one is told before any work
    if answer is None:
        with within():
            answer = engine.answer(variant, sample)
    with TemporaryDirectory(prefix="triptych-explain-") as folder:
        eraser = Eraser(sample, units, Path(folder), fill=fill)
        value = Value(engine, names, eraser, answer, batch_size=batch_size, within=within)
        value.log = log or QuietLog()
        passes = passes_of(method, len(units), rounds)
        if method == "shapley":
            passes = min(passes, 2 ** len(units))  # what was asked before is not computed again
        value.log.stage("explaining", passes * len(names), "passes")
        full, empty = value([[True] * len(units), [False] * len(units)])
        errors: list[float] = []
        if method == "shapley":
            weights, errors, rounds = _shapley(value, len(units), rounds, batch_size, seed, seconds)
        elif method == "occlusion":
            weights = _occlusion(value, len(units), batch_size)
        else:
            from studio.explain_gradient import integrated

            weights, full, empty = integrated(value, units, rounds)
    return Explanation(
        variant=variant,
        against=against,
        answer=answer,
        method=method,
        units=tuple(units),
        weights=tuple(weights),
        errors=tuple(errors),
        value=full,
        empty=empty,
        delta=sum(weights) - (full - empty),
        rounds=rounds,
        passes=value.passes,
        seed=seed,
    )


def passes_of(method: str, units: int, rounds: int) -> int:
    """Return how many forward passes of one model a method takes over so many units."""
    each = {"shapley": 2 + rounds * (units - 1), "occlusion": 2 + units, "gradients": 4 + rounds}
    return each[method]


def _rounds(method: str, units: int, models: int, budget: int) -> int:
    """Return how many orders, or steps of the integral, a budget allows."""
    fixed, each = {"shapley": (2, max(units - 1, 1)), "occlusion": (2 + units, 0), "gradients": (4, 1)}[
        method
    ]
    least = models * (fixed + (8 if method == "gradients" else each))
    if budget < least:
        raise ConfigError(
            f"budget is {budget} forward passes, but {method} over {units} regions, spans and words"
            f"{' of two variants' if models > 1 else ''} takes at least {least}; allow more, or cut "
            "coarser (grid, spans)"
        )
    rounds = (budget // models - fixed) // each if each else 1
    return min(rounds, _MOST_STEPS) if method == "gradients" else rounds


def _shapley(
    value: Value, units: int, rounds: int, batch_size: int, seed: int, seconds: float
) -> tuple[list[float], list[float], int]:
    """Return Shapley values, their standard errors if there are two pairs of orders, and the orders taken."""
    import torch
    from captum.attr import ShapleyValueSampling

    if units == 1:
        full, empty = value([[True], [False]])
        return [full - empty], [], 1
    draw, began = Random(seed), time.monotonic()
    sampler = ShapleyValueSampling(value.of)
    found: list[Tensor] = []
    order: list[int] = []
    while len(found) < rounds and not (found and seconds and time.monotonic() - began > seconds):
        # Every second order is the one before it backwards: what one overrates, the other underrates.
        order = order[::-1] if len(found) % 2 else draw.sample(range(units), units)
        sampler.permutation_generator = lambda _units, _samples, order=order: iter([order])
        one = sampler.attribute(
            torch.ones(1, units),
            baselines=torch.zeros(1, units),
            n_samples=1,
            perturbations_per_eval=batch_size,
        )
        found.append(one[0].double())
    pairs = [(a + b) / 2 for a, b in zip(found[::2], found[1::2], strict=False)]
    errors: list[float] = []
    if len(pairs) > 1:
        errors = (torch.stack(pairs).std(0) / math.sqrt(len(pairs))).tolist()
    return torch.stack(found).mean(0).tolist(), errors, len(found)


def _occlusion(value: Value, units: int, batch_size: int) -> list[float]:
    """Return what the value loses with each unit alone."""
    import torch
    from captum.attr import FeatureAblation

    lost: Tensor = FeatureAblation(value.of).attribute(
        torch.ones(1, units), baselines=torch.zeros(1, units), perturbations_per_eval=batch_size
    )
    return [float(x) for x in lost[0]]


def _require() -> None:
    try:
        import captum  # noqa: F401
    except ImportError:
        raise TriptychError(
            "explaining an answer needs captum, which is not installed: pip install 'triptych[explain]'"
        ) from None
