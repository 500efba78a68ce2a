"""Adapters: put on a model, saved, loaded with every key accounted for, read as true deltas.

Modules are chosen by the object tree: a tower's rule is a regular expression that must match a module's whole
path, so it cannot land in another tower. Whatever is low-rank is saved as plain LoRA on the untouched base,
however it was trained.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from studio.adapter_files import write_adapter, write_note
from studio.adapter_format import (
    CONFIG_FILE,
    NOTE_FILE,
    PREFIX,
    WEIGHTS_FILE,
    Adapter,
    Factors,
    is_adapter,
    read_adapter,
)
from studio.adapter_note import read_note
from studio.checkpoint import Checkpoint
from studio.errors import CheckpointError, ConfigError, unknown
from studio.files import atomic_folder
from studio.low_rank import keep_start, plain_factors
from studio.methods import method as named_method
from studio.peft_methods import fused, lora_modules, peft_quietly, put_on
from studio.quantise import quantised_note
from studio.types import Family

__all__ = [
    "CONFIG_FILE",
    "NOTE_FILE",
    "WEIGHTS_FILE",
    "Adapter",
    "Factors",
    "add_adapter",
    "add_lora",
    "is_adapter",
    "load_adapter",
    "lora_modules",
    "read_adapter",
    "save_adapter",
    "write_adapter",
]


def add_adapter(
    model: Any,
    family: Family,
    method: str,
    towers: Mapping[str, Mapping[str, Any]],
    *,
    r: int | None = None,
    alpha: float | None = None,
    dropout: float = 0.0,
    options: Mapping[str, Any] | None = None,
    modules_to_save: Iterable[str] = (),
    biases: bool = False,
    steps: int = 0,
    seed: int = 0,
) -> Any:
    """Return the model as a ``PeftModel`` with a fresh adapter of any method on the chosen towers.

    ``towers`` may give each its own ``r``, ``alpha`` and ``dropout``; ``r`` and ``alpha`` are by default the
    method's own (16 and 32 where it is a LoRA). ``options`` are further fields of PEFT's configuration of it.
    ``modules_to_save`` are whole paths of modules trained in full, ``biases`` trains all biases beside a
    LoRA, ``steps`` is the length of the run for methods that plan by it. The start is a function of ``seed``
    alone (torch's global state is restored). All else is frozen.

    Raises `ConfigError` for an unknown method, tower or setting, a rule that matches no module, and where
    PEFT refuses the model.
    """
    chosen = named_method(method)
    if not chosen.type:
        raise ConfigError(f"method={method} needs no adapter")
    if not towers:
        raise ConfigError(f"choose at least one tower for LoRA; known: {', '.join(family.lora_targets)}")
    for tower, own in towers.items():
        if stray := set(own) - {"r", "alpha", "dropout"}:
            raise ConfigError(
                f"tower '{tower}': {unknown('LoRA setting', sorted(stray)[0], ['r', 'alpha', 'dropout'])}"
            )
    lora = chosen.saved == "factors"
    common: dict[str, Any] = {
        "r": r if r is not None else 16 if lora else None,
        "alpha": alpha if alpha is not None else 32 if lora else None,
        "dropout": dropout,
    }
    common = {key: value for key, value in common.items() if value is not None}
    ranks = [value for own in (common, *towers.values()) if (value := own.get("r")) is not None]
    if min(ranks, default=1) < 1 or not 0 <= dropout < 1:
        raise ConfigError(f"LoRA needs r >= 1 and 0 <= dropout < 1, not r={min(ranks)}, dropout={dropout}")
    adapted = put_on(
        model, family, chosen, towers,
        common=common, options=options or {}, modules_to_save=modules_to_save,
        biases=biases or chosen.name == "bitfit", steps=steps, seed=seed,
    )  # fmt: skip
    keep_start(adapted)
    return adapted


def add_lora(
    model: Any,
    family: Family,
    towers: Iterable[str] | Mapping[str, Mapping[str, Any]],
    *,
    r: int = 16,
    alpha: float = 32,
    dropout: float = 0.0,
    seed: int = 0,
    use_rslora: bool = False,
    use_dora: bool = False,
    modules_to_save: Iterable[str] = (),
) -> Any:
    """Return the model with fresh LoRA weights on the chosen towers: `add_adapter` of LoRA.

    ``towers`` names them (``["llm", "projector"]``) or is a mapping as for `add_adapter`.
    """
    named = {t: towers[t] for t in towers} if isinstance(towers, Mapping) else {t: {} for t in towers}
    return add_adapter(
        model, family, "dora" if use_dora else "rslora" if use_rslora else "lora", named,
        r=r, alpha=alpha, dropout=dropout, seed=seed, modules_to_save=modules_to_save,
        options={"use_rslora": True} if use_dora and use_rslora else {},
    )  # fmt: skip


def save_adapter(
    model: Any,
    folder: str | Path,
    *,
    base: str | Path,
    family: Family | str = "",
    base_fingerprint: str | None = None,
    adapter_name: str = "default",
    note: Mapping[str, Any] | None = None,
) -> Path:
    """Save a model's adapter as a folder that plain ``PeftModel.from_pretrained`` loads; atomic.

    What is low-rank is saved as plain LoRA on the untouched base. ``base`` is the base model's folder, or its
    name as given with an explicit ``base_fingerprint``.
    """
    if base_fingerprint is None:
        base_fingerprint = Checkpoint(base).fingerprint()
    target = Path(folder)
    name = family if isinstance(family, str) else family.name
    about: dict[str, Any] = {"base": str(base), "base_fingerprint": base_fingerprint, "family": name}
    note = {**(note or {}), **quantised_note(model)}
    config = model.peft_config[adapter_name]
    if (factors := plain_factors(model, adapter_name)) is not None:
        whole = _whole(model, adapter_name)
        return write_adapter(target, factors, values=whole, note=note, listed=fused(model), **about)
    with atomic_folder(target) as made, peft_quietly():
        model.save_pretrained(
            made,
            safe_serialization=True,
            save_embedding_layers=False,
            selected_adapters=[adapter_name],
            state_dict=_learned_biases(model) if getattr(config, "bias", "none") == "all" else None,
        )
        inner = made / adapter_name
        if inner.is_dir():  # PEFT gives adapters with another name than "default" a folder of their own
            for file in inner.iterdir():
                file.rename(made / file.name)
            inner.rmdir()
        (made / "README.md").unlink(missing_ok=True)
        write_note(made, note=note, **about)
        if str(config.peft_type.value) == "LORA":
            read_adapter(made)
    return target


def load_adapter(
    model: Any, folder: str | Path, *, adapter_name: str = "default", trainable: bool = False
) -> Any:
    """Put the adapter in ``folder`` on a model and return the ``PeftModel``; every key must find its place.

    ``model`` is a plain transformers model or a ``PeftModel`` that gets one more adapter; with ``trainable``
    the adapter learns on.

    Raises `CheckpointError` when the folder's tensors and the model's modules do not match one to one: an
    adapter that loads "successfully" with no matching key would change nothing.
    """
    with peft_quietly():
        from peft import PeftConfig, PeftModel

    note = read_note(folder)
    if note.kind == "LORA":
        read_adapter(folder)
    device = str(next(model.parameters()).device)
    try:
        with peft_quietly():
            if not isinstance(model, PeftModel):
                config = PeftConfig.from_pretrained(str(folder))
                config.inference_mode = not trainable
                model = PeftModel(model, config, adapter_name)
            result = model.load_adapter(
                str(folder),
                adapter_name,
                is_trainable=trainable,
                torch_device=device,
                low_cpu_mem_usage=False,
            )
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        raise CheckpointError(f"{note.folder} does not fit the model: {str(error).splitlines()[0]}") from None
    stray = [*result.unexpected_keys, *_apart(model, result.missing_keys)]
    if stray:
        raise CheckpointError(
            f"{note.folder} does not fit the model: {len(stray)} keys found no match, first '{stray[0]}'"
        )
    return model


def _apart(model: Any, missing: Iterable[str]) -> list[str]:
    """Return the missing names of tensors that no loaded name shares, as a bank of all layers is shared."""
    gone = set(missing)
    every = {name: id(tensor) for name, tensor in model.named_parameters(remove_duplicate=False)}
    there = {key for name, key in every.items() if name not in gone}
    return [name for name in gone if every.get(name) not in there]


def _whole(model: Any, adapter_name: str) -> dict[str, Any]:
    """Return what an adapter stores whole (``modules_to_save``, biases), by its name in the model."""
    from peft import get_peft_model_state_dict

    state = get_peft_model_state_dict(
        model, adapter_name=adapter_name, save_embedding_layers=False, state_dict=_learned_biases(model)
    )
    return {
        name.removeprefix(PREFIX).replace(".base_layer.", "."): value.detach().cpu()
        for name, value in state.items()
        if "lora_" not in name
    }


def _learned_biases(model: Any) -> dict[str, Any]:
    """Return the model's tensors without biases that do not learn: PEFT would store those of all towers."""
    learned = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    return {
        name: value
        for name, value in model.state_dict().items()
        if not name.endswith("bias") or name in learned or ".modules_to_save." in name
    }
