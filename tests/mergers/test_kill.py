"""A merge killed at any moment leaves nothing or the whole, and goes on to the same bytes."""

from __future__ import annotations

import json
import os
import random
import secrets
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import save_file

from mergers import MergeSpec, merge
from mergers._resume import JOURNAL
from studio.adapters import Factors, write_adapter
from studio.checkpoint import Checkpoint

TENSORS = 40
# The moments are other ones in every run; KILL_SEED=N repeats those of a run that printed it.
SEED = int(os.environ.get("KILL_SEED", secrets.randbits(32)))
# Imports once, runs one merge to its end to see how long it takes, then forks a merge for every moment at
# which one is to be killed: at a share of that time, or when so many tensors are finished.
SCRIPT = """
import json, os, signal, sys, time
import torch
torch.set_num_threads(1)
import mergers._resume
from mergers import MergeSpec, merge
from mergers._engine import plan
mergers._resume.EVERY = 0.0
spec = MergeSpec.from_mapping(json.loads(sys.argv[1]))
plan(spec)

def begin(out, count):
    child = os.fork()
    if child:
        return child
    note = mergers._resume.Journal.add
    finished = []

    def add(journal, name, *rest):
        note(journal, name, *rest)
        finished.append(name)
        if len(finished) == count:
            os.kill(os.getpid(), signal.SIGKILL)

    mergers._resume.Journal.add = add
    try:
        merge(spec, out)
    finally:
        os._exit(0)

began = time.monotonic()
os.waitpid(begin(sys.argv[2], None), 0)
whole = time.monotonic() - began
for out, share, count in json.loads(sys.argv[3]):
    child = begin(out, count)
    if count is None:
        time.sleep(whole * share)
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    print(json.dumps([out, os.path.exists(out), sorted(os.listdir(os.path.dirname(out)))]), flush=True)
"""
Moment = tuple[float, int | None]


def _killed(folder: Path, spec: MergeSpec, moments: list[Moment]) -> list[tuple[Path, bool, list[str]]]:
    """Kill a merge at each moment; return its output, whether that is there, and what lies beside it."""
    print(f"KILL_SEED={SEED}: {moments}")
    outs = [folder / f"place{number}" / "out" for number in range(len(moments))]
    for out in outs:
        out.parent.mkdir()
    plans = json.dumps([(str(out), *moment) for out, moment in zip(outs, moments, strict=True)])
    command = [sys.executable, "-c", SCRIPT, json.dumps(spec.to_mapping()), str(folder / "timed"), plans]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(told) == len(moments)
    return [(Path(out), there, beside) for out, there, beside in map(json.loads, told)]


def _inputs(folder: Path, rows: int = 120) -> MergeSpec:
    draw = torch.Generator().manual_seed(0)
    ground = {f"layer.{i:02}.weight": torch.randn(rows, 500, generator=draw) for i in range(TENSORS)}
    for number in range(3):
        (folder / str(number)).mkdir()
        noise = 0.1 if number else 0.0
        tensors = {k: v + noise * torch.randn(v.shape, generator=draw) for k, v in ground.items()}
        save_file(tensors, folder / str(number) / "model.safetensors")
    models = [str(folder / "1"), str(folder / "2")]
    data = {"method": "dare_ties", "base": str(folder / "0"), "models": models, "threads": 1}
    return MergeSpec.from_mapping(data | {"settings": {"density": 0.3}})


def test_a_kill_at_ten_random_moments_leaves_nothing_or_the_whole_and_resumes_to_the_same_hash(
    tmp_path: Path,
) -> None:
    spec = _inputs(tmp_path)
    whole = merge(spec, tmp_path / "whole")
    draw = random.Random(SEED)
    moments: list[Moment] = [(draw.random(), None) for _ in range(5)]
    moments += [(0.0, draw.randint(1, TENSORS)) for _ in range(5)]
    went_on = set()
    for out, there, beside in _killed(tmp_path, spec, moments):
        if there:
            assert Checkpoint(out).fingerprint() == whole.fingerprint
        assert all(name == "out" or name.startswith(".out.") for name in beside)
        journals = [p / JOURNAL for p in out.parent.glob(".out.merge-*") if (p / JOURNAL).is_file()]
        went_on |= {len(journal.read_text().splitlines()) for journal in journals}
        report = merge(spec, out)
        assert report.fingerprint == whole.fingerprint
        assert report.norm == whole.norm
        assert [p.name for p in out.parent.iterdir() if ".merge-" in p.name] == []
    assert {count for _, count in moments[5:] if count is not None} - {TENSORS} <= went_on


def test_a_merge_of_adapters_killed_at_any_moment_leaves_nothing_or_the_whole(tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    for name in ("one", "two"):
        modules = {
            f"layers.{i}.proj": Factors(
                a=torch.randn(8, 300, generator=draw), b=torch.randn(200, 8, generator=draw), shape=(200, 300)
            )
            for i in range(30)
        }
        write_adapter(tmp_path / name, modules, base="")
    models = [str(tmp_path / "one"), str(tmp_path / "two")]
    spec = MergeSpec.from_mapping({"method": "linear", "models": models, "threads": 1})
    whole = merge(spec, tmp_path / "whole")
    shares = random.Random(SEED)
    for out, there, beside in _killed(tmp_path, spec, [(shares.random(), None) for _ in range(4)]):
        if there:
            assert Checkpoint(out).fingerprint() == whole.fingerprint
        assert all(name == "out" or name.startswith(".out.") for name in beside)
        assert merge(spec, out).fingerprint == whole.fingerprint


@pytest.mark.slow
def test_several_processes_one_of_them_killed_at_a_random_moment_go_on_to_the_same_hash(
    tmp_path: Path,
) -> None:
    spec = _inputs(tmp_path, 400)
    whole = merge(spec, tmp_path / "whole")
    (tmp_path / "merge.yaml").write_text(json.dumps(spec.to_mapping()))
    draw = random.Random(SEED)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "apps.cli", "merge", str(tmp_path / "merge.yaml"), "--nproc", "2", "-o"]
    began = time.monotonic()
    subprocess.run([*command, str(tmp_path / "timed")], check=True, capture_output=True, env=environment)
    usual = time.monotonic() - began
    ends = []
    for number in range(10):
        out, moment, first = tmp_path / f"place{number}" / "out", draw.random() * usual, draw.random() < 0.5
        print(f"KILL_SEED={SEED}: {number} after {moment:.3f} of {usual:.3f} s, the {first=}")
        out.parent.mkdir()
        merging = subprocess.Popen([*command, str(out)], stderr=subprocess.PIPE, text=True, env=environment)
        time.sleep(moment)
        workers = psutil.Process(merging.pid).children()
        for process in [merging] if first else workers:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        told = merging.communicate()[1]
        gone, alive = psutil.wait_procs(workers, timeout=10)
        assert not alive, f"{len(gone)} ended"
        if out.exists():
            assert Checkpoint(out).fingerprint() == whole.fingerprint
        elif not first:
            assert merging.returncode == 2, told
            assert "was killed (SIGKILL); nothing was written" in told
        ends.append(out.exists())
        assert merge(spec, out).fingerprint == whole.fingerprint
        assert [path.name for path in out.parent.iterdir() if ".merge-" in path.name] == []
    assert not all(ends)


def test_an_error_or_another_recipe_starts_afresh(tmp_path: Path) -> None:
    spec = _inputs(tmp_path)
    place = tmp_path / "place"
    place.mkdir()
    stale = place / ".out.merge-0123456789abcdef"
    stale.mkdir()
    (stale / JOURNAL).write_text('{"name": "layer.00.weight", "norm": 1, "longest": 1, "lost": 0}\n')
    (stale / "model.safetensors").write_bytes(b"half")
    report = merge(spec, place / "out")
    assert report.fingerprint == merge(spec, tmp_path / "other").fingerprint
    assert [p.name for p in place.iterdir()] == ["out"]
