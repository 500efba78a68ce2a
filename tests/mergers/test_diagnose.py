"""Figures of experts and their merge equal those of the dense deltas, and make a page to look at."""

from __future__ import annotations

import json
import math
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from apps.cli import main
from mergers import MergeSpec, diagnose, merge
from mergers._diagnose import short_names
from mergers._diagnosis_page import told
from mergers._subspaces import leading_bases, overlap
from studio.adapters import Factors, read_adapter, write_adapter
from studio.checkpoint import Checkpoint
from studio.errors import MergeError

Deltas = list[dict[str, Tensor]]

NAMES = {
    "model.layers.0.self_attn.q_proj": (40, 30),
    "model.layers.1.self_attn.q_proj": (40, 30),
    "model.visual.blocks.0.attn.q": (24, 24),
}


def _adapter(folder: Path, seed: int, rank: int, names: dict[str, tuple[int, int]] = NAMES) -> Path:
    draw = torch.Generator().manual_seed(seed)
    modules = {
        name: Factors(
            a=torch.randn(rank, shape[1], generator=draw),
            b=torch.randn(shape[0], rank, generator=draw) * (1 + seed) * 0.1,
            shape=shape,
        )
        for name, shape in names.items()
    }
    return write_adapter(folder, modules, base="")


@pytest.fixture
def adapters(tmp_path: Path) -> list[Path]:
    """Return three adapters of several ranks; the last leaves a module alone."""
    some = dict(list(NAMES.items())[:2])
    return [
        _adapter(tmp_path / "one", 0, 3),
        _adapter(tmp_path / "two", 1, 5),
        _adapter(tmp_path / "three", 2, 2, some),
    ]


def _dense(folders: list[Path]) -> Deltas:
    found = []
    for folder in folders:
        modules = dict(read_adapter(folder).modules)
        found.append(
            {n: modules[n].delta().double() if n in modules else torch.zeros(s) for n, s in NAMES.items()}
        )
    return found


def _overlap(one: Tensor, other: Tensor) -> float:
    """Return the mean squared cosine of the principal angles between column spaces, found densely."""
    bases = []
    for matrix in (one, other):
        u, values, _ = torch.linalg.svd(matrix, full_matrices=False)
        bases.append(u[:, values > 1e-6 * values[0]])
    return float(torch.linalg.svdvals(bases[0].T @ bases[1]).square().mean())


def test_figures_of_adapters_are_those_of_their_dense_deltas_and_need_no_base(adapters: list[Path]) -> None:
    found = diagnose(MergeSpec.from_flags(method="ties", models=list(map(str, adapters))))
    dense = _dense(adapters)
    assert found.models == ("one", "two", "three")
    assert [m.name for m in found.modules] == list(NAMES)
    for module in found.modules:
        parts = [d[module.name] for d in dense]
        figures = module.figures
        for i, one in enumerate(parts):
            assert figures.norms[i] == pytest.approx(float(one.norm()), rel=1e-6)
            for j, other in enumerate(parts):
                if not (one.any() and other.any()):
                    assert math.isnan(figures.cosine[i, j])
                    continue
                cosine = float((one * other).sum() / one.norm() / other.norm())
                assert figures.cosine[i, j] == pytest.approx(cosine, abs=1e-6)
                conflict = float((one.sign() * other.sign() < 0).double().mean())
                assert figures.conflicts[i, j] == pytest.approx(conflict, abs=2e-3)
                outputs, inputs = figures.overlaps
                assert outputs[i, j] == pytest.approx(_overlap(one, other), rel=1e-5)
                assert inputs[i, j] == pytest.approx(_overlap(one.T, other.T), rel=1e-5)
        total = sum(parts)
        mass = sum(p.abs().sum() for p in parts)
        assert figures.cancelled == pytest.approx(float(1 - total.abs().sum() / mass), rel=1e-5)
        squares = torch.linalg.svdvals(total).square()
        largest = max(
            read_adapter(a).rank(module.name) for a in adapters if module.name in read_adapter(a).names()
        )
        assert figures.kept == pytest.approx(float(squares[:largest].sum() / squares.sum()), rel=1e-5)
    flat = [torch.cat([d[n].flatten().double() for n in NAMES]) for d in dense]
    assert found.whole.norms == pytest.approx([float(f.norm()) for f in flat], rel=1e-6)
    assert found.whole.cosine[0, 1] == pytest.approx(
        float(torch.cosine_similarity(*flat[:2], dim=0)), abs=1e-6
    )
    assert {(t, n) for t, n in found.groups} == {("llm", 0), ("llm", 1), ("vision", 0)}


def test_a_merge_is_measured_against_its_experts(adapters: list[Path], tmp_path: Path) -> None:
    models = [f"{path}:{weight}" for path, weight in zip(adapters, (0.7, 0.2, -0.4), strict=True)]
    spec = MergeSpec.from_flags(method="task_arithmetic", models=models)
    merge(spec, tmp_path / "merged")
    found = diagnose(spec, tmp_path / "merged").whole
    dense = [torch.cat([d[n].flatten().double() for n in NAMES]) for d in _dense(adapters)]
    truth = 0.7 * dense[0] + 0.2 * dense[1] - 0.4 * dense[2]
    assert found.merged == pytest.approx(float(truth.norm()), rel=1e-5)
    assert found.ratio == pytest.approx(float(truth.norm() / max(d.norm() for d in dense)), rel=1e-5)
    assert found.shares == pytest.approx([float(truth @ d / (d @ d)) for d in dense], rel=1e-4)
    assert found.explained == pytest.approx(1.0, abs=1e-6)
    again = diagnose((adapters, tmp_path / "merged"))
    assert again.whole.shares == found.shares
    merge(MergeSpec.from_flags(method="ties", models=list(map(str, adapters))), tmp_path / "ties")
    trimmed = diagnose((adapters, tmp_path / "ties")).whole.explained
    assert trimmed is not None
    assert 0 < trimmed < 1


@pytest.fixture
def models(tmp_path: Path) -> tuple[Path, list[Path], Deltas]:
    """Return a base, two full models of which one is a low-rank change of it, and their deltas."""
    draw = torch.Generator().manual_seed(0)
    shapes = {"model.layers.0.mlp.up_proj.weight": (96, 64), "model.norm.weight": (64,)}
    base = {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}
    low = torch.randn(96, 3, generator=draw) @ torch.randn(3, 64, generator=draw)
    one = {"model.layers.0.mlp.up_proj.weight": low, "model.norm.weight": torch.zeros(64)}
    two = {name: 0.1 * torch.randn(shape, generator=draw) for name, shape in shapes.items()}
    folders = []
    for name, delta in (("base", None), ("low", one), ("wide", two)):
        (tmp_path / name).mkdir()
        tensors = {k: v + delta[k] if delta else v for k, v in base.items()}
        tensors |= {"mask": torch.full((3,), -math.inf), "position_ids": torch.arange(4)}
        save_file(tensors, tmp_path / name / "model.safetensors")
        folders.append(tmp_path / name)
    return folders[0], folders[1:], [one, two]


@pytest.mark.parametrize("piece", [1 << 17, 640])
def test_full_models_are_streamed_against_their_base(
    models: tuple[Path, list[Path], Deltas], piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mergers._measure.PIECE", piece)
    base, experts, dense = models
    found = diagnose(MergeSpec.from_flags(method="ties", models=list(map(str, experts)), base=base))
    assert found.skipped == 1  # the mask of infinities; whole numbers have no figures either
    for module in found.modules:
        one, two = (d[module.name].double() for d in dense)
        figures = module.figures
        assert figures.norms == pytest.approx([float(one.norm()), float(two.norm())], rel=1e-5, abs=1e-6)
        if module.name.endswith("up_proj.weight"):
            cosine = float((one * two).sum() / one.norm() / two.norm())
            assert figures.cosine[0, 1] == pytest.approx(cosine, abs=1e-5)
            assert figures.conflict == pytest.approx(float((one * two < 0).double().mean()), abs=1e-3)
            assert figures.overlaps[0][0, 0] == pytest.approx(1)
        else:
            assert figures.conflict is None
            assert figures.overlap is None
    with pytest.raises(MergeError, match="name the base"):
        diagnose((experts, experts[0]))


def test_the_leading_directions_are_found_row_by_row() -> None:
    draw = torch.Generator().manual_seed(0)
    matrix = torch.randn(300, 20, generator=draw) @ torch.randn(20, 200, generator=draw)
    matrix += 0.001 * torch.randn(300, 200, generator=draw)

    def rows() -> Any:
        for begin in range(0, 300, 70):
            yield begin, [matrix[begin : begin + 70], None]

    first, none = leading_bases((300, 200), 2, rows)
    assert none is None
    assert first is not None
    u, _, vt = torch.linalg.svd(matrix)
    assert overlap(first[0], u[:, :20])[0] == pytest.approx(1, abs=1e-4)
    assert overlap(first[1], vt[:20].T)[0] == pytest.approx(1, abs=1e-4)


def test_overlap_is_one_for_the_same_space_zero_for_orthogonal_ones_and_by_chance_in_between() -> None:
    draw = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(400, 32, generator=draw)).Q
    turn = torch.linalg.qr(torch.randn(8, 8, generator=draw)).Q
    same = overlap(basis[:, :8], basis[:, :8] @ turn)
    assert same[0] == pytest.approx(1, abs=1e-6)
    assert same[1] == pytest.approx(0, abs=2e-3)  # an arc cosine near 1 loses half of the digits
    none = overlap(basis[:, :8], basis[:, 8:16])
    assert none[0] == pytest.approx(0, abs=1e-10)
    assert none[1] == pytest.approx(math.sqrt(8) * math.pi / 2, rel=1e-5)
    other = torch.linalg.qr(torch.randn(400, 8, generator=draw)).Q
    by_chance = overlap(basis, other)
    assert by_chance[0] == pytest.approx(by_chance[2], rel=0.3)
    assert by_chance[2] == 32 / 400


def test_a_large_module_is_sampled_and_the_shares_stay_close(tmp_path: Path) -> None:
    large = {"model.layers.0.mlp.up_proj": (3000, 1200)}
    folders = [_adapter(tmp_path / str(i), i, 4, large) for i in range(2)]
    found = diagnose(MergeSpec.from_flags(method="linear", models=list(map(str, folders)))).whole
    one, two = (read_adapter(f).factors("model.layers.0.mlp.up_proj").delta() for f in folders)
    assert found.conflict == pytest.approx(float((one * two < 0).float().mean()), abs=0.02)
    assert found.both[0, 1] == pytest.approx(one.numel(), rel=1e-3)
    assert found.cosine[0, 1] == pytest.approx(float((one * two).sum() / one.norm() / two.norm()), abs=1e-5)


def test_adapters_that_need_the_base_give_the_figures_of_the_baked_models(
    tmp_path: Path,
) -> None:
    draw = torch.Generator().manual_seed(0)
    module, norm, shape = "model.layers.0.self_attn.q_proj", "model.norm.weight", (40, 30)
    ground = {
        f"{module}.weight": torch.randn(shape, generator=draw),
        norm: torch.ones(30),
        "other": torch.ones(5),
    }
    (tmp_path / "base").mkdir()
    save_file(ground, tmp_path / "base/model.safetensors")
    base = Checkpoint(tmp_path / "base")
    for name in ("one", "two"):
        factors = Factors(
            a=torch.randn(2, shape[1], generator=draw),
            b=0.1 * torch.randn(shape[0], 2, generator=draw),
            shape=shape,
            magnitude=1 + torch.rand(shape[0], generator=draw),
        )
        value = base.read(norm).float() + 0.1 * torch.randn(base.shape(norm), generator=draw)
        write_adapter(tmp_path / name, {module: factors}, base=str(base.folder), values={norm: value})
    inputs = [str(tmp_path / "one"), str(tmp_path / "two")]
    found = diagnose(MergeSpec.from_flags(method="linear", models=inputs))
    for i, name in enumerate(inputs):
        spec = MergeSpec.from_flags(method="linear", models=[name], base=base.folder, output="model")
        merge(spec, tmp_path / f"full{i}")
    full = [str(tmp_path / "full0"), str(tmp_path / "full1")]
    baked = diagnose(MergeSpec.from_flags(method="linear", models=full, base=base.folder))
    mixed = diagnose(MergeSpec.from_flags(method="linear", models=[inputs[0], full[1]], base=base.folder))
    for other in (baked, mixed):
        changed = {m.name: m.figures for m in other.modules if any(m.figures.norms)}
        assert set(changed) == {f"{module}.weight", norm}
        for name, key in ((f"{module}.weight", module), (norm, norm)):
            own = next(m.figures for m in found.modules if m.name == key)
            assert np.allclose(own.gram, changed[name].gram, rtol=1e-4)
            assert own.conflict == pytest.approx(changed[name].conflict, abs=0.02)


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "br", "img"):
            self.open.append(tag)
        self.links += [value or "" for key, value in attrs if key in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_table_json_picture_and_page_are_written_and_stand_alone(
    adapters: list[Path], tmp_path: Path
) -> None:
    spec = MergeSpec.from_flags(method="ties", models=list(map(str, adapters)), rank=2)
    merge(spec, tmp_path / "merged")
    found = diagnose(spec, tmp_path / "merged", tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "diagnosis.html", "diagnosis.json", "diagnosis.png",
    ]  # fmt: skip
    data = json.loads((tmp_path / "out/diagnosis.json").read_text())
    assert [m["name"] for m in data["modules"]] == list(NAMES)
    assert {"norms", "cosine", "sign_conflict", "overlap", "grassmann", "kept_energy", "norm_ratio"} <= set(
        data["whole"]
    )
    assert data["modules"][2]["cosine"][0][2] is None  # the third expert leaves it alone
    picture = Image.open(BytesIO((tmp_path / "out/diagnosis.png").read_bytes()))
    assert picture.format == "PNG"
    assert picture.width > 600
    page = (tmp_path / "out/diagnosis.html").read_text()
    reader = _Page()
    reader.feed(page)
    assert reader.open == []
    assert reader.links == []
    for title in (
        "Cosine between",
        "Sign conflict",
        "Subspace overlap",
        "Energy kept",
        "Length of the merged",
    ):
        assert f"<b>{title}" in page
    assert all(sentence.split(";")[0] for sentence in told(found))
    assert [len(t.rows) for t in found.tables()] == [3, 4]


def test_names_in_a_page_are_text_and_never_markup(tmp_path: Path) -> None:
    folder = _adapter(tmp_path / "<script>alert(1)<", 0, 2)
    diagnose(MergeSpec.from_flags(method="linear", models=[str(folder)]), out=tmp_path / "out")
    assert "<script" not in (tmp_path / "out/diagnosis.html").read_text()


def test_names_are_as_short_as_they_can_be() -> None:
    paths = [Path("runs/a/adapter"), Path("runs/b/adapter"), Path("other/a/adapter")]
    assert short_names(paths) == ("runs/a", "runs/b", "other/a")
    assert short_names(paths[:2]) == ("a", "b")
    assert short_names([Path("x"), Path("x")]) == ("x (1)", "x (2)")


def test_what_cannot_be_compared_is_told(adapters: list[Path], tmp_path: Path) -> None:
    other = _adapter(tmp_path / "other", 0, 2, {"model.layers.0.self_attn.q_proj": (40, 31)})
    with pytest.raises(MergeError, match=r"q_proj' is \[40, 31\] in .*other but \[40, 30\] in another"):
        diagnose(MergeSpec.from_flags(method="linear", models=[str(adapters[0]), str(other)]))
    damaged = dict(read_adapter(adapters[0]).modules)
    name = next(iter(damaged))
    damaged[name].a[0, 0] = math.nan
    write_adapter(tmp_path / "damaged", damaged | {name: Factors(
        a=torch.full((1, 30), math.nan), b=torch.ones(40, 1), shape=(40, 30)
    )}, base="")  # fmt: skip
    with pytest.raises(MergeError, match=f"'{name}' of .*damaged holds values that are not finite"):
        diagnose(MergeSpec.from_flags(method="linear", models=[str(tmp_path / "damaged")]))


def test_the_command_line_diagnoses_before_a_merge_and_with_it(
    adapters: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    command = ["merge", "--method", "ties", *map(str, adapters), "--diagnose", str(tmp_path / "page")]
    assert main([*command, "--dry-run"]) == 0
    assert json.loads((tmp_path / "page/diagnosis.json").read_text())["merged"] is None
    assert main([*command, "-o", str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "page/diagnosis.json").read_text())["whole"]["norm_ratio"] > 0
    assert "the merged change carries" in capsys.readouterr().out
    (tmp_path / "file").write_text("")
    assert main([*command[:-1], str(tmp_path / "file"), "-o", str(tmp_path / "other")]) == 2
    assert not (tmp_path / "other").exists()
