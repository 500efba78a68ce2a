"""Every family learns eight rows by heart in sixty steps: by pictures alone, and by sounds alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pictures

from studio import plugins
from studio.families import family, gauge
from studio.media import save_sound
from studio.training.loss import TokenLoss
from studio.training.towers import train_mode
from studio.types import Image, Sample, Sound, Text, Turn

ANSWERS = ("zero", "one", "two", "three", "four", "five", "six", "seven")
STEPS = 60
CASES = [
    (name, modality)
    for name in plugins.names("families")
    for modality in sorted(family(name).modalities - {"text"})
]


def media(modality: str, seconds: float, folder: Path) -> list[Image] | list[Sound]:
    """Return eight pictures of nine colours each, or eight tones half an octave apart."""
    if modality == "image":
        draw = np.random.default_rng(0)
        for i in range(8):
            colours = Pictures.fromarray(draw.integers(0, 256, (3, 3, 3), dtype=np.uint8))
            colours.resize((48, 48), Pictures.Resampling.NEAREST).save(folder / f"{i}.png")
        return [Image(path=folder / f"{i}.png") for i in range(8)]
    time = np.arange(int(seconds * 16_000)) / 16_000
    for i in range(8):
        wave = 0.3 * np.sin(2 * np.pi * 300 * 2 ** (i / 2) * time)
        save_sound(folder / f"{i}.wav", wave.astype(np.float32), 16_000)
    return [Sound(path=folder / f"{i}.wav") for i in range(8)]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "modality"), CASES)
def test_eight_rows_are_known_by_heart_after_sixty_steps(
    name: str,
    modality: str,
    tiny: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    kind = family(name)
    model, processor = kind.load(tiny(name))
    # Whisper hears its whole window, whatever the sound's length; what is loud in it should be heard.
    seconds = min(gauge(tiny(name)).max_seconds or 2.0, 30.0 if name == "whisper" else 2.0)
    # One question for all: only the medium tells the answer.
    items = [
        kind.encode(
            processor,
            Sample(
                turns=(
                    Turn(role="user", parts=(medium, Text(text="what is it?"))),
                    Turn(role="assistant", parts=(Text(text=answer),)),
                )
            ),
            True,
        )
        for medium, answer in zip(media(modality, seconds, tmp_path), ANSWERS, strict=True)
    ]
    batch = kind.collate(processor, items, "right")
    count = int((batch["labels"] != -100).sum())
    train_mode(model)
    loss_of = TokenLoss(model, torch.device("cpu"))
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2, betas=(0.9, 0.95), weight_decay=0.0)
    for step in range(STEPS):
        for group in optimiser.param_groups:
            group["lr"] = 1e-2 * min(1.0, (step + 1) / 5) * min(1.0, (STEPS - step) / 30)
        loss = loss_of(model, batch, [1.0] * 8) / count
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
    with torch.no_grad():
        model.eval()
        final = float(loss_of(model, batch, [1.0] * 8) / count)
    print(f"| {name} | {modality} | {final:.4f} |")
    assert final < 0.05
