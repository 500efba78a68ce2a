"""Whatever is wrong with what is to be merged is told in one sentence, and nothing is written."""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save, save_file
from torch import Tensor

from apps.cli import main

UP, DOWN = "model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.down_proj.weight"
SHAPES = {UP: (6, 4), DOWN: (4, 6)}
INDEX = "model.safetensors.index.json"


def _tensors(seed: int) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=draw) for name, shape in SHAPES.items()}


@dataclass
class Place:
    """A base, two models ``one`` and ``two``, two adapters ``left`` and ``right``; the second gets hurt."""

    root: Path

    def __post_init__(self) -> None:
        for number, name in enumerate(("base", "one", "two")):
            (self.root / name).mkdir()
            save_file(_tensors(number), self.root / name / "model.safetensors")
            (self.root / name / "config.json").write_text('{"model_type": "nothing_known"}')
        for number, name in enumerate(("left", "right")):
            draw = torch.Generator().manual_seed(number)
            self.adapter(
                name,
                {
                    f"{module.removesuffix('.weight')}.lora_{side}.weight": torch.randn(size, generator=draw)
                    for module, (rows, columns) in SHAPES.items()
                    for side, size in (("A", (2, columns)), ("B", (rows, 2)))
                },
            )

    def adapter(self, name: str, factors: dict[str, Tensor], **config: Any) -> None:
        """Write an adapter's files."""
        folder = self.root / name
        folder.mkdir(exist_ok=True)
        stated = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "base_model_name_or_path": ""} | config
        (folder / "adapter_config.json").write_text(json.dumps(stated))
        save_file(
            {f"base_model.model.{k}": v for k, v in factors.items()}, folder / "adapter_model.safetensors"
        )

    @property
    def weights(self) -> Path:
        """The weight file that gets hurt."""
        return self.root / "two/model.safetensors"

    @property
    def factors(self) -> dict[str, Tensor]:
        """The factors of the adapter that gets hurt."""
        from safetensors.torch import load_file

        found = load_file(self.root / "right/adapter_model.safetensors")
        return {k.removeprefix("base_model.model."): v for k, v in found.items()}

    def header(self, change: Callable[[dict[str, Any]], None], data: bytes | None = None) -> None:
        """Write the hurt model's weights with a changed header."""
        raw = save(_tensors(2))
        length = int.from_bytes(raw[:8], "little")
        found = json.loads(raw[8 : 8 + length])
        change(found)
        text = json.dumps(found).encode()
        self.weights.write_bytes(
            struct.pack("<Q", len(text)) + text + (raw[8 + length :] if data is None else data)
        )

    def index(self, mapping: Any, **files: dict[str, Tensor]) -> None:
        """Turn the hurt model into shards under an index."""
        self.weights.unlink()
        for name, tensors in files.items():
            save_file(tensors, self.root / f"two/{name}.safetensors")
        (self.root / "two" / INDEX).write_text(json.dumps({"weight_map": mapping}))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def refused(place: Place, capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    """Run a merge that must be refused; return the sentence."""
    before = sorted(place.root.rglob("*"))
    capsys.readouterr()
    assert main(["merge", *map(str, arguments), "-o", str(place.root / "out")]) == 2
    told = capsys.readouterr()
    assert sorted(place.root.rglob("*")) == before, "something was written"
    *stages, sentence = told.err.splitlines()
    assert sentence.startswith("triptych: ")
    assert all(line.startswith("merge ") for line in stages), "more than one sentence"
    assert told.out == ""
    return sentence


def models(place: Place) -> list[Any]:
    return [
        "--method",
        "task_arithmetic",
        "--base",
        place.root / "base",
        place.root / "one",
        place.root / "two",
    ]


def adapters(place: Place) -> list[Any]:
    return ["--method", "linear", place.root / "left", place.root / "right"]


def _reshaped(place: Place) -> None:
    save_file(_tensors(2) | {UP: torch.ones(6, 5)}, place.weights)


def _lacking(place: Place) -> None:
    save_file({UP: _tensors(2)[UP]}, place.weights)


def _with(name: str, value: float) -> Callable[[Place], None]:
    def change(place: Place) -> None:
        tensors = _tensors(2)
        tensors[name][1, 1] = value
        save_file(tensors, place.weights)

    return change


@pytest.mark.parametrize(
    ("hurt", "sentence"),
    [
        (_reshaped, [f"'{UP}' is [6, 5] in", "/two but [6, 4] in", "/base"]),
        (_lacking, ["/two lacks the tensor", DOWN]),
        (_with(UP, float("nan")), [f"'{UP}' of", "/two holds values that are not finite"]),
        (_with(DOWN, float("-inf")), [f"'{DOWN}' of", "/two holds values that are not finite"]),
    ],
    ids=["shape", "missing", "nan", "infinity"],
)
def test_weights_that_cannot_be_merged(
    place: Place, capsys: pytest.CaptureFixture[str], hurt: Callable[[Place], None], sentence: list[str]
) -> None:
    hurt(place)
    told = refused(place, capsys, *models(place))
    assert all(part in told for part in sentence), told


def _cut(size: int) -> Callable[[Place], None]:
    return lambda place: place.weights.write_bytes(place.weights.read_bytes()[:size]) and None


def _entry(**change: Any) -> Callable[[Place], None]:
    return lambda place: place.header(lambda found: found[UP].update(change))


def _raw(header: bytes, claimed: int | None = None) -> Callable[[Place], None]:
    length = len(header) if claimed is None else claimed
    return lambda place: place.weights.write_bytes(struct.pack("<Q", length) + header) and None


FILES: dict[str, tuple[Callable[[Place], None], str]] = {
    "empty": (_cut(0), "is no whole safetensors file"),
    "cut in the length": (_cut(5), "is no whole safetensors file"),
    "cut in the header": (_cut(40), "is no whole safetensors file"),
    "cut in the data": (_cut(-8), "is truncated"),
    "huge length": (_raw(b"{}", 2**63), "is no whole safetensors file"),
    "length beyond the file": (_raw(b"{}", 3), "is no whole safetensors file"),
    "no json": (_raw(b"{'a': 1}"), "no valid JSON"),
    "no text": (_raw(b"\xff\xfe\xfa"), "no valid JSON"),
    "no object": (_raw(b"[1, 2]"), "no JSON object"),
    "bottomless": (_raw(b"[" * 200_000), "no valid JSON"),
    "long number": (_raw(b'{"a": ' + b"9" * 5000 + b"}"), "no valid JSON"),
    "twice": (_raw(b'{"a": {}, "a": {}}'), "'a' appears twice"),
    "no description": (lambda p: p.header(lambda h: h.update({UP: 3})), "has no description"),
    "overlap": (lambda p: p.header(lambda h: h[UP].update(data_offsets=h[DOWN]["data_offsets"])), "overlaps"),
    "hole": (lambda p: p.header(lambda h: h.pop(DOWN)), "hole"),
    "out of range": (_entry(data_offsets=[2**40, 2**40 + 96]), "overlaps another or leaves a hole"),
    "negative offset": (_entry(data_offsets=[-96, 0]), "its offsets -96..0"),
    "backwards": (_entry(data_offsets=[96, 0]), "its offsets 96..0"),
    "offset no number": (_entry(data_offsets=["0", "96"]), "two whole numbers"),
    "offset true": (_entry(data_offsets=[False, True]), "two whole numbers"),
    "negative shape": (_entry(shape=[-6, -4]), "a list of whole numbers"),
    "huge shape": (_entry(shape=[2**40, 2**40]), "its offsets"),
    "unknown type": (_entry(dtype="F31"), "has the unknown type 'F31'"),
    "bytes left over": (lambda p: p.header(lambda h: None, b"\0" * 1000), "bytes that no tensor owns"),
    "metadata": (lambda p: p.header(lambda h: h.update(__metadata__={"a": 1})), "__metadata__"),
    "a pickle in disguise": (
        lambda p: p.weights.write_bytes(pickle.dumps({"weights": list(range(100))})) and None,
        "is no whole safetensors file",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_a_weight_file_that_lies(name: str, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    hurt, sentence = FILES[name]
    hurt(place)
    told = refused(place, capsys, *models(place))
    assert sentence in told
    assert "two/model.safetensors" in told


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth", "weights.ckpt"])
def test_pickles_are_never_read(name: str, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(place.root / "exploded"),)

    place.weights.unlink()
    (place.root / "two" / name).write_bytes(pickle.dumps(Bomb()))
    told = refused(place, capsys, *models(place))
    assert f"/two holds only pickle weights ({name}), which can run code when read; convert them" in told
    (place.root / "right/adapter_model.safetensors").unlink()
    (place.root / "right/adapter_model.bin").write_bytes(pickle.dumps(Bomb()))
    assert "/right holds only pickle weights (adapter_model.bin)" in refused(place, capsys, *adapters(place))


INDEXES: dict[str, tuple[Any, str]] = {
    "the parent": (
        {UP: "../one/model.safetensors", DOWN: "a.safetensors"},
        "a shard is a .safetensors file in",
    ),
    "a root": ({UP: "/etc/model.safetensors"}, "a shard is a .safetensors file in the folder"),
    "backslashes": ({UP: "..\\one\\model.safetensors"}, "a shard is a .safetensors file in the folder"),
    "itself": ({UP: INDEX}, "a shard is a .safetensors file in the folder"),
    "a pickle": ({UP: "a.bin"}, "a shard is a .safetensors file in the folder"),
    "nowhere": ({UP: "b.safetensors"}, "names the shard 'b.safetensors', which is missing"),
    "a circle": ({UP: "circle.safetensors"}, "which is missing"),
    "no name": ({UP: "a\0.safetensors"}, "which is missing"),
    "each other": ({UP: "a.safetensors", DOWN: "b.safetensors"}, "which is missing"),
    "a tensor that is not there": (
        {UP: "a.safetensors", "ghost": "a.safetensors"},
        "promises the tensor 'ghost'",
    ),
    "nothing": ({}, "weight_map must map tensor names to file names"),
    "a list": ([UP], "weight_map must map tensor names to file names"),
    "numbers": ({UP: 3}, "weight_map must map tensor names to file names"),
}


@pytest.mark.parametrize("name", INDEXES)
def test_an_index_that_leads_astray(name: str, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    mapping, sentence = INDEXES[name]
    place.index(mapping, a=_tensors(2))
    (place.root / "two/circle.safetensors").symlink_to(place.root / "two/circle.safetensors")
    told = refused(place, capsys, *models(place))
    assert sentence in told
    assert f"two/{INDEX}" in told


def test_an_index_that_swaps_its_shards(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = _tensors(2)
    shards = {"a": {UP: tensors[UP]}, "b": {DOWN: tensors[DOWN]}}
    place.index({UP: "b.safetensors", DOWN: "a.safetensors"}, **shards)
    assert f"promises the tensor '{UP}' in 'b.safetensors', where it is not" in refused(
        place, capsys, *models(place)
    )


def _factor(end: str, change: Callable[[Tensor], Tensor | None]) -> Callable[[Place], None]:
    def hurt(place: Place) -> None:
        found = {}
        for name, factor in place.factors.items():
            changed = change(factor) if name.endswith(end) else factor
            if changed is not None:
                found[name] = changed.contiguous()
        place.adapter("right", found)

    return hurt


def _config(**change: Any) -> Callable[[Place], None]:
    return lambda place: place.adapter("right", place.factors, **change)


UP_A, UP_B = "up_proj.lora_A.weight", "up_proj.lora_B.weight"
ADAPTERS: dict[str, tuple[Callable[[Place], None], str]] = {
    "lacks a factor": (_factor(UP_B, lambda f: None), "lacks one of its two factors"),
    "another width": (_factor(UP_A, lambda f: torch.ones(2, 5)), "is [6, 5] in"),
    "another rank": (_config(r=3), "has rank 2, adapter_config.json says 3"),
    "factors that do not fit": (_factor(UP_B, lambda f: torch.ones(6, 3)), "do not fit"),
    "a factor without axes": (_factor(UP_A, lambda f: torch.tensor(1.0)), "up_proj"),
    "a factor with one axis": (_factor(UP_B, lambda f: torch.ones(6)), "up_proj"),
    "no number": (_factor(UP_A, lambda f: f * float("nan")), "holds values that are not finite"),
    "infinity": (_factor(UP_B, lambda f: f / 0), "holds values that are not finite"),
    "unknown tensor": (
        lambda p: p.adapter("right", p.factors | {"model.layers.0.mlp.lora_X.weight": torch.ones(1)}),
        "cannot tell what the tensor",
    ),
    "another type": (_config(peft_type="IA3"), "is an adapter of type IA3, and only LORA"),
    "relative": (_config(init_lora_weights="pissa"), "starts from pissa"),
    "rank in words": (_config(r="two"), "adapter_config.json"),
    "no alpha": (_config(lora_alpha=None), "adapter_config.json"),
    "alpha in words": (_config(lora_alpha="much"), "adapter_config.json"),
    "infinite alpha": (_config(lora_alpha=float("inf")), "adapter_config.json"),
    "broken pattern": (_config(rank_pattern={"(": 2}), "adapter_config.json"),
    "pattern in words": (_config(alpha_pattern={"up_proj": "much"}), "adapter_config.json"),
    "patterns in a list": (_config(rank_pattern=["up_proj"]), "adapter_config.json"),
    "no json": (
        lambda p: (p.root / "right/adapter_config.json").write_text("{") and None,
        "adapter_config.json cannot be read as JSON",
    ),
    "no weights": (
        lambda p: (p.root / "right/adapter_model.safetensors").unlink(),
        "holds no safetensors weights",
    ),
}


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize("method", ["linear", "ties"])
def test_an_adapter_that_is_damaged(
    name: str, method: str, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    hurt, sentence = ADAPTERS[name]
    hurt(place)
    told = refused(place, capsys, "--method", method, *adapters(place)[2:])
    assert sentence in told
    assert "/right" in told


ASKED: dict[str, tuple[list[str], str]] = {
    "unknown method": (["--method", "tise"], "unknown merge method 'tise'; did you mean 'ties'?"),
    "no density": (["--method", "ties", "--density", "0"], "density must lie in (0, 1], not 0"),
    "negative density": (["--method", "dare_ties", "--density=-0.1"], "density must lie in (0, 1], not -0.1"),
    "too much": (["--method", "dare_linear", "--density", "1.5"], "density must lie in (0, 1], not 1.5"),
    "density no number": (["--method", "ties", "--density", ".nan"], "density must be a number"),
    "density in words": (["--method", "della", "--density", "most"], "density must be a number, not 'most'"),
    "unknown setting": (["--method", "ties", "--densty", "0.2"], "did you mean 'density'?"),
    "weight no number": (["--method", "linear", "--weight", ".inf"], "weight must be a number"),
    "too many weights": (["--method", "ties", "--weight", "[1, 2, 3]"], "weight has 3 values for 2 models"),
    "unknown check": (["--method", "ties", "--allow", "tokeniser"], "did you mean 'tokenizer'?"),
    "rank": (["--method", "ties", "--rank", "0"], "rank must be 'lossless', a whole number >= 1 or a share"),
    "no base": (["--method", "linear", "--base", "nowhere/base"], "nowhere/base"),
}


@pytest.mark.parametrize("name", ASKED)
def test_what_cannot_be_done_is_told_with_what_can(
    name: str, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    flags, sentence = ASKED[name]
    assert sentence in refused(place, capsys, *flags, *adapters(place)[2:])


@pytest.mark.parametrize("method", ["linear", "task_arithmetic", "ties", "dare_linear", "dare_ties", "della"])
def test_negative_weights_are_allowed_where_they_mean_something(
    method: str, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    out = place.root / "out"
    models = [f"{place.root / 'left'}:1.0", f"{place.root / 'right'}:-0.4"]
    assert main(["merge", "--method", method, *models, "-o", str(out)]) == 0
    assert (out / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("method: !!python/object/apply:os.system ['true']", "no valid YAML"),
        ("method: ties\nmodels: [left", "no valid YAML"),
        ("method: ties\nmodels: &a [*a]", "a model is a path"),
        ("models: [left]", "'method' is missing"),
    ],
)
def test_a_merge_file_that_is_none(
    text: str, sentence: str, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    file = place.root / "merge.yaml"
    file.write_text(text)
    assert sentence in refused(place, capsys, file)


def test_a_name_cannot_write_to_the_terminal(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    save_file(_tensors(2) | {"\x1b]0;owned\x07\x1b[2J": torch.ones(2)}, place.weights)
    told = refused(place, capsys, *models(place))
    assert "\x1b" not in told
    assert "owned" in told
