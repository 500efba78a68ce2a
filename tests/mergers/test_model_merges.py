"""Merging full models: no tensor is lost, none changes its shape or type, and everything loads again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from mergers import MergeSpec, merge, plan
from studio.checkpoint import Checkpoint
from studio.errors import CheckpointError, ConfigError, MergeError, UnknownName

Experts = Callable[..., list[Path]]
Base = Callable[[str], Path]


def _spec(method: str, models: list[Path], base: Path | None = None, **more: Any) -> MergeSpec:
    data = {"method": method, "models": [str(m) for m in models], **more}
    return MergeSpec.from_mapping(data | ({"base": str(base)} if base else {}))


def _tensors(folder: Path) -> dict[str, Tensor]:
    checkpoint = Checkpoint(folder)
    return {name: checkpoint.read(name) for name in checkpoint.names()}


def _write(folder: Path, tensors: dict[str, Tensor], like: Path) -> Path:
    shutil.copytree(like, folder)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_the_average_of_models_needs_no_base(base_of: Base, experts_of: Experts, tmp_path: Path) -> None:
    experts = experts_of("llava")
    merge(_spec("linear", experts), tmp_path / "out")
    one, two, found = (_tensors(f) for f in (*experts, tmp_path / "out"))
    for key, value in found.items():
        assert torch.equal(value, ((one[key].float() + two[key].float()) / 2).to(value.dtype))
    with pytest.raises(MergeError, match="ties works on differences from a base model; name the base"):
        merge(_spec("ties", experts), tmp_path / "other")


def test_a_tied_copy_is_merged_once(base_of: Base, experts_of: Experts, tmp_path: Path) -> None:
    base = base_of("smolvlm")
    tied = json.loads((base / "config.json").read_text()).get("tie_word_embeddings")
    names = Checkpoint(base).names()
    embedding = next(n for n in names if n.endswith("embed_tokens.weight"))
    assert tied == ("lm_head.weight" not in names)
    # An expert that was saved untied holds the same values twice; one that is tied lacks a name.
    other = dict(_tensors(experts_of("smolvlm")[0]))
    other["lm_head.weight"] = other[embedding].clone()
    twice = _write(tmp_path / "twice", other, base)
    once = {k: v for k, v in other.items() if k != "lm_head.weight"}
    lacking = _write(tmp_path / "lacking", once, base)
    ground = dict(_tensors(base))
    ground["lm_head.weight"] = ground[embedding].clone()
    untied = _write(tmp_path / "untied", ground, base)

    planned = plan(_spec("linear", [lacking], untied))
    assert planned.counts["drop"] == 0
    merge(_spec("linear", [lacking], untied), tmp_path / "out")
    assert torch.equal(_tensors(tmp_path / "out")["lm_head.weight"], once[embedding])
    ground.pop("lm_head.weight")
    single = _write(tmp_path / "single", ground, base)
    report = merge(_spec("linear", [twice], single), tmp_path / "out2")
    assert report.dropped == ("lm_head.weight",)
    assert "lm_head.weight" not in Checkpoint(tmp_path / "out2")


@pytest.mark.parametrize(
    "method", ["linear", "ties", "dare_ties", "breadcrumbs", "slerp", "della", "model_stock"]
)
def test_threads_pieces_and_shards_do_not_matter(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = torch.Generator().manual_seed(0)
    shapes = {"wide": (300, 70), "tall": (900, 40), "vector": (500,), "scalar": ()}
    ground = {k: torch.randn(s, generator=draw).bfloat16() for k, s in shapes.items()}
    for i in range(3):
        noise = {k: 0.05 * torch.randn(s, generator=draw) for k, s in shapes.items()} if i else {}
        (tmp_path / str(i)).mkdir()
        tensors = {k: (v.float() + noise.get(k, 0)).bfloat16() for k, v in ground.items()}
        save_file(tensors, tmp_path / str(i) / "model.safetensors")
    inputs = [tmp_path / "1", tmp_path / "2"]
    settings = {"rescale": "l1"} if method in ("dare_ties", "della") else {}
    prints = set()
    for number, (threads, size) in enumerate([(1, 10**9), (3, 10**9), (2, 9000)]):
        spec = _spec(method, inputs, tmp_path / "0", settings=settings, threads=threads, shard_size=size)
        report = merge(spec, tmp_path / f"out{number}")
        prints.add(report.fingerprint)
    assert len(prints) == 1
    assert len(list((tmp_path / "out2").glob("*.safetensors"))) > 1
    # In pieces of a few hundred values the result is the same but for the rounding of sums.
    monkeypatch.setattr("mergers._stream.PIECE", 280)
    merge(_spec(method, inputs, tmp_path / "0", settings=settings), tmp_path / "pieces")
    whole, pieces = _tensors(tmp_path / "out0"), _tensors(tmp_path / "pieces")
    for key in whole:
        assert torch.allclose(whole[key].float(), pieces[key].float(), rtol=2**-7, atol=1e-6), key


def test_the_scope_of_a_whole_model_keeps_k_of_all_elements(tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    base = {"calm": torch.zeros(100, 90), "busy": torch.zeros(70, 60), "steady": torch.zeros(500)}
    sizes = {"calm": 0.1, "busy": 1.0, "steady": 0.5}
    expert = {k: torch.randn(v.shape, generator=draw) * sizes[k] for k, v in base.items()}
    for folder, tensors in (("base", base), ("expert", expert)):
        (tmp_path / folder).mkdir()
        save_file(tensors, tmp_path / folder / "model.safetensors")
    settings = {"scope": "model", "density": 0.2}
    merge(_spec("ties", [tmp_path / "expert"], tmp_path / "base", settings=settings), tmp_path / "out")
    found = _tensors(tmp_path / "out")
    everything = torch.cat([v.abs().flatten() for v in expert.values()])
    threshold = everything.topk(int(0.2 * len(everything))).values[-1]
    for key, value in expert.items():
        assert torch.equal(found[key], value * (value.abs() >= threshold)), key


Change = Callable[[Path, dict[str, Tensor]], None]


HEAD = "language_model.lm_head.weight"


def _misshapen(folder: Path, tensors: dict[str, Tensor]) -> None:
    tensors[HEAD] = tensors[HEAD][:-1].clone()


def _missing(folder: Path, tensors: dict[str, Tensor]) -> None:
    del tensors[HEAD]


def _extra(folder: Path, tensors: dict[str, Tensor]) -> None:
    tensors["value_head.weight"] = torch.ones(3)


def _nan(folder: Path, tensors: dict[str, Tensor]) -> None:
    tensors[HEAD][0, 0] = float("nan")


def _huge(folder: Path, tensors: dict[str, Tensor]) -> None:
    tensors[HEAD] = torch.full_like(tensors[HEAD], 3e38)


def _edit(change: dict[str, Any]) -> Change:
    def apply(folder: Path, tensors: dict[str, Tensor]) -> None:
        file = folder / "config.json"
        config = json.loads(file.read_text())
        config["text_config"] |= change
        file.write_text(json.dumps(config))

    return apply


def _quantized(folder: Path, tensors: dict[str, Tensor]) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"quantization_config": {"bits": 4}}))


@pytest.mark.parametrize(
    ("change", "sentence", "allow"),
    [
        (_misshapen, rf"'{HEAD}' is \[127, 32\] in .* but \[128, 32\] in", None),
        (_missing, f"lacks the tensor '{HEAD}'", None),
        (_extra, "has the tensor 'value_head.weight', which .* does not have", "extra"),
        (_nan, f"'{HEAD}' of .* holds values that are not finite", None),
        (_huge, "gives values that bfloat16 cannot hold|times as long as the longest", None),
        (_edit({"num_attention_heads": 8}), "is configured otherwise.*num_attention_heads", "config"),
        (_quantized, "is quantized", "quantized"),
    ],
)  # fmt: skip
def test_a_model_that_does_not_belong_is_refused_and_nothing_is_written(
    change: Change, sentence: str, allow: str | None, base_of: Base, experts_of: Experts, tmp_path: Path
) -> None:
    base = base_of("llava")
    tensors = _tensors(experts_of("llava")[0])
    bad = tmp_path / "bad"
    shutil.copytree(base, bad)
    change(bad, tensors)
    save_file(tensors, bad / "model.safetensors")
    settings = {"scale": 4.0} if change is _huge else {}
    spec = _spec("task_arithmetic", [bad], base, settings=settings)
    with pytest.raises(MergeError, match=sentence):
        merge(spec, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["bad"]
    if allow:
        merge(_spec("task_arithmetic", [bad], base, allow=[allow]), tmp_path / "out")


def test_tokenizers_with_other_numbers_are_refused(
    base_of: Base, experts_of: Experts, tmp_path: Path
) -> None:
    base = base_of("qwen_omni")
    other = _write(tmp_path / "other", _tensors(experts_of("qwen_omni")[0]), base)
    file = other / "tokenizer.json"
    data = json.loads(file.read_text())
    file.write_text(json.dumps(data, indent=3))
    plan(_spec("linear", [other], base))  # only written otherwise
    words = data["model"]["vocab"]
    one, two = list(words)[40:42]
    words[one], words[two] = words[two], words[one]
    file.write_text(json.dumps(data))
    with pytest.raises(MergeError, match=r"the tokenizers of .* differ: '.*' has another number"):
        plan(_spec("linear", [other], base))
    plan(_spec("linear", [other], base, allow=["tokenizer"]))


def test_an_output_that_is_no_merge_is_never_replaced(
    base_of: Base, experts_of: Experts, tmp_path: Path
) -> None:
    base, experts = base_of("llava"), experts_of("llava")
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/thesis.txt").write_text("x")
    with pytest.raises(MergeError, match="holds files that no merge wrote"):
        merge(_spec("linear", experts, base), tmp_path / "precious")
    with pytest.raises(MergeError, match="is or contains the input"):
        merge(_spec("linear", experts, base), experts[0].parent)
    merge(_spec("linear", experts, base), tmp_path / "out")
    merge(_spec("ties", experts, base), tmp_path / "out")  # a merge may be made again
    assert (tmp_path / "precious/thesis.txt").read_text() == "x"


def test_wrong_names_settings_and_numbers_of_models_are_told_with_what_is_allowed(
    base_of: Base, experts_of: Experts
) -> None:
    base, experts = base_of("llava"), experts_of("llava")
    with pytest.raises(UnknownName, match=r"unknown merge method 'tise'; did you mean 'ties'\?"):
        plan(_spec("tise", experts, base))
    with pytest.raises(ConfigError, match=r"ties: unknown setting 'densty'; did you mean 'density'\?"):
        plan(_spec("ties", experts, base, settings={"densty": 0.2}))
    with pytest.raises(ConfigError, match=r"density must lie in \(0, 1\], not 1.5"):
        plan(_spec("ties", experts, base, settings={"density": 1.5}))
    with pytest.raises(ConfigError, match="weight has 3 values for 2 models"):
        plan(_spec("ties", experts, base, settings={"weight": [1, 2, 3]}))
    with pytest.raises(ConfigError, match=r"unknown value of elect 'wieghted'; did you mean 'weighted'\?"):
        plan(_spec("ties", experts, base, settings={"elect": "wieghted"}))
    with pytest.raises(ConfigError, match="unknown preset of ties 'papre'"):
        plan(_spec("ties", experts, base, settings={"preset": "papre"}))
    models = [{"path": str(experts[0]), "scale": 2.0}, str(experts[1])]
    spec = MergeSpec.from_mapping({"method": "ties", "base": str(base), "models": models})
    with pytest.raises(ConfigError, match="scale is one setting for all models"):
        plan(spec)
    with pytest.raises(MergeError, match="slerp merges 2 models, not 1"):
        plan(_spec("slerp", experts[:1], base))
    with pytest.raises(CheckpointError, match="is not a folder"):
        plan(_spec("ties", [Path("nowhere")], base))
    with pytest.raises(MergeError, match="unknown check 'tokeniser'; did you mean 'tokenizer'"):
        plan(_spec("ties", experts, base, allow=["tokeniser"]))


def test_a_plan_reads_headers_only_and_names_every_tensor(base_of: Base, experts_of: Experts) -> None:
    text = plan(_spec("ties", experts_of("gemma4"), base_of("gemma4"))).text(full=True)
    assert all(name in text for name in Checkpoint(base_of("gemma4")).names())
    assert "200 merged" in text
