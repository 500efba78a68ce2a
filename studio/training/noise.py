r"""NEFTune: noise on the embeddings of text while a model is trained (Jain et al. 2023, arXiv:2310.05914).

To a row's L embeddings of dimension d, uniform noise in $\pm \alpha / \sqrt{L d}$ is added (algorithm 1).
The places of pictures and sounds get none: their features are put there afterwards, or stand there already.
"""

from __future__ import annotations

import math
import re
from typing import Any

import torch
from torch import Tensor

_MEDIA = re.compile(r"(image|video|audio|speech|vision)\w*_token_(id|index)")


class TextNoise:
    """Adds noise to what a model's input embedding gives, as long as the model is in training mode."""

    def __init__(self, model: Any, alpha: float) -> None:
        """Hook onto ``model`` until `close`; ``alpha`` is 5 to 15 in the paper."""
        self._model, self._alpha = model, alpha
        self._media = torch.tensor(sorted(media_ids(model.config)), dtype=torch.long)
        self._hook = model.get_input_embeddings().register_forward_hook(self._add)

    def close(self) -> None:
        """Take the hook off the model."""
        self._hook.remove()

    def _add(self, _part: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        ids = args[0] if args else None
        if not self._model.training or ids is None or output.dim() != 3 or not torch.is_grad_enabled():
            return None
        text = ~torch.isin(ids, self._media.to(ids.device))
        length = text.sum(dim=1).clamp_min(1)
        size = self._alpha / (length * output.shape[-1]).sqrt()
        noise = torch.empty_like(output).uniform_(-1, 1)
        return output + noise * (size[:, None] * text)[..., None].to(output.dtype)


def media_ids(config: Any) -> set[int]:
    """Return the ids of the tokens in whose places media stand, as a model's configuration names them."""
    parts = [config, *(part for part in vars(config).values() if hasattr(part, "to_dict"))]
    named = {
        value
        for part in parts
        for key, value in vars(part).items()
        if _MEDIA.fullmatch(key) and isinstance(value, int) and not isinstance(value, bool)
    }
    return {value for value in named if value >= 0 and math.isfinite(value)}
