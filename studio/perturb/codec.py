"""A sound over the telephone: 8 kHz, in ever fewer bits of the mu-law (ITU-T G.711 has 8 of them)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from studio.augment._settings import Draw
    from studio.media import Samples

LEVELS = (8.0, 7.0, 6.0, 5.0, 4.0)
UNIT = "bits a sample, at 8 kHz"
TELEPHONE = 8_000


def perturb(samples: Samples, draw: Draw, level: float, rate: int) -> Samples:
    """Return the sound [T] as it comes out of the line; silence stays silent."""
    import torch
    from torchaudio.functional import mu_law_decoding, mu_law_encoding, resample

    if not np.any(samples):
        return samples
    steps = 2 ** int(level)
    line = torch.from_numpy(np.ascontiguousarray(samples))
    if rate > TELEPHONE:
        line = resample(line, rate, TELEPHONE)
    line = mu_law_decoding(mu_law_encoding(line.clamp(-1, 1), steps), steps)
    if rate > TELEPHONE:
        line = resample(line, TELEPHONE, rate)
    heard = torch.nn.functional.pad(line, (0, max(0, len(samples) - len(line))))[: len(samples)]
    return np.asarray(heard.clamp_(-1, 1).numpy(), dtype=np.float32)
