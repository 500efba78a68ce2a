"""`triptych merge` instead of merging: verify, replay, extract, bake, unmerge and diff."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from apps.cli import main

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def triptych(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Return a function that runs `triptych merge ...` in a fresh folder: status, output, errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")

    def call(*arguments: object) -> tuple[int, str, str]:
        status = main(["merge", *map(str, arguments)])
        told = capsys.readouterr()
        return status, told.out, told.err

    return call


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return two adapters of rank 2 on three modules."""
    import torch

    from studio.adapters import Factors, write_adapter

    made = []
    for seed in range(2):
        draw = torch.Generator().manual_seed(seed)
        modules = {
            f"model.layers.{i}.mlp.up_proj": Factors(
                a=torch.randn(2, 12, generator=draw), b=torch.randn(16, 2, generator=draw), shape=(16, 12)
            )
            for i in range(3)
        }
        folder = tmp_path_factory.mktemp("experts") / f"expert-{seed}"
        made.append(write_adapter(folder, modules, base="some/base"))
    return made


def _merge(triptych: Call, experts: list[Path], out: str = "merged", *more: str) -> None:
    status, _, told = triptych(
        "--method", "linear", f"{experts[0]}:0.6", f"{experts[1]}:0.4", "-o", out, *more
    )
    assert status == 0, told


def test_a_dry_run_tells_memory_disk_and_time(triptych: Call, experts: list[Path], tmp_path: Path) -> None:
    status, shown, _ = triptych("--method", "linear", *experts, "-o", "out", "--max-ram", "4GB", "--dry-run")
    assert status == 0
    for word in ("memory  about", "disk    reads", "time    about"):
        assert word in shown
    assert list(tmp_path.iterdir()) == []
    status, _, told = triptych("--method", "linear", *experts, "-o", "out", "--max-ram", "much")
    assert status == 2
    assert "max_ram must be a size such as 4GB, not 'much'" in told


def test_adapters_merge_although_their_base_is_not_here(triptych: Call, experts: list[Path]) -> None:
    _merge(triptych, experts, "merged", "--resume")
    assert (
        json.loads(Path("merged/adapter_config.json").read_text())["base_model_name_or_path"] == "some/base"
    )


def test_verify_prints_each_difference_and_exits_with_1(triptych: Call, experts: list[Path]) -> None:
    _merge(triptych, experts)
    status, shown, _ = triptych("--verify", "merged")
    assert (status, shown) == (0, "merged is what the merge wrote, and its inputs are unchanged\n")
    weights = Path("merged/adapter_model.safetensors")
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    status, shown, _ = triptych("--verify", "merged")
    assert (status, shown) == (1, "the weights in merged are not those that the merge wrote\n")


def test_replay_makes_the_same_weights_again(triptych: Call, experts: list[Path]) -> None:
    _merge(triptych, experts)
    status, shown, told = triptych("--replay", "merged", "-o", "again")
    assert status == 0, told
    assert shown.startswith("again has the weights of merged: ")
    one, two = (Path(name, "adapter_model.safetensors").read_bytes() for name in ("merged", "again"))
    assert one == two


@pytest.mark.parametrize("option", ["--verify", "--replay"])
def test_a_folder_without_a_usable_lock_file_is_told(
    triptych: Call, experts: list[Path], option: str
) -> None:
    more = ["-o", "out"] if option == "--replay" else []
    status, _, told = triptych(option, experts[0], *more)
    assert status == 2
    assert "has no merge.lock.json" in told
    Path("odd").mkdir()
    Path("odd/merge.lock.json").write_text('{"recipe": {}}')
    status, _, told = triptych(option, "odd", *more)
    assert status == 2
    assert "odd/merge.lock.json is no lock file of a merge: 'inputs' is missing" in told
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--verify", "a", "--replay", "b"], "--verify and --replay are two things to do; give one of them"),
        (["--verify", "a", "-o", "out"], "--verify does not take -o OUT"),
        (["--verify", "a", "b"], "--verify does not take 'b'"),
        (["--replay", "a", "-o", "out", "--density", "0.2"], "--replay does not take --density"),
        (["--replay", "a"], "where to? --replay needs -o OUT"),
        (["--base", "x", "--base", "y", "--method", "ties", "a", "-o", "out"], "a merge has one --base"),
        ([], "what? give a merge file"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_one_sentence(
    triptych: Call, tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    status, _, told = triptych(*arguments)
    assert status == 2
    assert told.startswith("triptych: ")
    assert sentence in told
    assert list(tmp_path.iterdir()) == []
