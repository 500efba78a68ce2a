"""Answers for an evaluation: ours against the loop that a user of transformers writes.

    python tests/benchmarks/bench_generation.py [--rows 30] [--rounds 2] [--tokens 48] [--experts DIR]

The base and three adapters on it answer the same rows: pictures, sounds, both, and texts. *triptych eval* is
`apps.evaluate.evaluate` as a whole, from looking at the media to the intervals, with nothing remembered: its
engine has the weights in memory and no encoded row. *one by one* is one PEFT model switched by `set_adapter`,
and for every row the processor, `model.generate` and `decode`; *encoded once* is the same loop with the
encodings remembered between variants. Both sides have the weights loaded and are warmed up by one row of
each kind; they take turns in one process of one thread. Seconds are the least of the rounds.

Without ``--experts`` (a folder of runs of `triptych run sft`) the adapters are drawn: one on the language
model, one on the vision tower too, one on the audio tower too. Trained ones stop where an answer ends.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
os.environ.setdefault("OMP_NUM_THREADS", "1")

Said = dict[str, list[str]]


def asked(base: Path, each: int) -> dict[str, list[Any]]:
    """Return rows by kind, those of the shipped test sets; the texts are questions without their media."""
    from studio.assets import find_data
    from studio.data import load_data
    from studio.families import detect
    from studio.types import Text, Turn

    def rows(name: str, first: int = 0) -> list[Any]:
        return load_data(find_data(name), split="test")[first : first + each]

    told = [row.answer for row in rows("helpdesk", each)]
    texts = [
        replace(row, turns=(Turn(role="user", parts=(Text(text=f"Say this again: {text}"),)), row.turns[-1]))
        for row, text in zip(rows("helpdesk", each), told, strict=True)
    ]
    kinds = {
        "pictures": rows("handwriting"),
        "sounds": rows("commands"),
        "both": rows("helpdesk"),
        "texts": texts,
    }
    takes = detect(base).modalities
    fit = {
        kind: [row for row in rows if not (row.images and "image" not in takes)]
        for kind, rows in kinds.items()
        if "audio" in takes or kind in ("pictures", "texts")
    }
    return {kind: rows for kind, rows in fit.items() if rows}


def adapters(base: Path, experts: Path | None, folder: Path) -> dict[str, Path]:
    """Return three adapters by name."""
    if experts is None:
        from bench_variants import make

        made = make(base, folder)
        return {name: made[name] for name in ("v0", "v2", "v3")}
    found = sorted(run / "adapter" for run in experts.iterdir() if (run / "adapter").is_dir())
    return {path.parent.name: path for path in found[:3]}


class Loop:
    """What a user writes: one model, its adapters switched, one row after another."""

    def __init__(self, base: Path, folders: dict[str, Path], tokens: int, remember: bool) -> None:
        from peft import PeftModel
        from transformers import AutoProcessor

        from studio.families import detect

        self.processor = AutoProcessor.from_pretrained(base)
        first, *rest = folders
        model = detect(base).load(base).model  # AutoModel has no class for a thinker alone
        self.model = PeftModel.from_pretrained(model, str(folders[first]), adapter_name=first).eval()
        for name in rest:
            self.model.load_adapter(str(folders[name]), name)
        self.names, self.tokens, self.remember = ["base", *folders], tokens, remember

    def inputs(self, row: Any) -> Any:
        """Return what the processor makes of a row."""
        from PIL import Image as Pictures
        from soundfile import read

        from studio.types import Image, Text

        kinds = {Image: "image", Text: "text"}
        chat = [
            {
                "role": turn.role,
                "content": [
                    {"type": kinds.get(type(part), "audio"), "text": getattr(part, "text", "")}
                    for part in turn.parts
                ],
            }
            for turn in row.prompt
        ]
        text = self.processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        images = [Pictures.open(image.path).convert("RGB") for image in row.images]
        sounds = [read(sound.path, dtype="float32") for sound in row.sounds]
        rate = self.processor.feature_extractor.sampling_rate
        assert all(own == rate for _, own in sounds), "the shipped sounds need no other rate"
        media: dict[str, Any] = {"images": images} if images else {}
        if sounds:
            media |= {"audio": [wave for wave, _ in sounds], "sampling_rate": rate}
        return self.processor(text=[text], return_tensors="pt", **media)

    def __call__(self, rows: dict[str, list[Any]]) -> Said:
        """Return every variant's answers, kind after kind."""
        import torch

        said: Said = {}
        kept: dict[int, Any] = {}
        for name in self.names:
            if name == "base":
                self.model.base_model.disable_adapter_layers()
            else:
                self.model.base_model.enable_adapter_layers()
                self.model.set_adapter(name)
            said[name] = []
            for row in (row for each in rows.values() for row in each):
                inputs = kept.get(id(row)) or self.inputs(row)
                if self.remember:
                    kept[id(row)] = inputs
                with torch.inference_mode():
                    ids = self.model.generate(**inputs, max_new_tokens=self.tokens, do_sample=False)
                fresh = ids[0, inputs["input_ids"].shape[1] :]
                said[name].append(self.processor.tokenizer.decode(fresh, skip_special_tokens=True).strip())
        return said


class Ours:
    """`triptych eval`, with the weights in memory and nothing remembered."""

    def __init__(self, base: Path, folders: dict[str, Path], tokens: int, batch_size: int) -> None:
        from studio.variants import Engine

        self.engine = Engine(base, {"base": None, **folders})
        self.tokens, self.batch_size = tokens, batch_size

    def __call__(self, rows: dict[str, list[Any]]) -> Said:
        """Return every variant's answers, kind after kind."""
        from apps.evaluate import evaluate
        from studio.log import QuietLog

        self.engine.forget()
        with tempfile.TemporaryDirectory() as name:
            out = Path(name)
            evaluate(
                self.engine, rows, ["exact_match"], QuietLog(), out=out, cache=out / "answers",
                max_new_tokens=self.tokens, batch_size=self.batch_size,
            )  # fmt: skip
            lines = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
        return {
            name: [line["output"] for line in lines if line["variant"] == name] for name in self.engine.names
        }


def timed(way: Callable[[dict[str, list[Any]]], Said], rows: dict[str, list[Any]]) -> dict[str, Any]:
    """Return wall and CPU seconds of answering, and the answers."""
    began, used = time.perf_counter(), time.process_time()
    said = way(rows)
    return {"wall": time.perf_counter() - began, "cpu": time.process_time() - used, "said": said}


def main() -> None:
    """Run both sides in turn and print the ratios, for all rows and kind by kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=30, help="of each kind (30)")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--base", default="nano-omni")
    parser.add_argument("--experts", type=Path)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    import torch

    from studio.assets import find_model

    torch.set_num_threads(1)
    base = find_model(given.base)
    rows = asked(base, given.rows)
    with tempfile.TemporaryDirectory() as name:
        folders = adapters(base, given.experts, Path(name))
        ways: dict[str, Callable[[dict[str, list[Any]]], Said]] = {
            "triptych eval": Ours(base, folders, given.tokens, given.batch_size),
            "one by one": Loop(base, folders, given.tokens, remember=False),
            "encoded once": Loop(base, folders, given.tokens, remember=True),
        }
        for way in ways.values():
            way({kind: each[:1] for kind, each in rows.items()})
        found: dict[str, dict[str, list[dict[str, Any]]]] = {}
        for kind in rows:
            found[kind] = {way: [] for way in ways}
            for _ in range(given.rounds):
                for way, ask in ways.items():
                    found[kind][way].append(timed(ask, {kind: rows[kind]}))
    report(found, 1 + len(folders))
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))


def report(found: dict[str, dict[str, list[dict[str, Any]]]], variants: int) -> None:
    """Print a table: a row for each kind and way, and for all kinds together."""
    least = {
        kind: {
            way: {key: min(run[key] for run in runs) for key in ("wall", "cpu")} for way, runs in ways.items()
        }
        for kind, ways in found.items()
    }
    ways = list(next(iter(least.values())))
    counts = {
        kind: variants * len(next(iter(ours[ways[0]][0]["said"].values()))) for kind, ours in found.items()
    }
    least["all"] = {
        way: {key: sum(each[way][key] for each in least.values()) for key in ("wall", "cpu")} for way in ways
    }
    counts["all"] = sum(counts.values())
    print("| rows | way | answers/s, wall | ours is times as fast | answers/CPU s | times | equal to ours |")
    print("|---|---|---|---|---|---|---|")
    for kind, each in least.items():
        ours = each[ways[0]]
        for way in ways:
            own = each[way]
            kinds = list(found) if kind == "all" else [kind]
            pairs = [
                pair
                for one in kinds
                for name, texts in found[one][ways[0]][0]["said"].items()
                for pair in zip(texts, found[one][way][0]["said"][name], strict=True)
            ]
            same = sum(a == b for a, b in pairs)
            print(
                f"| {kind} | {way} | {counts[kind] / own['wall']:.1f} | {own['wall'] / ours['wall']:.2f} "
                f"| {counts[kind] / own['cpu']:.1f} | {own['cpu'] / ours['cpu']:.2f} "
                f"| {same} of {len(pairs)} |"
            )


if __name__ == "__main__":
    main()
