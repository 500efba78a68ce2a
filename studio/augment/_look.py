"""What features look like: a picture of their values, low notes at the bottom."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

_LOW, _MIDDLE, _HIGH = (20, 24, 38), (18, 102, 107), (245, 214, 140)


def features_png(features: Tensor, low: float, high: float) -> bytes:
    """Return features [C, T] as a PNG of T x C pixels; ``low`` and ``high`` are the ends of the colours."""
    from PIL import Image

    values = (features.float().numpy()[::-1] - low) / max(high - low, 1e-9)
    share = np.clip(values, 0, 1)[..., None]
    ends = [np.array(colour, dtype=np.float32) for colour in (_LOW, _MIDDLE, _HIGH)]
    half = np.where(share < 0.5, 2 * share, 2 * share - 1)
    first, last = np.where(share < 0.5, ends[0], ends[1]), np.where(share < 0.5, ends[1], ends[2])
    buffer = io.BytesIO()
    Image.fromarray((first + (last - first) * half).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()
