"""From a module's path in the model to its tensor's name on disk, where libraries rename prefixes.

A model may hold ``model.language_model.layers.0.fc1``, stored as ``model.layers.0.fc1.weight``. The
names agree from the end; of several candidates of the right shape the one wins whose remaining prefix
shares most with the module's. A module without a tensor, or two modules with the same one, is an error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from studio.checkpoint import Checkpoint
from studio.errors import CheckpointError


def weight_names(modules: Mapping[str, Sequence[int]], checkpoint: Checkpoint) -> dict[str, str]:
    """Return module path -> name of its weight in the checkpoint, given the weights' shapes."""
    return tensor_names({f"{name}.weight": shape for name, shape in modules.items()}, checkpoint, ".weight")


def tensor_names(
    wanted: Mapping[str, Sequence[int]], checkpoint: Checkpoint, suffix: str = ""
) -> dict[str, str]:
    """Return tensor name in the model (without ``suffix``) -> tensor name in the checkpoint.

    Raises `CheckpointError` naming the first tensor that is not there, has another shape, or is ambiguous.
    """
    by_end: dict[str, list[str]] = {}
    for name in checkpoint.names():
        by_end.setdefault(_end(name), []).append(name)
    found: dict[str, str] = {}
    taken: dict[str, str] = {}
    for name, shape in wanted.items():
        match = name if name in checkpoint else _nearest(name, shape, by_end.get(_end(name), []), checkpoint)
        if match is None or checkpoint.shape(match) != tuple(shape):
            there = f"is {list(checkpoint.shape(match))} there" if match else "has no counterpart there"
            raise CheckpointError(f"'{name}' {list(shape)} does not fit {checkpoint.folder}: it {there}")
        if match in taken:
            raise CheckpointError(
                f"'{name}' and '{taken[match]}' would both change '{match}' of {checkpoint.folder}"
            )
        taken[match] = name
        found[name.removesuffix(suffix) if suffix else name] = match
    return found


def _end(name: str) -> str:
    """Return the last two parts of a name; renaming never touches them."""
    return ".".join(name.split(".")[-2:])


def _nearest(
    name: str, shape: Sequence[int], candidates: Sequence[str], checkpoint: Checkpoint
) -> str | None:
    scored = sorted(((_likeness(name, other), other) for other in candidates), reverse=True)
    fitting = [(score, other) for score, other in scored if checkpoint.shape(other) == tuple(shape)]
    if not fitting:
        return scored[0][1] if scored else None
    if len(fitting) > 1 and fitting[0][0] == fitting[1][0]:
        raise CheckpointError(
            f"'{name}' could be '{fitting[0][1]}' or '{fitting[1][1]}' of {checkpoint.folder}"
        )
    return fitting[0][1]


def _likeness(name: str, other: str) -> tuple[int, int, int]:
    """Return how alike two names are: parts equal from the end, parts shared before, closeness in length."""
    a, b = name.split("."), other.split(".")
    same = 0
    while same < min(len(a), len(b)) and a[-1 - same] == b[-1 - same]:
        same += 1
    rest = Counter(a[: len(a) - same]) & Counter(b[: len(b) - same])
    return same, rest.total(), -abs(len(a) - len(b))
