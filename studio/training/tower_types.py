"""The type in which each tower's weights are held: bf16 for a frozen tower beside an fp32 llm, say.

What a module is given is turned into the type of its weights, and what a tower gives into the run's, so
towers of different types work together whatever their code assumes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.utils._pytree import tree_map

from studio.training.rules import TowerRule, tower_of
from studio.types import Family

_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def load_type(
    rules: Mapping[str, TowerRule], method: str, usual: torch.dtype, quantised: bool = False
) -> torch.dtype:
    """Return the type to load a model in: the run's ``usual`` one, or fp32 where something needs it whole.

    What is ``quantised`` is rounded once, from the values that are stored.
    """
    wanted = {rule.precision for rule in rules.values()}
    return torch.float32 if method == "full" or quantised or "fp32" in wanted else usual


def cast_towers(model: Any, family: Family, rules: Mapping[str, TowerRule], usual: torch.dtype) -> None:
    """Hold each tower's weights in the type that its rule asks for, and the others' in the run's."""
    if not any(rule.precision for rule in rules.values()):
        return
    types = {tower: _TYPES.get(rule.precision or "", usual) for tower, rule in rules.items()}
    for path, parameter in model.named_parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(types.get(tower_of(path, family) or "", usual))
    if set(types.values()) == {usual}:
        return
    for part in model.modules():
        own = [p for p in part.parameters(recurse=False) if p.is_floating_point()]
        if own and not isinstance(part, torch.nn.Embedding):
            part.register_forward_pre_hook(_take, with_kwargs=True)
    for tower, prefixes in family.towers.items():
        if types[tower] != usual:
            for prefix in prefixes:
                part = _found(model, prefix)
                if part is not None:
                    part.register_forward_hook(_Gives(usual))
    for part in model.modules():
        if hasattr(part, "config") and len({p.dtype for p in part.parameters() if p.is_floating_point()}) > 1:
            _say_type(part, usual)


def _say_type(part: Any, kind: torch.dtype) -> None:
    """Let a model of towers of different types call the run's its own: some turn features into its type.

    transformers takes the first parameter's, which is the frozen tower's.
    """
    own = type(part)
    names = {"__module__": own.__module__, "__qualname__": own.__qualname__, "__doc__": own.__doc__}
    part.__class__ = type(own.__name__, (own,), {**names, "dtype": kind})


def _take(part: Any, args: Any, kwargs: Any) -> Any:
    """Turn what a module is given into the type of its own weights."""
    kind = next(p.dtype for p in part.parameters(recurse=False) if p.is_floating_point())
    return tree_map(_Gives(kind).turned, (args, kwargs))


class _Gives:
    """A forward hook that turns floating-point results into one type."""

    def __init__(self, kind: torch.dtype) -> None:
        """Turn them into ``kind``."""
        self._kind = kind

    def __call__(self, _part: Any, _args: Any, output: Any) -> Any:
        """Return a module's output, turned."""
        return tree_map(self.turned, output)

    def turned(self, value: Any) -> Any:
        """Return a tensor of floats in that type, and anything else as it is."""
        floats = isinstance(value, torch.Tensor) and value.is_floating_point()
        return value.to(self._kind) if floats else value


def _found(model: Any, path: str) -> Any:
    try:
        return model.get_submodule(path)
    except AttributeError:
        return None
