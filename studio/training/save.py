"""Saving a run's state so that a killed run goes on as if nothing had happened.

The state is what learns, the optimiser's moments and the place in the run. The learning rate, the order of
the data and the random numbers are functions of the seed and the step (`schedule`, `batches`, `seed`), so
they need no saving. Safetensors and JSON only: a state is read without running code.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from studio.errors import CheckpointError
from studio.files import atomic_folder
from studio.training.ema import Average

STATE, WEIGHTS, MOMENTS = "state.json", "weights.safetensors", "optimiser.safetensors"
MEANS = "average.safetensors"


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a run stands: ``step`` optimiser steps are done, the last with ``loss``.

    ``best`` is the lowest evaluation loss, reached at ``best_step``, and ``stale`` counts the evaluations
    since; ``seconds`` is the time spent training, ``waited`` what of it went by waiting for data, over
    ``samples`` and ``tokens``.
    """

    step: int = 0
    loss: float = 0.0
    best: float | None = None
    best_step: int = 0
    stale: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    samples: int = 0
    tokens: int = 0

    def judged(self, step: int, value: float) -> Progress:
        """Return the progress after an evaluation: its ``value`` is the best so far, or it was in vain."""
        if self.best is None or value < self.best:
            return dataclasses.replace(self, best=value, best_step=step, stale=0)
        return dataclasses.replace(self, stale=self.stale + 1)


def save_state(
    folder: Path,
    model: Any,
    optimiser: torch.optim.Optimizer,
    progress: Progress,
    average: Average | None = None,
) -> None:
    """Write the state of a run as a folder that replaces the old one whole or not at all."""
    names = {id(parameter): name for name, parameter in _learning(model).items()}
    moments = {
        f"{names[id(parameter)]}|{key}": torch.as_tensor(value).detach().cpu().contiguous()
        for parameter, state in optimiser.state.items()
        for key, value in state.items()
    }
    weights = {name: parameter.detach().cpu().contiguous() for name, parameter in _learning(model).items()}
    with atomic_folder(folder) as made:
        save_file(weights, made / WEIGHTS)
        save_file(moments, made / MOMENTS)
        if average is not None:
            means = {name: mean.detach().cpu().contiguous() for name, mean in average.state().items()}
            save_file(means, made / MEANS)
        (made / STATE).write_text(json.dumps(dataclasses.asdict(progress), indent=2), encoding="utf-8")


def read_progress(folder: Path) -> Progress | None:
    """Return where the run in ``folder`` stands, or None if it has saved nothing yet.

    Raises:
        CheckpointError: if the file is not one of ours.
    """
    try:
        found = json.loads((folder / STATE).read_text(encoding="utf-8"))
        return Progress(**found)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        raise CheckpointError(
            f"{folder / STATE} is not the state of a run; resume=false starts over"
        ) from None


def load_average(folder: Path, average: Average) -> None:
    """Go on from the averages that were saved; `CheckpointError` if they are damaged or of other weights."""
    average.load(_read(folder / MEANS))


def load_state(folder: Path, model: Any, optimiser: torch.optim.Optimizer) -> None:
    """Put the saved weights and moments in place, in the model and optimiser as they were built.

    Raises:
        CheckpointError: if a file is damaged or does not fit what learns in this run.
    """
    learning = _learning(model)
    weights, moments = _read(folder / WEIGHTS), _read(folder / MOMENTS)
    if {n: t.shape for n, t in weights.items()} != {n: p.shape for n, p in learning.items()}:
        raise CheckpointError(f"{folder} holds other weights than this run trains; resume=false starts over")
    with torch.no_grad():
        for name, parameter in learning.items():
            parameter.copy_(weights[name])
    states: dict[str, dict[str, Tensor]] = {}
    for key, value in moments.items():
        name, _, kind = key.rpartition("|")
        states.setdefault(name, {})[kind] = value
    names = {id(parameter): name for name, parameter in learning.items()}
    order = [names[id(p)] for group in optimiser.param_groups for p in group["params"]]
    if not states.keys() <= set(order):
        raise CheckpointError(f"{folder} holds moments of other weights; resume=false starts over")
    whole = optimiser.state_dict()
    whole["state"] = {at: states[name] for at, name in enumerate(order) if name in states}
    optimiser.load_state_dict(whole)


def _learning(model: Any) -> Mapping[str, torch.nn.Parameter]:
    """Return the trainable parameters by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _read(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file}: cannot be read ({error}); resume=false starts over") from None
