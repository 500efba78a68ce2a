"""RegMean is the least-squares solution, on Gram matrices that the models' own data gives."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mergers import MergeSpec, merge, plan, verify
from mergers._place import Place
from mergers.regmean import merge as regmean
from studio.adapters import Factors, read_adapter, write_adapter
from studio.checkpoint import Checkpoint
from studio.errors import CheckpointError, ConfigError, DataError, MergeError
from studio.families import family
from studio.statistics import Statistics, collect, write_statistics

Questions = Callable[[str, int], list[Any]]
LAYER = "model.layers.0.mlp.up_proj.weight"


def _layers(rows: int, columns: int, counts: list[int], seed: int = 0) -> tuple[list[Tensor], list[Tensor]]:
    draw = torch.Generator().manual_seed(seed)
    weights = [torch.randn(rows, columns, generator=draw) for _ in counts]
    turn = torch.eye(columns) + 0.1 * torch.randn(columns, columns, generator=draw)
    return weights, [torch.randn(n, columns, generator=draw) @ turn * (i + 1) for i, n in enumerate(counts)]


def test_two_linear_layers_give_the_least_squares_solution() -> None:
    weights, inputs = _layers(7, 12, [40, 25])
    grams = [x.T.double() @ x.double() for x in inputs]
    base = torch.randn(7, 12, generator=torch.Generator().manual_seed(9))
    merged = regmean(weights, base, offdiagonal=1.0, ridge=0.0, place=Place(statistics=grams))
    outputs = [x @ w.T for x, w in zip(inputs, weights, strict=True)]
    truth = torch.linalg.lstsq(torch.cat(inputs).double(), torch.cat(outputs).double()).solution.T
    assert torch.allclose(merged.double(), truth, atol=1e-5)
    near = regmean(weights, base, offdiagonal=1.0, place=Place(statistics=grams))
    assert torch.allclose(near.double(), truth, atol=1e-3)  # the ridge of a millionth


def test_where_no_model_has_inputs_the_average_stays() -> None:
    weights, inputs = _layers(5, 8, [30, 30])
    for x in inputs:
        x[:, 3:] = 0
    grams = [x.T @ x for x in inputs]
    merged = regmean(weights, None, weight=[3.0, 1.0], place=Place(statistics=grams))
    average = 0.75 * weights[0] + 0.25 * weights[1]
    assert torch.allclose(merged[:, 3:], average[:, 3:], atol=1e-5)
    assert not torch.allclose(merged[:, :3], average[:, :3], atol=1e-2)
    nothing = regmean(weights, None, place=Place(statistics=[torch.zeros(8, 8)] * 2))
    assert torch.allclose(nothing, (weights[0] + weights[1]) / 2, atol=1e-6)


def test_without_entries_beside_the_diagonal_each_input_is_weighed_by_its_size() -> None:
    weights, inputs = _layers(5, 8, [30, 30])
    grams = [x.T @ x for x in inputs]
    merged = regmean(weights, None, offdiagonal=0.0, ridge=0.0, place=Place(statistics=grams))
    sizes = [g.diagonal() for g in grams]
    truth = (weights[0] * sizes[0] + weights[1] * sizes[1]) / (sizes[0] + sizes[1])
    assert torch.allclose(merged, truth, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"offdiagonal": 1.5}, "offdiagonal must lie in"),
        ({"ridge": -1.0}, "ridge must be at least 0"),
        ({"weight": -1.0}, "must not be negative"),
        ({"weight": 0.0}, "not all 0"),
    ],
)
def test_values_out_of_range_are_told(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        regmean([torch.ones(2, 2)] * 2, None, **settings)


@pytest.mark.parametrize("name", ["qwen_omni", "smolvlm", "whisper"])
def test_gram_matrices_are_those_of_the_inputs(
    name: str, tiny: Callable[[str], Path], questions: Questions
) -> None:
    found, disk = family(name), Checkpoint(tiny(name))
    loaded = found.load(disk.folder)
    linear = [m for m in loaded.model.modules() if isinstance(m, torch.nn.Linear)]
    seen: list[Tensor] = []
    layer = next(m for n, m in loaded.model.named_modules() if n.endswith("layers.1.fc1") or "1.mlp.up" in n)
    hook = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().flatten(0, -2)))
    tensors = collect(loaded, found, questions(name, 4), disk, "gram")
    hook.remove()
    inputs = torch.cat(seen)
    truth = inputs.T @ inputs / len(inputs)
    alike = [g for n, g in tensors.items() if g.shape == truth.shape and torch.allclose(g, truth, rtol=1e-4)]
    assert alike
    head = loaded.model.get_output_embeddings().weight
    tied = head is loaded.model.get_input_embeddings().weight  # which has no linear layer's inputs alone
    assert len(tensors) == len(linear) - tied
    for tensor, gram in tensors.items():
        assert gram.shape == (disk.shape(tensor)[1],) * 2
        assert torch.linalg.eigvalsh(gram.double()).min() > -1e-4 * gram.diagonal().max()
    assert not any(module._forward_pre_hooks for module in linear)
    with pytest.raises(DataError, match="at least one sample"):
        collect(loaded, found, [], disk, "gram")
    with pytest.raises(ConfigError, match="did you mean 'gram'"):
        collect(loaded, found, [], disk, "gramm")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def told(
    tiny: Callable[[str], Path], questions: Questions, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    """Return two experts of a tiny model, each with the Gram matrices of data of its own."""
    base, made = tiny("qwen_omni"), []
    for number in range(2):
        folder = tmp_path_factory.mktemp("expert") / "model"
        shutil.copytree(base, folder)
        draw = torch.Generator().manual_seed(number)
        tensors = load_file(base / "model.safetensors")
        noisy = {k: v + 0.02 * torch.randn(v.shape, generator=draw) for k, v in tensors.items()}
        save_file(noisy, folder / "model.safetensors", metadata={"format": "pt"})
        disk, found = Checkpoint(folder), family("qwen_omni")
        samples = questions("qwen_omni", 8)[number::2]
        grams = collect(found.load(folder), found, samples, disk, "gram")
        file = folder.parent / "told" / "gram.safetensors"
        write_statistics(file, grams, kind="gram", weights=disk.fingerprint(), samples=4)
        made.append({"path": str(folder), "statistics": str(file)})
    return made


def _spec(models: list[Any], base: Path | None = None, **more: Any) -> MergeSpec:
    data = {"method": "regmean", "models": models, **more}
    return MergeSpec.from_mapping(data | ({"base": str(base)} if base else {}))


def test_one_model_is_itself(told: list[dict[str, Any]], tiny: Callable[[str], Path], tmp_path: Path) -> None:
    merge(_spec(told[:1], tiny("qwen_omni")), tmp_path / "out")
    one, two = Checkpoint(Path(told[0]["path"])), Checkpoint(tmp_path / "out")
    for name in one.names():
        assert torch.allclose(one.read(name), two.read(name), atol=1e-5), name


def test_it_disturbs_each_model_on_its_own_inputs_less_than_the_average_does(
    told: list[dict[str, Any]], tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    base = tiny("qwen_omni")
    folder = str(Path(told[0]["statistics"]).parent)
    models = [{**told[0], "statistics": folder}, told[1]]  # the folder stands for the file in it
    report = merge(_spec(models, base, settings={"offdiagonal": 1.0}), tmp_path / "regmean")
    merge(MergeSpec.from_mapping({**_spec(told, base).to_mapping(), "method": "linear"}), tmp_path / "linear")
    experts = [Checkpoint(Path(model["path"])) for model in told]
    files = [Statistics(model["statistics"]) for model in told]

    def harm(out: str, name: str) -> float:
        merged, total = Checkpoint(tmp_path / out).read(name).double(), 0.0
        for expert, file in zip(experts, files, strict=True):
            off = merged - expert.read(name).double()
            total += float((off @ file.read(name).double() * off).sum())
        return total

    names = [name for name in experts[0].names() if name in files[0] and name in files[1]]
    assert len(names) > 20
    assert all(harm("regmean", name) < harm("linear", name) for name in names)
    assert sum(harm("regmean", n) for n in names) < 0.5 * sum(harm("linear", n) for n in names)
    for name in ("model.norm.weight", "model.embed_tokens.weight"):
        one, two = (Checkpoint(tmp_path / out).read(name) for out in ("regmean", "linear"))
        assert torch.allclose(one, two, atol=1e-6)
    text = plan(_spec(told, base)).text()
    assert "no statistics: averaged" in text
    assert verify(report.out) == []
    lock = json.loads((report.out / "merge.lock.json").read_text())
    assert set(lock["statistics"]) == {model["statistics"] for model in told}
    assert MergeSpec.from_mapping(lock["recipe"]) == _spec(models, base, settings={"offdiagonal": 1.0})


def test_adapters_are_regressed_as_true_deltas(
    told: list[dict[str, Any]], tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    base, module = tiny("qwen_omni"), "model.language_model.layers.0.mlp.up_proj"
    rows, columns = Checkpoint(base).shape(LAYER)
    models, deltas, grams = [], [], []
    for number, one in enumerate(told):
        draw = torch.Generator().manual_seed(number)
        a, b = torch.randn(2, columns, generator=draw), torch.randn(rows, 2, generator=draw)
        factors = {module: Factors(a=a, b=b, shape=(rows, columns))}
        print_ = Checkpoint(base).fingerprint()
        path = write_adapter(tmp_path / f"a{number}", factors, base=str(base), base_fingerprint=print_)
        grams.append(Statistics(one["statistics"]).read(LAYER))
        file = tmp_path / f"gram{number}.safetensors"
        weights = Checkpoint(path).fingerprint()
        write_statistics(file, {LAYER: grams[-1]}, kind="gram", weights=weights, samples=4)
        models.append({"path": str(path), "statistics": str(file)})
        deltas.append(b @ a)
    truth = regmean(deltas, None, place=Place(statistics=grams))
    merge(_spec(models, base), tmp_path / "adapter")
    found = read_adapter(tmp_path / "adapter").modules[module].delta()
    assert torch.allclose(found, truth, atol=1e-4)
    merge(_spec(models, base, output="model"), tmp_path / "model")
    full = Checkpoint(tmp_path / "model").read(LAYER) - Checkpoint(base).read(LAYER)
    assert torch.allclose(full, truth, atol=1e-4)


def test_statistics_that_are_missing_or_of_something_else_are_told(
    told: list[dict[str, Any]], tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    base, (one, two) = tiny("qwen_omni"), told
    with pytest.raises(MergeError, match=r"regmean needs the gram statistics of .*triptych run statistics"):
        plan(_spec([one, two["path"]], base))
    with pytest.raises(MergeError, match=r"needs the gram statistics of .* at nowhere"):
        plan(_spec([one, {**two, "statistics": "nowhere"}], base))
    swapped = [{**one, "statistics": two["statistics"]}, two]
    with pytest.raises(MergeError, match=r"tells of other weights than those of .*allow: statistics"):
        plan(_spec(swapped, base))
    plan(_spec(swapped, base, allow=["statistics"]))
    weights = {**one, "statistics": str(base / "model.safetensors")}
    with pytest.raises(CheckpointError, match="holds no statistics"):
        plan(_spec([weights, two], base))
    fisher, small = tmp_path / "fisher.safetensors", tmp_path / "small.safetensors"
    mine = Checkpoint(Path(one["path"])).fingerprint()
    write_statistics(fisher, {LAYER: torch.ones(2)}, kind="fisher", weights=mine, samples=1)
    with pytest.raises(MergeError, match="holds fisher statistics, regmean needs gram"):
        plan(_spec([{**one, "statistics": str(fisher)}, two], base))
    write_statistics(small, {LAYER: torch.eye(3)}, kind="gram", weights=mine, samples=1)
    with pytest.raises(MergeError, match=r"is \[3, 3\], not \["):
        plan(_spec([{**one, "statistics": str(small)}, two], base))
    with pytest.raises(ConfigError, match="statistics of a model are a file or a folder, not 3"):
        _spec([{**one, "statistics": 3}], base)


def test_the_recipe_makes_statistics_of_a_model_and_of_an_adapter(
    tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    from recipes.statistics import Config, run
    from studio.log import QuietLog

    base = tmp_path / "base"
    shutil.copytree(tiny("qwen_omni"), base)
    rows, columns = Checkpoint(base).shape(LAYER)
    factors = {"model.language_model.layers.0.mlp.up_proj": Factors(
        a=torch.randn(2, columns), b=torch.randn(rows, 2), shape=(rows, columns)
    )}  # fmt: skip
    write_adapter(tmp_path / "run/adapter", factors, base=str(base), family="qwen_omni")
    rows_file = tmp_path / "rows.jsonl"
    row = {"messages": [{"role": "user", "content": "how many?"}, {"role": "assistant", "content": "two"}]}
    rows_file.write_text("".join(json.dumps(row) + "\n" for _ in range(5)))
    found = {}
    for name, model in (("base", base), ("adapter", tmp_path / "run")):
        for kind in ("gram", "fisher"):
            config = Config(
                model=str(model), data=str(rows_file), output=tmp_path / name, kind=kind, samples=3, threads=1
            )  # type: ignore[arg-type]
            assert run(config, QuietLog()).metrics["samples"] == 3
        found[name] = Statistics(tmp_path / name / "gram.safetensors")
        assert Statistics(tmp_path / name / "fisher.safetensors").shape(LAYER) == (rows, columns)
    assert found["adapter"].weights == Checkpoint(tmp_path / "run/adapter").fingerprint()
    first, last = "model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.up_proj.weight"
    assert torch.allclose(found["base"].read(first), found["adapter"].read(first), atol=1e-5)
    assert not torch.allclose(found["base"].read(last), found["adapter"].read(last), atol=1e-5)
