"""A merge killed at any moment leaves nothing or the whole, and goes on to the same bytes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from mergers import MergeSpec, merge
from mergers._resume import JOURNAL
from studio.adapters import Factors, write_adapter
from studio.checkpoint import Checkpoint

# Imports once, then forks a merge for every moment at which one is to be killed: after so many seconds, or
# when so many tensors are finished.
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
for out, moment, count in json.loads(sys.argv[2]):
    child = os.fork()
    if not child:
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
    if count is None:
        time.sleep(moment)
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    print(json.dumps([out, os.path.exists(out), sorted(os.listdir(os.path.dirname(out)))]), flush=True)
"""


def _inputs(folder: Path) -> MergeSpec:
    draw = torch.Generator().manual_seed(0)
    ground = {f"layer.{i:02}.weight": torch.randn(120, 500, generator=draw) for i in range(40)}
    for number in range(3):
        (folder / str(number)).mkdir()
        noise = 0.1 if number else 0.0
        tensors = {k: v + noise * torch.randn(v.shape, generator=draw) for k, v in ground.items()}
        save_file(tensors, folder / str(number) / "model.safetensors")
    models = [str(folder / "1"), str(folder / "2")]
    data = {"method": "dare_ties", "base": str(folder / "0"), "models": models, "threads": 1}
    return MergeSpec.from_mapping(data | {"settings": {"density": 0.3}})


def test_a_kill_at_ten_moments_leaves_nothing_or_the_whole_and_resumes_to_the_same_hash(
    tmp_path: Path,
) -> None:
    spec = _inputs(tmp_path)
    whole = merge(spec, tmp_path / "whole")
    moments: list[tuple[float, int | None]] = [(whole.seconds * share / 5, None) for share in range(6)]
    moments += [(0.0, count) for count in (1, 17, 39, 40)]
    outs = []
    for number in range(10):
        (tmp_path / f"place{number}").mkdir()
        outs.append(str(tmp_path / f"place{number}" / "out"))
    plans = json.dumps([(out, *moment) for out, moment in zip(outs, moments, strict=True)])
    command = [sys.executable, "-c", SCRIPT, json.dumps(spec.to_mapping()), plans]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    states = [json.loads(line) for line in told]
    assert len(states) == 10
    resumed = 0
    for out, there, beside in states:
        if there:
            assert Checkpoint(out).fingerprint() == whole.fingerprint
        assert all(name == "out" or name.startswith(".out.") for name in beside)
        journals = [p / JOURNAL for p in Path(out).parent.glob(".out.merge-*") if (p / JOURNAL).is_file()]
        finished = sum(len(journal.read_text().splitlines()) for journal in journals)
        resumed += 0 < finished < 40
        report = merge(spec, out)
        assert report.fingerprint == whole.fingerprint
        assert report.norm == whole.norm
        assert [p.name for p in Path(out).parent.iterdir() if ".merge-" in p.name] == []
    assert resumed >= 3


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
    outs = [str(tmp_path / f"place{number}" / "out") for number in range(4)]
    plans = [(out, whole.seconds * share / 4, None) for share, out in enumerate(outs, 1)]
    command = [sys.executable, "-c", SCRIPT, json.dumps(spec.to_mapping()), json.dumps(plans)]
    for out in outs:
        Path(out).parent.mkdir()
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(told) == 4
    for out, there, beside in map(json.loads, told):
        if there:
            assert Checkpoint(out).fingerprint() == whole.fingerprint
        assert all(name == "out" or name.startswith(".out.") for name in beside)
        assert merge(spec, out).fingerprint == whole.fingerprint


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
