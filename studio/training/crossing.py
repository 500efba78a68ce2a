r"""Cross-attention of few queries: what is read is not projected, the queries are.

A decoder of twenty tokens looks at 1,500 states of an encoder. Its keys $K = X W_K^T$ and values
$V = X W_V^T$ cost far more than all that is done with them. The products are associative, so

    softmax(Q K^T) V  =  softmax((Q W_K) X^T) X W_V^T

and with L queries in H heads of d channels the right side costs H L / (H d) = L / d of the left: less, where
there are fewer queries than a head has channels. The same numbers up to the order of sums, in the backward
pass as well; LoRA's factors are multiplied into the weights first. (The same absorption makes multi-head
latent attention cheap to decode: DeepSeek-AI 2024, arXiv:2405.04434, section 2.1.2.)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

Forward = Callable[..., tuple[Tensor, Tensor | None]]


class ShortQueries:
    """Gives a model's cross-attentions a forward for few queries until `close`."""

    def __init__(self, model: torch.nn.Module) -> None:
        """Change all modules called ``encoder_attn`` that have the usual four projections."""
        self._changed: list[torch.nn.Module] = []
        for path, module in model.named_modules():
            names = ("q_proj", "k_proj", "v_proj", "out_proj", "num_heads", "head_dim", "scaling")
            own = "forward" in vars(module)
            if path.endswith("encoder_attn") and not own and all(hasattr(module, name) for name in names):
                module.forward = partial(_attend, module, module.forward)
                self._changed.append(module)

    def __len__(self) -> int:
        """Return the number of modules that were changed."""
        return len(self._changed)

    def close(self) -> None:
        """Give the modules their own forward back."""
        for module in self._changed:
            del module.forward
        self._changed = []


def _attend(
    module: Any,
    own: Forward,
    hidden_states: Tensor,
    key_value_states: Tensor | None = None,
    past_key_values: Any = None,
    attention_mask: Tensor | None = None,
    output_attentions: bool = False,
    **more: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attend from states [B, L, D] to key_value_states [B, T, D]; `own` does all that this does not suit."""
    if (
        key_value_states is None
        or past_key_values is not None
        or attention_mask is not None
        or output_attentions
        or (module.training and module.dropout)
        or hidden_states.shape[1] >= module.head_dim
        or hidden_states.dtype != torch.float32
        or torch.is_autocast_enabled(hidden_states.device.type)
        or (keys := weight(module.k_proj)) is None
        or (values := weight(module.v_proj)) is None
    ):
        return own(
            hidden_states,
            key_value_states=key_value_states,
            past_key_values=past_key_values,
            attention_mask=attention_mask,
            output_attentions=output_attentions,
            **more,
        )
    batch, length, _ = hidden_states.shape
    heads, read = (module.num_heads, module.head_dim), key_value_states
    queries = (module.q_proj(hidden_states) * module.scaling).view(batch, length, *heads)
    # The keys' bias adds the same to all of a query's scores: softmax does not see it.
    asked = torch.einsum("blhd,hdk->bhlk", queries, keys.view(*heads, -1))
    scores = asked.flatten(1, 2) @ read.transpose(1, 2)
    found = (scores.softmax(-1) @ read).view(batch, heads[0], length, -1)
    made = torch.einsum("bhlk,hdk->blhd", found, values.view(*heads, -1)).flatten(2)
    bias = getattr(module.v_proj, "base_layer", module.v_proj).bias
    answer: Tensor = module.out_proj(made if bias is None else made + bias)
    return answer, None


def weight(layer: Any) -> Tensor | None:
    """Return the matrix [N, K] that a linear layer multiplies by, LoRA's in it; None if it does more."""
    base = getattr(layer, "base_layer", layer)
    if type(base) is not torch.nn.Linear or base.weight.dtype != torch.float32:
        return None
    whole: Tensor = base.weight
    if base is layer:
        return whole
    if not hasattr(layer, "lora_variant"):  # another method than LoRA
        return None
    names = layer.active_adapters
    if layer.disable_adapters or layer.merged:
        return whole
    if len(names) != 1 or names[0] not in layer.lora_A or names[0] in layer.lora_variant:
        return None
    dropout, b = layer.lora_dropout[names[0]], layer.lora_B[names[0]]
    if (dropout.training and getattr(dropout, "p", 0) > 0) or b.bias is not None:
        return None
    sum_: Tensor = whole + layer.scaling[names[0]] * (b.weight @ layer.lora_A[names[0]].weight)
    return sum_
