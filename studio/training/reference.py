"""What the model says of answers before its first step: the reference that preferences are measured against.

It is computed once, without dropout, before a saved state is put in place: with a fresh adapter, which still
adds nothing, it is the base with the adapter switched off, else the adapter that the run starts from. Numbers
are kept in the user's cache, under a hash of the answer's tensors and of all that made them, for later runs
and for one that goes on after a kill.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from studio.cache import Kept
from studio.families._gauge import Gauge
from studio.log import Log
from studio.training.features import evaluating
from studio.training.fsdp import reshard
from studio.training.loss import TokenLoss
from studio.training.preference_data import Preferences
from studio.training.processes import Processes
from studio.training.rounds import own_part
from studio.types import Batch

Collate = Callable[[Sequence[Batch]], Batch]
#: Methods whose adapter begins as nothing, so that its settings and seed do not matter.
FROM_NOTHING = ("lora", "rslora", "dora", "bitfit", "full")


@dataclass(kw_only=True)
class Reference:
    """Fills in what the reference makes of ``datasets``, in batches of ``size`` rows.

    ``key`` names the reference (`reference_key`); ``asked`` False leaves zeros, for losses without one.
    """

    datasets: Sequence[Preferences]
    key: str
    size: int
    asked: bool = True
    kept: Kept = field(default_factory=Kept)
    #: How many numbers were found in the cache, and how many were computed.
    found: int = 0
    computed: int = 0

    def hold(
        self,
        model: Any,
        loss: TokenLoss,
        collate: Collate,
        folder: Path,
        log: Log,
        processes: Processes,
        *,
        resumed: bool,
    ) -> None:
        """Compute them by ``model`` as it is before its first step; every process does its share.

        Nothing is written to ``folder``, and a run that is ``resumed`` asks the cache like any other.
        """
        if not self.asked:
            return
        for data in self.datasets:
            if len(data):
                data.reference = self._of(data, model, loss, collate, log, processes)
        log.say(f"reference: {self.computed} log-probabilities computed, {self.found} found in the cache")

    @torch.no_grad()
    def _of(
        self, data: Preferences, model: Any, loss: TokenLoss, collate: Collate, log: Log, processes: Processes
    ) -> Tensor:
        encoded, device = data.encoded, processes.accelerator.device
        rows = sorted({row for members in data.members for row in members}, key=encoded.lengths.__getitem__)
        batches = [rows[at : at + self.size] for at in range(0, len(rows), self.size)]
        names = {
            row: self._name(data, row)
            for batch in batches[processes.rank :: processes.world]
            for row in batch
        }
        # Where the model is cut, all must take the same steps, whatever each of them would find.
        known = {} if processes.sharded else self.kept.get(sorted(set(names.values())))
        values = torch.zeros(len(encoded), dtype=torch.float64, device=device)
        log.stage("reference", len(rows), "answers")
        with evaluating(model):
            for begin in range(0, len(batches), processes.world):
                group = batches[begin : begin + processes.world]
                group += [[]] * (processes.world - len(group))
                own = group[processes.rank]
                asked = [row for row in own if names[row] not in known]
                for row in own:
                    values[row] = float(known.get(names[row], 0.0))
                beside = own_part(group, encoded, processes)[0][len(own) :] if processes.sharded else []
                if asked or beside:
                    batch = collate([encoded[row] for row in (*asked, *beside)])
                    made = loss.rows(model, batch, len(asked) + len(beside))[0][: len(asked)].double()
                    values[asked] = made
                    told = zip(asked, made.tolist(), strict=True)
                    self.kept.put({names[row]: repr(value) for row, value in told})
                self.computed += len(asked)
                self.found += len(own) - len(asked)
                log.advance(len(own))
        reshard(model)
        whole: Tensor = processes.accelerator.reduce(values).float().cpu()
        return torch.stack([whole[members] for members in data.members])

    def _name(self, data: Preferences, row: int) -> str:
        told = f"{self.key}:{data.encoded.digest(row, data.encoded.keys(row))}"
        return f"reference:{hashlib.sha256(told.encode()).hexdigest()}"


def reference_key(
    gauge: Gauge,
    config: Any,
    inputs: Mapping[str, str],
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> str:
    """Return what names the reference of a run: the weights that it starts with, and how it computes.

    ``inputs`` are the run's hashes: those of the base and of an adapter that it starts from count.
    """
    fresh = config.adapter.start is None and config.method not in FROM_NOTHING
    told = {
        "base": inputs["model"],
        "start": inputs.get("adapter.start", ""),
        "method": [config.method, config.seed, vars(config.adapter)] if fresh else "",
        "towers": config.towers,
        "computed": [torch.__version__, device.type, str(dtype), config.precision, gauge.maker],
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()
