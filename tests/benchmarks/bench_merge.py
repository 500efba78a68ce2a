"""Merging speed, CPU time and peak memory beside mergekit and PEFT, and what copying the bytes costs.

    python tests/benchmarks/bench_merge.py models             # base + 3 models of 0.5B; mergekit-yaml
    python tests/benchmarks/bench_merge.py models --layers 4  # smaller, for a first look
    python tests/benchmarks/bench_merge.py growth             # 0.1B to 1B, and 2 to 8 models
    python tests/benchmarks/bench_merge.py adapters           # 8 LoRAs of rank 16, shaped for a 7B model

Every merge runs in a process of its own, start-up included, with its input in the page cache. CPU time is
given beside wall-clock time: on a busy machine only the former means something. Ours is run twice: the
first time it hashes every input for the lock file, which mergekit does not; again, it knows their hashes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
METHODS = {
    "linear": ({}, {"weight": 1.0}),
    "ties": ({"density": 0.2}, {"weight": 1.0, "density": 0.2}),
    "dare_ties": ({"density": 0.5}, {"weight": 1.0, "density": 0.5}),
    "slerp": ({"t": 0.3, "preset": "mergekit"}, {"t": 0.3}),
}


class Cost(NamedTuple):
    """Seconds on the clock, seconds of CPU, peak resident megabytes."""

    wall: float
    cpu: float
    peak: float


def measure(command: list[str], cache: Path | None = None) -> Cost:
    """Run a command and return what it cost; its output is shown if it fails."""
    own = {"PYTHONPATH": str(ROOT)} | ({"TRIPTYCH_CACHE": str(cache)} if cache else {})
    began = time.perf_counter()
    with tempfile.TemporaryFile() as told:
        process = subprocess.Popen(command, stdout=told, stderr=told, env=os.environ | own)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            told.seek(0)
            sys.exit(told.read().decode()[-4000:])
    return Cost(time.perf_counter() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def write_model(folder: Path, layers: int, seed: int, base: Path | None = None) -> Path:
    """Write a random model shaped like Qwen2.5-0.5B in bf16; with a base, a perturbed copy of it."""
    import torch
    from safetensors.torch import load_file, save_file

    hidden, inner, words = 896, 4864, 151936
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (words, hidden)}
    for i in range(layers):
        name = f"model.layers.{i}"
        shapes |= {f"{name}.self_attn.{k}_proj.weight": (hidden, hidden) for k in "qo"}
        shapes |= {f"{name}.self_attn.{k}_proj.weight": (128, hidden) for k in "kv"}
        shapes |= {
            f"{name}.self_attn.{k}_proj.bias": (n,) for k, n in zip("qkv", (hidden, 128, 128), strict=True)
        }
        shapes |= {f"{name}.mlp.{k}_proj.weight": (inner, hidden) for k in ("gate", "up")}
        shapes[f"{name}.mlp.down_proj.weight"] = (hidden, inner)
        shapes |= {f"{name}.{k}_layernorm.weight": (hidden,) for k in ("input", "post_attention")}
    shapes["model.norm.weight"] = (hidden,)
    draw = torch.Generator().manual_seed(seed)
    ground = load_file(base / "model.safetensors") if base else {}
    tensors = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=draw)
        tensors[name] = (ground[name].float() + 0.001 * noise if base else 0.02 * noise).bfloat16()
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": hidden,
        "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": 14,
        "num_key_value_heads": 2, "vocab_size": words, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_models(folder: Path, layers: int, count: int) -> tuple[Path, list[Path]]:
    """Write a base and perturbed copies, in a process of their own: a large parent makes large children."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; import bench_merge as b;"
        "f, n, c = Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]);"
        "base = b.write_model(f / 'base', n, 0);"
        "[b.write_model(f / f'm{i}', n, i, base) for i in range(1, c + 1)]"
    )
    here = str(Path(__file__).parent)
    subprocess.run([sys.executable, "-c", code, here, str(folder), str(layers), str(count)], check=True)
    for file in folder.glob("*/model.safetensors"):
        subprocess.run(["cat", str(file)], stdout=subprocess.DEVNULL, check=True)
    return folder / "base", [folder / f"m{i}" for i in range(1, count + 1)]


def ours(folder: Path, method: str, models: list[Path], base: Path, settings: dict[str, object]) -> list[str]:
    """Return the command line of our merge."""
    data = {"method": method, "models": [str(m) for m in models], "settings": settings, "max_ram": "1GB"}
    if method not in ("linear", "slerp"):
        data["base"] = str(base)
    file = folder / f"ours-{method}.yaml"
    file.write_text(json.dumps(data))
    return [sys.executable, "-m", "apps.cli", "merge", str(file), "-o", str(folder / "out-ours")]


def theirs(
    folder: Path, method: str, models: list[Path], base: Path, settings: dict[str, object]
) -> list[str]:
    """Return the command line of mergekit's merge."""
    data: dict[str, object] = {"merge_method": method, "dtype": "bfloat16"}
    if method == "slerp":
        data |= {"base_model": str(models[0]), "models": [{"model": str(m)} for m in models[:2]]}
        data["parameters"] = settings
    else:
        data["models"] = [{"model": str(m), "parameters": settings} for m in models]
        if method != "linear":
            data["base_model"] = str(base)
    file = folder / f"theirs-{method}.yaml"
    file.write_text(json.dumps(data))
    program = str(Path(sys.executable).with_name("mergekit-yaml"))
    return [program, str(file), str(folder / "out-theirs"), "--no-copy-tokenizer", "--quiet"]


def bench_models(options: argparse.Namespace) -> None:
    """Time the four methods against mergekit, and the copying of the same bytes."""
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        base, models = write_models(folder, options.layers, 3)
        size = (base / "model.safetensors").stat().st_size / 1e9
        everything = [str(f) for f in folder.glob("*/model.safetensors")]
        cat = measure(["sh", "-c", f"cat {' '.join(everything)} > /dev/null"])
        copy = measure(["cp", everything[0], str(folder / "copy")])
        print(f"base + 3 models of {size:.2f} GB; cat of all {cat.wall:.2f} s, cp of one {copy.wall:.2f} s")
        print(f"{'method':10} {'':8} {'wall s':>8} {'CPU s':>8} {'peak MB':>8}   x cat+cp")
        results = []
        for method, (mine, other) in METHODS.items():
            chosen = models[:2] if method == "slerp" else models
            cache = folder / f"cache-{method}"
            runs = {"first": (ours, mine), "again": (ours, mine), "mergekit": (theirs, other)}
            found: dict[str, list[Cost]] = {}
            for _ in range(options.rounds):
                shutil.rmtree(cache, ignore_errors=True)
                for who, (command, settings) in runs.items():
                    if who == "mergekit" and options.alone:
                        continue
                    cost = measure(command(folder, method, chosen, base, settings), cache)
                    shutil.rmtree(folder / ("out-theirs" if who == "mergekit" else "out-ours"))
                    found.setdefault(who, []).append(cost)
            best = {who: min(costs) for who, costs in found.items()}
            for who, cost in best.items():
                times = cost.wall / (cat.wall + copy.wall)
                print(f"{method:10} {who:8} {cost.wall:8.2f} {cost.cpu:8.2f} {cost.peak:8.0f}   {times:6.1f}")
                results.append({"method": method, "who": who, **cost._asdict(), "times_cat_and_cp": times})
            for who in ("first", "again") if "mergekit" in best else ():
                one, two = best[who], best["mergekit"]
                print(f"{method:10} x {who:6} {two.wall / one.wall:8.1f} {two.cpu / one.cpu:8.1f} "
                      f"{two.peak / one.peak:8.1f}")  # fmt: skip
        if options.json:
            options.json.write_text(json.dumps(results, indent=2) + "\n")


def bench_growth(options: argparse.Namespace) -> None:
    """Time linear over sizes and numbers of models: both should be straight lines."""
    for layers, count in ((2, 3), (14, 3), (24, 3), (58, 3), (14, 2), (14, 4), (14, 8)):
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            folder = Path(name)
            base, models = write_models(folder, layers, count)
            read = sum(f.stat().st_size for f in folder.glob("m*/model.safetensors")) / 1e9
            for method in ("linear", "ties"):
                cost = measure(ours(folder, method, models, base, METHODS[method][0]))
                shutil.rmtree(folder / "out-ours")
                print(
                    f"{method:8} {count} models of {read / count:5.2f} GB  wall {cost.wall:6.2f}  "
                    f"CPU {cost.cpu:6.2f}  peak {cost.peak:5.0f} MB  CPU s per GB read {cost.cpu / read:5.2f}"
                )


def bench_adapters(options: argparse.Namespace) -> None:
    """Merge 8 LoRAs shaped for a 7B model; one module of each shape against PEFT's svd combination."""
    import torch

    from studio.adapters import Factors, write_adapter

    hidden, inner, rank = 4096, 11008, 16
    shapes = {f"self_attn.{k}_proj": (hidden, hidden) for k in "qkvo"}
    shapes |= {
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        for number in range(8):
            draw = torch.Generator().manual_seed(number)
            modules = {
                f"model.layers.{i}.{k}": Factors(
                    a=torch.randn(rank, n, generator=draw) * n**-0.5,
                    b=torch.randn(m, rank, generator=draw) * 0.01,
                    shape=(m, n),
                )
                for i in range(options.layers)
                for k, (m, n) in shapes.items()
            }
            write_adapter(folder / str(number), modules, base="", dtype=torch.bfloat16)
        data = {"method": "linear", "models": [str(folder / str(i)) for i in range(8)], "rank": rank}
        (folder / "merge.yaml").write_text(json.dumps(data))
        command = [
            sys.executable,
            "-m",
            "apps.cli",
            "merge",
            str(folder / "merge.yaml"),
            "-o",
            str(folder / "out"),
        ]
        cost = measure(command)
        count = options.layers * len(shapes)
        print(f"8 adapters of rank 16, {count} modules, linear to rank {rank}, no base: "
              f"wall {cost.wall:.1f} s, CPU {cost.cpu:.1f} s, peak {cost.peak:.0f} MB")  # fmt: skip
        compare_module(folder, shapes, rank, cost.cpu / count)


def compare_module(folder: Path, shapes: dict[str, tuple[int, int]], rank: int, ours: float) -> None:
    """Time PEFT's way for one module of each shape: add dense deltas up, decompose; check our error."""
    import torch

    from studio.adapters import read_adapter

    torch.set_num_threads(1)
    adapters = [read_adapter(folder / str(i)) for i in range(8)]
    merged = read_adapter(folder / "out")
    for key in ("self_attn.q_proj", "mlp.up_proj"):
        name = f"model.layers.0.{key}"
        began = time.process_time()
        dense = torch.zeros(shapes[key])
        for adapter in adapters:
            dense += adapter.factors(name).delta() / 8
        u, s, v = torch.linalg.svd(dense)
        best = (u[:, :rank] * s[:rank]) @ v[:rank]
        took = time.process_time() - began
        # The 16th and 17th singular value may be close: what counts is how far from the whole one lands.
        mine = float((dense - merged.factors(name).delta()).double().norm())
        error = abs(mine - float((dense - best).double().norm())) / float(dense.double().norm())
        print(f"  {key}: PEFT's svd {took:.1f} CPU s, ours {ours:.3f} per module: {took / ours:.0f} times; "
              f"farther from the dense sum than the best by {error:.1e} of it")  # fmt: skip


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("models", "growth", "adapters"))
    parser.add_argument("--layers", type=int, help="of the model (24; adapters 32)")
    parser.add_argument("--folder", help="where to put the files; needs a few GB")
    parser.add_argument("--alone", action="store_true", help="ours only")
    parser.add_argument("--rounds", type=int, default=2, help="of models: the best of so many counts (2)")
    parser.add_argument("--json", type=Path, help="of models: write the figures to this file, too")
    options = parser.parse_args()
    options.layers = options.layers or (32 if options.what == "adapters" else 24)
    {"models": bench_models, "growth": bench_growth, "adapters": bench_adapters}[options.what](options)


if __name__ == "__main__":
    main()
