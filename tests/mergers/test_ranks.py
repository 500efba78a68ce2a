"""Several processes make one merge: the same bytes for any number, and nothing half-written when one dies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import save_file

from mergers import MergeSpec, Ranks, merge, plan
from mergers import _settings as settings
from mergers._budget import resident_bytes, tensor_bytes, threads_within
from mergers._meeting import LostProcess, meeting_folder
from mergers._plan import Step
from mergers._ranks import shares
from studio.adapters import Factors, write_adapter
from studio.checkpoint import Checkpoint
from studio.errors import ConfigError, MergeError

RULES = [
    {"match": r"mlp\.weight", "method": "slerp"},
    {"match": r"layers\.[01]\.", "density": 0.5},
    {"match": r"head\.weight", "freeze": True},
]
RECIPES: dict[str, dict[str, Any]] = {
    "linear": {"method": "linear"},
    "ties": {"method": "ties", "settings": {"density": 0.2}},
    "dare_ties": {"method": "dare_ties", "settings": {"density": 0.5}, "seed": 3},
    "rules": {"method": "ties", "settings": {"density": 0.2, "scope": "model"}, "rules": RULES},
}
# What each process of a launcher runs: all recipes, one after the other.
SCRIPT = """
import json, sys
from mergers import MergeSpec, Ranks, merge
for data, out in json.loads(sys.argv[1]):
    report = merge(MergeSpec.from_mapping(data), out, ranks=Ranks.of())
    print(json.dumps([Ranks.of().rank, out, report.fingerprint, report.norm]), flush=True)
"""
# The same for one recipe, with a note of every tensor, and a worker that takes its time.
SLOW = """
import json, sys, time
import mergers._meeting, mergers._resume
from mergers import MergeSpec, Ranks, merge
count, mergers._resume.EVERY = mergers._meeting.Guest.count, 0.0
mergers._meeting.Guest.count = lambda guest: (time.sleep(0.05), count(guest))
merge(MergeSpec.from_mapping(json.loads(sys.argv[1])), sys.argv[2], ranks=Ranks.of())
"""


def _models(folder: Path, layers: int = 6, rows: int = 96) -> dict[str, Any]:
    """Return a merge of two experts in bfloat16 with layers, a table, a mask of whole numbers and a bound."""
    draw = torch.Generator().manual_seed(0)
    shapes = {"embed_tokens.weight": (300, 64), "head.weight": (300, 64)}
    for i in range(layers):
        shapes |= {f"layers.{i}.attn.weight": (rows, 64), f"layers.{i}.mlp.weight": (64, rows)}
    ground = {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}
    extra = {"bound": torch.full((3,), float("inf")).bfloat16(), "mask": torch.arange(7)}
    for number in range(3):
        (folder / str(number)).mkdir(parents=True)
        noise = 0.1 if number else 0.0
        moved = {k: (v + noise * torch.randn(v.shape, generator=draw)).bfloat16() for k, v in ground.items()}
        save_file(moved | extra, folder / str(number) / "model.safetensors")
    models = [str(folder / "1"), str(folder / "2")]
    return {"base": str(folder / "0"), "models": models, "shard_size": "60KB", "threads": 1}


def test_one_two_and_launched_processes_write_the_same_bytes(tmp_path: Path) -> None:
    given = _models(tmp_path)
    merges = [({**given, **recipe}, str(tmp_path / f"launched-{key}")) for key, recipe in RECIPES.items()]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [*torchrun, str(tmp_path / "script.py"), json.dumps(merges)]
    done = subprocess.run(command, capture_output=True, text=True, env=_environment())
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert len(told) == 2 * len(merges)
    for data, out in merges:
        spec = MergeSpec.from_mapping(data)
        alone = merge(spec, f"{out}-alone")
        assert len(list(Path(out).glob("*.safetensors"))) > 3
        assert {tuple(line[2:]) for line in told if line[1] == out} == {(alone.fingerprint, alone.norm)}
        for file in sorted(Path(f"{out}-alone").glob("*.safetensors*")):
            assert (Path(out) / file.name).read_bytes() == file.read_bytes(), file.name
    for key in ("ties", "rules"):
        spec = MergeSpec.from_mapping({**given, **RECIPES[key]})
        started = merge(spec, tmp_path / key, ranks=Ranks.of(2))
        assert started == replace(merge(spec, tmp_path / key), seconds=started.seconds)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_killed_worker_ends_the_merge_in_one_sentence_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mergers._resume.EVERY", 0.0)
    spec = MergeSpec.from_mapping({**_models(tmp_path / "in", 40), **RECIPES["dare_ties"]})
    out = tmp_path / "place" / "out"
    killer = threading.Thread(target=_kill_worker, args=(out,))
    killer.start()
    sentence = r"process 1 of 2 was killed \(SIGKILL\); nothing was written to .*out, and the same command"
    with pytest.raises(LostProcess, match=sentence):
        merge(spec, out, ranks=Ranks.of(2))
    killer.join()
    left = [path.name for path in out.parent.iterdir()]
    assert len(left) == 1
    assert left[0].startswith(".out.merge-")  # what the first process finished
    finished = (out.parent / left[0] / ".journal").read_text().splitlines()
    assert finished
    report = merge(spec, out)
    assert report.fingerprint == merge(spec, tmp_path / "whole").fingerprint
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_workers_end_with_the_first_process_and_what_they_finished_counts(tmp_path: Path) -> None:
    given = {**_models(tmp_path / "in", 40), **RECIPES["dare_ties"]}
    out = tmp_path / "place" / "out"
    command = [sys.executable, "-c", SLOW, json.dumps(given), str(out)]
    both = [
        subprocess.Popen(command, env=_environment() | {"RANK": str(rank), "WORLD_SIZE": "2"})
        for rank in (0, 1)
    ]
    _wait(out, lambda note: note.get("count", 0) > 1 and min(_finished(out)) > 0)
    for process in both:
        process.kill()
        process.wait()
    assert not out.exists()
    finished = _finished(out)
    killed = json.loads((meeting_folder(out) / "1.json").read_text())  # which nobody must listen to

    command = [sys.executable, "-m", "apps.cli", "merge", str(tmp_path / "again.yaml"), "-o", str(out)]
    (tmp_path / "again.yaml").write_text(json.dumps(given))
    parent = subprocess.Popen(
        [*command, "--nproc", "2"], env=_environment(), stderr=subprocess.PIPE, text=True
    )
    _wait(out, lambda note: note["word"] != killed["word"] and note["state"] == "working")
    child = _worker_of(parent.pid)
    parent.kill()
    told = parent.communicate()[1]
    assert f"going on after {sum(finished)} of 84 tensors" in told
    psutil.wait_procs([child], timeout=10)
    assert not child.is_running()
    assert merge(MergeSpec.from_mapping(given), out).fingerprint == Checkpoint(out).fingerprint()
    whole = merge(MergeSpec.from_mapping(given), tmp_path / "whole")
    assert whole.fingerprint == Checkpoint(out).fingerprint()
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_what_a_worker_finds_wrong_is_told_and_nothing_is_left(tmp_path: Path) -> None:
    given = _models(tmp_path / "in")
    file = tmp_path / "in" / "2" / "model.safetensors"
    tensors = {name: Checkpoint(file.parent).read(name) for name in Checkpoint(file.parent).names()}
    tensors["layers.5.mlp.weight"][0, 0] = float("nan")  # in the second half of the output
    save_file(tensors, file)
    spec = MergeSpec.from_mapping({**given, **RECIPES["linear"]})
    with pytest.raises(MergeError, match=r"'layers.5.mlp.weight' of .*2 holds values that are not finite"):
        merge(spec, tmp_path / "not" / "yet" / "out", ranks=Ranks.of(2))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_adapters_and_impossible_numbers_are_refused(tmp_path: Path) -> None:
    for name in ("one", "two"):
        a, b = torch.ones(2, 6), torch.ones(4, 2)
        write_adapter(tmp_path / name, {"layers.0.proj": Factors(a=a, b=b, shape=(4, 6))}, base="")
    spec = MergeSpec.from_flags(method="linear", models=[str(tmp_path / "one"), str(tmp_path / "two")])
    with pytest.raises(MergeError, match="adapters are merged by one process on the processor"):
        merge(spec, tmp_path / "out", ranks=Ranks.of(2))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]
    launched = {"RANK": "1", "WORLD_SIZE": "2"}
    with pytest.raises(ConfigError, match="a launcher has started 2 processes already; leave --nproc out"):
        Ranks.of(2, environment=launched)
    with pytest.raises(ConfigError, match="RANK 2 in the environment does not fit WORLD_SIZE 2"):
        Ranks.of(environment={**launched, "RANK": "2"})
    with pytest.raises(ConfigError, match="device must be cpu, cuda or cuda:N, not 'gpu'"):
        Ranks.of(device="gpu")
    with pytest.raises(ConfigError, match="nproc must be a whole number >= 1, not 0"):
        Ranks.of(0)
    if not torch.cuda.is_available():
        with pytest.raises(MergeError, match="device cuda:1: torch finds no CUDA device on this machine"):
            Ranks.of(device="cuda:1").torch_device()


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_every_tensor_is_one_process_s_own_and_the_work_is_even(world: int) -> None:
    sizes = [900, 10, 10, *[100] * 40, 900]
    steps = [
        Step(name=str(i), shape=(n,), action="merge" if i % 9 else "copy", method="linear")
        for i, n in enumerate(sizes)
    ]
    found = shares(steps, 2, world)
    assert [step for share in found for step in share] == steps  # in the order of the files
    work = [sum(step.shape[0] * (4 if step.action == "merge" else 1) for step in share) for share in found]
    assert max(work) - sum(work) / world <= 4 * 900 / 2


def test_memory_and_processors_are_divided_among_the_processes(tmp_path: Path) -> None:
    given = {**_models(tmp_path / "in", 2), "method": "linear"}
    here = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
    ranks, method = Ranks.of(environment=here), settings.method("linear")
    everything = plan(MergeSpec.from_mapping({**given, "threads": 0}))
    assert threads_within(everything, method, Ranks.of(64)) == 1
    assert threads_within(plan(MergeSpec.from_mapping(given | {"threads": 3})), method, ranks) == 3
    most = resident_bytes(4) + 4 * tensor_bytes(method, (300, 64), 2)  # what one of four may have for two
    enough = plan(MergeSpec.from_mapping(given | {"threads": 3, "max_ram": f"{4 * most}"}))
    assert threads_within(enough, method, ranks) == 3
    scarce = plan(MergeSpec.from_mapping(given | {"threads": 3, "max_ram": f"{most}"}))
    with pytest.raises(MergeError, match=r"GB that max_ram gives a process only 0\.00 are left"):
        threads_within(scarce, method, ranks)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", RECIPES)
def test_a_device_gives_the_same_bytes_every_time_and_the_processor_s_but_for_rounding(
    name: str, tmp_path: Path
) -> None:
    spec = MergeSpec.from_mapping({**_models(tmp_path / "in"), **RECIPES[name]})
    prints = {
        merge(spec, tmp_path / f"{nproc}", ranks=Ranks.of(nproc, device="cuda")).fingerprint
        for nproc in (1, 2)
    }
    assert len(prints) == 1
    merge(spec, tmp_path / "processor")
    one, other = Checkpoint(tmp_path / "1"), Checkpoint(tmp_path / "processor")
    for tensor in one.names():
        near = torch.isclose(one.read(tensor).float(), other.read(tensor).float(), rtol=2**-7, atol=0)
        assert near.float().mean() > 0.999, tensor  # sums in another order may move a threshold


def _finished(out: Path) -> list[int]:
    """Return how many tensors each of two processes has noted as finished."""
    (folder,) = [path for path in out.parent.glob(".out.merge-*") if path != meeting_folder(out)]
    return [len((folder / name).read_text().splitlines()) for name in (".journal", ".journal-1")]


def _kill_worker(out: Path) -> None:
    """Stop the only process that this one has started, and kill it when it is waited for."""
    _wait(out, lambda note: True)
    child = _worker_of(os.getpid())
    child.suspend()
    _wait(out, lambda note: "folder" in note, rank=0)
    child.kill()


def _worker_of(process: int) -> psutil.Process:
    """Return the only process that a merge has started."""
    (child,) = (c for c in psutil.Process(process).children() if "mergers._children" in c.cmdline())
    return child


def _wait(out: Path, ready: Callable[[dict[str, Any]], bool], rank: int = 1, seconds: float = 60.0) -> None:
    """Wait until a process's note says so."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with suppress(OSError, ValueError):
            if ready(json.loads((meeting_folder(out) / f"{rank}.json").read_text())):
                return
        time.sleep(0.005)
    raise AssertionError(f"process {rank} did not come to work")


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
