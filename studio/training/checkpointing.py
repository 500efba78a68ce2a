"""Gradient checkpointing by tower: a layer's activations are computed again in the backward pass, not kept.

Training Deep Nets with Sublinear Memory Cost (Chen et al. 2016, arXiv:1604.06174, section 4). Losses and
gradients are the same: dropout draws the same numbers in both passes.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import wraps
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from studio.errors import ConfigError
from studio.training.rules import TowerRule, tower_of
from studio.training.towers import own_path
from studio.types import Family

#: The class that transformers derives every repeated layer from.
_LAYER = "GradientCheckpointingLayer"


def checkpoint_towers(
    model: Any, family: Family, rules: Mapping[str, TowerRule], usual: bool = False
) -> dict[str, int]:
    """Checkpoint the layers of the towers that ask for it, or of all where ``usual``; return how many.

    Layers are those that transformers can repeat; they are computed plainly whenever ``model`` is evaluated.

    Raises:
        ConfigError: for a tower that asks for it by name and has no such layer.
    """
    asked = {tower: rule.checkpointing for tower, rule in rules.items()}
    wanted = {tower for tower, own in asked.items() if (usual if own is None else own)}
    found = dict.fromkeys(sorted(wanted), 0)
    for name, part in model.named_modules():
        tower = tower_of(own_path(name), family)
        if tower in wanted and any(kind.__name__ == _LAYER for kind in type(part).__mro__):
            part.forward = _again(model, part.forward)
            found[str(tower)] += 1
    for tower, count in found.items():
        if not count and rules[tower].checkpointing:
            raise ConfigError(f"towers.{tower}.checkpointing: {type(model).__name__} has no layers there")
    return {tower: count for tower, count in found.items() if count}


def _again(model: Any, forward: Any) -> Any:
    """Return a layer's forward pass that keeps nothing while the model is trained."""

    @wraps(forward)
    def run(*args: Any, **kwargs: Any) -> Any:
        if not (model.training and torch.is_grad_enabled()):
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    return run
