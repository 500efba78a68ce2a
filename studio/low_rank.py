"""What was trained as something near LoRA, as plain LoRA on the untouched base.

PiSSA (Meng et al. 2024, arXiv:2404.02948) and OLoRA (Buyukakyuz 2024, arXiv:2406.01775) begin with factors
that are taken out of the base: W = (W - s B0 A0) + s B0 A0. What they learned is s (B A - B0 A0), of twice
the rank. AdaLoRA (Zhang et al. 2023, arXiv:2303.10512, eq. 3) learns s / r B diag(E) A, with zeros in E where
a rank was given away.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from studio.adapter_format import Factors
from studio.errors import ConfigError
from studio.later import torch

if TYPE_CHECKING:
    from torch import Tensor

#: How LoRA's start is called where it is taken out of the base.
TAKEN = ("pissa", "olora")
#: What PEFT adds to AdaLoRA's rank before dividing by it.
_NEVER_ZERO = 1e-5


def keep_start(adapted: Any, adapter_name: str = "default") -> None:
    """Remember the factors that were taken out of the base, on the model, so that they can be put back."""
    start = str(getattr(adapted.peft_config[adapter_name], "init_lora_weights", ""))
    if start.startswith(TAKEN):
        adapted.start_factors = {
            path: tuple(factor.detach().cpu().clone() for factor in _pair(part, adapter_name))
            for path, part in _layers(adapted)
        }


def plain_factors(adapted: Any, adapter_name: str = "default") -> dict[str, Factors] | None:
    """Return module path -> what a model's adapter adds to the untouched base; None if PEFT's files say it.

    Raises `ConfigError` where the start of PiSSA or OLoRA is not known any more.
    """
    config = adapted.peft_config[adapter_name]
    if str(config.peft_type.value) == "ADALORA":
        return _kept_ranks(adapted, adapter_name)
    if not str(getattr(config, "init_lora_weights", "")).startswith(TAKEN):
        return None
    start = getattr(adapted, "start_factors", None)
    if start is None:
        raise ConfigError(
            f"this adapter starts from {config.init_lora_weights}, and what was taken out of the base is not "
            "known any more; it can only be saved by the run that began it"
        )
    found = {}
    for path, part in _layers(adapted):
        a, b = (factor.detach().float().cpu() for factor in _pair(part, adapter_name))
        first_a, first_b = (factor.float() for factor in start[path])
        scale = float(part.scaling[adapter_name])
        found[path] = Factors(
            a=torch.cat([a, first_a]),
            b=torch.cat([scale * b, -scale * first_b], dim=1),
            shape=(len(b), a.shape[1]),
        )
    return found


def _kept_ranks(adapted: Any, name: str) -> dict[str, Factors]:
    """Return AdaLoRA's factors without the ranks that were given away; a module keeps at least one."""
    found = {}
    for path, part in _layers(adapted):
        a, b = (factor.detach().float().cpu() for factor in _pair(part, name))
        strength = part.lora_E[name].detach().float().cpu().flatten()
        strength = strength * part.scaling[name] / (float(part.ranknum[name]) + _NEVER_ZERO)
        kept = strength != 0
        if not kept.any():
            kept[0] = True
        found[path] = Factors(a=a[kept], b=(b * strength)[:, kept], shape=(len(b), a.shape[1]))
    return found


def _layers(adapted: Any) -> list[tuple[str, Any]]:
    inner = adapted.get_base_model()
    return [(path, inner.get_submodule(path)) for path in adapted.targeted_module_names]


def _pair(part: Any, name: str) -> tuple[Tensor, Tensor]:
    """Return a layer's factors [r, inputs] and [outputs, r]; `ConfigError` for a layer that is no matrix."""
    if name not in part.lora_A or part.get_base_layer().weight.dim() != 2:
        raise ConfigError("this method adapts linear layers only")
    a, b = part.lora_A[name], part.lora_B[name]
    return getattr(a, "weight", a), getattr(b, "weight", b)
