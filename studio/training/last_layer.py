"""The last layer of a decoder, computed for labelled positions alone.

What the last layer makes of a position is read by the head and by nothing else. So only the positions from
which a supervised token is predicted need its queries, its output projection and its feed-forward part; keys
and values stay those of all. In a prompt with media most positions have no label, and of few layers the
last is a large part.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from studio.training.fused_layer import FusedLayer


class LastLayer:
    """Makes parts of a decoder's last layer skip positions until `close`; ``wanted`` [B, L] says which stay.

    It says None where all are wanted. A part gives zeros where it is skipped.
    """

    def __init__(self, layer: torch.nn.Module, wanted: Callable[[], Tensor | None]) -> None:
        """Change the parts of ``layer`` that are known to treat every position for itself."""
        self._changed: list[tuple[torch.nn.Module, Any]] = []
        self._fused = layer.forward if isinstance(layer.forward, FusedLayer) else None
        if self._fused is not None:
            self._fused.wanted = wanted
        for path in ("self_attn.q_proj", "self_attn.o_proj", "mlp"):
            parent, _, name = path.rpartition(".")
            part = getattr(getattr(layer, parent, None) if parent else layer, name, None)
            if isinstance(part, torch.nn.Module):
                self._changed.append((part, vars(part).get("forward")))
                part.forward = partial(_only, part.forward, wanted)

    def __len__(self) -> int:
        """Return the number of parts that were changed."""
        return len(self._changed)

    def close(self) -> None:
        """Give the parts their forward back."""
        for part, own in self._changed:
            del part.forward
            if own is not None:
                part.forward = own
        self._changed = []
        if self._fused is not None:
            self._fused.wanted = None


def _only(own: Callable[..., Any], wanted: Callable[[], Tensor | None], x: Tensor, *args: Any) -> Any:
    """Return what ``own`` makes of x [B, L, D], with zeros [B, L, E] where nothing is wanted."""
    mask = wanted()
    if mask is None or args or x.dim() != 3 or x.shape[:2] != mask.shape:
        return own(x, *args)
    some = own(x[mask][None])
    if not isinstance(some, Tensor) or some.dim() != 3:
        return own(x)
    return some.new_zeros(*x.shape[:2], some.shape[-1]).index_put((mask,), some[0])
