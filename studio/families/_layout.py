"""Which modules a model is made of, known without its weights, and what an adapter can adapt of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from studio.errors import CheckpointError
from studio.families._load import quiet


@dataclass(frozen=True, kw_only=True)
class Module:
    """One module that owns tensors.

    kind     linear, embedding or conv: LoRA can adapt its weight; other: it can be stored whole at most
    tensors  name -> shape of what it owns itself, parameters and stored buffers
    leaf     whether it owns all that is below it
    shared   the first module that has the very same tensors, if several have (a tied head); or ""
    """

    kind: Literal["linear", "embedding", "conv", "other"]
    tensors: dict[str, tuple[int, ...]]
    leaf: bool
    shared: str


def layout(folder: Path | str) -> dict[str, Module]:
    """Return path -> module of the model that a configuration describes, built without memory for weights.

    Raises `CheckpointError` where transformers has no class for it.
    """
    model = _hollow(Path(folder))
    users: dict[int, list[str]] = {}
    for name, value in model.named_parameters(remove_duplicate=False):
        users.setdefault(id(value), []).append(name.rpartition(".")[0])
    found = {}
    for path, part in model.named_modules():
        kept = [n for n in part._buffers if n not in part._non_persistent_buffers_set]
        own = {**part._parameters, **{name: part._buffers[name] for name in kept}}
        tensors = {name: tuple(value.shape) for name, value in own.items() if value is not None}
        if tensors:
            shared = next((users[i][0] for i in map(id, own.values()) if len(users.get(i, ())) > 1), "")
            leaf = next(part.children(), None) is None
            found[path] = Module(kind=_kind(part), tensors=tensors, leaf=leaf, shared=shared)
    return found


def _hollow(folder: Path) -> Any:
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        name = (config.architectures or [""])[0]
        kind = getattr(transformers, name)
        with quiet(), torch.device("meta"):
            model = kind(config)
            model.tie_weights()
    except (OSError, ValueError, KeyError, AttributeError, TypeError, ImportError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise CheckpointError(
            f"{folder}: its modules cannot be told, for want of a model class that fits config.json: {reason}"
        ) from None
    return model


def _kind(part: torch.nn.Module) -> Literal["linear", "embedding", "conv", "other"]:
    if isinstance(part, torch.nn.Linear):
        return "linear"
    if isinstance(part, torch.nn.Embedding):
        return "embedding"
    if isinstance(part, (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)) and part.groups == 1:
        return "conv"
    return "other"
