"""Matrix products of linear layers on a CPU by oneDNN, and LoRA's factors multiplied into them.

torch hands fp32 products to MKL, which on processors that are not Intel's takes less than half of the speed
that oneDNN, which torch holds too, takes from them (`tests/benchmarks/README.md`). With many tokens it is
also less work to add LoRA's product of small matrices to the weight than to its output:

    y = x (W + s B A)^T    instead of    y = x W^T + s (x A^T) B^T

Both compute the same numbers up to the order of sums, in fp32 only: in a shorter type the sum with ``W``
would lose most of the small delta. A layer that is anything else than dense fp32 on a CPU runs its own code.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional


def pays() -> bool:
    """Return whether oneDNN is likely to be faster here: an x86 processor with AVX2 that is not Intel's."""
    if platform.machine() not in ("x86_64", "AMD64") or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        return False
    cpus = Path("/proc/cpuinfo")
    maker = cpus.read_text(encoding="utf-8") if cpus.exists() else platform.processor()
    return "GenuineIntel" not in maker


class FastProducts:
    """Puts the products of a model's linear layers through oneDNN until `close`.

    A convolution of patches that are as large as its kernel, as vision towers begin with, is a product, too.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        """Give every such layer of ``model``, and every plain LoRA layer, a forward of its own."""
        self._changed: list[torch.nn.Module] = []
        for module in model.modules():
            if "forward" in vars(module):  # somebody else's, as for weights that are kept elsewhere
                continue
            if type(module) is torch.nn.Linear:
                self._set(module, partial(_linear, module))
            elif is_lora(module):
                self._set(module, partial(_lora, module, module.forward))
            elif _takes_patches(module):
                self._set(module, partial(_patches, module, module.forward))

    def __len__(self) -> int:
        """Return the number of layers that were changed."""
        return len(self._changed)

    def close(self) -> None:
        """Give the layers their own forward back."""
        for module in self._changed:
            del module.forward
        self._changed = []

    def _set(self, module: torch.nn.Module, forward: Callable[..., Tensor]) -> None:
        module.forward = forward
        self._changed.append(module)


def _linear(module: torch.nn.Linear, x: Tensor) -> Tensor:
    """Return what a linear layer makes of x [..., K]: [..., N]."""
    if not suits(x, module.weight):
        return functional.linear(x, module.weight, module.bias)
    made: Tensor = _Linear.apply(x, module.weight, module.bias)
    return made


def _lora(module: Any, own: Callable[..., Tensor], x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Return what a LoRA layer of PEFT makes of x [..., K]: [..., N]; its ``own`` forward does the rest."""
    base, name = module.base_layer, plain_lora(module)
    if args or kwargs or name is None or not suits(x, base.weight):
        return own(x, *args, **kwargs)
    a, b = module.lora_A[name].weight, module.lora_B[name].weight
    (n, k), tokens = base.weight.shape, x.numel() // x.shape[-1]
    if tokens * (n + k) < n * k:  # to sum up the weight would be more work than it saves
        return own(x)
    made: Tensor = _Lora.apply(x, base.weight, base.bias, a, b, module.scaling[name])
    return made


def _patches(module: Any, own: Callable[..., Tensor], x: Tensor) -> Tensor:
    """Return what a convolution makes of patches x [P, C, ...]: [P, N, 1, ...]."""
    if (
        x.dim() != module.weight.dim()
        or x.shape[1:] != module.weight.shape[1:]
        or not suits(x, module.weight)
    ):
        return own(x)
    weight = module.weight.flatten(1)
    made: Tensor = _Linear.apply(x.flatten(1), weight, module.bias)
    return made.view(*made.shape, *[1] * (x.dim() - 2))


def _takes_patches(module: Any) -> bool:
    return type(module) in (torch.nn.Conv2d, torch.nn.Conv3d) and (
        module.kernel_size == module.stride
        and module.groups == 1
        and not any((*module.padding,) if isinstance(module.padding, tuple) else (1,))
        and set(module.dilation) == {1}
    )


def plain_lora(module: Any) -> str | None:
    """Return the one adapter that a LoRA layer adds as s B A in fp32, or None if it does anything else."""
    names = module.active_adapters
    if module.disable_adapters or module.merged or len(names) != 1 or names[0] not in module.lora_A:
        return None
    a, b, dropout = (each[names[0]] for each in (module.lora_A, module.lora_B, module.lora_dropout))
    drops = dropout.training and getattr(dropout, "p", 0) > 0
    if drops or names[0] in module.lora_variant or b.bias is not None or a.weight.dtype != torch.float32:
        return None
    return str(names[0])


def is_lora(module: Any) -> bool:
    """Return whether a module is PEFT's LoRA on a plain linear layer."""
    return (
        type(module).__module__.startswith("peft.tuners.lora")
        and type(getattr(module, "base_layer", None)) is torch.nn.Linear
        and hasattr(module, "lora_variant")
        and not getattr(module, "fan_in_fan_out", False)
    )


def suits(x: Tensor, weight: Tensor) -> bool:
    """Whether a product is of dense fp32 matrices on a CPU, and there is something to multiply."""
    return (
        x.dtype == weight.dtype == torch.float32
        and x.device.type == weight.device.type == "cpu"
        and type(weight) in (Tensor, torch.nn.Parameter)
        and x.numel() > 0
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x W^T + b: [M, K], [N, K], [N] -> [M, N]; views need no copy."""
    made: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return made


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        return product(x.reshape(-1, x.shape[-1]), weight, bias).view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        flat = gradient.reshape(-1, gradient.shape[-1])
        to_x, to_weight, to_bias = ctx.needs_input_grad
        return (
            product(flat, weight.t()).view(*gradient.shape[:-1], -1) if to_x else None,
            product(flat.t(), x.reshape(-1, x.shape[-1]).t()) if to_weight else None,
            flat.sum(0) if to_bias else None,
        )


class _Lora(torch.autograd.Function):
    """x (W + s B A)^T + b, where W and b are frozen or learn too; A [r, K], B [N, r]."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scaling: float
    ) -> Tensor:
        ctx.save_for_backward(x, weight, a, b)
        ctx.scaling = scaling
        whole = torch.addmm(weight, b, a, alpha=scaling)
        return product(x.reshape(-1, x.shape[-1]), whole, bias).view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, a, b = ctx.saved_tensors
        flat, rows = gradient.reshape(-1, gradient.shape[-1]), x.reshape(-1, x.shape[-1])
        to_x, to_weight, to_bias = ctx.needs_input_grad[:3]
        # The sum with the weight is cheap to make again, and would be as large as the weights to keep.
        whole = torch.addmm(weight, b, a, alpha=ctx.scaling) if to_x else weight
        return (
            product(flat, whole.t()).view(*gradient.shape[:-1], -1) if to_x else None,
            product(flat.t(), rows.t()) if to_weight else None,
            flat.sum(0) if to_bias else None,
            product(product(flat, b.t()).t(), rows.t()).mul_(ctx.scaling),
            product(product(rows, a).t(), flat.t()).mul_(ctx.scaling).t(),  # copies the smaller one
            None,
        )
