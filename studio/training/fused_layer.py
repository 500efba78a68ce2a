"""A decoder layer as one operation on a CPU, with its gradients written by hand.

At the size of small models much of a step is no arithmetic: some eighty small operations a layer and their
graph, copies for rotary positions and shared keys, a kernel for long rows on short ones. Here a layer of the
kind of Llama's and Qwen's,

    h = x + O attention(rope(Q n), rope(K n), V n)     n = norm(x)
    y = h + D (silu(G m) * U m)                        m = norm(h)

computes what is needed and no more: nothing for what does not learn, LoRA's sums with the weights once for
both passes, and of a last layer only the tokens whose output is read. Other layers, types and devices run
their own code, and so does a layer that reads a cache or rows that are too long to hold their scores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from studio.training.fused_decoder import LINEARS, Shape, decoder_layer
from studio.training.fused_linear import Projection, hooked, projection
from studio.training.matmul import suits

#: What a layer of this kind has.
_PARTS = {
    "": {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"},
    "self_attn": {"q_proj", "k_proj", "v_proj", "o_proj"},
    "mlp": {"gate_proj", "up_proj", "down_proj", "act_fn"},
}
#: Sums of weights are kept for the backward pass up to so many bytes of all layers together.
KEPT = 1 << 26
#: Most scores of a token, all heads together, as a multiple of the feed-forward part's width: as many numbers
#: as a layer holds besides.
SCORES = 4
#: Of so large a share of tokens that are read, all are computed.
_NEARLY_ALL = 0.8


class FusedLayers:
    """Lets layers of a decoder compute as one operation each, until `close`."""

    def __init__(self, layers: Sequence[torch.nn.Module]) -> None:
        """Change those of ``layers`` that are of the kind described above."""
        known = [layer for layer in layers if _is_known(layer)]
        linears = [p for layer in known for p in layer.parameters() if p.dim() == 2]
        keeps = sum(parameter.nbytes for parameter in linears) <= KEPT
        self._changed = [FusedLayer(layer, keeps=keeps) for layer in known]

    def __len__(self) -> int:
        """Return the number of layers that were changed."""
        return len(self._changed)

    def close(self) -> None:
        """Give the layers their own forward back."""
        for each in self._changed:
            del each.layer.forward
        self._changed = []


class FusedLayer:
    """The forward of one layer; ``wanted`` says which tokens [B, L] of its output are read, None: all."""

    def __init__(self, layer: Any, *, keeps: bool) -> None:
        """Put itself in the place of the ``layer``'s own forward."""
        self.layer, self.own, self._keeps = layer, layer.forward, keeps
        self.wanted: Callable[[], Tensor | None] | None = None
        layer.forward = self

    def __call__(
        self,
        hidden_states: Tensor,
        attention_mask: Any = None,
        position_ids: Any = None,
        past_key_values: Any = None,
        use_cache: Any = False,
        position_embeddings: Any = None,
        **more: Any,
    ) -> Any:
        """Return the layer's output [B, L, D]."""
        projections = self._projections()
        whole = past_key_values is None and "is_causal" not in more and projections is not None
        if not (whole and _fits(self.layer, hidden_states, attention_mask, position_embeddings)):
            return self.own(
                hidden_states,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=past_key_values,
                use_cache=use_cache,
                position_embeddings=position_embeddings,
                **more,
            )
        assert projections is not None
        attention = self.layer.self_attn
        first, second = self.layer.input_layernorm, self.layer.post_attention_layernorm
        shape = Shape(
            width=attention.head_dim,
            scale=attention.scaling,
            first_eps=first.variance_epsilon,
            second_eps=second.variance_epsilon,
            scalings=tuple(each.scaling for each in projections),
            keeps=self._keeps,
        )
        chosen = _chosen(self.wanted() if self.wanted else None, hidden_states)
        mask = _added(attention_mask, hidden_states.shape[1], chosen)
        norms = first.weight, second.weight
        return decoder_layer(shape, hidden_states, position_embeddings, mask, chosen, norms, projections)

    def _projections(self) -> list[Projection] | None:
        """Return the tensors of all linear layers, None if one of them is more than these or looked at."""
        layer = self.layer
        if any(map(hooked, (layer.self_attn, layer.mlp, *_norms(layer)))):
            return None
        found = []
        for name in LINEARS:
            part = projection(getattr(layer.self_attn if name[0] in "qkvo" else layer.mlp, name))
            if part is None:
                return None
            found.append(part)
        return found


def _norms(layer: Any) -> tuple[Any, Any]:
    return layer.input_layernorm, layer.post_attention_layernorm


def _is_known(layer: Any) -> bool:
    """Whether a layer has the parts of the kind described above, and no others."""
    for path, names in _PARTS.items():
        part = getattr(layer, path, None) if path else layer
        if part is None or {name for name, _ in part.named_children()} != names:
            return False
    attention = layer.self_attn
    return (
        "forward" not in vars(layer)
        and type(layer.mlp.act_fn).__name__ in ("SiLU", "SiLUActivation")
        and all(
            type(n).__name__.endswith("RMSNorm") and hasattr(n, "variance_epsilon") for n in _norms(layer)
        )
        and all(hasattr(attention, name) for name in ("head_dim", "scaling"))
        and getattr(attention, "is_causal", False)
        and getattr(layer, "residual_multiplier", 1.0) == 1.0  # Granite's
        and not getattr(attention, "sliding_window", None)
        and not getattr(attention, "attention_dropout", 0)
    )


def _fits(layer: Any, hidden: Tensor, mask: Any, positions: Any) -> bool:
    """Whether a batch is one that the formulas above are for."""
    if (
        not isinstance(positions, tuple)
        or hidden.dim() != 3
        or not suits(hidden, layer.input_layernorm.weight)
    ):
        return False
    b, length, _ = hidden.shape
    known = mask is None or (
        isinstance(mask, Tensor)
        and mask.dtype in (torch.bool, torch.float32)
        and mask.dim() == 4
        and mask.shape[0] in (1, b)
        and mask.shape[1:] == (1, length, length)
    )
    attention = layer.self_attn
    scores = length * attention.q_proj.out_features // attention.head_dim
    return (
        known
        and all(each.shape[-1] == attention.head_dim and each.dim() == 3 for each in positions)
        and getattr(attention.config, "_attn_implementation", "") in ("sdpa", "eager")
        and not (layer.training and getattr(layer, "gradient_checkpointing", False))
        and scores <= SCORES * layer.mlp.gate_proj.out_features
    )


def _chosen(wanted: Tensor | None, hidden: Tensor) -> Tensor | None:
    """Return the places [B, W] of the tokens that are read, filled up with others; None for all tokens."""
    if wanted is None or wanted.shape != hidden.shape[:2]:
        return None
    most = max(1, int(wanted.sum(1).max()))
    if most > _NEARLY_ALL * wanted.shape[1]:
        return None
    return torch.argsort(~wanted, dim=1, stable=True)[:, :most]


def _added(mask: Tensor | None, length: int, chosen: Tensor | None) -> Tensor:
    """Return what is added to the scores [B or 1, 1, Q, L] of all queries, or of the chosen ones."""
    if mask is None:
        places = torch.arange(length)
        queries = places[None] if chosen is None else chosen
        mask = (places <= queries[..., None])[:, None]
    elif chosen is not None:
        rows = mask.expand(len(chosen), -1, -1, -1)
        mask = rows.gather(2, chosen[:, None, :, None].expand(-1, -1, -1, length))
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape).masked_fill_(~mask, torch.finfo(torch.float32).min)
