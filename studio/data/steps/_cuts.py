"""Whether a picture is a part of another one that was cut out and not resized, told from their pixels.

The smaller one is laid over every place of the larger one, and the best correlation counts (normalised
cross-correlation by Fourier transforms; Lewis 1995). In full detail, unlike in a small copy, even two pieces
of the same cloth differ. It is asked only of pairs that look alike in small copies.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from studio.errors import MediaError
from studio.media import load_image

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Grey = NDArray[np.float64]

#: A part must have so large a share of each side, or it is another picture.
SHARE = 0.6
#: The larger picture is looked at with at most so many pixels on its longer side.
_MOST = 320
_BOX = 4


def may_be_cut(whole: tuple[int, int], part: tuple[int, int]) -> bool:
    """Say whether sizes in pixels allow that one picture is a part of the other."""
    fits = all(SHARE * one <= other <= one for one, other in zip(whole, part, strict=True))
    return fits and tuple(whole) != tuple(part)


def best_place(whole: Path, part: Path) -> float:
    """Return the correlation of a picture with the part of another one that it is most like, from -1 to 1."""
    try:
        larger, smaller = _grey(whole), _grey(part)
    except MediaError:
        return 0.0
    shrink = max(1.0, max(larger.size) / _MOST)
    image, template = (_values(one, shrink) for one in (larger, smaller))
    if any(a > b for a, b in zip(template.shape, image.shape, strict=True)):
        return 0.0
    return _correlation(image, template)


def _correlation(image: Grey, template: Grey) -> float:
    high, wide = template.shape
    places = tuple(a - b + 1 for a, b in zip(image.shape, template.shape, strict=True))
    template = template - template.mean()
    image = image - image.mean()
    power = float((template**2).sum())
    if power < 1e-6 * template.size:
        return 0.0
    turned = np.fft.rfft2(template[::-1, ::-1], image.shape)
    product = np.fft.irfft2(np.fft.rfft2(image) * turned, image.shape)
    product = product[high - 1 :, wide - 1 :][: places[0], : places[1]]
    sums, squares = (_windows(one, high, wide) for one in (image, image**2))
    varies = squares - sums**2 / template.size
    good = varies > 1e-3 * power
    return float((product[good] / np.sqrt(varies[good] * power)).max()) if good.any() else 0.0


def _windows(values: Grey, high: int, wide: int) -> Grey:
    """Return the sum of values in each window of so many rows and columns."""
    total = np.zeros((values.shape[0] + 1, values.shape[1] + 1))
    total[1:, 1:] = values.cumsum(0).cumsum(1)
    found: Grey = total[high:, wide:] - total[:-high, wide:] - total[high:, :-wide] + total[:-high, :-wide]
    return found


@lru_cache(64)
def _grey(path: Path) -> Any:
    return load_image(path).convert("L")


def _values(picture: Any, shrink: float) -> Grey:
    if shrink > 1:
        wide, high = (max(1, round(edge / shrink)) for edge in picture.size)
        picture = picture.resize((wide, high), _BOX)
    return np.asarray(picture, np.float64)
