"""Rows per CPU second of checking data and preparing features, beside ``datasets.map``.

    python tests/benchmarks/bench_check.py                # 1,000 rows of pictures and 1,000 of sounds
    python tests/benchmarks/bench_check.py 10000          # so many of each
    python tests/benchmarks/bench_check.py 10000 2        # wall time of so many of each by two processes
    python tests/benchmarks/bench_check.py growth         # the check alone at 1,000, 10,000 and 100,000 rows
    python tests/benchmarks/bench_check.py growth-text    # the check's memory at 10,000 to 1,000,000 texts
    python tests/benchmarks/bench_check.py growth-prepare # preparing 1,000, 10,000 and 100,000 rows of text
    python tests/benchmarks/bench_check.py growth-prepare audio 300 1000 3000   # of sounds, so many

One set has pictures of 224 x 224 pixels (JPEG), one has sounds of 2 seconds (WAV, 16 kHz), every row a file
of its own. The processor is Qwen2.5-Omni's with the published patch of 14, range of pixels and 128 mels; its
window is 30 s, as Whisper's and Qwen2-Audio's are, instead of 300. *check* decodes every medium and compares
all rows; *check --model* encodes every row, too. *prepare* is what a training does before step 0; the peer is
the function that multimodal scripts hand to ``datasets.map``: the same template, the same processor, the same
labels. Each pass runs in a process of its own, the second with what the first one kept. CPU time of all
threads and children once the processor is loaded and has encoded a row: the machine may be busy. By two
processes the whole pass is timed, the start of the workers with it; the machine's mean load stands beside.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
WORKERS = int(os.environ.get("TRIPTYCH_WORKERS") or 1)
WAYS = ("check", "check --model", "prepare", "datasets.map")


def model(data: Path) -> Path:
    """Return the folder of the model that a set is for; it is made beside the set, once."""
    from studio.families import _omni_build

    folder = data.parent.parent / "model"
    if not folder.exists():
        size = replace(_omni_build.TINY, patch=14, side=224, mels=128, seconds=30)
        _omni_build.build(folder, size, _omni_build.TINY_TEXTS, seed=0)
        file = folder / "processor_config.json"
        settings = json.loads(file.read_text())
        settings["image_processor"]["size"] = {"shortest_edge": 56**2, "longest_edge": 1280 * 28**2}
        file.write_text(json.dumps(settings))
    return folder


def write(folder: Path, kind: str, rows: int) -> Path:
    """Write a set of so many rows with media of their own."""
    import soundfile
    from PIL import Image

    (folder / "media").mkdir(parents=True)
    draw = np.random.default_rng(0)
    lines = []
    for number in range(rows):
        if kind == "image":
            coarse = draw.integers(0, 256, (14, 14, 3), dtype=np.uint8)
            name = f"media/{number}.jpg"
            Image.fromarray(coarse).resize((224, 224)).save(folder / name)
        elif kind == "audio":
            name = f"media/{number}.wav"
            wave = draw.normal(0, 0.1, 32_000).astype(np.float32)
            soundfile.write(folder / name, wave, 16_000)
        parts = [{"type": "text", "text": f"What is number {number}?"}]
        if kind != "text":
            parts.insert(0, {"type": kind, "path": name})
        messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": f"Number {number}."}]
        lines.append(json.dumps({"messages": messages}))
    (folder / "train.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "train.jsonl"


def check(data: Path, gauge: Any = None) -> int:
    """Check, as `triptych check` does."""
    from studio.data.findings import check
    from studio.log import QuietLog

    report = check([data], QuietLog(), gauge=gauge)
    assert not report.errors, report.errors[0]
    return report.rows


def prepare(data: Path, gauge: Any) -> int:
    """Prepare features, as the recipe sft does before its first step."""
    from studio.data import load_data
    from studio.data.findings import check_before_training
    from studio.log import QuietLog
    from studio.training.encoding import encode_samples, open_encoded

    log, folder = QuietLog(), data.parent / "encoded"
    samples = load_data(data)
    check_before_training(samples, log)
    encode_samples(gauge, samples, folder, log)
    return len(open_encoded(gauge, samples, folder))


def peer(data: Path, processor: Any) -> int:
    """Prepare features by ``datasets.map``, row by row, with the same processor."""
    from datasets import load_dataset
    from datasets.utils import logging as told

    told.disable_progress_bar()
    rows = load_dataset("json", data_files=str(data), split="train", cache_dir=str(data.parent / "arrow"))
    made = rows.map(
        peer_row,
        fn_kwargs={"processor": processor, "folder": str(data.parent)},
        num_proc=None if WORKERS < 2 else WORKERS,
        remove_columns=rows.column_names,
        new_fingerprint="the same function and the same processor",
    )
    return len(made)


def peer_row(row: dict[str, Any], processor: Any, folder: str) -> dict[str, Any]:
    """Encode a row as the usual scripts do: the whole conversation, labels from behind the prompt on."""
    import soundfile
    from PIL import Image

    messages, images, sounds = [], [], []
    for message in row["messages"]:
        content = message["content"]
        if isinstance(content, str):
            content = [{"type": "text", "text": content}]
        kept = []
        for part in content:
            if part["type"] == "image":
                images.append(Image.open(f"{folder}/{part['path']}").convert("RGB"))
            elif part["type"] == "audio":
                sounds.append(soundfile.read(f"{folder}/{part['path']}", dtype="float32")[0])
            kept.append({key: part[key] for key in ("type", "text") if part.get(key) is not None})
        messages.append({"role": message["role"], "content": kept})
    media = {"images": images or None, "audio": sounds or None, "return_tensors": "np"}
    prompt = processor.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
    whole = processor.apply_chat_template(messages, tokenize=False)
    made = dict(processor(text=[whole], sampling_rate=16_000, **media))
    learned = processor.tokenizer(whole[len(prompt) :], add_special_tokens=False)["input_ids"]
    ids = made["input_ids"][0]
    labels = np.full_like(ids, -100)
    labels[-len(learned) :] = learned
    return {
        "labels": labels,
        **{key: value[0] if key == "input_ids" else value for key, value in made.items()},
    }


def measure(way: str, data: Path) -> None:
    """Print rows and CPU seconds of one pass, as JSON."""
    import torch

    import studio.training.encoding  # noqa: F401
    from studio import families
    from studio.data import samples

    torch.set_num_threads(1)
    if way == "datasets.map":
        import datasets  # noqa: F401
    gauge = families.gauge(model(data))
    gauge.encode(next(samples(data)))
    gc.collect()
    gc.freeze()  # or the next collection walks over all that the imports left, once for either side
    before, began = _cpu(), time.monotonic()
    rows = {
        "check": lambda: check(data),
        "check --model": lambda: check(data, gauge),
        "prepare": lambda: prepare(data, gauge),
        "datasets.map": lambda: peer(data, gauge.processor),
    }[way]()
    spent, wall = _cpu() - before, time.monotonic() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"rows": rows, "cpu": spent, "wall": wall, "peak": peak}))


def _cpu() -> float:
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in spent)


def measured(way: str, data: Path, workers: int = 1) -> dict[str, float]:
    """Return what `measure` prints in a new process, with a cache beside the data."""
    folder = data.parent
    more = {
        "TRIPTYCH_CACHE": str(folder / f"kept-{way}"),
        "HF_HOME": str(folder / "home"),
        "OMP_NUM_THREADS": "1",
        "TRIPTYCH_WORKERS": str(workers),
    }
    done = subprocess.run(
        [sys.executable, __file__, "measure", way, str(data)],
        check=True, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", **more},
    )  # fmt: skip
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(rows: int) -> None:
    """Print a table: a line for each way and kind of medium."""
    import importlib.util

    ways = [way for way in WAYS if way != "datasets.map" or importlib.util.find_spec("datasets")]
    print(
        "| rows | way | first pass, rows/CPU s | times datasets.map "
        "| second pass, rows/CPU s | times its first | times datasets.map's first |"
    )
    print("|---|---|---|---|---|---|---|")
    for kind in ("image", "audio"):
        with tempfile.TemporaryDirectory() as folder:
            data = write(Path(folder) / "set", kind, rows)
            model(data)
            found = {way: [measured(way, data) for _ in range(2)] for way in ways}
        other = found.get("datasets.map")
        for way, (first, second) in found.items():
            assert first["rows"] == second["rows"] == rows
            ratio = f"{other[0]['cpu'] / first['cpu']:.1f}" if other else "-"
            again = f"{other[0]['cpu'] / second['cpu']:.0f}" if other else "-"
            print(
                f"| {rows:,} {kind} | {way} | {rows / first['cpu']:,.0f} | {ratio} "
                f"| {rows / second['cpu']:,.0f} | {first['cpu'] / second['cpu']:.0f} | {again} |",
                flush=True,
            )


def together(rows: int, workers: int, kinds: tuple[str, ...] = ("image", "audio")) -> None:
    """Print wall times by so many processes, ours and those of ``datasets.map``."""
    print(
        "| rows | way | first pass, wall s | CPU s | rows/s | times datasets.map | second pass, wall s "
        "| times datasets.map's first | load |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for kind in kinds:
        with tempfile.TemporaryDirectory() as folder:
            data = write(Path(folder) / "set", kind, rows)
            model(data)
            other = 0.0
            for way in ("datasets.map", "check", "prepare"):
                first, second = (measured(way, data, workers) for _ in range(2))
                other = other or first["wall"]
                print(
                    f"| {rows:,} {kind} | {way} | {first['wall']:.1f} | {first['cpu']:.1f} "
                    f"| {rows / first['wall']:,.0f} | {other / first['wall']:.1f} | {second['wall']:.2f} "
                    f"| {other / second['wall']:.0f} | {os.getloadavg()[0]:.1f} |",
                    flush=True,
                )


def growth_prepare(kind: str = "text", sizes: tuple[int, ...] = (1_000, 10_000, 100_000)) -> None:
    """Print what preparing costs at several sizes, in one process."""
    print("| rows | first pass, CPU s | rows/CPU s | second pass, CPU s | rows/CPU s | times | peak MB |")
    print("|---|---|---|---|---|---|---|")
    for rows in sizes:
        with tempfile.TemporaryDirectory() as folder:
            data = write(Path(folder) / "set", kind, rows)
            model(data)
            first, second = (measured("prepare", data) for _ in range(2))
        print(
            f"| {rows:,} {kind} | {first['cpu']:.1f} | {rows / first['cpu']:,.0f} | {second['cpu']:.2f} "
            f"| {rows / second['cpu']:,.0f} | {first['cpu'] / second['cpu']:.0f} | {first['peak']:.0f} |",
            flush=True,
        )


def growth_text(sizes: tuple[int, ...] = (10_000, 100_000, 1_000_000)) -> None:
    """Print what checking rows of text costs, and how much memory: one row in 50 repeats another one."""
    print("| rows | findings | first pass, CPU s | rows/CPU s | second pass, CPU s | peak MB |")
    print("|---|---|---|---|---|---|")
    for rows in sizes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "set"
            folder.mkdir()
            with open(folder / "train.jsonl", "w", encoding="utf-8") as file:
                for number in range(rows):
                    said = f"What is number {number - number % 50 if number % 50 == 1 else number}?"
                    answer = f"It is the number {number // 50} times fifty, and some more."
                    messages = [{"role": "user", "content": said}, {"role": "assistant", "content": answer}]
                    file.write(
                        json.dumps({"messages": messages, "groups": {"site": "AB"[number % 2]}}) + "\n"
                    )
            first, second = (_growth(folder) for _ in range(2))
        print(
            f"| {rows:,} | {first['findings']:,} | {first['cpu']:.1f} | {rows / first['cpu']:,.0f} "
            f"| {second['cpu']:.2f} | {first['peak']:.0f} |",
            flush=True,
        )


def growth(sizes: tuple[int, ...] = (1_000, 10_000, 100_000)) -> None:
    """Print what the check costs at several sizes: pictures of 16 x 16 pixels, 1 in 10 with a defect."""
    sys.path.insert(0, str(ROOT))
    from tests.studio.defects import DEFECTS, WITH_MODEL, seeded

    print("| rows | findings | first pass, s | rows/s | second pass, s | peak MB |")
    print("|---|---|---|---|---|---|")
    kinds = [name for name in DEFECTS if name not in WITH_MODEL]
    for rows in sizes:
        with tempfile.TemporaryDirectory() as name:
            seeded(Path(name) / "set", rows, rows // 400, kinds)
            first, second = (_growth(Path(name) / "set") for _ in range(2))
        print(
            f"| {rows:,} | {first['findings']:,} | {first['cpu']:.1f} | {rows / first['cpu']:,.0f} "
            f"| {second['cpu']:.2f} | {first['peak']:.0f} |",
            flush=True,
        )


def _growth(folder: Path) -> dict[str, float]:
    code = (
        "import json, resource, sys, time; from pathlib import Path\n"
        "from studio.data.findings import check; from studio.log import QuietLog\n"
        "from studio.data.findings.source import data_files\n"
        "began = time.process_time(); found = check(data_files(Path(sys.argv[1])), QuietLog())\n"
        "peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        "spent = time.process_time() - began\n"
        "print(json.dumps({'findings': len(found.findings), 'cpu': spent, 'peak': peak}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        check=True, capture_output=True, text=True, cwd=ROOT,
        env={**os.environ, "TRIPTYCH_CACHE": str(folder.parent / "kept")},
    )  # fmt: skip
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        measure(sys.argv[2], Path(sys.argv[3]))
    elif sys.argv[1:2] == ["growth"]:
        growth(*([tuple(map(int, sys.argv[2:]))] if sys.argv[2:] else []))
    elif sys.argv[1:2] == ["growth-prepare"]:
        kind, sizes = (sys.argv[2:3] or ["text"])[0], tuple(map(int, sys.argv[3:]))
        growth_prepare(kind, *([sizes] if sizes else []))
    elif sys.argv[1:2] == ["growth-text"]:
        growth_text(*([tuple(map(int, sys.argv[2:]))] if sys.argv[2:] else []))
    elif len(sys.argv) > 2:
        together(int(sys.argv[1]), int(sys.argv[2]), tuple(sys.argv[3:]) or ("image", "audio"))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000)
