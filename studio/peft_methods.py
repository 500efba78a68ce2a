"""Putting any method of PEFT on the chosen towers of a model, from its name and a few settings.

Modules are chosen by the object tree: a tower's rule must match a module's whole path, so nothing lands in
another tower. What a method needs of this model (sizes of blocks, which layers) is filled in here.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import re
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from studio.adapter_files import paths_pattern
from studio.errors import ConfigError, unknown
from studio.later import torch
from studio.methods import Method, check_rank
from studio.training.rules import tower_of
from studio.types import Family

#: Settings of PEFT's configurations that are not the user's: the house sets them, or cannot read the result.
OURS = frozenset((
    "task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision",
    "inference_mode", "target_modules", "exclude_modules", "modules_to_save", "layers_to_transform",
    "layers_pattern", "rank_pattern", "alpha_pattern", "bias", "fan_in_fan_out", "total_step",
    "layer_replication", "target_parameters", "trainable_token_indices", "alora_invocation_tokens",
    "use_qalora", "use_bdlora", "arrow_config", "kasa_config", "megatron_config", "megatron_core",
    "runtime_config", "feedforward_modules", "ensure_weight_tying",
))  # fmt: skip
#: What IA3 scales in a layer: keys and values behind them, the inner activation in front (section 3.3).
_IA3 = {"k", "v", "k_proj", "v_proj"}, {"down_proj", "fc2"}


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


def put_on(
    model: Any,
    family: Family,
    method: Method,
    towers: Mapping[str, Mapping[str, Any]],
    *,
    common: Mapping[str, Any],
    options: Mapping[str, Any],
    modules_to_save: Iterable[str],
    biases: bool,
    steps: int,
    seed: int,
) -> Any:
    """Return the model as a ``PeftModel`` with a fresh adapter on the chosen towers; all else is frozen.

    ``towers`` gives each its own ``r``, ``alpha`` and ``dropout`` where they differ from ``common``;
    ``options`` are fields of PEFT's configuration. ``steps`` is the length of the run (AdaLoRA plans by it).
    The start is a function of ``seed`` alone: torch's global state is restored.

    Raises `ConfigError` for a setting the method does not have, and where PEFT refuses the model.
    """
    with peft_quietly():
        from peft import get_peft_model
        from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

        kind = PEFT_TYPE_TO_CONFIG_MAPPING[method.type]
    check_options(kind, method, options)
    modules = targets(model, family, method, towers)
    whole = _existing(model, modules_to_save)
    every = [path for paths in modules.values() for path in paths]
    plain = modules == lora_modules(model, family, towers) if method.type != "LN_TUNING" else False
    settings: dict[str, Any] = {
        **method.given,
        **{getattr(method, key): value for key, value in common.items() if getattr(method, key)},
        "target_modules": _named(family, towers, every, plain, fused(model)),
        "modules_to_save": whole or None,
        **_patterns(method, towers, modules, common),
        **_of_model(model, method, every, common, steps, options),
        **options,
    }
    if biases:
        settings["bias"] = "all"
    with torch.random.fork_rng(), peft_quietly():
        torch.manual_seed(seed)
        try:
            adapted = get_peft_model(model, kind(**settings))
        except (ValueError, TypeError, KeyError, RuntimeError, NotImplementedError, AssertionError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            raise ConfigError(
                f"method={method.name} does not fit this model: {_first_line(error)}; its own settings "
                "stand in adapter.options"
            ) from None
    made = {name.removeprefix("model.") for name in adapted.targeted_module_names}
    wanted = {name.removeprefix("model.") for name in every}
    assert made == wanted, (made - wanted, wanted - made)
    _dropouts(adapted, towers, modules, common)
    return adapted


def _named(
    family: Family, towers: Iterable[str], every: Sequence[str], plain: bool, fused: bool
) -> str | list[str]:
    """Return what tells PEFT the modules: the family's rules where these are meant, else a pattern of paths.

    Of a model with fused experts PEFT would make the last names of a pattern's modules, which stand in other
    towers too; it leaves whole paths as they are.
    """
    if fused:
        return sorted(every)
    if plain:
        return "|".join(f"(?:{family.lora_targets[tower]})" for tower in towers)
    return paths_pattern(set(every))


def fused(model: Any) -> bool:
    """Return whether a model keeps the matrices of its experts in one parameter."""
    return any(path.endswith(".experts.gate_up_proj") for path, _ in model.named_parameters())


def targets(model: Any, family: Family, method: Method, towers: Iterable[str]) -> dict[str, list[str]]:
    """Return tower -> paths of the modules that a method adapts there; `ConfigError` if there are none."""
    if method.type != "LN_TUNING":
        found = lora_modules(model, family, towers)
        return {tower: _scaled(paths) for tower, paths in found.items()} if method.type == "IA3" else found
    found = {
        tower: [
            path
            for path, part in model.named_modules()
            if "norm" in type(part).__name__.lower()
            and any(True for _ in part.parameters(recurse=False))
            and tower_of(path, family) == tower
        ]
        for tower in towers
    }
    for tower, paths in found.items():
        if not paths:
            raise ConfigError(f"method={method.name}: the tower '{tower}' has no norms")
    return found


def check_options(kind: Any, method: Method, options: Mapping[str, Any]) -> None:
    """Raise `ConfigError` for an option that PEFT's configuration does not have, or that is set elsewhere."""
    fixed = {method.r: "adapter.r", method.alpha: "adapter.alpha", method.dropout: "adapter.dropout"}
    allowed = {f.name for f in dataclasses.fields(kind)} - OURS - fixed.keys() - method.given.keys()
    allowed |= {name for name in method.given if name == "init_weights"}
    for name in options:
        if fixed.get(name):
            raise ConfigError(f"adapter.options.{name}: set it as {fixed[name]}")
        if name not in allowed:
            raise ConfigError(f"adapter.options: {unknown(f'setting of {method.name}', name, allowed)}")


@contextmanager
def peft_quietly() -> Iterator[None]:
    """Hide what PEFT and its parts say of their own insides: no user can act on it."""
    log = logging.getLogger("bitsandbytes.backends.cpu.ops")
    log.setLevel(logging.ERROR)
    with warnings.catch_warnings(), _no_compiler():
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        warnings.filterwarnings("ignore", category=UserWarning)
        yield


@contextmanager
def _no_compiler() -> Iterator[None]:
    """Let PEFT be imported without torch's compiler.

    bitsandbytes, which it imports, wraps four functions that nothing here calls in `torch.compile`, and that
    imports the compiler: over a second, more than all else that a run does before its first step.
    """
    if "bitsandbytes" in sys.modules or "TORCHDYNAMO_DISABLE" in os.environ:
        yield
        return
    os.environ["TORCHDYNAMO_DISABLE"] = "1"
    try:
        yield
    finally:
        del os.environ["TORCHDYNAMO_DISABLE"]


def _patterns(
    method: Method,
    towers: Mapping[str, Mapping[str, Any]],
    modules: Mapping[str, list[str]],
    common: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the ranks and strengths of modules that differ from the common ones, as PEFT takes them."""
    found: dict[str, dict[str, Any]] = {"r": {}, "alpha": {}}
    for tower, own in towers.items():
        check_rank(method, own, f"towers.{tower}")
        for key, patterns in found.items():
            if own.get(key, common.get(key)) != common.get(key):
                patterns |= {f"^{re.escape(path)}": own[key] for path in modules[tower]}
    if not method.patterns:
        if any(found.values()):
            raise ConfigError(
                f"method={method.name} has one r and one alpha for all towers; set adapter.r and .alpha"
            )
        return {}
    return {"rank_pattern": found["r"], "alpha_pattern": found["alpha"]}


def _of_model(
    model: Any,
    method: Method,
    paths: list[str],
    common: Mapping[str, Any],
    steps: int,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the settings of a method that depend on the model and on the length of the run."""
    if method.name == "bitfit":
        return {"r": 1}
    if method.type == "IA3":
        inner = {path for path in paths if path.rpartition(".")[2] in _IA3[1]}
        return {"feedforward_modules": paths_pattern(inner) if inner else []}
    if method.type == "ADALORA":
        if steps < 5:
            raise ConfigError(f"method=adalora moves ranks over at least 5 steps; this run has {steps}")
        rank = common.get("r") or 8
        return {
            "target_r": rank,
            "init_r": math.ceil(1.5 * rank),
            "total_step": steps,
            "tinit": steps // 10,
            "tfinal": steps // 4,
            "deltaT": max(1, steps // 100),
        }
    if method.block and method.block[0] not in options:
        name, size = method.block
        sizes = [side for path in paths for side in model.get_submodule(path).weight.shape]
        return {name: math.gcd(size, *sizes)}
    return {}


def _dropouts(
    adapted: Any,
    towers: Mapping[str, Mapping[str, Any]],
    modules: Mapping[str, list[str]],
    common: Mapping[str, Any],
) -> None:
    """Give towers with a dropout of their own that dropout; PEFT's configuration has only one for all."""
    inner = adapted.get_base_model()
    for tower, own in towers.items():
        rate = own.get("dropout", common.get("dropout"))
        if rate == common.get("dropout"):
            continue
        for path in modules[tower]:
            held = getattr(inner.get_submodule(path), "lora_dropout", None)
            if held is None:
                raise ConfigError(f"towers.{tower}.dropout: this method has one dropout for all towers")
            for name in list(held):
                held[name] = torch.nn.Dropout(rate) if rate else torch.nn.Identity()


def _scaled(paths: list[str]) -> list[str]:
    """Return the modules that IA3 scales; all of them in a tower without attention."""
    chosen = [path for path in paths if path.rpartition(".")[2] in _IA3[0] | _IA3[1]]
    return chosen or paths


def _existing(model: Any, paths: Iterable[str]) -> list[str]:
    known = {name for name, _ in model.named_modules()}
    for path in (found := list(paths)):
        if path not in known:
            raise ConfigError(unknown("module", path, known).split(" known: ")[0])
    return found


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
