"""LoRA adapters: put on a model, saved, loaded with every key accounted for, read as true deltas.

The only place where training meets PEFT. Modules are chosen by the object tree: a tower's rule is a
regular expression that must match a module's whole path, so it cannot land in another tower.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from studio.adapter_files import write_adapter, write_note
from studio.adapter_format import (
    CONFIG_FILE,
    NOTE_FILE,
    WEIGHTS_FILE,
    Adapter,
    Factors,
    is_adapter,
    read_adapter,
)
from studio.checkpoint import Checkpoint
from studio.errors import CheckpointError, ConfigError, unknown
from studio.files import atomic_folder
from studio.later import torch
from studio.types import Family

__all__ = [
    "CONFIG_FILE",
    "NOTE_FILE",
    "WEIGHTS_FILE",
    "Adapter",
    "Factors",
    "add_lora",
    "is_adapter",
    "load_adapter",
    "lora_modules",
    "read_adapter",
    "save_adapter",
    "write_adapter",
]


def lora_modules(model: Any, family: Family, towers: Iterable[str]) -> dict[str, list[str]]:
    """Return tower -> paths of the modules that LoRA adapts there.

    Raises `ConfigError` for a tower that the family does not have, a rule that matches nothing in this model,
    or one that matches something LoRA cannot adapt.
    """
    able = (torch.nn.Linear, torch.nn.Embedding, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
    found: dict[str, list[str]] = {}
    for tower in towers:
        if tower not in family.lora_targets:
            raise ConfigError(f"{family.name}: {unknown('tower', tower, family.lora_targets)}")
        rule = family.lora_targets[tower]
        matched = {path: part for path, part in model.named_modules() if re.fullmatch(rule, path)}
        if not matched:
            raise ConfigError(
                f"the LoRA rule of {family.name} for the tower '{tower}' matches no module of "
                f"{type(model).__name__}: {rule}"
            )
        for path, part in matched.items():
            if not isinstance(part, able) and type(part).__name__ != "Conv1D":
                raise ConfigError(
                    f"LoRA cannot adapt '{path}', a {type(part).__name__}; change the rule: {rule}"
                )
        found[tower] = list(matched)
    return found


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
    """Return the model as a ``PeftModel`` with fresh LoRA weights on the chosen towers; all else is frozen.

    ``towers`` names them (``["llm", "projector"]``); as a mapping it may give a tower its own ``r`` and
    ``alpha``: ``{"llm": {"r": 16}, "vision": {"r": 4, "alpha": 4}}``. ``modules_to_save`` are whole paths of
    modules trained in full. The start is a function of ``seed`` alone (torch's global state is restored).

    Raises `ConfigError` as `lora_modules` does, and for settings out of range.
    """
    from peft import LoraConfig, get_peft_model

    settings = (
        {t: dict(towers[t]) for t in towers} if isinstance(towers, Mapping) else {t: {} for t in towers}
    )
    if not settings:
        raise ConfigError(f"choose at least one tower for LoRA; known: {', '.join(family.lora_targets)}")
    modules = lora_modules(model, family, settings)
    rank_pattern: dict[str, int] = {}
    alpha_pattern: dict[str, float] = {}
    for tower, own in settings.items():
        if stray := set(own) - {"r", "alpha"}:
            raise ConfigError(f"tower '{tower}': {unknown('LoRA setting', sorted(stray)[0], ['r', 'alpha'])}")
        if own.get("r", r) != r:
            rank_pattern |= {f"^{re.escape(path)}": int(own["r"]) for path in modules[tower]}
        if own.get("alpha", alpha) != alpha:
            alpha_pattern |= {f"^{re.escape(path)}": float(own["alpha"]) for path in modules[tower]}
    if min([r, *rank_pattern.values()]) < 1 or not 0 <= dropout < 1:
        raise ConfigError(f"LoRA needs r >= 1 and 0 <= dropout < 1, not r={r}, dropout={dropout}")
    paths = {name for name, _ in model.named_modules()}
    for path in (whole := list(modules_to_save)):
        if path not in paths:
            raise ConfigError(unknown("module", path, paths).split(" known: ")[0])
    config = LoraConfig(
        r=r,
        lora_alpha=alpha,
        lora_dropout=dropout,
        use_rslora=use_rslora,
        use_dora=use_dora,
        target_modules="|".join(f"(?:{family.lora_targets[tower]})" for tower in settings),
        rank_pattern=rank_pattern,
        alpha_pattern=alpha_pattern,
        modules_to_save=whole or None,
    )
    with torch.random.fork_rng(), _old_name():
        torch.manual_seed(seed)
        adapted = get_peft_model(model, config)
    wanted = {path for paths in modules.values() for path in paths}
    made = set(adapted.targeted_module_names)
    assert made == wanted, (made - wanted, wanted - made)
    return adapted


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

    ``base`` is the base model's folder, or its name as given with an explicit ``base_fingerprint``.
    """
    if base_fingerprint is None:
        base_fingerprint = Checkpoint(base).fingerprint()
    target = Path(folder)
    with atomic_folder(target) as made:
        model.save_pretrained(
            made, safe_serialization=True, save_embedding_layers=False, selected_adapters=[adapter_name]
        )
        inner = made / adapter_name
        if inner.is_dir():  # PEFT gives adapters with another name than "default" a folder of their own
            for file in inner.iterdir():
                file.rename(made / file.name)
            inner.rmdir()
        (made / "README.md").unlink(missing_ok=True)
        name = family if isinstance(family, str) else family.name
        write_note(made, base=str(base), base_fingerprint=base_fingerprint, family=name, note=note)
        read_adapter(made)
    return target


def load_adapter(
    model: Any, folder: str | Path, *, adapter_name: str = "default", trainable: bool = False
) -> Any:
    """Put the adapter in ``folder`` on a model and return the ``PeftModel``; every key must find its place.

    ``model`` is a plain transformers model or a ``PeftModel`` that gets one more adapter.

    Raises `CheckpointError` when the folder's tensors and the model's modules do not match one to one: an
    adapter that loads "successfully" with no matching key would change nothing.
    """
    from peft import PeftConfig, PeftModel

    adapter = read_adapter(folder)
    device = str(next(model.parameters()).device)
    try:
        if not isinstance(model, PeftModel):
            config = PeftConfig.from_pretrained(str(folder))
            config.inference_mode = not trainable
            with _old_name():
                model = PeftModel(model, config, adapter_name)
        result = model.load_adapter(
            str(folder), adapter_name, is_trainable=trainable, torch_device=device, low_cpu_mem_usage=False
        )
    except (ValueError, RuntimeError, KeyError) as error:
        raise CheckpointError(
            f"{adapter.folder} does not fit the model: {str(error).splitlines()[0]}"
        ) from None
    stray = [*result.unexpected_keys, *result.missing_keys]
    if stray:
        raise CheckpointError(
            f"{adapter.folder} does not fit the model: {len(stray)} keys found no match, first '{stray[0]}'"
        )
    return model


@contextmanager
def _old_name() -> Iterator[None]:
    """Hide that PEFT 0.21 asks transformers 5.23 for a property by its old name: no user can act on it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        yield
