"""Evaluation folders written by hand for tests: answers that are known, and what was found of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from studio import plugins
from studio.files import sha256_file
from studio.scores import measure

WANTED = "the hole"


def answers(right: int, n: int, shift: int = 0) -> list[str]:
    """Return ``n`` answers of which ``right`` are right, beginning with question ``shift``."""
    return [WANTED if (at - shift) % n < right else f"wrong {at}" for at in range(n)]


def write_evaluation(
    folder: Path,
    said: Mapping[str, Mapping[str, Sequence[str]]],
    metrics: Sequence[str] = ("exact_match",),
    *,
    media: Sequence[Path] = (),
    more: Mapping[str, Any] | None = None,
    confidence: Mapping[str, Sequence[float]] | None = None,
    prompt: str = "what is wrong here?",
) -> Path:
    """Write an evaluation of ``said[domain][variant]`` (answers to questions that all want `WANTED`).

    ``media`` goes with every question, ``more`` into evaluation.json, ``confidence`` (by variant) into rows.
    """
    folder.mkdir(parents=True, exist_ok=True)
    results: dict[str, dict[str, Any]] = {}
    rows = []
    for domain, variants in said.items():
        results[domain] = {}
        for variant, texts in variants.items():
            wanted = [WANTED] * len(texts)
            columns = {"confidence": (confidence or {}).get(variant, [])}
            scores = {m: measure(m, texts, wanted, columns=columns) for m in metrics}
            figures = {
                m: {"value": s.value, "n": s.n, "ci": [s.low, s.high], "higher_is_better": s.higher_is_better}
                for m, s in scores.items()
            }
            results[domain][variant] = {"metric": metrics[0], **figures[metrics[0]], "metrics": figures}
            modules = {m: plugins.load("metrics", m) for m in metrics}
            each = {m: module.each(texts, wanted) for m, module in modules.items() if hasattr(module, "each")}
            for at, text in enumerate(texts):
                row = {
                    "domain": domain,
                    "where": f"{domain}.jsonl:{at + 1}",
                    "prompt": prompt,
                    "media": [{"path": str(file), "sha256": sha256_file(file)} for file in media],
                    "groups": {"site": "ab"[at % 2]},
                    "reference": WANTED,
                    "variant": variant,
                    "output": text,
                    "scores": {m: values[at] for m, values in each.items()},
                    "variant_sha256": variant[:1] * 64,
                    "seed": 0,
                }
                if confidence and variant in confidence:
                    row["confidence"] = confidence[variant][at]
                rows.append(json.dumps(row))
    names = dict.fromkeys(name for variants in said.values() for name in variants)
    about = {
        "metrics": list(metrics),
        "decoding": {"max_new_tokens": 8, "temperature": 0.0},
        "seed": 0,
        "baseline": "",
        "clusters": "",
        "variants": {name: name[:1] * 64 for name in names},
        "data": {domain: {"n": 4, "sha256": "d" * 64} for domain in said},
        "results": results,
        "partial": False,
        **(more or {}),
    }
    (folder / "samples.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (folder / "evaluation.json").write_text(json.dumps(about), encoding="utf-8")
    return folder
