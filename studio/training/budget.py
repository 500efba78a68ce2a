"""AdaLoRA's part in the loop: factors are kept orthogonal, and ranks move to where they help.

AdaLoRA: Adaptive Budget Allocation (Zhang et al. 2023, arXiv:2303.10512): equation 4 is the penalty that is
added to the loss, section 3.2 how important a rank is, and equation 12 how many there are at a step. PEFT
computes the importance; its memory is saved with the run's state, so that a resumed run gives away the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from studio.errors import CheckpointError

_MEMORY = ("ipt", "exp_avg_ipt", "exp_avg_unc")
_RANKS = "ranks"


class Budget:
    """The ranks of an AdaLoRA model, step by step."""

    def __init__(self, model: Any, adapter_name: str = "default") -> None:
        """Look after the adapter of ``model``, a ``PeftModel``."""
        self._tuner = model.base_model
        self._config = model.peft_config[adapter_name]
        self._factors = {
            name: parameter
            for name, parameter in model.named_parameters()
            if ("lora_A" in name or "lora_B" in name) and parameter.requires_grad
        }

    def add_gradients(self) -> None:
        r"""Add the gradient of $\gamma \, \mathrm{mean} \| P^T P - I \|_F$ over all factors (equation 4).

        It is taken apart from the loss: it is the same for all micro-batches and processes of a step.
        """
        weight = float(self._config.orth_reg_weight)
        if not weight:
            return
        penalty = torch.zeros((), device=next(iter(self._factors.values())).device)
        for name, factor in self._factors.items():
            square = factor @ factor.T if "lora_A" in name else factor.T @ factor
            penalty = penalty + torch.linalg.norm(square - torch.eye(len(square), device=square.device))
        parameters = list(self._factors.values())
        found = torch.autograd.grad(weight / len(parameters) * penalty, parameters)
        for parameter, gradient in zip(parameters, found, strict=True):
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient

    def after_step(self, done: int) -> None:
        """Give ranks away after ``done`` optimiser steps, before their gradients are cleared."""
        for name, parameter in self._tuner.named_parameters():
            if "lora_" in name and parameter.requires_grad and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)  # a tower that no sample of the batch used
        self._tuner.update_and_allocate(done)

    def state(self) -> dict[str, Tensor]:
        """Return what importance is remembered, and which ranks are left, to be saved."""
        keeper = self._tuner.rankallocator
        found = {f"{kind}|{name}": t for kind in _MEMORY for name, t in getattr(keeper, kind).items()}
        for name, kept in (self._config.rank_pattern or {}).items():
            found[f"{_RANKS}|{name}"] = torch.as_tensor(kept, dtype=torch.bool)
        return found

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` returned; `CheckpointError` if it is of another run."""
        keeper, ranks = self._tuner.rankallocator, {}
        known = {name for name, _ in self._tuner.model.named_parameters()}
        for key, value in state.items():
            kind, _, name = key.partition("|")
            if kind == _RANKS:
                ranks[name] = value.tolist()
            elif kind not in _MEMORY or name not in known:
                raise CheckpointError(f"the saved ranks hold '{key}', which this run has not")
            else:
                like = self._tuner.model.get_parameter(name)
                getattr(keeper, kind)[name] = value.to(like.device)
        self._config.rank_pattern = ranks or None


def budget_of(model: Any) -> Budget | None:
    """Return what moves the ranks of a model with AdaLoRA on it, or None for any other."""
    config = getattr(model, "peft_config", {}).get("default")
    return Budget(model) if config is not None and str(config.peft_type.value) == "ADALORA" else None
