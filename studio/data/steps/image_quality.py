"""Image quality: pictures that are blurred, too dark or bright, of one tone, too small or oddly shaped.

Measured, not learned. The picture is made grey and at most 512 pixels long; then

    sharpness    variance of its Laplacian over the variance of its values: the share of fine detail, which
                 contrast does not change (after Pech-Pacheco et al., Diatom autofocusing, ICPR 2000)
    dark         the brightest hundredth of the pixels is darker than this, of 255
    bright       the darkest hundredth is brighter than this
    contrast     standard deviation of the values, of 255
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from studio.data.steps._measured import beyond_limits
from studio.data.steps._step import Bench, Outcome, within
from studio.media import load_image
from studio.types import Sample

_LONGEST = 512
_BOX = 4  # the number of the filter that averages, in Pillow's resize
_FEW = 64  # pixels: in a smaller picture everything is detail, and nothing is blurred


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The limits; 0 (of bright 255) switches one off."""

    sharpness: float = field(default=0.005, metadata={"help": "least share of fine detail"})
    dark: float = field(default=40.0, metadata={"help": "least value of the brightest hundredth, of 255"})
    bright: float = field(default=235.0, metadata={"help": "most value of the darkest hundredth, of 255"})
    contrast: float = field(default=3.0, metadata={"help": "least standard deviation of values, of 255"})
    side: int = field(default=16, metadata={"help": "least pixels on the shorter side"})
    shape: float = field(default=5.0, metadata={"help": "most of the longer side over the shorter; 0: any"})


def check(settings: Settings) -> None:
    """Refuse limits that no picture has."""
    far = float("inf")
    within(settings, sharpness=(0, 20), dark=(0, 255), bright=(0, 255), contrast=(0, 128), side=(0, far))
    within(settings, shape=(0, far))


def run(samples: Sequence[Sample], settings: Settings, bench: Bench) -> Outcome:
    """Remove the rows with a picture outside of a limit; the reason names the picture and the figure."""
    return beyond_limits(
        samples,
        lambda sample: [picture.path for picture in sample.images],
        picture_figures,
        lambda figures: faults(figures, settings),
        "image quality",
        bench,
    )


def picture_figures(path: Path) -> dict[str, Any]:
    """Return the figures of a picture.

    Raises:
        MediaError: as `studio.media.load_image`.
    """
    picture = load_image(path).convert("L")
    width, height = picture.size
    scale = _LONGEST / max(width, height)
    if scale < 1:
        picture = picture.resize((max(1, round(width * scale)), max(1, round(height * scale))), _BOX)
    grey = np.asarray(picture, np.float32)
    low, high = np.quantile(grey, (0.01, 0.99))
    deviation = float(grey.std())
    sharpness = 1.0
    if min(grey.shape) >= 3 and max(width, height) >= _FEW and deviation > 0:
        middle = grey[1:-1, 1:-1]
        bend = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * middle
        sharpness = float(bend.var() / deviation**2)
    return {
        "width": width,
        "height": height,
        "low": float(low),
        "high": float(high),
        "contrast": deviation,
        "sharpness": sharpness,
    }


def faults(figures: dict[str, Any], settings: Settings) -> dict[str, str]:
    """Return which limits a picture breaks, and how a reason says so."""
    width, height = figures["width"], figures["height"]
    short, long = sorted((width, height))
    why = {}
    if short < settings.side:
        why["size"] = f"is {width} x {height} pixels"
    if settings.shape and long > settings.shape * short:
        why["shape"] = f"is {long / short:.1f} times as long as wide"
    if figures["contrast"] < settings.contrast:
        why["contrast"] = f"has one tone (deviation {figures['contrast']:.1f})"
        return why
    if figures["high"] < settings.dark:
        why["dark"] = f"is dark (brightest hundredth {figures['high']:.0f})"
    if figures["low"] > settings.bright:
        why["bright"] = f"is bright (darkest hundredth {figures['low']:.0f})"
    if figures["sharpness"] < settings.sharpness:
        why["blur"] = f"is blurred (sharpness {figures['sharpness']:.4f})"
    return why
