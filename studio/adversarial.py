r"""Pictures and sounds that mislead a model and that nobody would tell from the ones they are made of.

For a row with the answer y, values x' are sought within ``eps`` of its own x, each for itself
($|x' - x|_\infty \leq \epsilon$), at which $-\log p(y)$ is as great as possible:

fgsm  one step of ``eps`` along the sign of the gradient (Goodfellow et al. 2015, arXiv:1412.6572)
pgd   steps of $2.5 \epsilon / n$ from a random place within, cut back to it each time (Madry et al. 2018,
      arXiv:1706.06083, section 2.1); the worst place that was seen is kept

What is found is written to files, pictures of their own size in whole pixel values and sounds in 16 bits at
the model's rate, so that it is answered as any other row is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from studio.adversarial_files import elsewhere, name_of
from studio.adversarial_pixels import PixelReader, Pixels
from studio.adversarial_waves import WaveReader, Waves
from studio.errors import ConfigError
from studio.log import Log
from studio.perturb._rows import row_draw
from studio.training.loss import TokenLoss
from studio.types import Family, Image, Loaded, Sample, Sound

Medium = Literal["picture", "sound"]
#: What ``eps`` is measured in.
UNITS = {"picture": "of 255", "sound": "of full scale"}


@dataclass(frozen=True, kw_only=True)
class Attack:
    """How rows are attacked: ``eps`` in pixel values (of 255) or amplitude (of 1); ``steps`` of pgd."""

    name: Literal["fgsm", "pgd"]
    on: Medium
    eps: float
    steps: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise `ConfigError` for a budget that allows nothing, or all."""
        least, most = (1, 255) if self.on == "picture" else (4 / 32_768, 1)
        if not least <= self.eps <= most:
            raise ConfigError(
                f"eps must be from {least:.4g} to {most:g} {UNITS[self.on]} for a {self.on}, not {self.eps:g}"
            )
        if self.steps < 1:
            raise ConfigError(f"an attack needs at least 1 step, not {self.steps}")

    def concerns(self, sample: Sample) -> bool:
        """Return whether a row has what is attacked."""
        return bool(sample.images if self.on == "picture" else sample.sounds)


def attacked(
    held: tuple[Family, Loaded, Callable[[], AbstractContextManager[Loaded]]],
    samples: Sequence[Sample],
    attack: Attack,
    folder: Path,
    log: Log,
    *,
    batch_size: int = 8,
) -> list[Sample]:
    """Return each row with the media that the attack has found against one variant, written to ``folder``.

    ``held`` is what `studio.variants.Engine.held` returns of the variant. A row's media depend on itself, the
    attack and the variant alone; those that an earlier call has left in ``folder``, which belongs to one
    attack on one variant, are taken as they are.

    Raises:
        DataError: if the family's processor is not one that gradients can be sent through.
    """
    family, loaded, within = held
    readers: dict[str, PixelReader | WaveReader] = {
        "picture": PixelReader(family, loaded.processor, folder),
        "sound": WaveReader(family, loaded.processor),
    }
    log.stage(f"{attack.name} on {attack.on}s", len(samples))
    kind = Image if attack.on == "picture" else Sound
    names = [name_of(sample) for sample in samples]
    places = [elsewhere(each, kind, folder, name) for each, name in zip(samples, names, strict=True)]
    missing = [at for at, (_, paths) in enumerate(places) if not all(path.is_file() for path in paths)]
    log.advance(len(samples) - len(missing))
    for start in range(0, len(missing), batch_size):
        some = missing[start : start + batch_size]
        rows = [readers[attack.on].read(samples[at]) for at in some]
        worst = _worst(family, loaded.processor, within, rows, attack)
        for at, row, values in zip(some, rows, worst, strict=True):
            row.saved(values, folder, names[at])
        log.advance(len(rows))
    return [made for made, _ in places]


def _worst(
    family: Family,
    processor: Any,
    within: Callable[[], AbstractContextManager[Loaded]],
    rows: Sequence[Pixels | Waves],
    attack: Attack,
) -> list[Tensor]:
    """Return the values [N] of each row at which its answer was least probable, as a file can hold them."""
    ball = [_Ball(row, attack) for row in rows]
    rate = attack.eps if attack.name == "fgsm" else 2.5 * attack.eps / attack.steps
    places = [each.start() for each in ball]
    steps = 1 if attack.name == "fgsm" else attack.steps
    worst, least = list(places), [math.inf] * len(rows)
    for step in range(steps + 1):
        # Whether the last step has led anywhere is looked at, too; where fgsm leads is taken as it is.
        found = list(_likely(family, processor, within, rows, places, slope=step < steps))
        for at, (likely, _) in enumerate(found):
            if likely < least[at] or attack.name == "fgsm":
                worst[at], least[at] = places[at], likely
        if step < steps:
            places = [
                each.within(place - rate * slope.sign())
                for each, place, (_, slope) in zip(ball, places, found, strict=True)
            ]
    return [each.whole(place) for each, place in zip(ball, worst, strict=True)]


class _Ball:
    """The values within eps of a row's own, and within what its medium can hold."""

    def __init__(self, row: Pixels | Waves, attack: Attack) -> None:
        self._row, self._attack = row, attack
        # Files hold whole steps; libsndfile's 16 bits are off by up to two of them.
        room = attack.eps - (2 * row.step if attack.on == "sound" else 0.0)
        self._low = (row.clean - room).clamp(row.bottom, row.top)
        self._high = (row.clean + room).clamp(row.bottom, row.top)

    def within(self, values: Tensor) -> Tensor:
        return torch.clamp(values, self._low, self._high)

    def start(self) -> Tensor:
        clean = self._row.clean
        if self._attack.name == "fgsm":
            return clean.clone()
        draw = row_draw("pgd", self._attack.seed, self._row.sample)
        moved = draw.uniform(-self._attack.eps, self._attack.eps, len(clean))
        return self.within(clean + torch.from_numpy(moved).float())

    def whole(self, values: Tensor) -> Tensor:
        """Return values as files hold them: whole steps away from the row's own, towards them."""
        step = self._row.step
        return self._row.clean + ((values - self._row.clean) / step).trunc() * step


def _likely(
    family: Family,
    processor: Any,
    within: Callable[[], AbstractContextManager[Loaded]],
    rows: Sequence[Pixels | Waves],
    places: Sequence[Tensor],
    *,
    slope: bool,
) -> Iterator[tuple[float, Tensor]]:
    """Yield log p of each row's answer at its values, and its gradient [N] by them."""
    values = [place.detach().clone().requires_grad_(slope) for place in places]
    with torch.set_grad_enabled(slope), within() as held:
        items = [row.encoded(value) for row, value in zip(rows, values, strict=True)]
        batch = family.collate(processor, items, "right")
        model = held.model
        loss = TokenLoss(model, next(model.parameters()).device, most=0)
        try:
            totals, _ = loss.rows(model, batch, len(rows))
        finally:
            loss.close()
        slopes = torch.autograd.grad(totals.sum(), values) if slope else values
    yield from zip(totals.detach().tolist(), slopes, strict=True)
