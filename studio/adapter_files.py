"""Writing adapters that PEFT loads as they are: factors in, a folder out."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.adapter_format import CONFIG_FILE, NOTE_FILE, PREFIX, WEIGHTS_FILE, Factors, cast
from studio.errors import CheckpointError
from studio.files import atomic_folder
from studio.later import torch

if TYPE_CHECKING:
    from torch import Tensor


def write_adapter(
    folder: str | Path,
    modules: Mapping[str, Factors],
    *,
    base: str,
    base_fingerprint: str = "",
    family: str = "",
    values: Mapping[str, Tensor] | None = None,
    dtype: torch.dtype | None = None,
    note: Mapping[str, Any] | None = None,
    listed: bool = False,
) -> Path:
    """Write factors as a PEFT LoRA folder and return it; whole or not at all.

    Every module's scaling is written as 1 (alpha = r), so what is stored is the true delta. ``values`` are
    tensors stored whole, by their names in the model (``modules_to_save``). ``listed`` names the modules one
    by one: of a model with fused experts PEFT would make a pattern's last names, which other towers have too.
    """
    with atomic_folder(folder) as made:
        fill_adapter(
            made, modules, base=base, base_fingerprint=base_fingerprint, family=family, values=values,
            dtype=dtype or torch.float32, note=note, listed=listed,
        )  # fmt: skip
    return Path(folder)


def fill_adapter(
    folder: Path,
    modules: Mapping[str, Factors],
    *,
    base: str,
    base_fingerprint: str,
    family: str,
    values: Mapping[str, Tensor] | None,
    dtype: torch.dtype,
    note: Mapping[str, Any] | None,
    tied: Mapping[str, str] | None = None,
    listed: bool = False,
) -> None:
    """Write the three files of an adapter into an existing folder.

    ``tied`` names modules' tensors that are the same as one of ``values``, which PEFT wants for each module.
    """
    if not modules:
        raise CheckpointError(f"{folder}: an adapter without modules cannot be written")
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    for name, factors in modules.items():
        ranks[name] = factors.rank
        tensors |= {f"{PREFIX}{name}{key}": cast(t, dtype) for key, t in _stored(factors).items()}
    whole = dict(values or {})
    copies = {copy: name for copy, name in (tied or {}).items() if name in whole}
    whole |= {copy: whole[name].clone() for copy, name in copies.items()}
    for name, value in whole.items():
        tensors[PREFIX + name] = value.contiguous()
    kinds = {factors.kind for factors in modules.values()}
    config = adapter_config(
        ranks,
        base=base,
        use_dora=any(f.magnitude is not None for f in modules.values()),
        lora_bias=any(f.bias is not None for f in modules.values()),
        fan_in_fan_out="transposed" in kinds,
        modules_to_save=sorted({name.rpartition(".")[0] for name in whole}) or None,
        **({"target_modules": sorted(ranks)} if listed else {}),
    )
    from safetensors.torch import save_file

    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    note = {**(note or {}), **({"tied": copies} if copies else {})}
    write_note(folder, base=base, base_fingerprint=base_fingerprint, family=family, note=note)


def write_note(
    folder: Path, *, base: str, base_fingerprint: str, family: str, note: Mapping[str, Any] | None = None
) -> None:
    """Write ``triptych.json``: which base an adapter belongs to."""
    record = {"base": base, "base_fingerprint": base_fingerprint, "family": family, **(note or {})}
    (folder / NOTE_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def adapter_config(ranks: Mapping[str, int], *, base: str, **settings: Any) -> dict[str, Any]:
    """Return the contents of ``adapter_config.json`` for modules of the given ranks and scaling 1.

    Modules are matched by whole paths: neither a name's end nor a longer path can match by accident.
    """
    usual = Counter(ranks.values()).most_common(1)[0][0]
    pattern = {f"^{re.escape(name)}": rank for name, rank in ranks.items() if rank != usual}
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": usual,
        "lora_alpha": usual,
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "target_modules": paths_pattern(ranks),
        "rank_pattern": pattern,
        "alpha_pattern": pattern,
        **settings,
    }


def paths_pattern(names: Mapping[str, Any] | set[str]) -> str:
    """Return a regular expression that fully matches exactly these module paths.

    Paths that differ only in their first number share an alternative.
    """
    groups: dict[tuple[str, str], list[str]] = {}
    for name in sorted(names):
        found = re.search(r"(?<=\.)\d+(?=\.)", name)
        key = (name[: found.start()], name[found.end() :]) if found else (name, "")
        groups.setdefault(key, []).append(found.group() if found else "")
    parts = []
    for (before, after), numbers in groups.items():
        middle = numbers[0] if len(numbers) == 1 else f"(?:{'|'.join(sorted(numbers, key=int))})"
        parts.append(re.escape(before) + middle + re.escape(after))
    return "|".join(parts)


def _stored(factors: Factors) -> dict[str, Tensor]:
    """Return the tensors under which a module's factors are stored, by the ending of their names."""
    a, b, rank = factors.a, factors.b, factors.rank
    if factors.kind == "embedding":
        found = {".lora_embedding_A": b.T, ".lora_embedding_B": a.T}
    elif factors.kind == "transposed":
        found = {".lora_A.weight": b.T, ".lora_B.weight": a.T}
    elif factors.kind == "conv":
        ones = [1] * (len(factors.shape) - 2)
        found = {
            ".lora_A.weight": a.reshape(rank, *factors.shape[1:]),
            ".lora_B.weight": b.reshape(-1, rank, *ones),
        }
    else:
        found = {".lora_A.weight": a, ".lora_B.weight": b}
    if factors.bias is not None:
        found[".lora_B.bias"] = factors.bias
    if factors.magnitude is not None:
        wide = factors.kind == "conv"
        shape = (1, -1, *[1] * (len(factors.shape) - 2)) if wide else (-1,)
        found[".lora_magnitude_vector"] = factors.magnitude.reshape(shape)
    return found
