"""AdamW's moments cut among processes by DeepSpeed: stage 1 of ZeRO.

Rajbhandari et al. 2020, arXiv:1910.02054. Weights and gradients stay whole in every process;
`studio.training.fsdp` cuts them too. Stage 2 of DeepSpeed 0.19.8 gave some parameters the gradients of others
as soon as several micro-batches made a step (losses were off by 4e-4 after five steps), so it is not offered.

A tower that no row of a step uses has no gradient elsewhere, and its moments rest; here it has one of zeros,
and they fade: with such steps the losses are not those of one process.

The engine is called here and not through accelerate, which has no processes for it without a CUDA device.
"""

from __future__ import annotations

import logging
import warnings
from typing import Any

import torch
from torch import Tensor

from studio.errors import ConfigError

#: Moments of AdamW that are cut; the number of steps is one for all.
MOMENTS = ("exp_avg", "exp_avg_sq")


def imported() -> Any:
    """Return the package.

    Raises:
        ConfigError: if it is not installed.
    """
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import deepspeed
    except ModuleNotFoundError:
        raise ConfigError(
            "speed.strategy=deepspeed needs the package 'deepspeed', which is not installed; "
            "pip install 'triptych[deepspeed]', or use fsdp, which needs nothing"
        ) from None
    return deepspeed


def settings(clip: float) -> dict[str, Any]:
    """Return DeepSpeed's configuration: stage 1, gradients clipped to a norm of ``clip`` (0: not).

    How many micro-batches make a step, and when their gradients count, the loop says by itself. The types of
    weights are ours, and so is autocast.
    """
    return {
        "train_micro_batch_size_per_gpu": 1,  # it must be there; nothing is computed from it
        "gradient_accumulation_steps": 1,
        "gradient_clipping": clip,
        "zero_optimization": {"stage": 1},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }


class Zero:
    """A model and its AdamW under DeepSpeed's engine; in the loop it is the optimiser.

    Raises:
        ConfigError: for an optimiser with moments of earlier steps, which the engine has no use for.
    """

    def __init__(self, model: Any, optimiser: torch.optim.Optimizer, clip: float) -> None:
        """Take over the model's gradients."""
        if optimiser.state:
            raise ConfigError(
                "deepspeed cannot go on from a saved state; the same command with speed.strategy=ddp or fsdp "
                "can, also from a state that deepspeed has saved"
            )
        self.engine, self._inner, _, _ = imported().initialize(
            model=model, optimizer=optimiser, config=settings(clip), dist_init_required=False
        )
        self._learning = [parameter for parameter in model.parameters() if parameter.requires_grad]

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups whose learning rates count."""
        found: list[dict[str, Any]] = self._inner.param_groups
        return found

    @property
    def state(self) -> dict[Tensor, dict[str, Tensor]]:
        """The moments of every parameter, whole; all processes must ask for them."""
        from deepspeed.utils import safe_get_full_optimizer_state

        inner = list(self._inner.optimizer.state.values())
        if not inner:
            return {}
        return {
            parameter: {"step": torch.as_tensor(inner[0]["step"]).float()}
            | {name: safe_get_full_optimizer_state(parameter, name) for name in MOMENTS}
            for parameter in self._learning
        }

    def take(self) -> Tensor:
        """Clip and take the step, as the engine does in one, and return the norm [] of the gradients."""
        self.engine.step()
        return torch.as_tensor(float(self.engine.get_global_grad_norm()), device=self.engine.device)

    def step(self) -> None:
        """Do nothing: `take` has taken it."""

    def zero_grad(self) -> None:
        """Do nothing: the engine has none left after a step."""


def backward(engine: Any, loss: Tensor, last: bool) -> None:
    """Add gradients; those of the ``last`` micro-batch complete a step's."""
    engine.set_gradient_accumulation_boundary(is_boundary=last)
    engine.backward(loss)
