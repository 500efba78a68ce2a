"""How near two sounds are: their mel spectrograms, stretched to one length, laid over each other.

A print is the log-mel spectrogram of the whole clip in 32 bands up to 3.8 kHz and 64 equal spans of time, so
that a clip played 3 % faster has almost the same one. What is 35 dB below the loud parts counts as silence:
noise and lossy coding live there. Two prints are near when they agree as a whole and nowhere differ
strongly: the same voice that says another last word agrees as a whole, too.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from studio.media import load_sound

if TYPE_CHECKING:
    from numpy.typing import NDArray

RATE = 8000
BANDS, SPANS = 32, 64
_WINDOW, _HIGHEST, _FLOOR = 512, 3800.0, 3.5
_PIECES = 8
_TRY = 0.7
_BAND_SHIFTS = (0.0, -0.25, 0.25, -0.5, 0.5)
_TIME_SHIFTS = (0, -1, 1, -2, 2, -3, 3)


def sound_print(path: Path) -> dict[str, Any]:
    """Return a sound's spectrogram [32, 64] as bytes, and how many seconds it lasts.

    Raises:
        MediaError: as `studio.media.load_sound`.
    """
    wave = load_sound(path, RATE)
    seconds = len(wave) / RATE
    return {"seconds": seconds, "mel": base64.b64encode(mel_print(wave).tobytes()).decode()}


def mel_print(wave: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return the spectrogram [32, 64] of a wave at 8 kHz: 0 is silence, 255 the loudest."""
    centres = (np.arange(SPANS * 4) + 0.5) / (SPANS * 4) * len(wave)
    padded = np.pad(wave, _WINDOW // 2 + 1)
    starts = np.minimum(centres.astype(int), len(padded) - _WINDOW)
    window = np.hanning(_WINDOW).astype(np.float32)
    power = np.empty((SPANS * 4, BANDS), np.float32)
    for at in range(0, len(starts), 64):
        frames = padded[starts[at : at + 64, None] + np.arange(_WINDOW)] * window
        power[at : at + 64] = np.abs(np.fft.rfft(frames)) ** 2 @ _filters().T
    power = power.reshape(SPANS, 4, BANDS).mean(1).T
    loud = max(float(np.quantile(power.sum(0), 0.95)) / BANDS, 1e-9)
    level = np.clip((np.log10(power / loud + 1e-12) + _FLOOR) / (_FLOOR + 1.5), 0, 1)
    return np.asarray(level * 255, np.uint8)


@cache
def _filters() -> NDArray[np.float32]:
    """Return triangular filters [32, 257] that stand evenly on the mel scale (O'Shaughnessy)."""
    highest = 2595 * np.log10(1 + _HIGHEST / 700)
    lowest = 2595 * np.log10(1 + 100 / 700)
    edges = 700 * (10 ** (np.linspace(lowest, highest, BANDS + 2) / 2595) - 1)
    bins = np.fft.rfftfreq(_WINDOW, 1 / RATE)
    up = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    down = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    made = np.clip(np.minimum(up, down), 0, None)
    return np.asarray(made / np.maximum(made.sum(1, keepdims=True), 1e-9), np.float32)


class Sounds:
    """Prints of N sounds, to be compared."""

    def __init__(self, prints: Sequence[dict[str, Any]]) -> None:
        """Unpack the prints."""
        mels = [np.frombuffer(base64.b64decode(one["mel"]), np.uint8) for one in prints]
        self._mels = [mel.reshape(BANDS, SPANS) for mel in mels]
        self._seconds = [float(one["seconds"]) for one in prints]
        coarse = [mel.reshape(BANDS // 2, 2, SPANS // 4, 4).mean((1, 3)).ravel() for mel in self._mels]
        shape = len(prints), BANDS // 2 * (SPANS // 4)
        self.vectors: NDArray[np.float32] = np.array([_unit(one) for one in coarse], np.float32).reshape(
            shape
        )

    def stretch(self, first: int, second: int) -> float:
        """Return how much longer the longer of two sounds lasts, as a ratio from 1."""
        a, b = self._seconds[first], self._seconds[second]
        return max(a, b) / max(min(a, b), 1e-9)

    def alike(self, first: int, second: int) -> tuple[float, float]:
        """Return the correlation of two prints, as a whole and in the eighth of time where it is least.

        One is shifted by up to half a band and three spans, and the best fit is taken, unless they are
        far from alike as they lie.
        """
        one = self._mels[first].astype(np.float32)
        best = float(_unit(one) @ _unit(self._mels[second])), -1.0
        if best[0] < _TRY:
            return best
        best = -1.0, -1.0
        for band in _BAND_SHIFTS:
            other = _banded(self._mels[second].astype(np.float32), band)
            for time in _TIME_SHIFTS:
                a, b = _lapped(one, other, time)
                whole = float(_unit(a) @ _unit(b))
                if whole > best[0]:
                    best = whole, _least(a, b)
        return best


def _banded(mel: NDArray[np.float32], shift: float) -> NDArray[np.float32]:
    """Return a print moved by a part of a band."""
    if not shift:
        return mel
    near = np.roll(mel, 1 if shift > 0 else -1, 0)
    return np.asarray((1 - abs(shift)) * mel + abs(shift) * near, np.float32)


def _lapped(
    one: NDArray[np.float32], other: NDArray[np.float32], time: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the spans that two prints share when one is moved by ``time`` spans."""
    if time > 0:
        return one[:, time:], other[:, :-time]
    return (one[:, :time], other[:, -time:]) if time else (one, other)


def _least(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Return the least agreement among eight pieces of time that hold any sound.

    It is 1 less the squared difference over the power of both, each about the mean of its whole print.
    """
    a, b = one - one.mean(), other - other.mean()
    power = (a * a + b * b).sum(0)
    differs = ((a - b) ** 2).sum(0)
    edges = np.linspace(0, len(power), _PIECES + 1).astype(int)[:-1]
    each, wrong = np.add.reduceat(power, edges), np.add.reduceat(differs, edges)
    return float((1 - wrong / np.maximum(each, each.mean() / 4 + 1e-6)).min())


def _unit(values: NDArray[Any]) -> NDArray[np.float32]:
    flat = values.ravel().astype(np.float32)
    flat = flat - flat.mean()
    size = float(np.linalg.norm(flat))
    return np.asarray(flat / size if size > 1e-3 else flat * 0, np.float32)
