"""Put a sound into a room: convolve it with the room's impulse response, measured or made up."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np

from studio.augment._recordings import check_recordings, recording
from studio.augment._settings import Between, Draw, Span

if TYPE_CHECKING:
    from studio.media import Samples


def augment(
    samples: Samples,
    draw: Draw,
    rate: int,
    *,
    impulses: Path | None = None,
    seconds: Annotated[Span, Between(0.05, 5.0)] = (0.2, 0.6),
    wet: Annotated[Span, Between(0.0, 1.0)] = (0.1, 0.4),
) -> Samples:
    """Return the sound [T] with a share ``wet`` of what comes back from the room, as loud as it was.

    ``impulses`` is a recorded response or a folder of them. Without, a room is made up: noise that falls by
    60 dB within ``seconds``, as Moorer (1979, About this reverberation business) proposes.
    """
    import torch
    from torchaudio.functional import fftconvolve

    if impulses is None:
        length = draw.uniform(*seconds)
        time = np.arange(max(1, round(length * rate))) / rate
        response = draw.standard_normal(len(time)).astype(np.float32) * np.exp(-6.91 * time / length)
    else:
        response = recording(impulses, draw, rate)
        response = response[int(np.abs(response).argmax()) :]  # the way to the microphone is no echo
    energy = float(np.sqrt(np.sum(response**2)))
    if not np.any(samples) or energy == 0:
        return samples
    dry = torch.from_numpy(np.ascontiguousarray(samples))
    echo = torch.from_numpy(np.ascontiguousarray(response / energy, dtype=np.float32))
    room = fftconvolve(dry, echo)[: len(samples)]
    share = draw.uniform(*wet)
    mixed = (1 - share) * dry + share * room
    mixed *= dry.norm() / mixed.norm().clamp(min=1e-9)
    mixed /= max(1.0, float(mixed.abs().max()))
    return np.asarray(mixed.numpy(), dtype=np.float32)


def check(*, impulses: Path | None, **settings: object) -> None:
    """Raise `Wrong` if one of the impulse responses cannot be used, or there is none."""
    if impulses is not None:
        check_recordings(impulses)
