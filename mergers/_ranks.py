"""Which process of a merge this is, which tensors are its own, and what it may use; imports no torch.

Every process takes one stretch of the output, in the order of the files, so that each of them writes its own
region from front to back. Tensors are never cut: which process works on one changes none of its bytes.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mergers._plan import Step
from studio.errors import ConfigError, MergeError


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process is number ``rank`` of ``world``, and number ``place`` of the ``local`` on its machine.

    ``launched`` says that something else has started the others, as torchrun does; otherwise rank 0 starts
    them. ``device`` is cpu, cuda (of several processes each takes its own) or cuda:N; what cuda brings has
    not been measured yet.
    """

    rank: int = 0
    world: int = 1
    place: int = 0
    local: int = 1
    launched: bool = False
    device: str = "cpu"

    @classmethod
    def of(cls, nproc: int = 1, device: str = "cpu", environment: Mapping[str, str] | None = None) -> Ranks:
        """Return what the environment of a launcher says, or ``nproc`` processes that this one starts.

        Read are RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE. Raises `ConfigError` for numbers that
        make no sense, and for both at once.
        """
        if nproc < 1:
            raise ConfigError(f"nproc must be a whole number >= 1, not {nproc}")
        if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
            raise ConfigError(f"device must be cpu, cuda or cuda:N, not '{device}'")
        given = os.environ if environment is None else environment
        try:
            world = int(given.get("WORLD_SIZE", "1"))
            rank = int(given.get("RANK", "0"))
            local, place = int(given.get("LOCAL_WORLD_SIZE", world)), int(given.get("LOCAL_RANK", rank))
        except ValueError:
            raise ConfigError("RANK and WORLD_SIZE in the environment must be whole numbers") from None
        if world <= 1:
            return cls(world=nproc, local=nproc, device=device)
        if not 0 <= rank < world:
            raise ConfigError(f"RANK {rank} in the environment does not fit WORLD_SIZE {world}")
        if nproc > 1:
            raise ConfigError(f"a launcher has started {world} processes already; leave --nproc out")
        return cls(rank=rank, world=world, place=place, local=local, launched=True, device=device)

    @property
    def several(self) -> bool:
        """Whether there are other processes."""
        return self.world > 1

    def number(self, rank: int) -> Ranks:
        """Return what another process on this machine is."""
        return replace(self, rank=rank, place=rank)

    def torch_device(self) -> str:
        """Return the device to work on; `MergeError` if it is not there."""
        if self.device == "cpu":
            return "cpu"
        import torch

        count = torch.cuda.device_count()
        if not count:
            raise MergeError(f"device {self.device}: torch finds no CUDA device on this machine")
        asked = self.device.partition(":")[2]
        number = int(asked) if asked else self.place % count
        if number >= count:
            raise MergeError(f"device {self.device}: the last of {count} CUDA devices is cuda:{count - 1}")
        return f"cuda:{number}"


ALONE = Ranks()


def shares(steps: Sequence[Step], models: int, world: int) -> list[list[Step]]:
    """Return each process's stretch of the steps, of about the same work.

    Work is counted in elements that are read and written; decompositions take the smaller side as often.
    """
    efforts = [_effort(step, models) for step in steps]
    total, before = sum(efforts), 0.0
    found: list[list[Step]] = [[] for _ in range(world)]
    for step, effort in zip(steps, efforts, strict=True):
        middle = (before + effort / 2) / total if total else 0.0
        found[min(world - 1, int(world * middle))].append(step)
        before += effort
    return found


def _effort(step: Step, models: int) -> float:
    numel = math.prod(step.shape)
    if step.action != "merge":
        return numel
    from mergers._settings import method

    chosen, passes = method(step.method), models + 2
    if numel and len(step.shape) > 1:
        rows, columns = step.shape[0], numel // step.shape[0]
        passes += columns if hasattr(chosen, "SQUARES") else 0
        passes += min(rows, columns) if hasattr(chosen, "INVARIANT") else 0
    return numel * passes
