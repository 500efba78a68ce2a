"""The model card of a merge: what it was made from, how, and how to make it again."""

from __future__ import annotations

from typing import Any

import yaml

from mergers._lock import LOCK
from mergers._plan import Plan
from mergers._report import MergeReport


def card(planned: Plan, report: MergeReport, base: str) -> str:
    """Return the contents of README.md."""
    spec = planned.spec
    sources = [str(model.path) for model in spec.models]
    front: dict[str, Any] = {
        "base_model": [base, *sources] if base else sources,
        "base_model_relation": "merge",
        "tags": ["merge", "triptych", spec.method],
    }
    if planned.kind == "adapter":
        front["library_name"] = "peft"
    recipe = {
        key: value
        for key, value in spec.to_mapping().items()
        if key not in ("threads", "shard_size", "max_ram")
    }
    counts = f"{report.merged} tensors merged, {report.copied} copied, {len(report.dropped)} dropped"
    stored = (
        f"energy kept {report.energy:.2%}" if planned.kind == "adapter" else f"rounding {report.rounding:.2%}"
    )
    return "\n".join(
        [
            "---",
            yaml.safe_dump(front, sort_keys=False).rstrip(),
            "---",
            "",
            f"# {spec.method} of {len(sources)} models",
            "",
            f"Made by Triptych: {counts}; {stored}.",
            "",
            "```yaml",
            yaml.safe_dump(recipe, sort_keys=False).rstrip(),
            "```",
            "",
            f"`{LOCK}` holds the fingerprints of all inputs and of the result.",
            "",
        ]
    )
