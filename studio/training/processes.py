"""The processes of a run: how many there are, on what device, and which of them does what."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

from studio.training.tracking import check_tracker


@dataclass(frozen=True, kw_only=True)
class Processes:
    """One process among ``world``, the ``rank``-th; ``part`` is (i, n) among those of its machine."""

    accelerator: Accelerator
    main: bool
    rank: int
    world: int
    part: tuple[int, int]


def join(output: Path, *, tracker: str | None, unused: bool) -> Processes:
    """Join the processes of this run, which accelerate finds in the environment; alone it is one.

    ``unused`` says that a step may leave some of what learns without a gradient, as a tower that no sample
    of its batch uses: DDP has to look for that.
    """
    accelerator = Accelerator(
        log_with=check_tracker(tracker) if tracker else None,
        project_dir=output,
        mixed_precision="no",  # `TokenLoss` switches autocast on
        kwargs_handlers=[
            DistributedDataParallelKwargs(find_unused_parameters=unused),
            InitProcessGroupKwargs(timeout=timedelta(hours=12)),  # for those that wait while others encode
        ],
    )
    world = accelerator.num_processes
    return Processes(
        accelerator=accelerator,
        main=accelerator.is_main_process,
        rank=accelerator.process_index,
        world=world,
        part=(accelerator.local_process_index, int(os.environ.get("LOCAL_WORLD_SIZE", world))),
    )
