"""What is asked of each tower: adapted, trained in full, its biases alone, or frozen, and with what settings.

    towers: {vision: frozen, audio: {lora: {r: 16}, lr: 5e-5}, projector: full, llm: {lora: {r: 32}}}

`lora` stands for whatever adapter `method=` names. Beside its rule a tower may have a rate (`lr`), a type
for its frozen weights (`precision`: fp32 or bf16), and `checkpointing` (false or true) of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from studio.errors import ConfigError, unknown
from studio.methods import METHODS, RULES, Method, check_rank, method
from studio.types import Family

Kind = Literal["lora", "full", "bitfit", "frozen"]
_BESIDE = ("lr", "precision", "checkpointing")
_ADAPTER = ("r", "alpha", "dropout")


@dataclass(frozen=True, kw_only=True)
class TowerRule:
    """How one tower learns.

    ``kind`` is "lora" for an adapter of whatever method the run has. ``adapter`` holds the tower's own ``r``,
    ``alpha`` and ``dropout``; ``lr``, ``precision`` and ``checkpointing`` are None where the run's apply.
    """

    kind: Kind
    adapter: Mapping[str, Any] = field(default_factory=dict)
    lr: float | None = None
    precision: Literal["fp32", "bf16"] | None = None
    checkpointing: bool | None = None

    @property
    def learns(self) -> bool:
        """Whether anything in the tower learns."""
        return self.kind != "frozen"


def tower_rules(family: Family, name: str, asked: Mapping[str, Any]) -> dict[str, TowerRule]:
    """Return a rule for every tower of the family: what was asked for, else the method's default.

    By default an adapter or ``bitfit`` goes to the language model and the rest is frozen; ``full`` trains
    everything.

    Raises:
        ConfigError: for an unknown method, tower or setting, for an adapter under the method ``full``, or if
            nothing would learn as the method says.
    """
    chosen = method(name)
    rest: Kind = "full" if name == "full" else "frozen"
    usual: Kind = "full" if name == "full" else "bitfit" if name == "bitfit" else "lora"
    default: dict[str, Kind] = {tower: usual if tower == "llm" else rest for tower in family.towers}
    for tower in asked:
        if tower not in family.towers:
            raise ConfigError(f"towers: {unknown('tower', tower, family.towers)} (family {family.name})")
    rules = {tower: _rule(tower, asked.get(tower, kind), kind, chosen) for tower, kind in default.items()}
    kinds = {rule.kind for rule in rules.values()}
    if kinds == {"frozen"}:
        raise ConfigError(f"towers: every tower is frozen, so nothing would learn; give one the rule {usual}")
    if usual != "lora" and "lora" in kinds:
        raise ConfigError(f"method={name} adapts no tower; for lora on some of them use method=lora")
    if usual not in kinds:
        raise ConfigError(f"method={name} needs at least one tower with the rule '{usual}'")
    if "bitfit" in kinds and chosen.type not in ("LORA", ""):
        raise ConfigError(f"towers: bitfit stands beside lora or alone, not beside method={name}")
    if name == "full" and "bitfit" in kinds:
        raise ConfigError("towers: bitfit stands beside lora or alone; use method=bitfit or method=lora")
    return rules


def tower_of(path: str, family: Family) -> str | None:
    """Return the tower that a parameter's or module's path belongs to; the longest prefix wins."""
    best, found = -1, None
    for tower, prefixes in family.towers.items():
        for prefix in prefixes:
            if (path == prefix or path.startswith(prefix + ".")) and len(prefix) > best:
                best, found = len(prefix), tower
    return found


def _rule(tower: str, asked: Any, usual: Kind, chosen: Method) -> TowerRule:
    """Return a tower's rule from a word, or from a mapping of a rule and what stands beside it."""
    if not isinstance(asked, Mapping):
        return TowerRule(kind=_kind(tower, str(asked), chosen))
    words = [key for key in asked if key not in (*_BESIDE, "rule")]
    if len(words) + ("rule" in asked) > 1:
        raise ConfigError(f"towers.{tower}: one rule a tower, not {', '.join(map(str, [*words, *asked]))}")
    word = str(asked.get("rule") or (words[0] if words else usual))
    kind = _kind(tower, word, chosen)
    own = asked.get(words[0]) if words else None
    if own is not None and not isinstance(own, Mapping | bool):
        raise ConfigError(f"towers.{tower}.{word}: settings are wanted (r: 16), not {own!r}")
    settings = dict(own) if isinstance(own, Mapping) else {}
    if settings and kind != "lora":
        raise ConfigError(f"towers.{tower}: the rule {kind} has no settings, not {', '.join(settings)}")
    for key, value in settings.items():
        if key not in _ADAPTER:
            raise ConfigError(f"towers.{tower}: {unknown('LoRA setting', str(key), _ADAPTER)}")
        least = 0 if key == "dropout" else 1 if key == "r" else 1e-9
        if not _number(value) or value < least or (key == "dropout" and value >= 1):
            raise ConfigError(f"towers.{tower}.{word}.{key} cannot be {value!r}")
    check_rank(chosen, settings, f"towers.{tower}.{word}")
    lr, precision, checkpointing = (asked.get(key) for key in _BESIDE)
    if lr is not None and (not _number(lr) or lr <= 0):
        raise ConfigError(f"towers.{tower}.lr must be more than 0, not {lr!r}")
    if lr is not None and kind == "frozen":
        raise ConfigError(f"towers.{tower}: a frozen tower has no lr")
    if precision not in (None, "fp32", "bf16"):
        raise ConfigError(f"towers.{tower}: {unknown('precision', str(precision), ('fp32', 'bf16'))}")
    if precision == "bf16" and kind in ("full", "bitfit"):
        raise ConfigError(
            f"towers.{tower}: what learns is kept in fp32; precision=bf16 is for frozen weights"
        )
    if not isinstance(checkpointing, bool | None):
        raise ConfigError(f"towers.{tower}.checkpointing is true or false, not {checkpointing!r}")
    return TowerRule(kind=kind, adapter=settings, lr=lr, precision=precision, checkpointing=checkpointing)


def _kind(tower: str, word: str, chosen: Method) -> Kind:
    """Return the kind of rule that a word stands for; a method's own name is the adapter's."""
    if word in ("full", "bitfit", "frozen", "lora"):
        return word  # type: ignore[return-value]
    if word == chosen.name:
        return "lora"
    if word in METHODS:
        raise ConfigError(
            f"towers.{tower}: one method a run, and this one's is {chosen.name}; use method={word}"
        )
    raise ConfigError(f"towers.{tower}: {unknown('rule', word, RULES)}")


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
