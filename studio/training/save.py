"""Saving a run's state so that a killed run goes on as if nothing had happened.

The state is what learns, the optimiser's moments and the place in the run. The learning rate, the order of
the data and the random numbers are functions of the seed and the step (`schedule`, `batches`, `seed`), so
they need no saving. Safetensors and JSON only: a state is read without running code.

Tensors are saved whole, however they are cut among processes: a state goes on with any number of them, and
cut or not. They are gathered and written one by one, so that no process ever holds all of it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from studio.errors import CheckpointError
from studio.files import atomic_folder
from studio.tensorfile import as_bytes, encode_header
from studio.training.budget import Budget
from studio.training.ema import Average
from studio.training.fsdp import cut_like, is_cut, reshard, whole
from studio.training.shards import KINDS

STATE, WEIGHTS, MOMENTS = "state.json", "weights.safetensors", "optimiser.safetensors"
MEANS, RANKS = "average.safetensors", "ranks.safetensors"


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a run stands: ``step`` optimiser steps are done, the last with ``loss``.

    ``best`` is the lowest evaluation loss, reached at ``best_step``, and ``stale`` counts the evaluations
    since; ``seconds`` is the time spent training, ``waited`` what of it went by waiting for data, over
    ``samples`` and ``tokens``. ``size`` is how many samples a step takes on all processes: it stays as the
    run began, also when their number is another.
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
    size: int = 0

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
    budget: Budget | None = None,
    *,
    writes: bool = True,
) -> None:
    """Write the state of a run as a folder that replaces the old one whole or not at all.

    Where tensors are cut among processes, all of them call this, and only one ``writes``.
    """
    reshard(model)
    learning = _learning(model)
    names = {id(parameter): name for name, parameter in learning.items()}
    moments = {
        f"{names[id(parameter)]}|{key}": torch.as_tensor(value)
        for parameter, state in optimiser.state.items()
        for key, value in state.items()
    }
    files: dict[str, Mapping[str, Tensor]] = {WEIGHTS: learning, MOMENTS: moments}
    if average is not None:
        files[MEANS] = average.state()
    if budget is not None:
        files[RANKS] = budget.state()
    if not writes:
        for tensors in files.values():
            _write(None, tensors)
        return
    with atomic_folder(folder) as made:
        for name, tensors in files.items():
            _write(made / name, tensors)
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


def load_state(
    folder: Path,
    model: Any,
    optimiser: torch.optim.Optimizer,
    average: Average | None = None,
    budget: Budget | None = None,
) -> None:
    """Put what `save_state` has saved in its place, in what was built as it was then.

    Raises:
        CheckpointError: if a file is damaged or does not fit what learns in this run.
    """
    learning = _learning(model)
    weights, moments = _Saved(folder / WEIGHTS), _Saved(folder / MOMENTS)
    if weights.shapes != {name: tuple(parameter.shape) for name, parameter in learning.items()}:
        raise CheckpointError(f"{folder} holds other weights than this run trains; resume=false starts over")
    with torch.no_grad():
        for name, parameter in learning.items():
            parameter.copy_(cut_like(weights.read(name), parameter))
    states: dict[str, dict[str, Tensor]] = {}
    for key in moments.shapes:
        name, _, kind = key.rpartition("|")
        if name not in learning:
            raise CheckpointError(f"{folder} holds moments of other weights; resume=false starts over")
        states.setdefault(name, {})[kind] = cut_like(moments.read(key), learning[name])
    names = {id(parameter): name for name, parameter in learning.items()}
    order = [names[id(p)] for group in optimiser.param_groups for p in group["params"]]
    state = optimiser.state_dict()
    state["state"] = {at: states[name] for at, name in enumerate(order) if name in states}
    optimiser.load_state_dict(state)
    for part, name in ((average, MEANS), (budget, RANKS)):
        if part is not None:
            found = _Saved(folder / name)
            part.load({key: found.read(key) for key in found.shapes})


def _learning(model: Any) -> Mapping[str, torch.nn.Parameter]:
    """Return the trainable parameters by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _write(file: Path | None, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors one after the other, or only help the process that does."""
    # Wide types first: every tensor then begins at a multiple of its own width.
    order = sorted(tensors.items(), key=lambda pair: -pair[1].element_size())
    if file is None:
        for _, tensor in order:
            if is_cut(tensor):
                whole(tensor)
        return
    with open(file, "wb") as out:
        out.write(encode_header(((name, KINDS[t.dtype], tuple(t.shape)) for name, t in order), {}))
        for _, tensor in order:
            out.write(as_bytes(whole(tensor)))


class _Saved:
    """A file of tensors, read one by one; `CheckpointError` if it is damaged."""

    def __init__(self, file: Path) -> None:
        self._file = file
        try:
            opened: Any = safe_open  # its stubs have no types
            self._opened = opened(file, framework="pt")
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{file}: cannot be read ({error}); resume=false starts over") from None
        self.shapes = {
            name: tuple(self._opened.get_slice(name).get_shape())
            for name in self._opened.keys()  # noqa: SIM118
        }

    def read(self, name: str) -> Tensor:
        tensor: Tensor = self._opened.get_tensor(name)
        return tensor
