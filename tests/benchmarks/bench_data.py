"""Rows per CPU second and peak memory of streaming, indexing and converting a data file, beside the peers.

    python tests/benchmarks/bench_data.py            # 10,000 and 1,000,000 rows
    python tests/benchmarks/bench_data.py 10000      # only so many

Half of the rows ask about a picture, half about a sound; each names its own file, and every path is
checked to stay in the folder. ``json.loads`` over the same lines, unchecked, is what no reader can go below;
``datasets`` streams the same file, up to 10,000 rows. Each measurement runs in a process of its own, so its
peak is its own; CPU time, because the machine may be busy with other work.

*index* validates every row, keeps where rows begin and then reads 2,000 rows at random; *convert* writes
the text rows of the file as LLaMA-Factory's ShareGPT.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
PEER_ROWS = 10_000
READ = 2_000
WAYS = {"stream": "studio.data", "index": "studio.data", "texts": "studio.data.formats"}


def write(path: Path, rows: int, media: bool = True) -> None:
    """Write a data file of so many rows."""
    with open(path, "w", encoding="utf-8") as file:
        for number in range(rows):
            kind, suffix = ("image", "png") if number % 2 else ("audio", "flac")
            parts = [
                {"type": kind, "path": f"media/{number:07}.{suffix}"},
                {"type": "text", "text": "Which defect is it, and where?"},
            ]
            messages = [
                {"role": "user", "content": parts if media else parts[1:]},
                {"role": "assistant", "content": f"A hole, top left, number {number}."},
            ]
            row = {"messages": messages, "groups": {"operator": f"p{number % 12}"}}
            file.write(json.dumps(row) + "\n")


def stream(path: Path) -> int:
    """Count the rows as samples."""
    from studio.data import samples

    return sum(1 for _ in samples(path))


def index(path: Path) -> int:
    """Index the file, read rows at random, and return how many rows there are."""
    from studio.data import Rows

    rows = Rows(path)
    draw = random.Random(7)
    for _ in range(READ):
        at = draw.randrange(len(rows))
        assert f"number {at}." in rows[at].answer
    return len(rows)


def texts(path: Path) -> int:
    """Convert the file without its media and return how many rows there are."""
    from studio.data.formats import convert

    return sum(convert(path, path.parent / "converted", "sharegpt").splits.values())


def bare(path: Path) -> int:
    """Count the rows as JSON, unchecked."""
    with open(path, encoding="utf-8") as file:
        return sum(1 for line in file if json.loads(line))


def peer(path: Path) -> int:
    """Count the rows as ``datasets`` streams them."""
    from datasets import load_dataset

    rows = load_dataset("json", data_files=str(path), split="train", streaming=True)
    return sum(1 for _ in rows)


def measure(name: str, path: Path) -> None:
    """Print rows, seconds, peak megabytes and how much of the peak came while reading, as JSON."""
    importlib.import_module((WAYS | {"bare": "json", "peer": "datasets"})[name])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    began = time.process_time()
    rows = {"stream": stream, "index": index, "texts": texts, "bare": bare, "peer": peer}[name](path)
    seconds = time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"rows": rows, "seconds": seconds, "peak": peak, "growth": peak - before}))


def measured(name: str, path: Path) -> dict[str, float]:
    """Return what `measure` prints in a new process."""
    command = [sys.executable, __file__, "measure", name, str(path)]
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(path.parent / "home")}
    told = subprocess.run(command, check=True, capture_output=True, text=True, env=offline)
    found: dict[str, float] = json.loads(told.stdout.splitlines()[-1])
    return found | {"rate": found["rows"] / found["seconds"]}


def main(sizes: list[int]) -> None:
    """Print a table: a line per size."""
    print("| rows | way | rows/CPU s | peak MB | growth MB |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.jsonl"
        for rows in sizes:
            for way in ("index", "texts"):
                write(path, rows, media=way == "index")
                found = measured(way, path)
                assert found["rows"] == rows
                shutil.rmtree(path.parent / "converted", ignore_errors=True)
                figures = f"{found['rate']:,.0f} | {found['peak']:.0f} | {found['growth']:.1f}"
                print(f"| {rows:,} | {'convert' if way == 'texts' else way} | {figures} |", flush=True)
    print("\n| rows | ours, rows/CPU s | json.loads | ratio | datasets | ratio | peak MB | growth MB |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.jsonl"
        for rows in sizes:
            write(path, rows)
            ours, least = measured("stream", path), measured("bare", path)
            assert ours["rows"] == least["rows"] == rows
            compare = rows <= PEER_ROWS and importlib.util.find_spec("datasets")
            theirs = measured("peer", path) if compare else None
            other = f"{theirs['rate']:,.0f} | {ours['rate'] / theirs['rate']:.1f}" if theirs else "- | -"
            share = ours["rate"] / least["rate"]
            print(
                f"| {rows:,} | {ours['rate']:,.0f} | {least['rate']:,.0f} | {share:.2f} "
                f"| {other} | {ours['peak']:.0f} | {ours['growth']:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        measure(sys.argv[2], Path(sys.argv[3]))
    else:
        main([int(size) for size in sys.argv[1:]] or [10_000, 1_000_000])
