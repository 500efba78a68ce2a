"""The processes of a run: how many, on what device, which of them does what, and how they share a model.

ddp         every process has the whole model, and gradients are averaged
fsdp        weights, gradients and moments are cut among the processes (`studio.training.fsdp`)
deepspeed   moments are, by DeepSpeed's ZeRO (`studio.training.zero`)

Alone, all three are one process with the whole model.
"""

from __future__ import annotations

import math
import os
import secrets
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, broadcast_object_list
from torch import Tensor

from studio.errors import ConfigError
from studio.training import fsdp, zero
from studio.training.threads import physical_cores
from studio.training.tracking import check_tracker

#: Seconds after which a file on one machine shows on the others.
SHOWN_AFTER = 60.0

Strategy = Literal["ddp", "fsdp", "deepspeed"]


@dataclass(frozen=True, kw_only=True)
class Processes:
    """One process among ``world``, the ``rank``-th; ``part`` is (i, n) among those that share its folders.

    ``strategy`` is how they share a model; with one process it is ddp.
    """

    accelerator: Accelerator
    main: bool
    rank: int
    world: int
    part: tuple[int, int]
    strategy: Strategy = "ddp"

    @property
    def sharded(self) -> bool:
        """Whether something is cut: all processes must run the same towers, and save together."""
        return self.strategy != "ddp"

    @property
    def saves(self) -> bool:
        """Whether this process takes part in saving; only the main one writes."""
        return self.main or self.sharded

    def whole(self, model: Any, *, learning: bool) -> AbstractContextManager[None]:
        """Return a context in which the main process has the model whole, or only what of it learns."""
        if self.strategy == "fsdp":
            return fsdp.whole_parameters(model, keeps=self.main, learning=learning)
        return nullcontext()

    def place(self, model: Any) -> Any:
        """Return a model on this process's device, or where it is if it will be cut and moved by parts."""
        return model if self.strategy == "fsdp" else model.to(self.accelerator.device)

    def share(self, model: Any) -> None:
        """Cut the model, if it is to be cut; its parameters are other objects afterwards."""
        if self.strategy == "fsdp":
            fsdp.shard(model, self.accelerator.device, self.world)

    def prepare(self, model: Any, optimiser: Any, clip: float) -> tuple[Any, Any]:
        """Return the model whose gradients are those of all processes, and its optimiser.

        ``clip`` is the limit that `clip` will be called with.
        """
        if self.strategy == "fsdp":
            return model, optimiser
        if self.strategy == "deepspeed":
            taken = zero.Zero(model, optimiser, clip)
            return taken.engine, taken
        if self.world == 1:  # accelerate would look for packages in every step
            return model, optimiser
        prepared, stepping = self.accelerator.prepare(model, optimiser)
        return prepared, stepping

    def apart(self, model: Any) -> AbstractContextManager[Any]:
        """Return a context in which gradients only add up, and are not averaged yet.

        Where they are cut they are averaged all the same: kept whole until the last one, they would fill the
        memory that cutting them saves.
        """
        return nullcontext() if self.sharded else self.accelerator.no_sync(model)

    def backward(self, model: Any, loss: Tensor, *, last: bool) -> None:
        """Add the gradients of a micro-batch, the ``last`` of a step or another one."""
        if self.strategy == "deepspeed":
            zero.backward(model, loss, last)
        elif self.world == 1:
            loss.backward()  # type: ignore[no-untyped-call]
        else:
            self.accelerator.backward(loss)

    def agree(self, yes: bool) -> bool:
        """Return whether all processes say yes; every one of them must ask."""
        said: Tensor = self.accelerator.reduce(torch.tensor(float(yes), device=self.accelerator.device))
        return int(said) == self.world

    def clip(self, parameters: Sequence[torch.nn.Parameter], limit: float, optimiser: Any) -> Tensor:
        """Scale gradients down to a norm of ``limit`` (0: never), and return the norm [] that they had."""
        if isinstance(optimiser, zero.Zero):
            return optimiser.take()
        if self.world == 1:
            return torch.nn.utils.clip_grad_norm_(parameters, limit or math.inf)
        norm: Tensor = self.accelerator.clip_grad_norm_(parameters, limit or math.inf)
        return fsdp.joined(norm)

    def meet(self, folder: Path) -> None:
        """Find out whether all machines share a folder, for which they get a minute.

        Raises:
            ConfigError: on all of them if one does not see what the first has written.
        """
        if self.world == self.part[1]:
            return
        names = [secrets.token_hex(8)]
        broadcast_object_list(names)
        mark = folder / f".{names[0]}"
        missing = [place for place in (folder, *folder.absolute().parents) if not place.exists()]
        if self.main:
            folder.mkdir(parents=True, exist_ok=True)
            mark.touch()
        self.accelerator.wait_for_everyone()
        until = time.monotonic() + SHOWN_AFTER
        while not (seen := mark.exists()) and time.monotonic() < until:
            time.sleep(0.5)
        together = self.agree(seen)
        if self.main:
            mark.unlink()
            for place in () if together else missing:
                with suppress(OSError):
                    place.rmdir()
        if not together:
            raise ConfigError(f"output {folder} must be in a folder that all machines share")


def join(
    output: Path, *, tracker: str | None = None, unused: bool = False, strategy: Strategy = "ddp"
) -> Processes:
    """Join the processes of this run, which accelerate finds in the environment; alone it is one.

    ``unused`` says that a step may leave some of what learns without a gradient, as a tower that no sample
    of its batch uses: DDP has to look for that.

    Raises:
        ConfigError: if accelerate's own configuration asks for another strategy, or found other processes;
            if the strategy's package is not installed; if several machines do not share ``output``.
    """
    for name in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
        if os.environ.get(f"ACCELERATE_USE_{name}", "").lower() == "true":
            raise ConfigError(
                f"accelerate's configuration asks for {name}: launch without it, and give the strategy "
                "as speed.strategy=ddp, fsdp or deepspeed"
            )
    if strategy == "deepspeed":
        zero.imported()
    world = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", world))
    if world > 1:
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, physical_cores() // local)))
    accelerator = Accelerator(
        cpu=world > 1 and not torch.cuda.is_available(),  # or each would train alone, into the same folder
        log_with=check_tracker(tracker) if tracker else None,
        project_dir=output,
        mixed_precision="no",  # `TokenLoss` switches autocast on
        kwargs_handlers=[
            DistributedDataParallelKwargs(find_unused_parameters=unused),
            InitProcessGroupKwargs(timeout=timedelta(hours=12)),  # for those that wait while others encode
        ],
    )
    found = accelerator.num_processes
    if found != world:
        raise ConfigError(f"WORLD_SIZE is {world}, but accelerate finds {found} processes; is RANK set, too?")
    processes = Processes(
        accelerator=accelerator,
        main=accelerator.is_main_process,
        rank=accelerator.process_index,
        world=world,
        part=(accelerator.local_process_index, local),
        strategy=strategy if world > 1 else "ddp",
    )
    processes.meet(output)
    return processes
