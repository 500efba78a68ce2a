"""Fine-tuning speed: the recipe sft against transformers' Trainer and TRL's SFTTrainer, part by part.

    python tests/benchmarks/bench_sft.py trainer [--data handwriting commands] [--towers frozen trained]
    python tests/benchmarks/bench_sft.py trl
    python tests/benchmarks/bench_sft.py ablation [--data handwriting commands]
    options: [--rows N] [--epochs 3] [--batch 8] [--runs 2] [--threads 1]
             [--order ours|own] [--schedule linear|constant] [--json FILE]

*trainer*: LoRA on nano-omni, pictures (handwriting) and sounds (commands), its towers frozen or adapted too,
beside a Trainer whose collator calls the processor on every batch. *trl*: a SmolVLM of nano-omni's size on
handwriting, beside SFTTrainer with its own collator (`pip install 'triptych[peers]'`). Both sides have the
same model, rows, LoRA and its start, batches, steps, learning rate, seed and precision (fp32); with
``--order own`` the peer draws its batches itself, of any lengths, and ends at another loss for it. Every
training is a process of its own, the sides take turns, and ours never finds anything in a cache. Rows should
be a multiple of the batch.

The rate falls to nothing: with a constant one the loss of the last steps says little. Without ``--rows`` each
pair takes so many that a command is done in five minutes.

Samples per second count from the first line after the imports to the last step: loading, checks, encoding,
features and gates are in ours. *later* is the second epoch and those after it. The loss is that of the same
held-out rows, computed alike. *ablation* adds one part after the other to ours, and tells the peak of memory,
which counts pages of mapped files too. Wall seconds want a quiet machine; CPU seconds, children's included,
stand beside them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from studio.assets import find_data, find_model

ROOT = Path(__file__).parents[2]
TOWERS = {
    "frozen": {"handwriting": ["llm"], "commands": ["llm"]},
    "trained": {
        "handwriting": ["llm", "vision", "projector"], "commands": ["llm", "audio", "projector"],
    },
}  # fmt: skip
#: Rows that both sides are done with in some minutes on two quiet processors.
ROWS = {
    ("handwriting", "frozen"): 1200, ("handwriting", "trained"): 400, ("commands", "frozen"): 400,
    ("commands", "trained"): 240,
}  # fmt: skip
ROWS_OF_TRL, ROWS_OF_ABLATION = 160, 64
NOTHING: dict[str, Any] = {
    "tower_cache": False, "prefetch": False, "packing": False, "products": False, "chunked_loss": False,
    "last_layer": False, "batch_tokens": 0, "compile": False, "fused_layers": False, "places": False,
    "keep_memory": False,
}  # fmt: skip
STEPS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("base", {}),
    ("+ tower cache", {"tower_cache": True}),
    ("+ micro-batches by tokens", {"batch_tokens": 1024}),
    ("+ packing", {"packing": True}),
    ("+ last layer for labels", {"last_layer": True}),
    ("+ chunked loss", {"chunked_loss": True}),
    ("+ prefetch", {"prefetch": True}),
    ("+ positions once a row", {"places": True}),
    ("+ memory kept", {"keep_memory": True}),
    ("+ products", {"products": True}),
    ("+ fused layers", {"fused_layers": True}),
    ("the same, padded", {"packing": False, "batch_tokens": 0}),
)


def smolvlm(folder: Path) -> Path:
    """Write a random SmolVLM of nano-omni's size for pictures of 64 pixels."""
    import torch
    from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration

    from studio.families import _smolvlm_build, detect
    from studio.families._save import save_pretrained
    from studio.types import Loaded

    loaded = detect(_smolvlm_build.build(folder / "small", 0)).load(folder / "small")
    processor, settings = loaded.processor, loaded.model.config.to_dict()
    processor.image_seq_len = 16
    processor.image_processor.size = processor.image_processor.max_image_size = {"longest_edge": 64}
    settings["vision_config"] |= {
        "hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 3, "num_attention_heads": 4,
        "image_size": 64, "patch_size": 8,
    }  # fmt: skip
    settings["text_config"] |= {
        "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 64,
    }  # fmt: skip
    torch.manual_seed(0)
    model = SmolVLMForConditionalGeneration(SmolVLMConfig(**settings))
    model.generation_config = loaded.model.generation_config
    save_pretrained(Loaded(model, processor), folder / "model")
    return folder / "model"


class Bench:
    """Runs trainings one at a time and keeps what they took."""

    def __init__(self, folder: Path, given: argparse.Namespace) -> None:
        self.folder, self.given, self.count = folder, given, 0
        self.rows: list[dict[str, Any]] = []

    def data(self, name: str, rows: int) -> tuple[str, str]:
        """Return a folder with the first rows of a shipped domain, and the domain."""
        folder = self.folder / f"{name}-{rows}"
        if not folder.exists():
            shutil.copytree(find_data(name), folder)
            lines = (folder / "train.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
            (folder / "train.jsonl").write_text("".join(lines[:rows]), encoding="utf-8")
        return str(folder), str(find_data(name))

    def train(
        self, side: str, data: str, model: Path, towers: list[str], end: str, rows: int, **speed: Any
    ) -> Any:
        """Return what one training took."""
        self.count += 1
        folder, held_out = self.data(data, rows)
        given = self.given
        asked = {
            "side": side, "model": str(model), "data": folder, "held_out": held_out, "towers": towers,
            "output": str(self.folder / f"run-{self.count}"), "rows": rows, "epochs": given.epochs,
            "batch": given.batch, "lr": 1e-3, "seed": 0, "end": end, "speed": speed, "order": given.order,
            "schedule": given.schedule,
        }  # fmt: skip
        around = os.environ | {
            "OMP_NUM_THREADS": str(given.threads), "PYTHONPATH": str(ROOT), "TOKENIZERS_PARALLELISM": "false",
            "TRIPTYCH_CACHE": str(self.folder / f"cache-{self.count}"), "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_CACHE": str(self.folder / "datasets"),
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("sft_sides.py")), json.dumps(asked)],
            cwd=ROOT, env=around, capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            sys.exit(f"{side} on {data} failed:\n{done.stderr[-3000:]}")
        if given.verbose:
            print(done.stderr[-1500:], file=sys.stderr)
        return json.loads(done.stdout.splitlines()[-1])

    def compare(self, peer: str, data: str, model: Path, towers: str, end: str) -> None:
        """Let both sides train in turn, and print their rates and ratios."""
        chosen = TOWERS[towers][data]
        rows = self.given.rows or (ROWS_OF_TRL if peer == "trl" else ROWS[data, towers])
        both: dict[str, list[Any]] = {"ours": [], peer: []}
        for _ in range(self.given.runs):
            for side, found in both.items():
                found.append(self.train(side, data, model, chosen, end, rows))
        mine, theirs = (
            {key: statistics.median(one[key] for one in found) for key in found[0] if key not in ("side",)}
            for found in both.values()
        )
        ratio = {key: mine[key] / theirs[key] for key in mine if mine[key] and theirs[key]}
        self.rows.append({"data": data, "towers": towers, "peer": peer, "rows": rows, "ours": both["ours"],
                          "theirs": both[peer], "ratio": ratio})  # fmt: skip
        print(
            f"| {data} | {towers} | {peer} | {rows} "
            f"| {mine['samples_per_s']:.1f} | {theirs['samples_per_s']:.1f} "
            f"| **{ratio['samples_per_s']:.2f}** | {ratio['samples_per_cpu_s']:.2f} "
            f"| {ratio.get('later_per_s', 0):.2f} | {ratio.get('later_per_cpu_s', 0):.2f} "
            f"| {mine['peak_mb']:.0f} | {theirs['peak_mb']:.0f} "
            f"| {mine['loss']:.4f} | {theirs['loss']:.4f} | {100 * (ratio['loss'] - 1):+.2f} % |",
            flush=True,
        )

    def ablate(self, data: str, model: Path) -> None:
        """Add one part after the other, and print time and peak memory of each."""
        speed = dict(NOTHING)
        for name, more in STEPS:
            speed |= more
            took = self.train("ours", data, model, ["llm"], "", self.given.rows or ROWS_OF_ABLATION, **speed)
            self.rows.append({"data": data, "step": name, "speed": dict(speed), **took})
            print(
                f"| {data} | {name} | {took['wall']:.1f} | {took['cpu']:.1f} | {took['samples_per_s']:.1f} "
                f"| {took['later_per_s'] or 0:.1f} | {took['peak_mb']:.0f} | {took['loss']:.4f} |",
                flush=True,
            )


def main() -> None:
    """Measure and print the part that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("part", choices=("trainer", "trl", "ablation"), nargs="?", default="trainer")
    parser.add_argument("--data", nargs="+", choices=("handwriting", "commands"),
                        default=["handwriting", "commands"])  # fmt: skip
    parser.add_argument("--towers", nargs="+", choices=("frozen", "trained"), default=["frozen", "trained"])
    for name, default in (("rows", 0), ("epochs", 3), ("batch", 8), ("runs", 2), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--order", choices=("ours", "own"), default="ours", help="the peer's order of rows")
    parser.add_argument(
        "--schedule", choices=("linear", "constant"), default="linear", help="both sides' rate"
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--verbose", action="store_true", help="what ours says of itself")
    given = parser.parse_args()
    if given.part == "ablation":
        print("| data | ours | wall s | CPU s | samples/s | later | peak MB | loss |")
        print("|" + "---|" * 8)
    else:
        print(
            "| data | towers | peer | rows | ours, samples/s | peer | ratio | by CPU s | later | by CPU s "
            "| peak MB | peer | loss | peer | apart |"
        )
        print("|" + "---|" * 15)
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(Path(name), given)
        if given.part == "trl":
            bench.compare("trl", "handwriting", smolvlm(Path(name)), "frozen", "<end_of_utterance>")
        else:
            nano = find_model("nano-omni")
            for data in given.data:
                if given.part == "ablation":
                    bench.ablate(data, nano)
                else:
                    for towers in given.towers:
                        bench.compare("trainer", data, nano, towers, "<|im_end|>")
        if given.json:
            about = {"part": given.part, "settings": {k: str(v) for k, v in vars(given).items()}}
            given.json.write_text(json.dumps(about | {"rows": bench.rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
