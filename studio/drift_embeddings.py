"""How a model sees inputs: the mean of its last hidden states over one medium or text; kept by content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from studio.cache import Kept
from studio.checkpoint import Checkpoint
from studio.data.identity import media_hash
from studio.drift import MOST
from studio.drift_features import Inputs
from studio.errors import DataError
from studio.families import detect
from studio.log import Log
from studio.types import Image, Loaded, Part, Sample, Sound, Text, Turn

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from studio.types import Family

    Values = NDArray[np.float64]


_AT_ONCE = 32  # embeddings are kept after so many: what an interruption can cost


class Embedder:
    """Embeds inputs by one model, which is loaded when there is something that the cache does not know."""

    def __init__(self, model: Path, log: Log) -> None:
        """Take a model's folder; `CheckpointError` if no family reads it."""
        self.model, self.family = model, detect(model)
        self._log, self._kept = log, Kept()
        self._loaded: Loaded | None = None
        self._name = f"embedding 1 {Checkpoint(model).fingerprint()}"

    def embeddings(self, inputs: Inputs, seed: int = 0) -> dict[str, Values]:
        """Return embeddings [N, D] by kind, for the kinds that the model takes; N is at most `MOST`.

        What does not decode, or what the model does not take by itself, is left out.
        """
        takes = self.family.modalities
        found = {}
        if "image" in takes:
            pictures = [(media_hash(path), Image(path=path)) for path in _some(inputs.pictures, seed)]
            found["picture"] = self._all("picture", pictures)
        if "audio" in takes:
            sounds = [(media_hash(path), Sound(path=path)) for path in _some(inputs.sounds, seed)]
            found["sound"] = self._all("sound", sounds)
        if "text" in takes:
            texts = [
                (hashlib.sha256(text.encode()).hexdigest(), Text(text=text))
                for text in _some(inputs.texts, seed)
            ]
            found["text"] = self._all("text", texts)
        return {kind: rows for kind, rows in found.items() if len(rows)}

    def _all(self, kind: str, parts: Sequence[tuple[str, Part]]) -> Values:
        keys = [f"{self._name} {kind} {digest}" for digest, _ in parts]
        told = self._kept.get(keys)
        missing = {key: part for key, (_, part) in zip(keys, parts, strict=True) if key not in told}
        if missing:
            self._log.stage(f"embedding {kind}s", len(missing), "inputs")
        fresh: dict[str, str] = {}
        for key, part in missing.items():
            with suppress(DataError):
                fresh[key] = json.dumps([round(value, 5) for value in self._one(part)])
            self._log.advance()
            if len(fresh) >= _AT_ONCE:
                self._kept.put(fresh)
                told, fresh = told | fresh, {}
        self._kept.put(fresh)
        found = told | fresh
        return np.array([json.loads(found[key]) for key in keys if key in found], dtype=np.float64)

    def _one(self, part: Part) -> list[float]:
        if self._loaded is None:
            self._loaded = self.family.load(self.model)
        return embedding(self._loaded, self.family, part)


def embedding(loaded: Loaded, family: Family, part: Part) -> list[float]:
    """Return the mean [D] of the last hidden states over one medium or text, as the user's whole turn.

    Of a model with an encoder of its own, the encoder's.

    Raises:
        DataError: the medium does not decode, or the model does not take it alone.
    """
    from studio.later import torch

    item = family.encode(loaded.processor, Sample(turns=(Turn(role="user", parts=(part,)),)), False)
    batch = family.collate(loaded.processor, [item], "left")
    model: Any = loaded.model
    device = next(model.parameters()).device
    batch = {key: value.to(device) for key, value in batch.items() if key != "labels"}
    kept: list[Any] = []
    find: Callable[[], Any] = getattr(model, "get_encoder", lambda: None)
    encoder = find() if getattr(model.config, "is_encoder_decoder", False) else None
    hook = encoder.register_forward_hook(lambda _m, _i, out: kept.append(out[0])) if encoder else None
    was = model.training
    model.eval()
    try:
        with torch.no_grad():
            out = model(**batch, output_hidden_states=True)
    finally:
        model.train(was)
        if hook is not None:
            hook.remove()
    states = kept[-1] if kept else out.hidden_states[-1]
    mean = states[0].float().mean(dim=0)
    return [float(value) for value in mean.cpu()]


def _some(items: Sequence[Any], seed: int) -> Sequence[Any]:
    """Return the items, or `MOST` of them in their order, drawn at random."""
    if len(items) <= MOST:
        return items
    chosen = np.random.default_rng(seed).choice(len(items), MOST, replace=False)
    return [items[int(at)] for at in sorted(chosen)]
