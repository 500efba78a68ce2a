"""LoRA adapter folders as true deltas: every convention of the format folded into ``delta = b @ a``.

    adapter = read_adapter(folder)
    adapter.names()                        # module paths in the model
    adapter.modules["model.layers.0.fc1"]  # Factors, read when asked for

The format is PEFT's: ``adapter_config.json`` and ``adapter_model.safetensors``. Scaling is alpha / r, or
alpha / sqrt(r) for rsLoRA (Kalajdzievski 2023, arXiv:2312.03732, section 3), with ``rank_pattern`` and
``alpha_pattern`` per module; DoRA (Liu et al. 2024, arXiv:2402.09353, eq. 5) needs the base's weight.
Beside it lies ``triptych.json``: which base the adapter belongs to, by name and by fingerprint.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from studio.adapter_check import check_factors, check_scaling
from studio.checkpoint import Checkpoint
from studio.errors import CheckpointError, unknown
from studio.later import torch

if TYPE_CHECKING:
    from torch import Tensor

PREFIX = "base_model.model."
WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
NOTE_FILE = "triptych.json"

Kind = Literal["linear", "transposed", "embedding", "conv"]

#: Settings under which the file's factors are not the whole truth about the delta.
REFUSED = (
    "target_parameters",
    "trainable_token_indices",
    "layer_replication",
    "alora_invocation_tokens",
    "use_qalora",
    "use_bdlora",
    "arrow_config",
    "kasa_config",
    "megatron_config",
)
#: Initialisations that change the base, so that the delta is relative to weights that are not on disk.
RELATIVE = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclass(frozen=True, kw_only=True)
class Factors:
    """One module's true delta, ``b @ a`` reshaped to ``shape``, in float32.

    a          [r, columns]
    b          [rows, r], with the scaling inside
    shape      of the module's weight on disk: rows = shape[0], columns = the rest
    magnitude  DoRA's length per output, [outputs]; then the delta is m (W + b a) / |W + b a| - W
    bias       what is added to the module's bias, [outputs]
    """

    a: Tensor
    b: Tensor
    shape: tuple[int, ...]
    kind: Kind = "linear"
    magnitude: Tensor | None = None
    bias: Tensor | None = None

    @property
    def rank(self) -> int:
        """The number of columns of ``b``."""
        return int(self.a.shape[0])

    @property
    def output_axis(self) -> int:
        """Which axis of the weight on disk counts the module's outputs."""
        return 1 if self.kind in ("transposed", "embedding") else 0

    def delta(self, weight: Tensor | None = None) -> Tensor:
        """Return what the adapter adds to the weight; DoRA needs the base's ``weight``."""
        low = (self.b @ self.a).reshape(self.shape)
        if self.magnitude is None:
            return low
        if weight is None:
            raise CheckpointError("a DoRA delta depends on the base's weights; name the base model")
        base = weight.float()
        return (base + low).mul_(self.scale(base)).sub_(base)

    def scale(self, weight: Tensor) -> Tensor:
        """Return DoRA's m / |W + b a| per output, shaped to multiply the weight."""
        assert self.magnitude is not None
        adapted = weight.float() + (self.b @ self.a).reshape(self.shape)
        axis = self.output_axis
        norm = adapted.transpose(0, axis).flatten(1).norm(dim=1)
        sides = [1] * len(self.shape)
        sides[axis] = -1
        scale: Tensor = (self.magnitude / norm).view(sides)
        return scale


class Adapter:
    """A LoRA folder by module; factors are read when asked for."""

    def __init__(self, folder: str | Path) -> None:
        """Read the configuration and the tensors' names; check that every tensor has a meaning."""
        self.folder = Path(folder)
        self.config = read_json(self.folder / CONFIG_FILE)
        note = self.folder / NOTE_FILE
        self.note: dict[str, Any] = read_json(note) if note.is_file() else {}
        self._check_config()
        self.checkpoint = Checkpoint(self.folder)
        self._parts: dict[str, dict[str, str]] = {}
        self._values: dict[str, str] = {}
        for name in self.checkpoint.names():
            self._sort_in(name)
        for copy, name in self.tied.items():
            if copy in self._values and name in self._values:
                del self._values[copy]
        for name, parts in self._parts.items():
            pair = ("a", "b") if "a" in parts or "b" in parts else ("ea", "eb")
            if not set(pair) <= set(parts):
                raise CheckpointError(f"{self.folder}: module '{name}' lacks one of its two factors")
            check_factors(self.folder, name, *(self.checkpoint.shape(parts[part]) for part in pair))

    @property
    def base(self) -> str:
        """The base model as it was named in training, or the empty string."""
        return str(self.note.get("base") or self.config.get("base_model_name_or_path") or "")

    @property
    def base_fingerprint(self) -> str:
        """The fingerprint of the base's weights, or the empty string for adapters from elsewhere."""
        return str(self.note.get("base_fingerprint", ""))

    @property
    def family(self) -> str:
        """The name of the base's family, or the empty string."""
        return str(self.note.get("family", ""))

    @property
    def tied(self) -> dict[str, str]:
        """Tensors that are stored only because PEFT wants them -> the whole tensor that each is a copy of.

        A model that ties its head to its embedding has one tensor for both, PEFT one for each module.
        """
        return dict(self.note.get("tied", {}))

    def names(self) -> tuple[str, ...]:
        """Return the adapted modules' paths in the model, in file order."""
        return tuple(self._parts)

    @property
    def modules(self) -> Mapping[str, Factors]:
        """The modules' factors; each look-up reads from disk."""
        return _Modules(self)

    @property
    def values(self) -> tuple[str, ...]:
        """Names of tensors stored whole (trained biases, ``modules_to_save``), as in the model."""
        return tuple(self._values)

    def value(self, name: str) -> Tensor:
        """Return a tensor that the adapter stores whole."""
        return self.checkpoint.read(self._values[name])

    def value_shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor that the adapter stores whole."""
        return self.checkpoint.shape(self._values[name])

    def stored(self, name: str) -> str:
        """Return under which name in the file a whole tensor is stored."""
        return self._values[name]

    def has_bias(self, name: str) -> bool:
        """Return whether a module's factors come with a change of its bias."""
        return "bias" in self._parts[name]

    def is_dora(self, name: str) -> bool:
        """Return whether a module's delta depends on the base's weight."""
        return "m" in self._parts[name]

    def kind(self, name: str) -> Kind:
        """Return what kind of module a path leads to."""
        parts = self._parts[name]
        if "ea" in parts:
            return "embedding"
        if len(self.checkpoint.shape(parts["a"])) > 2:
            return "conv"
        return "transposed" if self.config.get("fan_in_fan_out") else "linear"

    def rank(self, name: str) -> int:
        """Return a module's rank."""
        parts = self._parts[name]
        return self.checkpoint.shape(parts.get("a") or parts["ea"])[0]

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a module's weight on disk, as far as the factors tell it."""
        parts, kind = self._parts[name], self.kind(name)
        a = self.checkpoint.shape(parts.get("a") or parts["ea"])
        b = self.checkpoint.shape(parts.get("b") or parts["eb"])
        return (a[1], b[0]) if kind in ("embedding", "transposed") else (b[0], *a[1:])

    def scaling(self, name: str) -> float:
        """Return alpha / r, or alpha / sqrt(r) for rsLoRA, under the patterns that match the module."""
        rank = int(_by_pattern(self.config.get("rank_pattern"), name, self.config.get("r", 8)))
        alpha = float(_by_pattern(self.config.get("alpha_pattern"), name, self.config.get("lora_alpha", 8)))
        if rank != self.rank(name):
            raise CheckpointError(
                f"{self.folder}: '{name}' has rank {self.rank(name)}, {CONFIG_FILE} says {rank}"
            )
        return alpha / (math.sqrt(rank) if self.config.get("use_rslora") else rank)

    def factors(self, name: str) -> Factors:
        """Return a module's factors in float32, the scaling folded into ``b``."""
        if name not in self._parts:
            raise CheckpointError(f"{self.folder}: {unknown('module', name, self._parts)}")
        parts, kind, scaling = self._parts[name], self.kind(name), self.scaling(name)
        a = self.checkpoint.read(parts.get("a") or parts["ea"]).float()
        b = self.checkpoint.read(parts.get("b") or parts["eb"]).float()
        bias = self.checkpoint.read(parts["bias"]).float() * scaling if "bias" in parts else None
        magnitude = self.checkpoint.read(parts["m"]).float().flatten() if "m" in parts else None
        a, b = a.flatten(1), b.flatten(1) * scaling
        if kind in ("embedding", "transposed"):
            a, b = b.T, a.T
        return Factors(a=a, b=b, shape=self.shape(name), kind=kind, magnitude=magnitude, bias=bias)

    def _sort_in(self, name: str) -> None:
        module = name.removeprefix(PREFIX)
        for ending, part in _ENDINGS.items():
            if module.endswith(ending):
                self._parts.setdefault(module.removesuffix(ending), {})[part] = name
                return
        if "lora_" in module.rpartition(".")[2] or ".lora_" in module or "token_adapter" in module:
            raise CheckpointError(f"{self.folder}: cannot tell what the tensor '{name}' means")
        self._values[module.replace(".base_layer.", ".").replace(".modules_to_save.", ".")] = name

    def _check_config(self) -> None:
        kind = self.config.get("peft_type")
        if kind != "LORA":
            raise CheckpointError(
                f"{self.folder} is an adapter of type {kind}, and only LORA is a low-rank delta that can be "
                "read and merged; use it beside its base, as MODEL+ADAPTER"
            )
        for key in REFUSED:
            if self.config.get(key):
                raise CheckpointError(
                    f"{self.folder}: the setting {key} makes deltas that cannot be read as factors"
                )
        start = str(self.config.get("init_lora_weights", True)).lower()
        if start.startswith(RELATIVE):
            raise CheckpointError(
                f"{self.folder} starts from {start}, which changes the base; save it converted to plain LoRA"
            )
        check_scaling(self.folder / CONFIG_FILE, self.config)


class _Modules(Mapping[str, Factors]):
    """Lazy look-up of factors by module path."""

    def __init__(self, adapter: Adapter) -> None:
        self._adapter = adapter

    def __getitem__(self, name: str) -> Factors:
        if name not in self._adapter.names():
            raise KeyError(name)
        return self._adapter.factors(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._adapter.names())

    def __len__(self) -> int:
        return len(self._adapter.names())


_ENDINGS = {
    ".lora_A.weight": "a",
    ".lora_B.weight": "b",
    ".lora_B.bias": "bias",
    ".lora_embedding_A": "ea",
    ".lora_embedding_B": "eb",
    ".lora_magnitude_vector": "m",
    ".lora_magnitude_vector.weight": "m",
}


def read_adapter(folder: str | Path) -> Adapter:
    """Return the adapter in a folder; `CheckpointError` when it cannot be read as true deltas."""
    return Adapter(folder)


def is_adapter(folder: str | Path) -> bool:
    """Return whether a folder holds an adapter rather than a full model."""
    return (Path(folder) / CONFIG_FILE).is_file()


def pattern_key(patterns: Sequence[str], name: str) -> str | None:
    """Return the first pattern that matches the end of a module path, as PEFT looks it up."""
    for pattern in patterns:
        if re.match(rf"(.*\.)?({pattern})$", name):
            return pattern
    return None


def _by_pattern(patterns: Mapping[str, Any] | None, name: str, default: Any) -> Any:
    key = pattern_key(tuple(patterns or ()), name)
    return default if key is None else (patterns or {})[key]


def read_json(file: Path) -> dict[str, Any]:
    """Return the JSON object in a file; `CheckpointError` when there is none."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{file.parent} has no {file.name}") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read as JSON: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{file} holds no JSON object")
    return value


def as_rows(tensor: Tensor) -> Tensor:
    """Return a weight of any shape as the matrix [rows, columns] that factors multiply to."""
    return tensor.reshape(tensor.shape[0], -1) if tensor.dim() > 1 else tensor.reshape(-1, 1)


def cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a contiguous tensor of the type in which it is to be stored."""
    return tensor.to(dtype).contiguous()
