r"""Adversarial training: a micro-batch is learned from where it is hardest (Madry et al. 2018).

$\min_\theta E[\max_{|\delta|_\infty \leq \epsilon} L(\theta, x + \delta, y)]$ (arXiv:1706.06083, 2.1);
the inner maximum is sought by n steps of projected gradient ascent from a random place; with one step that is
FGSM with a random start (Wong et al. 2020, arXiv:2001.03994). Pictures are changed as the processor leaves
them, by as much as ``eps`` pixel values change them there, within what pixels can be; frames that a processor
repeats may come to differ. Sounds are changed in their features, not in the waveform: the extractor keeps
nothing of that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from studio.errors import ConfigError
from studio.families._gauge import Gauge
from studio.log import Log
from studio.media import save_image
from studio.training.encoding import Encoded
from studio.training.loss import TokenLoss
from studio.training.processes import Processes
from studio.types import Batch, Image, Sample, Text, Turn

PICTURES, SOUNDS = "pixel_values", "input_features"


@dataclass(frozen=True, kw_only=True)
class Room:
    """How far the elements of a tensor may go: ``eps``, and their least and greatest values, to broadcast."""

    eps: Tensor
    low: Tensor
    high: Tensor


@dataclass(frozen=True, kw_only=True)
class Adversary:
    """Changes a batch's media within their rooms, so that its loss is greater; draws from torch's numbers."""

    model: Any
    loss: TokenLoss
    rooms: dict[str, Room]
    steps: int

    def __call__(self, batch: Batch, weights: Sequence[float]) -> Batch:
        """Return the batch with changed media, or itself if it has none; gradients of parameters stay."""
        rooms = {key: room for key, room in self.rooms.items() if key in batch}
        if not rooms:
            return batch
        device = next(self.model.parameters()).device
        clean = {key: batch[key].to(device) for key in rooms}
        moved = {
            key: (2 * torch.rand_like(clean[key]) - 1) * room.eps.to(clean[key])
            for key, room in rooms.items()
        }
        for _ in range(self.steps):
            places = {
                key: _within(clean[key], move, rooms[key]).requires_grad_() for key, move in moved.items()
            }
            with torch.enable_grad():
                loss = self.loss(self.model, {**batch, **places}, weights)
                slopes = torch.autograd.grad(loss, list(places.values()))
            for (key, place), slope in zip(places.items(), slopes, strict=True):
                eps = rooms[key].eps.to(slope)
                step = 2.5 * eps / self.steps if self.steps > 1 else 1.25 * eps
                moved[key] = torch.clamp(place.detach() - clean[key] + step * slope.sign(), -eps, eps)
        return {**batch, **{key: _within(clean[key], move, rooms[key]) for key, move in moved.items()}}


def adversary_of(
    config: Any, model: Any, loss: TokenLoss, gauge: Gauge, data: Encoded, log: Log, processes: Processes
) -> Adversary | None:
    """Return what a run's settings ask for as ``optimiser.robust_eps`` and ``robust_sound``, or None.

    Raises:
        ConfigError: where no row has what would be changed, where the model is cut over processes, and for a
            family whose processor does more with pictures than resize, scale and cut.
    """
    settings = config.optimiser
    if not settings.robust:
        return None
    if processes.strategy != "ddp":
        raise ConfigError(
            "optimiser.robust_eps: its gradients need a model that is whole; set speed.strategy=ddp, "
            f"not {processes.strategy}"
        )
    rooms: dict[str, Room] = {}
    for name, key, medium in (("robust_eps", PICTURES, "pictures"), ("robust_sound", SOUNDS, "sounds")):
        if eps := getattr(settings, name):
            if not any(key in data.keys(row) for row in range(len(data))):
                raise ConfigError(f"optimiser.{name} changes {medium} ({key}), and no row of data has any")
            rooms[key] = _picture_room(gauge, eps) if key == PICTURES else _sound_room(eps)
            unit = "of 255" if key == PICTURES else "in their features"
            log.say(f"adversary: {medium} within {eps:g} {unit}, {settings.robust_steps} steps each time")
    return Adversary(model=model, loss=loss, rooms=rooms, steps=settings.robust_steps)


def _within(clean: Tensor, move: Tensor, room: Room) -> Tensor:
    """Return what is ``move`` away from the clean values, and can be."""
    return torch.clamp(clean + move, room.low.to(clean), room.high.to(clean)).detach()


def _sound_room(eps: float) -> Room:
    end = torch.tensor(torch.inf)
    return Room(eps=torch.tensor(eps), low=-end, high=end)


def _picture_room(gauge: Gauge, eps: float) -> Room:
    """Return what ``eps`` of 255 is in a tensor of pictures: read off a black and a white one."""
    with TemporaryDirectory() as folder:
        black, white = (_encoded(gauge, Path(folder), value) for value in (0, 255))
    if black.dim() == 2:  # patches [P, D]: D goes over channels and the places in a patch
        low, high = black[0], white[0]
    elif black.dim() >= 4:  # pictures or tiles [..., C, H, W]
        low, high = (each.flatten(0, -4)[0][:, :1, :1] for each in (black, white))
    else:
        raise _refusal(gauge)
    off = max(float((black - low).abs().max()), float((white - high).abs().max()))
    if off > 1e-4 or not bool((high > low).all()):
        raise _refusal(gauge)
    return Room(eps=(high - low) * eps / 255, low=low, high=high)


def _encoded(gauge: Gauge, folder: Path, value: int) -> Tensor:
    save_image(path := folder / f"{value}.png", np.full((64, 64, 3), value, dtype=np.uint8))
    question = Turn(role="user", parts=(Image(path=path), Text(text="what is it?")))
    answer = Turn(role="assistant", parts=(Text(text="a colour"),))
    item = gauge.family.encode(gauge.processor, Sample(turns=(question, answer)), True)
    if PICTURES not in item:
        raise _refusal(gauge)
    found: Tensor = item[PICTURES].float()
    return found


def _refusal(gauge: Gauge) -> ConfigError:
    return ConfigError(
        f"optimiser.robust_eps: the processor of family {gauge.family.name} does more with pictures than "
        "resize, scale and cut, so a pixel's value cannot be found in what it makes"
    )
