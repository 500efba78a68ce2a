"""How near two pictures are: perceptual hashes find candidates, small grey copies decide.

The hash is imagehash's pHash (the signs of low DCT coefficients, Zauner 2010) of the whole picture and of 23
cut-outs that cover 95, 90 and 85 % of each side, so that a picture is found whose edges were cut away.
The copies are compared by their correlation, which brightness and contrast do not change; a cut-out that they
are too coarse for is laid over the other picture in full detail (`studio.data.steps._cuts`).
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from studio.data.steps._packages import needed
from studio.media import load_image

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIDE = 40
"""Pixels on each side of the grey copy."""
_CUT = 20
_WORST = 0.04
_TRY = 0.92
_FAINT = 7.0, 150.0  # at most so many times the variance, and so much
_BLANK = 0.1
_LOOK = 128
_BOX, _SMOOTH = 4, 3  # numbers of the filters that average and that interpolate, in Pillow's resize
_VIEWS: tuple[tuple[float, float, float], ...] = (
    (1.0, 0.0, 0.0),
    *((0.95, x, y) for x, y in ((0.5, 0.5), *product((0.0, 1.0), repeat=2))),
    *((0.9, x, y) for x, y in product((0.0, 0.5, 1.0), repeat=2)),
    *((0.85, x, y) for x, y in product((0.0, 0.5, 1.0), repeat=2)),
)


def picture_print(path: Path) -> dict[str, Any]:
    """Return a picture's hashes in all views, its size in pixels, and its grey copy.

    Raises:
        MediaError: as `studio.media.load_image`.
    """
    phash = needed("imagehash", "image_duplicates").phash
    picture = load_image(path).convert("L")
    size = list(picture.size)
    small = picture.resize((_LOOK, _LOOK), _BOX if min(picture.size) > _LOOK else _SMOOTH)
    codes = []
    for share, x, y in _VIEWS:
        edge = share * _LOOK
        left, top = x * (_LOOK - edge), y * (_LOOK - edge)
        cut = small.resize((32, 32), _BOX, box=(left, top, left + edge, top + edge))
        codes.append(str(phash(cut)))
    grey = np.asarray(small.resize((SIDE, SIDE), _BOX))
    return {"codes": codes, "size": size, "grey": base64.b64encode(grey.tobytes()).decode()}


class Pictures:
    """Prints of N pictures, to be compared.

    codes    [N, V] hashes in V views, 64 bits each
    vectors  [N, 400] grey copies as unit vectors, their extremes clipped: a white mark changes little of them
    """

    def __init__(self, prints: Sequence[dict[str, Any]], crops: bool = True) -> None:
        """Unpack the prints; without ``crops`` only whole pictures are compared."""
        views = len(_VIEWS) if crops else 1
        self.codes: NDArray[np.uint64] = np.array(
            [[int(code, 16) for code in one["codes"][:views]] for one in prints], np.uint64
        ).reshape(len(prints), views)
        self.sizes: list[tuple[int, int]] = [(one["size"][0], one["size"][1]) for one in prints]
        self._grey = [np.frombuffer(base64.b64decode(one["grey"]), np.uint8) for one in prints]
        seen = (self._seen(at, _VIEWS[0]) for at in range(len(prints)))
        clipped = [unit(np.clip(one, *np.quantile(one, (0.05, 0.95)))) for one in seen]
        self.vectors: NDArray[np.float32] = np.array(clipped, np.float32).reshape(len(prints), _CUT**2)

    def alike(self, first: int, second: int) -> float:
        """Return how alike two whole pictures are: 1 is the same, 0 has nothing in common.

        It is the correlation of their values without the 4 % that fit worst. Where the pictures have
        little contrast, what coding adds counts less than it would by correlation alone.
        """
        return _alike(self._seen(first, _VIEWS[0]), self._seen(second, _VIEWS[0]), *_FAINT)

    def cut_alike(self, whole: int, cut: int, view: int, least: float) -> float:
        """Return how alike a picture is to the best cut-out of another near one of its views.

        The cut-out is moved and resized in ever smaller steps while that helps; where the view itself
        is far from alike, it is not tried.
        """
        share, x, y = _VIEWS[view]
        at = share, x * (1 - share), y * (1 - share)
        one = self._seen(whole, _VIEWS[0])
        best = _alike(one, self._seen(cut, _VIEWS[view]))
        step = 0.025
        while best >= _TRY and best < least and step > 0.004:
            size, left, top = at
            tried = [(size + d, left, top) for d in (-step, step)]
            tried += [(size, left + d, top) for d in (-step, step)]
            tried += [(size, left, top + d) for d in (-step, step)]
            inside = [(s, min(max(a, 0), 1 - s), min(max(b, 0), 1 - s)) for s, a, b in tried if 0.5 <= s <= 1]
            figures = [_alike(one, self._cut(cut, *place)) for place in inside]
            top_one = int(np.argmax(figures))
            if figures[top_one] > best:
                best, at = figures[top_one], inside[top_one]
            else:
                step /= 2
        return best

    def _seen(self, at: int, view: tuple[float, float, float]) -> NDArray[np.float32]:
        share, x, y = view
        return self._cut(at, share, x * (1 - share), y * (1 - share))

    def _cut(self, at: int, share: float, left: float, top: float) -> NDArray[np.float32]:
        """Return a square part of a grey copy, 20 x 20 pixels in one row; all in shares of its side."""
        grey = self._grey[at].reshape(SIDE, SIDE).astype(np.float32)
        return np.asarray((_overlap(top, share) @ grey @ _overlap(left, share).T).ravel())


def _alike(
    one: NDArray[np.float32], two: NDArray[np.float32], times: float = 0.0, most: float = 0.0
) -> float:
    for last in (False, True):
        a, b = one - one.mean(), two - two.mean()
        slope = float(a @ b) / max(float(b @ b), 1e-6)
        wrong = np.abs(a - slope * b)
        if not last:
            fits = np.argsort(wrong)[: round(len(wrong) * (1 - _WORST))]
            one, two = one[fits], two[fits]
    variance = float(a @ a) / len(a)
    rest = float(wrong @ wrong) / len(a)
    if slope <= 0 or variance < _BLANK:
        return 0.0
    return float(max(0.0, 1 - rest / (variance + min(times * variance, most))) ** 0.5)


def unit(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return values with mean 0 and length 1; what does not vary is 0."""
    values = values - values.mean()
    size = float(np.linalg.norm(values))
    return np.asarray(values / size if size > 1e-3 else values * 0, np.float32)


@lru_cache(4096)
def _overlap(begin: float, share: float) -> NDArray[np.float32]:
    edges = (begin + share * np.linspace(0, 1, _CUT + 1)) * SIDE
    pixels = np.arange(SIDE)
    low = np.maximum(edges[:-1, None], pixels[None])
    high = np.minimum(edges[1:, None], pixels[None] + 1)
    weight = np.clip(high - low, 0, None)
    return np.asarray(weight / weight.sum(1, keepdims=True), np.float32)
