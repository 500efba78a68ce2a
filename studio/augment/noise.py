"""Add noise to a sound at a signal-to-noise ratio in decibels: white, pink, or from recordings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np

from studio.augment._recordings import check_recordings, recording
from studio.augment._settings import Between, Draw, Span

if TYPE_CHECKING:
    from torch import Tensor

    from studio.media import Samples


def augment(
    samples: Samples,
    draw: Draw,
    rate: int,
    *,
    snr: Annotated[Span, Between(-20, 80)] = (5.0, 20.0),
    colour: Literal["white", "pink"] = "white",
    recordings: Path | None = None,
) -> Samples:
    """Return the sound [T] with noise ``snr`` decibels below it; silence stays silent.

    ``recordings`` is a sound or a folder of them: a stretch of one is taken, from anywhere, end to end.
    """
    import torch
    from torchaudio.functional import add_noise

    if not np.any(samples):
        return samples
    if recordings is None:
        noise = draw.standard_normal(len(samples)).astype(np.float32)
        noise = _pink(noise) if colour == "pink" else noise
    else:
        noise = np.resize(np.roll(recording(recordings, draw, rate), draw.integers(1 << 30)), len(samples))
    if not np.any(noise):
        return samples
    level = torch.tensor(draw.uniform(*snr), dtype=torch.float32)
    mixed = add_noise(torch.from_numpy(np.ascontiguousarray(samples)), torch.from_numpy(noise), level)
    return np.asarray(_held(mixed).numpy(), dtype=np.float32)


def check(*, recordings: Path | None, **settings: object) -> None:
    """Raise `Wrong` if one of the recordings cannot be used, or there is none."""
    if recordings is not None:
        check_recordings(recordings)


def _held(mixed: Tensor) -> Tensor:
    """Return a sound no louder than full scale, softer as a whole, so that the ratio stays."""
    return mixed / max(1.0, float(mixed.abs().max()))


def _pink(white: Samples) -> Samples:
    """Return noise whose power falls with the frequency, 3 dB an octave."""
    spectrum = np.fft.rfft(white)
    spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))
    spectrum[0] = 0
    return np.fft.irfft(spectrum, len(white)).astype(np.float32)
