r"""What Whisper's extractor makes of a waveform, as a function that has a gradient.

Radford et al. 2022, arXiv:2212.04356, section 2.2: $\log_{10}$ of the energies in mel bands of a short-time
Fourier transform (Hann's window), held within 8 of the greatest of the clip, then $(x + 4) / 4$. It is
written here with operations through which gradients flow, and every row is compared with what the extractor
itself makes of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from studio.adversarial_files import elsewhere
from studio.errors import DataError
from studio.media import load_sound, save_sound
from studio.types import Batch, Family, Sample, Sound

KEY = "input_features"
#: How far a feature may be off the extractor's, which are between about -1.5 and 1.5.
TOLERANCE = 1e-3


def log_mels(samples: Tensor, extractor: Any, frames: int) -> Tensor:
    """Return the features [C, ``frames``] of a sound [T], as Whisper's extractor makes them."""
    hop, size = int(extractor.hop_length), int(extractor.n_fft)
    # The extractor fills a clip up with silence; the last frame of a full window sees its reflection.
    length = frames * hop + (0 if frames >= int(extractor.nb_max_frames) else size)
    filled = torch.nn.functional.pad(samples, (0, max(0, length - len(samples))))[:length]
    waves = torch.stft(filled, size, hop, window=torch.hann_window(size), return_complex=True)
    power = waves[:, :frames].real.square() + waves[:, :frames].imag.square()
    bands = torch.from_numpy(extractor.mel_filters).float().T @ power
    logs = bands.clamp_min(1e-10).log10()
    made: Tensor = (torch.maximum(logs, logs.max() - 8.0) + 4.0) / 4.0
    return made


@dataclass(frozen=True, kw_only=True)
class Waves:
    """One row's sounds as amplitudes [N] from -1 to 1, one sound behind the other, at the model's rate."""

    sample: Sample
    item: Batch
    extractor: Any
    lengths: tuple[int, ...]
    clean: Tensor
    bottom: float = -1.0
    top: float = 1.0
    step: float = 1.0 / 32_768

    def encoded(self, values: Tensor) -> Batch:
        """Return the row's tensors with these amplitudes, through which gradients flow."""
        own = self.item[KEY]
        made = [
            log_mels(each, self.extractor, own.shape[-1]) for each in torch.split(values, list(self.lengths))
        ]
        return {**self.item, KEY: torch.stack(made).view(own.shape).to(own.dtype)}

    def saved(self, values: Tensor, folder: Path, name: str) -> Sample:
        """Return the row with sounds of these amplitudes, written to ``folder`` in 16 bits."""
        made, paths = elsewhere(self.sample, Sound, folder, name)
        for path, each in zip(paths, torch.split(values.detach(), list(self.lengths)), strict=True):
            save_sound(path, each.numpy(), int(self.extractor.sampling_rate))
        return made


class WaveReader:
    """Reads rows of one family as `Waves`."""

    def __init__(self, family: Family, processor: Any) -> None:
        """Read what ``processor`` hears."""
        self._family, self._processor = family, processor

    def read(self, sample: Sample) -> Waves:
        """Return a row with sounds.

        Raises:
            DataError: if its features are not those of Whisper's extractor.
        """
        extractor: Any = getattr(self._processor, "feature_extractor", None)
        item = self._family.encode(self._processor, sample, True)
        if KEY not in item or not all(
            hasattr(extractor, name) for name in ("mel_filters", "n_fft", "hop_length", "nb_max_frames")
        ):
            raise self._refusal(sample)
        sounds = [torch.from_numpy(load_sound(one.path, extractor.sampling_rate)) for one in sample.sounds]
        made = Waves(
            sample=sample, item=item, extractor=extractor, clean=torch.cat(sounds),
            lengths=tuple(map(len, sounds)),
        )  # fmt: skip
        try:
            again = made.encoded(made.clean)[KEY]
        except RuntimeError:  # another shape, or another number of bands
            raise self._refusal(sample) from None
        if not self._alike(again, item, made.lengths, int(extractor.hop_length)):
            raise self._refusal(sample)
        return made

    def _alike(self, again: Tensor, item: Batch, lengths: Sequence[int], hop: int) -> bool:
        own = item[KEY].float().view(len(lengths), -1, again.shape[-1])
        heard = [-(-length // hop) for length in lengths]
        pairs = zip(again.view(own.shape), own, heard, strict=True)
        return all(bool(((a - b)[:, :count].abs() < TOLERANCE).all()) for a, b, count in pairs)

    def _refusal(self, sample: Sample) -> DataError:
        return DataError(
            f"{sample.where}: sounds of family {self._family.name} cannot be attacked, because their "
            "features are not those of Whisper's extractor"
        )
