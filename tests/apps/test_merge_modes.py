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


def test_rules_and_a_preset_are_given_on_the_command_line(triptych: Call, experts: list[Path]) -> None:
    rules = ["--rule", "llm.layers.0: freeze", "--rule", "llm.layers.1: method=ties density=0.5"]
    _merge(triptych, experts, "merged", *rules, "--preset", "peft")
    recipe = json.loads(Path("merged/merge.lock.json").read_text())["recipe"]
    assert [rule["match"] for rule in recipe["rules"]] == ["llm.layers.0", "llm.layers.1"]
    assert recipe["settings"] == {"preset": "peft"}
    Path("again.yaml").write_text(json.dumps({**recipe, "rules": recipe["rules"][1:], "settings": {}}))
    status, _, told = triptych("again.yaml", "-o", "again", *rules[:2], "--preset", "peft")
    assert status == 0, told
    weights = "adapter_model.safetensors"
    assert Path("again", weights).read_bytes() == Path("merged", weights).read_bytes()
    for rule, sentence in {
        "llm.layer.0: freeze": "did you mean 'llm.layers.0-2'?",
        "llm: method=tise": "unknown merge method 'tise'; did you mean 'ties'?",
        "llm: wight=1": "did you mean 'weight'?",
    }.items():
        status, _, told = triptych("--method", "linear", *experts, "-o", "none", "--rule", rule)
        assert (status, sentence in told) == (2, True), told
    status, _, told = triptych("--method", "linear", *experts, "-o", "none", "--preset", "papr")
    assert (status, "did you mean 'paper'?" in told) == (2, True), told
    assert not Path("none").exists()


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
        (["--extract-adapter", "a", "--base", "b", "-o", "out"], "how much is to be kept? give --rank 16"),
        (["--extract-adapter", "a", "--rank", "2", "-o", "out"], "--extract-adapter needs one --base"),
        (["--bake", "a", "--diff", "b", "c"], "--bake and --diff are two things to do"),
        (["--bake", "a", "-o", "out"], "there is no model 'a'"),
        (["--unmerge", "a", "-o", "out"], "out of what? --unmerge EXPERT needs --from MERGED"),
        (["--unmerge", "a", "--from", "b", "-o", "out"], "b has no merge.lock.json"),
        (["--diff", "a", "b", "c"], "--diff compares two, not 3"),
        (["--diff", "a", "--method", "ties"], "--diff does not take --method; it takes --base, --json"),
        (["--method", "ties", "a", "-o", "out", "--json"], "--json belongs to --diff"),
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


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return a model of three weights that the experts fit."""
    import torch
    from safetensors.torch import save_file

    draw = torch.Generator().manual_seed(9)
    folder = tmp_path / "some" / "base"
    folder.mkdir(parents=True)
    tensors = {f"model.layers.{i}.mlp.up_proj.weight": torch.randn(16, 12, generator=draw) for i in range(3)}
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "plain"}')
    return folder


def test_an_adapter_is_baked_and_compared(triptych: Call, experts: list[Path], model: Path) -> None:
    status, _, told = triptych("--bake", experts[0], "-o", "baked", "--max-ram", "4GB", "--shard-size", "1KB")
    assert status == 0, told
    assert Path("baked/model.safetensors.index.json").is_file()
    status, _, told = triptych("--bake", experts[0], "-o", "four", "--quantised", "nf4")
    assert (status, "off by" in told, "its values are in four-base" in told) == (0, True, True), told
    status, _, told = triptych("--bake", experts[0], "-o", "none", "--quantised", "nf3")
    assert (status, "did you mean 'nf4'?" in told) == (2, True), told
    status, shown, _ = triptych("--diff", model, "baked")
    assert status == 0
    lines = [line.split() for line in shown.splitlines()]
    assert [line[1] for line in lines if len(line) > 1 and line[1].startswith(("llm", "all"))] == [
        "llm.layers.0", "llm.layers.1", "llm.layers.2", "all",
    ]  # fmt: skip
    status, shown, _ = triptych("--diff", experts[0], "baked", "--base", model, "--json")
    assert status == 0
    assert json.loads(shown)["total"]["cosine"] == pytest.approx(1.0)
    status, shown, _ = triptych("--diff", experts[0])
    assert status == 0
    assert "norm" in shown
    assert "cosine" not in shown


def test_an_expert_is_taken_out_although_it_is_gone(
    triptych: Call, experts: list[Path], tmp_path: Path
) -> None:
    import shutil

    copy = shutil.copytree(experts[1], tmp_path / "copy")
    _merge(triptych, [experts[0], copy])
    shutil.rmtree(copy)
    status, _, told = triptych("--unmerge", "copy", "--from", "merged", "-o", "out")
    assert status == 0, told
    status, shown, _ = triptych("--diff", experts[0], "out", "--json")
    total = json.loads(shown)["total"]
    assert total["cosine"] == pytest.approx(1.0)
    assert total["relative"] == pytest.approx(0.4, rel=1e-4)  # its weight is 0.6 still


def test_a_fine_tune_becomes_an_adapter(triptych: Call, tiny: Callable[[str], Path], tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    base = tiny("qwen_omni")
    tuned = shutil.copytree(base, tmp_path / "tuned")
    tensors = load_file(base / "model.safetensors")
    name = next(name for name in tensors if name.endswith("mlp.up_proj.weight"))
    tensors[name] = tensors[name] * 1.5
    save_file(tensors, tuned / "model.safetensors", metadata={"format": "pt"})
    flags = ["--extract-adapter", "tuned", "--base", base, "--rank", "2", "-o", "adapter"]
    status, shown, told = triptych(*flags)
    assert status == 0, told
    assert "extract: 1 modules at rank 2, 0 tensors whole, 0 lost" in shown
    assert "mlp.up_proj  rank    2  energy" in shown
    assert (tmp_path / "adapter/adapter_model.safetensors").is_file()
