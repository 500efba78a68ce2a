"""What names features: a hash over everything that decides what a tower makes of a medium."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from studio.families._gauge import Gauge
from studio.files import sha256_file
from studio.fingerprint import named_hash
from studio.tensorfile import as_bytes
from studio.types import Feature

#: The code that computes and keeps features, beside the families', which the gauge's maker names.
_CODE = ("feature_files.py", "features.py")


def feature_key(
    model: Any, gauge: Gauge, feature: Feature, projected: bool, device: torch.device, dtype: torch.dtype
) -> str:
    """Return the key of the features that ``model`` computes on ``device`` in ``dtype``.

    It is made of the weights that they pass through, the model's configuration, the processor, the code and
    the libraries. The kind of device counts, because its sums are rounded differently.
    """
    paths = feature.parts if projected else tuple(set(feature.parts) - set(feature.projectors))
    without = () if projected else feature.projectors
    config = {k: v for k, v in model.config.to_dict().items() if k not in ("_name_or_path", "architectures")}
    digest = hashlib.sha256()
    for fact in (
        gauge.maker,
        torch.__version__,
        device.type,
        str(dtype),
        str(model.config._attn_implementation),
        json.dumps([sorted(paths), projected, feature.takes, feature.reads]),
        json.dumps(config, sort_keys=True, default=str),
        *(sha256_file(Path(__file__).with_name(name)) for name in _CODE),
        *_weights(model, paths, without),
    ):
        digest.update(f"{fact}\n".encode())
    return digest.hexdigest()[:32]


def _weights(model: Any, paths: tuple[str, ...], without: tuple[str, ...]) -> Iterator[str]:
    """Yield a hash of each tensor under ``paths`` that is not under ``without``, in order of the names."""
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    chosen = [
        (name, value)
        for name, value in sorted(named.items())
        if under(name, paths) and not under(name, without)
    ]
    with ThreadPoolExecutor(min(len(os.sched_getaffinity(0)), 8)) as pool:
        yield from pool.map(lambda pair: _hash(*pair), chosen)


def _hash(name: str, value: Tensor) -> str:
    digest = named_hash(name, str(value.dtype), value.shape)
    # A quantised weight is its codes together with what they are scaled by.
    state = getattr(value, "quant_state", None)
    scales = (getattr(value, "SCB", None), *(getattr(s, "absmax", None) for s in (state, _of(state))))
    for each in (value, *(scale for scale in scales if isinstance(scale, Tensor))):
        digest.update(as_bytes(each.detach().cpu().contiguous()))
    return digest.hexdigest()


def _of(state: Any) -> Any:
    """Return the state by which the scales of doubly quantised weights are quantised themselves."""
    return getattr(state, "state2", None)


def under(name: str, paths: tuple[str, ...]) -> bool:
    """Say whether a parameter belongs to one of the modules at ``paths``, or is one of them."""
    return any(name == path or name.startswith(path + ".") for path in paths)
