"""Every family learns eight rows by heart in sixty steps; where it sees, by their pictures alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from studio import plugins
from studio.families import family
from studio.training.loss import TokenLoss
from studio.training.towers import train_mode
from studio.types import Sample, Text, Turn

ANSWERS = ("zero", "one", "two", "three", "four", "five", "six", "seven")


#: Whisper reads 30 s of sound whatever its size: its sixty steps take longer than those of all others.
NAMES = [name for name in plugins.names("families") if name != "whisper"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_eight_rows_are_known_by_heart_after_sixty_steps(
    name: str, tiny: Callable[[str], Path], questions: Callable[[str, int], list[Sample]]
) -> None:
    kind = family(name)
    model, processor = kind.load(tiny(name))
    samples = questions(name, 8)
    if "image" in kind.modalities:  # one question for all: only the picture tells the answer
        seen = {part.path: part for sample in questions(name, 16) for part in sample.images}
        turn = (Text(text="what is it?"),)
        samples = [
            Sample(
                turns=(
                    Turn(role="user", parts=(picture, *turn)),
                    Turn(role="assistant", parts=(Text(text=answer),)),
                )
            )
            for picture, answer in zip(seen.values(), ANSWERS, strict=False)
        ]
    items = [kind.encode(processor, sample, True) for sample in samples]
    assert len(items) == 8
    batch = kind.collate(processor, items, "right")
    count = int((batch["labels"] != -100).sum())
    train_mode(model)
    loss_of = TokenLoss(model, torch.device("cpu"))
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    for step in range(60):
        for group in optimiser.param_groups:
            group["lr"] = 1e-2 * min(1.0, (step + 1) / 5) * min(1.0, (60 - step) / 30)
        loss = loss_of(model, batch, [1.0] * 8) / count
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
    with torch.no_grad():
        model.eval()
        final = float(loss_of(model, batch, [1.0] * 8) / count)
    assert final < 0.05
