"""Which part of a model learns, and how: every tower is trained by LoRA, in full, or frozen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from studio.adapters import add_lora
from studio.errors import ConfigError, unknown
from studio.types import Family

Method = Literal["lora", "full"]
Rule = Literal["lora", "full", "frozen"]


def tower_rules(family: Family, method: Method, asked: Mapping[str, Rule]) -> dict[str, Rule]:
    """Return a rule for every tower of the family: what was asked for, else the method's default.

    By default ``lora`` adapts the language model and freezes the rest; ``full`` trains everything.

    Raises:
        ConfigError: for an unknown tower, for LoRA under the method ``full``, or if nothing would learn.
    """
    for tower in asked:
        if tower not in family.towers:
            raise ConfigError(f"towers: {unknown('tower', tower, family.towers)} (family {family.name})")
    if method == "full":
        rules: dict[str, Rule] = dict.fromkeys(family.towers, "full")
    else:
        rules = {tower: "lora" if tower == "llm" else "frozen" for tower in family.towers}
    rules.update(asked)
    if method == "full" and "lora" in rules.values():
        raise ConfigError("method=full trains towers 'full' or 'frozen'; for LoRA on some use method=lora")
    if method not in rules.values():
        raise ConfigError(f"method={method} needs at least one tower with the rule '{method}'")
    return rules


def tower_of(path: str, family: Family) -> str | None:
    """Return the tower that a parameter's or module's path belongs to; the longest prefix wins."""
    best, found = -1, None
    for tower, prefixes in family.towers.items():
        for prefix in prefixes:
            if (path == prefix or path.startswith(prefix + ".")) and len(prefix) > best:
                best, found = len(prefix), tower
    return found


def choose_trainable(
    model: Any,
    family: Family,
    rules: Mapping[str, Rule],
    *,
    r: int,
    alpha: float,
    dropout: float,
    seed: int,
) -> Any:
    """Return the model, with LoRA where the rules ask for it, in which exactly the chosen towers learn.

    What learns is kept in fp32, whatever the model was loaded in.

    Raises:
        ConfigError: if a rule matches no parameter or module of this model, or asks to train a tower in
            full beside LoRA that cannot be stored in an adapter.
    """
    present = {tower_of(path, family) for path, _ in model.named_parameters()}
    for tower, rule in rules.items():
        if rule != "frozen" and tower not in present:
            prefixes = ", ".join(family.towers[tower])
            raise ConfigError(
                f"towers: '{tower}' matches no parameter of {type(model).__name__} ({prefixes})"
            )
    adapted = [tower for tower, rule in rules.items() if rule == "lora"]
    full = [tower for tower, rule in rules.items() if rule == "full"]
    if adapted:
        whole = [path for tower in full for path in _storable(model, family, tower)]
        model = add_lora(
            model, family, adapted, r=r, alpha=alpha, dropout=dropout, seed=seed, modules_to_save=whole
        )
    else:
        for path, parameter in model.named_parameters():
            parameter.requires_grad_(tower_of(path, family) in full)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model


def train_mode(model: Any) -> None:
    """Switch to training, with dropout; parts in which nothing learns stay in evaluation mode, without."""
    model.train()
    for part in model.children():
        learns = [parameter.requires_grad for parameter in part.parameters()]
        if any(learns):
            train_mode(part)
        elif learns:
            part.eval()


def parameter_groups(model: Any, weight_decay: float) -> list[dict[str, Any]]:
    """Return the trainable parameters for AdamW: matrices with weight decay, biases and norms without."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in learning if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in learning if p.dim() < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


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
