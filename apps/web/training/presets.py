"""Ways to train in plain words, and the settings of `sft` that they stand for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recipes.sft import PRESETS as SFT
from studio import families
from studio.checkpoint import Checkpoint
from studio.data.intake import Taken

#: A model of fewer bytes learns by larger steps, and its towers learn with it.
SMALL = 100 << 20


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One way: its name, what it is for, its settings, and its rate as a share of the usual one."""

    title: str
    about: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    rate: float = 1.0

    @property
    def told(self) -> str:
        """Name and purpose in one line."""
        return f"{self.title}: {self.about}"


PRESETS = {
    "quick": Preset(
        title="Quick try",
        about="100 steps, a first impression within minutes",
        settings={"max_steps": 100, "adapter": {"r": 8}, "evaluate": {"every": 25}, "save_every": 20},
    ),
    "balanced": Preset(
        title="Balanced",
        about="every example four times; the usual choice",
        settings={"epochs": 4, "save_every": 50},
    ),
    "thorough": Preset(
        title="Thorough",
        about="up to twelve times, gently; ends by itself when it gets no better",
        settings={"epochs": 12, "adapter": {"r": 32}, "evaluate": {"patience": 3}, "save_every": 50},
        rate=0.5,
    ),
    "few": Preset(
        title="Few examples",
        about="for 8 to 64 of them, against learning by heart",
        settings={key: value for key, value in SFT["few_shot"].items() if key not in ("output", "lr")},
        rate=0.5,
    ),
}


def settings_of(
    preset: str,
    taken: Taken,
    base: Path,
    model: str,
    output: Path,
    changes: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the settings of a run on a data set: those of the preset, fitted to the model and the data.

    ``model`` is how the run names the base; ``changes`` go before everything else.
    """
    chosen = PRESETS[preset]
    found: dict[str, Any] = {"model": model, "data": str(taken.folder), "output": str(output)}
    if taken.held_out:
        found["eval_data"] = str(taken.folder)
    small = sum(file.stat().st_size for file in Checkpoint(base).files) < SMALL
    rows = max(taken.learned, 1)
    found |= {"batch_size": min(16 if small else 8, rows), "lr": (2e-3 if small else 2e-4) * chosen.rate}
    if small:
        found["towers"] = _towers(base, taken)
    found |= chosen.settings
    return found | changes


def _towers(base: Path, taken: Taken) -> dict[str, str]:
    """Return a rule for each tower that the data use: a small model has not seen enough to leave them."""
    names = families.detect(base).towers
    used = {"llm", "projector"}
    used |= {"vision"} if taken.pictures else set()
    used |= {"audio"} if taken.sounds else set()
    return {tower: "lora" for tower in names if tower in used}
