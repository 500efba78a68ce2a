"""Bases that training saw in 4 or 8 bits: their values, from stored codes or rounded as loading rounded them.

A checkpoint that bitsandbytes stored holds codes, magnitudes and tables, and is decoded by these. One in full
precision may have been quantised while it was loaded: then its linear weights are rounded in the same way.

    stored      the codes that are there
    nf4         QLoRA's 4-bit type; ``nf4-double`` with double quantisation
    int8        rows in units of 1/127 of their largest magnitude (LLM.int8, arXiv:2208.07339, section 2.1)
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from mergers._groups import group_of, towers_of
from mergers._models import copy_companions
from mergers._nf4 import BLOCK, NESTED, magnitudes, rounded
from mergers._sources import FLOATS
from studio.checkpoint import Checkpoint
from studio.errors import ConfigError, MergeError, unknown
from studio.files import atomic_folder
from studio.log import Log
from studio.module_names import tensor_names
from studio.shards import ShardWriter
from studio.tensorfile import TORCH_NAMES

KINDS = ("nf4", "nf4-double", "int8")
#: All of them are tried, and the one that fits a reference is taken.
AUTO = "auto"
#: What tells of a dequantised base where it comes from.
NOTE = "dequantised.json"
#: A stretch from a tensor's beginning is read in units of this: whole blocks of magnitudes.
WHOLE = BLOCK * NESTED
_STATE = ".quant_state.bitsandbytes__"
_ABOUT = (".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map")
_ROWS = (".SCB", ".weight_format")
_CODES = {name: kind for kind, name in TORCH_NAMES.items()}


@dataclass(frozen=True, kw_only=True)
class Values:
    """A checkpoint's values: as they are, or with ``kind`` as stored codes or rounding make them.

    ``only`` names the tensors that are rounded, where an adapter says which; else all linear layers' are.
    """

    checkpoint: Checkpoint
    kind: str = ""
    only: frozenset[str] | None = None

    def __str__(self) -> str:
        """Return it as messages call it."""
        return f"{self.checkpoint.folder} {f'in {self.kind}' if self.kind in KINDS else ''}".rstrip()

    @property
    def folder(self) -> Path:
        """The checkpoint's folder."""
        return self.checkpoint.folder

    @cached_property
    def _states(self) -> Mapping[str, Mapping[str, Any]]:
        """Tensor -> how bitsandbytes stored its 4-bit codes."""
        found = {}
        for name in self.checkpoint.names() if self.kind == "stored" else ():
            weight, mark, _ = name.partition(_STATE)
            if mark:
                found[weight] = json.loads(bytes(self.checkpoint.read(name).tolist()))
        return found

    def names(self) -> tuple[str, ...]:
        """Return the model's tensors, without what describes codes."""
        return tuple(self._names)

    @cached_property
    def _names(self) -> Mapping[str, None]:
        every = self.checkpoint.names()
        if self.kind != "stored":
            return dict.fromkeys(every)
        about = {f"{weight}{end}" for weight in self._states for end in _ABOUT}
        rows = {f"{name.removesuffix('.weight')}{end}" for name in every for end in _ROWS}
        left = (name for name in every if name not in about and name not in rows and _STATE not in name)
        return dict.fromkeys(left)

    def __contains__(self, name: object) -> bool:
        """Return whether the model has a tensor."""
        return name in self._names

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape, decoded."""
        state = self._states.get(name)
        return tuple(state["shape"]) if state else self.checkpoint.shape(name)

    def stored(self, name: str) -> str:
        """Return the type that holds a tensor's values, as safetensors calls it."""
        state, kind = self._states.get(name), self.checkpoint.entry(name).kind
        if state:
            return _CODES[state["dtype"]]
        return self._plain if kind == "I8" and self._scale(name) is not None else kind

    @cached_property
    def _plain(self) -> str:
        """The type of the tensors that are no codes; what 8-bit codes were made from is not told."""
        kinds = [self.checkpoint.entry(name).kind for name in self.checkpoint.names()]
        return next((kind for kind in kinds if kind in ("BF16", "F16")), "F32")

    def read(self, name: str, count: int | None = None) -> Tensor:
        """Return a tensor's first ``count`` values, or all, flat, in the type that holds them.

        ``count`` is a multiple of `WHOLE`, of the last dimension, or reaches the end.
        """
        numel = math.prod(self.shape(name))
        count = numel if count is None else min(count, numel)
        state, scale = self._states.get(name), self._scale(name)
        if state:
            return self._decoded(name, state, count)
        flat = self.checkpoint.read_flat(name, 0, count)
        if scale is not None:
            width = self.checkpoint.shape(name)[1]
            rows = scale.float().reshape(-1)[: -(-count // width)].repeat_interleave(width)[:count]
            return (flat.float() * rows / 127).to(getattr(torch, TORCH_NAMES[self._plain]))
        if self.kind not in KINDS or not self.is_linear(name):
            return flat
        if self.kind == "int8":
            return _int8(flat, self.checkpoint.shape(name)[1])
        whole = flat if count == numel or self.kind == "nf4" else self.checkpoint.read_flat(name, 0, numel)
        return rounded(flat, magnitudes(whole, self.kind == "nf4-double")).to(flat.dtype)

    def is_linear(self, name: str) -> bool:
        """Return whether loading in fewer bits rounds a tensor: weights of linear layers, not of the head."""
        shape, kind = self.checkpoint.shape(name), self.checkpoint.entry(name).kind
        if self.only is not None:
            return name in self.only
        plain = len(shape) == 2 and kind in FLOATS and name.endswith(".weight")
        return plain and group_of(name, self._towers).kind == "weights"

    @cached_property
    def _towers(self) -> Any:
        return towers_of(self.checkpoint.config)

    def _scale(self, name: str) -> Tensor | None:
        """Return the magnitudes of a weight's rows, if it is stored in 8 bits."""
        scale = f"{name.removesuffix('.weight')}.SCB"
        if self.kind != "stored" or not name.endswith(".weight") or scale not in self.checkpoint:
            return None
        return self.checkpoint.read(scale)

    def _decoded(self, name: str, state: Mapping[str, Any], count: int) -> Tensor:
        read, block = self.checkpoint.read, int(state["blocksize"])
        sizes = read(f"{name}.absmax")
        if "nested_blocksize" in state:
            table, nested = read(f"{name}.nested_quant_map"), read(f"{name}.nested_absmax").float()
            spread = nested.repeat_interleave(int(state["nested_blocksize"]))[: len(sizes)]
            sizes = table[sizes.long()] * spread + float(state["nested_offset"])
        codes = self.checkpoint.read_flat(name, 0, -(-count // 2)).reshape(-1)
        pairs = torch.stack([codes >> 4, codes & 15], dim=1).reshape(-1)[:count].long()
        spread = sizes.float().repeat_interleave(block)[:count]
        found = read(f"{name}.quant_map").float()[pairs] * spread
        return found.to(getattr(torch, state["dtype"]))


def _int8(flat: Tensor, width: int) -> Tensor:
    """Return rows rounded to 1/127 of their largest magnitude."""
    rows = torch.nn.functional.pad(flat.float(), (0, -len(flat) % width)).view(-1, width)
    size = rows.abs().amax(dim=1, keepdim=True)
    codes = torch.round(rows * (127 / torch.where(size > 0, size, 1.0)))
    return (codes * size / 127).reshape(-1)[: len(flat)].to(flat.dtype)


def place_in(values: Values, modules: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    """Return module -> name of its weight among some values; `CheckpointError` for one that is not there."""
    wanted = {f"{name}.weight": shape for name, shape in modules.items()}
    return tensor_names(wanted, cast(Checkpoint, values), ".weight")  # asks for names and shapes only


def quantised_as(checkpoint: Checkpoint) -> str:
    """Return how a checkpoint was quantised: "" for not at all, "stored", or by which of `KINDS` on loading.

    Raises `MergeError` for other ways than bitsandbytes'.
    """
    told = checkpoint.config.get("quantization_config")
    if not isinstance(told, Mapping):
        return ""
    by = str(told.get("quant_method", "bitsandbytes"))
    if by != "bitsandbytes":
        raise MergeError(f"{checkpoint.folder} is quantised by {by}; only bitsandbytes' codes are decoded")
    if any(_STATE in name or name.endswith(".SCB") for name in checkpoint.names()):
        return "stored"
    if told.get("load_in_8bit"):
        return "int8"
    if told.get("bnb_4bit_quant_type", "fp4") != "nf4":
        raise MergeError(f"{checkpoint.folder} is loaded in fp4; only nf4 and int8 can be rounded to")
    return "nf4-double" if told.get("bnb_4bit_use_double_quant") else "nf4"


def check_kind(kind: str) -> None:
    """Raise `ConfigError` unless a word is one of `KINDS`, `AUTO` or nothing."""
    if kind not in ("", AUTO, *KINDS):
        raise ConfigError(unknown("kind of quantised base", kind, (AUTO, *KINDS)))


def write_values(values: Values, out: Path, log: Log, told: Mapping[str, Any]) -> Checkpoint:
    """Write some values as a full model into the folder ``out``, whole or not at all, with a note.

    Tensors are stored in the type in which they were multiplied, so that nothing is rounded again.
    """
    names, donor = values.names(), values.checkpoint
    if out.exists() and not (out / NOTE).is_file():
        raise MergeError(f"the dequantised base is to be written to {out}, where something else is; move it")
    with atomic_folder(out) as folder:
        layout = [(name, values.stored(name), values.shape(name)) for name in names]
        log.stage("dequantise", len(names), "tensors")
        with ShardWriter(folder, layout, metadata=donor.metadata) as writer:
            for name in names:
                writer.write(name, values.read(name))
                log.advance(1)
        copy_companions(donor, folder)
        config = {key: value for key, value in donor.config.items() if key != "quantization_config"}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        note = {"from": str(donor.folder), "fingerprint": donor.fingerprint(), "kind": values.kind, **told}
        (folder / NOTE).write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")
    return Checkpoint(out)
