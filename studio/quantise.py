"""QLoRA: the frozen matrices of the language model in 4 or 8 bits while adapters on them are trained.

QLoRA (Dettmers et al. 2023, arXiv:2305.14314) and LLM.int8 (Dettmers et al. 2022, arXiv:2208.07339), both
through bitsandbytes, which also works without a GPU. Towers, projectors, embeddings, norms and the head stay
as they are. An adapter says in its note which modules it saw rounded, and how; `triptych merge --bake` puts
it into exactly these values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from studio.errors import ConfigError
from studio.later import torch
from studio.peft_methods import peft_quietly
from studio.training.rules import TowerRule, tower_of
from studio.types import Family

Kind = Literal["nf4", "nf4-double", "int8"]
KINDS = ("nf4", "nf4-double", "int8")
#: Values that share a magnitude. Without a GPU, bitsandbytes 0.50 decodes rows that are no whole blocks wrong
#: (its blocks run on over the rows, its decoder's begin anew), so such layers stay as they are.
BLOCK = 64
#: Where a model says what of it was quantised, and how an adapter's note calls that.
NOTE = "quantised"


def check_quantise(kind: str, method: str, rules: Mapping[str, TowerRule]) -> None:
    """Raise `ConfigError` where an llm in fewer bits cannot learn as asked, or without the library."""
    if kind not in KINDS:
        return
    if rules["llm"].kind in ("full", "bitfit"):
        raise ConfigError(
            f"precision={kind} freezes the language model's matrices, so the tower llm cannot have the rule "
            f"{rules['llm'].kind}; use lora"
        )
    if method in ("pissa", "olora"):
        raise ConfigError(f"method={method} takes the base apart, which precision={kind} rounds; use lora")
    try:
        with peft_quietly():
            import bitsandbytes  # noqa: F401
    except ImportError:
        raise ConfigError(
            f"precision={kind} needs bitsandbytes; install it with: pip install 'triptych[quantise]'"
        ) from None


def quantise(model: Any, family: Family, kind: str, *, compute: torch.dtype) -> Any:
    """Return the model with the linear layers of its language model in fewer bits, on their device.

    Weights are rounded from the type they were loaded in; ``compute`` is the type of the products, and of all
    that is not rounded.
    """
    head = model.get_output_embeddings()
    chosen = {
        path: part
        for path, part in model.named_modules()
        if type(part) is torch.nn.Linear
        and tower_of(path, family) == "llm"
        and part is not head
        and (kind == "int8" or part.in_features % BLOCK == 0)
    }
    for path, part in chosen.items():
        above, _, name = path.rpartition(".")
        setattr(model.get_submodule(above), name, _rounded(part, kind, compute))
    for parameter in model.parameters():
        parameter.requires_grad_(False)
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(compute)
    setattr(model, f"is_loaded_in_{8 if kind == 'int8' else 4}bit", True)
    shapes = {path: [part.out_features, part.in_features] for path, part in chosen.items()}
    setattr(model, NOTE, {"kind": kind, "modules": shapes})
    return model


def quantised_note(model: Any) -> dict[str, Any]:
    """Return what an adapter on this model says of its base's rounding; empty for a base in full."""
    found = getattr(model, NOTE, None)
    return {NOTE: found} if found else {}


def _rounded(part: Any, kind: str, compute: torch.dtype) -> Any:
    """Return a linear layer of bitsandbytes with the weight of a plain one, rounded."""
    with peft_quietly():
        import bitsandbytes as bnb

    weight, bias = part.weight.data, part.bias
    sides = (part.in_features, part.out_features)
    with torch.device("meta"):
        if kind == "int8":
            made = bnb.nn.Linear8bitLt(*sides, bias=bias is not None, has_fp16_weights=False, threshold=0.0)
        else:
            made = bnb.nn.Linear4bit(*sides, bias=bias is not None, compute_dtype=compute, quant_type="nf4")
    if kind == "int8":
        made.weight = bnb.nn.Int8Params(weight.clone(), requires_grad=False, has_fp16_weights=False)
    else:
        made.weight = bnb.nn.Params4bit(
            weight, requires_grad=False, quant_type="nf4", module=made,
            compress_statistics=kind == "nf4-double",
        )  # fmt: skip
        # An evaluation would repack the codes and round their magnitudes again, under the training too.
        made.support_avx512bf16_for_cpu = False
    if bias is not None:
        made.bias = torch.nn.Parameter(bias.data.to(compute), requires_grad=False)
    return made.to(weight.device)
