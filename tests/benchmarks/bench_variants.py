"""Side by side: four variants asked the same questions one by one, ours against what people do today.

    python tests/benchmarks/bench_variants.py [--questions 50] [--tokens 24] [--base nano-omni] [--rounds 2]

Four LoRA adapters of rank 16 on one base, two on the language model alone, one on the vision tower and one on
the audio tower as well; questions with a picture, a sound, or both. *together* is our engine, in one batch;
*in turn* our engine, one variant after another; *set_adapter* one PEFT model that is switched, its processor
asked once a question; *models* is four PEFT models, each with its processor. The peers answer by
transformers' own `generate`. Every way runs in a process of its own, in turn; seconds are wall seconds of
answering, CPU s those of the process.

Memory is the process's highest resident size, in MB: *beyond imports* less what it was when the libraries
were imported, so that all that a first answer makes them load counts as the model's; *beyond a first answer*
less what it was when one model had been loaded, had answered a picture and a sound, and was given back: the
weights, factors, remembered prompts and activations alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

WAYS = ("together", "in turn", "set_adapter", "models", "one model")


def make(base: Path, folder: Path) -> dict[str, Path]:
    """Write the four adapters."""
    import torch

    from studio.adapters import add_lora, save_adapter
    from studio.families import detect

    family = detect(base)
    made = {}
    for seed, towers in enumerate((["llm"], ["llm"], ["llm", "vision"], ["llm", "audio"])):
        towers = [tower for tower in towers if tower in family.lora_targets]
        model = add_lora(family.load(base).model, family, towers, r=16, seed=seed)
        draw = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for path, weight in model.named_parameters():
                if "lora_B" in path:
                    weight.copy_(torch.randn(weight.shape, generator=draw) * 0.01)
        made[f"v{seed}"] = save_adapter(model, folder / f"v{seed}", base=base, family=family)
    return made


def questions(base: Path, count: int) -> list[Any]:
    """Return shipped test rows with media that the base takes, in turn from all domains."""
    from studio.assets import find_data, shipped
    from studio.data import load_data
    from studio.families import detect

    takes = detect(base).modalities
    sets = [load_data(find_data(name), split="test") for name in sorted(shipped("data"))]
    rows = [row for each in zip(*sets, strict=False) for row in each]
    fit = [
        row for row in rows if (not row.images or "image" in takes) and (not row.sounds or "audio" in takes)
    ]
    return fit[:count]


def rss() -> float:
    """Return this process's resident memory in MB."""
    import psutil

    return psutil.Process().memory_info().rss / 1e6


class Peak:
    """The highest resident memory since it was made, looked at every 5 ms."""

    def __init__(self) -> None:
        self.mb = rss()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self.mb = max(self.mb, rss())
            time.sleep(0.005)


def settled(family: Any, base: Path, asked: list[Any]) -> float:
    """Return the resident memory after a model was loaded, answered and was given back."""
    import ctypes
    import gc

    from studio.generate import answers

    loaded = family.load(base)
    answers(loaded, family, asked[:3], max_new_tokens=2, batch_size=1)
    del loaded
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return rss()


def work(way: str, base: Path, adapters: dict[str, Path], count: int, tokens: int) -> dict[str, Any]:
    """Answer in one way; return seconds, megabytes and the answers."""
    import torch
    from peft import PeftModel

    from studio.families import detect
    from studio.types import Loaded
    from studio.variants import Engine

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    family, asked = detect(base), questions(base, count)
    imported = rss()
    before = settled(family, base, asked)
    peak = Peak()
    said: dict[str, list[str]] = {name: [] for name in adapters}

    def plain(loaded: Loaded, item: Any) -> str:
        batch = family.collate(loaded.processor, [item], "left")
        with torch.inference_mode():
            ids = loaded.model.generate(**batch, max_new_tokens=tokens, do_sample=False)
        return family.decode(loaded.processor, batch, ids)[0]

    if way in ("together", "in turn"):
        engine = Engine(base, adapters)
        settings = {"max_new_tokens": tokens}

        def ask(row: Any) -> dict[str, str]:
            if way == "in turn":
                return {name: engine.answer(name, row, **settings) for name in adapters}
            return {
                name: texts[0] for name, texts in engine.together(list(adapters), [row], **settings).items()
            }

    elif way == "set_adapter":
        first, *rest = adapters
        loaded = family.load(base)
        model = PeftModel.from_pretrained(loaded.model, str(adapters[first]), adapter_name=first).eval()
        for name in rest:
            model.load_adapter(str(adapters[name]), name)

        def ask(row: Any) -> dict[str, str]:
            told, item = {}, family.encode(loaded.processor, row, False)
            for name in adapters:
                model.set_adapter(name)
                told[name] = plain(Loaded(model, loaded.processor), item)
            return told

    else:
        models = {}
        for name, folder in adapters.items():
            loaded = family.load(base)
            if way == "models":
                adapted = PeftModel.from_pretrained(loaded.model, str(folder)).eval()
                loaded = Loaded(adapted, loaded.processor)
            models[name] = loaded
            if way == "one model":
                break

        def ask(row: Any) -> dict[str, str]:
            return {
                name: plain(each, family.encode(each.processor, row, False)) for name, each in models.items()
            }

    ask(asked[0])
    began, used = time.perf_counter(), time.process_time()
    for row in asked:
        for name, text in ask(row).items():
            said[name].append(text)
    seconds, cpu = time.perf_counter() - began, time.process_time() - used
    beyond = {"beyond_imports": peak.mb - imported, "beyond_answer": peak.mb - before}
    return {"seconds": seconds, "cpu": cpu, **beyond, "said": said}


def main() -> None:
    """Run every way in turn and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--questions", type=int, default=50)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--base", default="nano-omni")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    from studio.assets import find_model

    base = find_model(given.base)
    if given.way:
        adapters = {path.name: path for path in sorted(given.folder.iterdir())}
        print(json.dumps(work(given.way, base, adapters, given.questions, given.tokens)))
        return
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as name:
        make(base, Path(name))
        for _ in range(given.rounds):
            for way in WAYS:
                line = [sys.executable, __file__, "--way", way, "--folder", name, "--base", str(base)]
                line += ["--questions", str(given.questions), "--tokens", str(given.tokens)]
                done = subprocess.run(line, capture_output=True, text=True, check=True)
                found[way].append(json.loads(done.stdout.splitlines()[-1]))
    best = {
        way: {key: min(run[key] for run in runs) for key in runs[0] if key != "said"}
        | {"said": runs[0]["said"]}
        for way, runs in found.items()
    }
    ours, one = best["together"], best["one model"]
    print("| way | wall s | times ours | CPU s | times ours | MB beyond imports | of one model "
          "| beyond a first answer | of one model | answers equal to ours |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|---|")
    for way in WAYS[:4]:
        run = best[way]
        pairs = [
            (a, b)
            for name in ours["said"]
            for a, b in zip(ours["said"][name], run["said"][name], strict=True)
        ]
        same = sum(a == b for a, b in pairs)
        print(
            f"| {way} | {run['seconds']:.1f} | {run['seconds'] / ours['seconds']:.2f} "
            f"| {run['cpu']:.1f} | {run['cpu'] / ours['cpu']:.2f} "
            f"| {run['beyond_imports']:.0f} | {run['beyond_imports'] / one['beyond_imports']:.2f} "
            f"| {run['beyond_answer']:.0f} | {run['beyond_answer'] / one['beyond_answer']:.2f} "
            f"| {same} of {len(pairs)} |"
        )
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
