"""What a merge will do, tensor by tensor, known from the headers before anything is read or written."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from mergers._spec import MergeSpec

Action = Literal["merge", "copy", "drop"]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One tensor of the output, or of an input that finds no place there.

    For adapters a step is a module's weight delta. ``sources`` are the numbers of the models that have it,
    ``why`` says what is not obvious, ``stored`` as which type it is stored. ``method`` merges it with
    ``settings``; ``group`` is the part of the model that it belongs to, ``by`` the rule that decided.
    """

    name: str
    shape: tuple[int, ...]
    action: Action
    sources: tuple[int, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    why: str = ""
    stored: str = ""
    method: str = ""
    group: str = ""
    by: str = ""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The steps of a merge, in the order of the output, with what the checks had to say."""

    spec: MergeSpec
    kind: Literal["adapter", "model"]
    steps: tuple[Step, ...]
    warnings: tuple[str, ...] = ()
    donor: str = ""
    nbytes: int = 0

    @property
    def counts(self) -> dict[str, int]:
        """How many tensors are merged, copied and dropped."""
        found = Counter(step.action for step in self.steps)
        return {action: found[action] for action in ("merge", "copy", "drop")}

    def text(self, full: bool = False) -> str:
        """Return the plan for people: the summary, then what is unusual, or with ``full`` every tensor."""
        spec, counts = self.spec, self.counts
        elements = sum(math.prod(step.shape) for step in self.steps if step.action == "merge")
        lines = [
            f"{spec.method} of {len(spec.models)} models into {_article(self.kind)}, rank {spec.rank}, "
            f"seed {spec.seed}" if self.kind == "adapter" else
            f"{spec.method} of {len(spec.models)} models into {_article(self.kind)}, seed {spec.seed}",
            f"  base   {spec.base or self.donor or 'none needed'}",
            *(f"  model  {m.path}  {_settings(m.settings)}" for m in spec.models),
            f"  settings  {_settings(spec.settings) or 'defaults'}",
            f"  {counts['merge']} merged ({elements:,} values), {counts['copy']} copied, "
            f"{counts['drop']} dropped",
        ]  # fmt: skip
        if self.nbytes:
            lines.append(f"  writes {self.nbytes / 1e6:,.1f} MB")
        lines += _table(self.steps)
        lines += [f"  note: {warning}" for warning in self.warnings]
        for step in self.steps:
            if full or step.why:
                sources = ",".join(str(number + 1) for number in step.sources)
                told = " ".join(word for word in (sources, step.method, step.by, step.why) if word)
                lines.append(f"  {step.action:5} {step.name} {list(step.shape)} {told}".rstrip())
        return "\n".join(lines)


def _article(kind: str) -> str:
    return "an adapter" if kind == "adapter" else "a full model"


def _settings(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in settings.items())


def _table(steps: Sequence[Step]) -> list[str]:
    """Return a line per group and way of merging it: tensors, method, settings, and what decided."""
    rows: dict[tuple[str, str, str], list[Step]] = {}
    for step in steps:
        if step.group and step.action != "drop":
            method = step.method if step.action == "merge" else "frozen" if step.by else "copied"
            rows.setdefault((step.group, method, step.by), []).append(step)
    wide = max((len(group) for group, _, _ in rows), default=0)
    broad = max((len(method) for _, method, _ in rows), default=0)
    lines = []
    for (group, method, by), own in rows.items():
        keys = dict.fromkeys(key for step in own for key in step.settings)
        settings = {key: _span([step.settings.get(key) for step in own]) for key in keys}
        told = f"{_settings(settings)}  {f'({by})' if by else ''}"
        lines.append(f"  {group:{wide}}  {len(own):4}  {method:{broad}}  {told}".rstrip())
    return lines


def _span(values: Sequence[Any]) -> str:
    """Return a setting's value, or from where to where it goes."""
    first = values[0]
    if all(value == first for value in values):
        return _short(first)
    if all(isinstance(value, (list, tuple)) for value in values):
        return f"[{', '.join(_span(own) for own in zip(*values, strict=True))}]"
    numbers = [value for value in values if isinstance(value, (int, float))]
    if len(numbers) == len(values):
        return f"{_short(min(numbers))} to {_short(max(numbers))}"
    return " or ".join(dict.fromkeys(_short(value) for value in values))


def _short(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_short(item) for item in value)}]"
    return f"{value:g}" if isinstance(value, float) else str(value)
