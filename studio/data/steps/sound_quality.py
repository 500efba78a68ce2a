"""Sound quality: clips that are too quiet, cut off at full scale, noisy, silent, too short or too long.

Measured over frames of 20 ms:

    level       root mean square of the loudest tenth of the frames, in dB of full scale
    clipping    share of samples in runs of at least three at the clip's own peak, if that is near full scale
    snr         loudest tenth over quietest tenth of the frames, in dB: an estimate that holds for speech
                with pauses, and says nothing of sounds that never pause
    silence     share of the frames more than 40 dB below the loudest tenth, or below -60 dB
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from studio.data.steps._measured import beyond_limits
from studio.data.steps._step import Bench, Outcome, within
from studio.media import read_sound
from studio.types import Sample

_QUIETEST = -120.0
_FULL = 0.97


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The limits; none switches one off."""

    level: float | None = field(default=-45.0, metadata={"help": "least level in dB of full scale"})
    clipping: float | None = field(default=0.001, metadata={"help": "most share of samples cut off"})
    snr: float | None = field(default=None, metadata={"help": "least dB over the pauses, 10 for instance"})
    silence: float | None = field(default=0.9, metadata={"help": "most share of silent frames"})
    min_seconds: float | None = field(default=0.1, metadata={"help": "least length"})
    max_seconds: float | None = field(default=None, metadata={"help": "most length"})


def check(settings: Settings) -> None:
    """Refuse limits that no sound has."""
    within(settings, level=(_QUIETEST, 0), clipping=(0, 1), snr=(0, 120), silence=(0, 1))
    within(settings, min_seconds=(0, float("inf")), max_seconds=(0, float("inf")))


def run(samples: Sequence[Sample], settings: Settings, bench: Bench) -> Outcome:
    """Remove the rows with a sound outside of a limit; the reason names the sound and the figure."""
    return beyond_limits(
        samples,
        lambda sample: [sound.path for sound in sample.sounds],
        sound_figures,
        lambda figures: faults(figures, settings),
        "sound quality",
        bench,
    )


def sound_figures(path: Path) -> dict[str, Any]:
    """Return the figures of a sound.

    Raises:
        MediaError: as `studio.media.read_sound`.
    """
    wave, rate = read_sound(path)
    size = max(1, min(rate // 50, len(wave)))
    frames = wave[: len(wave) // size * size].reshape(-1, size).astype(np.float64)
    power = np.sort((frames**2).mean(1))
    tenth = max(1, len(power) // 10)
    loud, quiet = (_decibels(float(part.mean())) for part in (power[-tenth:], power[:tenth]))
    each = 10 * np.log10(power + 1e-12)
    return {
        "seconds": len(wave) / rate,
        "level": loud,
        "snr": loud - quiet,
        "silence": float(np.mean((each < loud - 40) | (each < -60))),
        "clipping": _clipping(np.abs(wave)),
    }


def _decibels(power: float) -> float:
    return max(10 * float(np.log10(power + 1e-12)), _QUIETEST)


def _clipping(size: Any) -> float:
    """Return the share of samples in runs of three or more at the peak, if that is near full scale."""
    peak = float(size.max())
    if peak < _FULL:
        return 0.0
    full = np.concatenate(([0], (size >= peak * 0.998).astype(np.int8), [0]))
    edges = np.flatnonzero(np.diff(full))
    runs = edges[1::2] - edges[::2]
    return float(runs[runs >= 3].sum() / len(size))


def faults(figures: dict[str, Any], settings: Settings) -> dict[str, str]:
    """Return which limits a sound breaks, and how a reason says so."""
    why = {}
    seconds, least, most = figures["seconds"], settings.min_seconds, settings.max_seconds
    if (least is not None and seconds < least) or (most is not None and seconds > most):
        why["length"] = f"lasts {seconds:.2f} s"
    if settings.level is not None and figures["level"] < settings.level:
        why["level"] = f"is quiet ({figures['level']:.0f} dB)"
        return why
    if settings.silence is not None and figures["silence"] > settings.silence:
        why["silence"] = f"is {figures['silence']:.0%} silence"
    if settings.clipping is not None and figures["clipping"] > settings.clipping:
        why["clipping"] = f"is cut off at full scale ({figures['clipping']:.2%} of it)"
    if settings.snr is not None and figures["snr"] < settings.snr:
        why["snr"] = f"is noisy ({figures['snr']:.0f} dB)"
    return why
