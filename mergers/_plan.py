"""What a merge will do, tensor by tensor, known from the headers before anything is read or written."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mergers._spec import MergeSpec

Action = Literal["merge", "copy", "drop"]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One tensor of the output, or of an input that finds no place there.

    For adapters a step is a module's weight delta. ``sources`` are the numbers of the models that have it,
    ``why`` says what is not obvious, ``stored`` as which type it is stored.
    """

    name: str
    shape: tuple[int, ...]
    action: Action
    sources: tuple[int, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    why: str = ""
    stored: str = ""


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
        lines += [f"  note: {warning}" for warning in self.warnings]
        for step in self.steps:
            if full or step.why:
                sources = ",".join(str(number + 1) for number in step.sources)
                lines.append(
                    f"  {step.action:5} {step.name} {list(step.shape)} {sources} {step.why}".rstrip()
                )
        return "\n".join(lines)


def _article(kind: str) -> str:
    return "an adapter" if kind == "adapter" else "a full model"


def _settings(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in settings.items())
