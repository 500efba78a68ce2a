"""Which part of a model learns, and how: every tower has an adapter, is trained in full, or is frozen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from studio.adapters import add_adapter
from studio.errors import ConfigError
from studio.later import torch
from studio.training.continuing import go_on_from
from studio.training.rules import TowerRule, tower_of, tower_rules
from studio.training.tower_types import cast_towers
from studio.types import Family

__all__ = [
    "TowerRule",
    "choose_trainable",
    "parameter_groups",
    "set_rates",
    "tower_of",
    "tower_rules",
    "train_mode",
]


def choose_trainable(
    model: Any,
    family: Family,
    rules: Mapping[str, TowerRule],
    *,
    method: str = "lora",
    r: int | None = None,
    alpha: float | None = None,
    dropout: float = 0.0,
    options: Mapping[str, Any] | None = None,
    steps: int = 0,
    seed: int,
    weights: torch.dtype | None = None,
    start: Path | None = None,
    base_fingerprint: str = "",
) -> Any:
    """Return the model, with an adapter where the rules ask for it, in which exactly the chosen towers learn.

    What learns is kept in fp32, whatever the model was loaded in; the rest is held in the run's type
    ``weights``, or the one its tower asks for. The settings are those of `add_adapter`, or ``start`` is an
    adapter to go on from, whose base has ``base_fingerprint``.

    Raises:
        ConfigError: if a rule matches no parameter or module of this model, if a tower has nothing that the
            rule could train, or is to be trained in full beside an adapter that cannot store it.
    """
    check_present(model, family, rules)
    cast_towers(model, family, rules, weights or next(model.parameters()).dtype)
    if start is not None:
        model = go_on_from(model, family, rules, start, method=method, base_fingerprint=base_fingerprint)
        in_fp32(model)
        return model
    kinds = {kind: [tower for tower, rule in rules.items() if rule.kind == kind] for kind in _KINDS}
    if kinds["lora"] or kinds["bitfit"]:
        towers = {tower: dict(rules[tower].adapter) for tower in kinds["lora"] or kinds["bitfit"]}
        model = add_adapter(
            model, family, method if kinds["lora"] else "bitfit", towers,
            r=r, alpha=alpha, dropout=dropout, options=options, seed=seed, steps=steps,
            modules_to_save=storable(model, family, kinds["full"]), biases=bool(kinds["bitfit"]),
        )  # fmt: skip
        if kinds["bitfit"]:
            _biases_alone(model, family, rules)
    else:
        for path, parameter in model.named_parameters():
            tower = tower_of(path, family)
            parameter.requires_grad_(tower in kinds["full"])
    in_fp32(model)
    return model


_KINDS = ("lora", "full", "bitfit", "frozen")
#: What PEFT puts in front of a model's own paths.
_PREFIX = "base_model.model."


def check_present(model: Any, family: Family, rules: Mapping[str, TowerRule]) -> None:
    """Raise `ConfigError` for a tower that is to learn and of which this model has no parameter."""
    present = {tower_of(path, family) for path, _ in model.named_parameters()}
    for tower, rule in rules.items():
        if rule.learns and tower not in present:
            prefixes = ", ".join(family.towers[tower])
            raise ConfigError(
                f"towers: '{tower}' matches no parameter of {type(model).__name__} ({prefixes})"
            )


def in_fp32(model: Any) -> None:
    """Keep what learns in fp32: steps of a small rate vanish in fewer bits."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def own_path(name: str) -> str:
    """Return a parameter's path in the model itself, without what PEFT puts in front of it."""
    return name.removeprefix(_PREFIX)


def train_mode(model: Any) -> None:
    """Switch to training, with dropout; parts in which nothing learns stay in evaluation mode, without.

    Batch norms keep the statistics they came with: by a batch's own, a row would depend on its neighbours.
    """
    model.train(not isinstance(model, torch.nn.modules.batchnorm._BatchNorm))
    for part in model.children():
        learns = [parameter.requires_grad for parameter in part.parameters()]
        if any(learns):
            train_mode(part)
        elif learns:
            part.eval()


def parameter_groups(
    model: Any,
    weight_decay: float,
    *,
    lr: float = 1.0,
    loraplus: float = 1.0,
    family: Family | None = None,
    rules: Mapping[str, TowerRule] | None = None,
) -> list[dict[str, Any]]:
    """Return the trainable parameters for AdamW: matrices with weight decay, biases and norms without.

    A tower with a rate of its own is a group whose ``times`` is that rate as a multiple of ``lr``, and so are
    LoRA's B factors, ``loraplus`` times as fast (LoRA+, Hayou et al. 2024, arXiv:2402.12354, section 4.1).
    """
    groups: dict[tuple[float, bool], list[Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        tower = tower_of(own_path(name), family) if family is not None else None
        own = rules[tower].lr if rules is not None and tower is not None else None
        times = 1.0 if own is None else own / lr
        if "lora_B" in name or "lora_embedding_B" in name:
            times *= loraplus
        groups.setdefault((times, parameter.dim() >= 2), []).append(parameter)
    order = sorted(groups, key=lambda key: (not key[1], key[0]))
    return [
        {"params": groups[key], "weight_decay": weight_decay if key[1] else 0.0, "times": key[0]}
        for key in order
    ]


def set_rates(optimiser: Any, lr: float) -> None:
    """Give every group of parameters its rate: ``lr``, times what `parameter_groups` said."""
    for group in optimiser.param_groups:
        group["lr"] = lr * group.get("times", 1.0)


def _biases_alone(model: Any, family: Family, rules: Mapping[str, TowerRule]) -> None:
    """Let only the biases of towers with the rule ``bitfit`` learn beside LoRA; `ConfigError` without any."""
    alone = not any(rule.kind == "lora" for rule in rules.values())
    found: dict[str | None, int] = {}
    for name, parameter in model.named_parameters():
        whole = ".modules_to_save." in name
        if whole or ".original_module." in name:
            parameter.requires_grad_(whole)
        elif "lora_" in name:
            parameter.requires_grad_(not alone)
        elif name.endswith("bias"):
            tower = tower_of(own_path(name), family)
            learns = tower is not None and rules[tower].kind == "bitfit"
            parameter.requires_grad_(learns)
            found[tower] = found.get(tower, 0) + learns
    for tower, rule in rules.items():
        if rule.kind == "bitfit" and not found.get(tower):
            raise ConfigError(
                f"towers: '{tower}' has no biases in this model; bitfit can train nothing there"
            )


def storable(model: Any, family: Family, towers: Iterable[str]) -> list[str]:
    """Return the modules that hold whole towers, to store beside an adapter; `ConfigError` if none can."""
    return [path for tower in towers for path in _storable(model, family, tower)]


def _modules(model: Any, family: Family, tower: str) -> Iterator[str]:
    """Yield the paths of the largest modules all of whose parameters belong to the tower."""
    owners: dict[str, set[str | None]] = {}
    for path, _ in model.named_parameters(remove_duplicate=False):
        owner = tower_of(path, family)
        while path:
            path = path.rpartition(".")[0]
            owners.setdefault(path, set()).add(owner)
    found: list[str] = []
    for path, _ in model.named_modules():
        if owners.get(path) == {tower} and not any(path.startswith(above + ".") for above in found):
            found.append(path)
    yield from found


def _storable(model: Any, family: Family, tower: str) -> list[str]:
    """Return the modules that hold a whole tower, to be stored beside LoRA; `ConfigError` if none can."""
    paths = list(_modules(model, family, tower))
    held = {id(p) for path in paths for p in model.get_submodule(path).parameters()}
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    for key, shared in names.items():
        ours = tower_of(shared[0], family) == tower
        if ours and (len(shared) > 1 or key not in held):
            reason = (
                f"is tied to '{shared[1]}'" if len(shared) > 1 else "stands beside another tower's modules"
            )
            raise ConfigError(
                f"towers: '{tower}' cannot be trained in full beside LoRA, because '{shared[0]}' {reason}; "
                "use method=full"
            )
    return paths
