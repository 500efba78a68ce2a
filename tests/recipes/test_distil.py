from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import kl_div

from mergers import replay, verify
from recipes import _layerwise, distil
from recipes._distil import polished, write_deltas
from recipes._layerwise import layerwise
from studio import plugins
from studio.adapters import Factors, lora_modules, read_adapter
from studio.assets import find_data
from studio.config import load
from studio.data import load_data
from studio.errors import ConfigError, MergeError
from studio.families import family
from studio.forced import Forced
from studio.log import QuietLog
from studio.overlay import overlaid
from studio.types import Batch, Loaded
from tests.drawn_experts import drawn_experts
from tests.recipes.preferred import Saying

#: Two domains: one of pictures, one of sounds; so the towers are other ones and the language model is shared.
DOMAINS = {"textiles": ["llm", "vision", "projector"], "commands": ["llm", "audio", "projector"]}
#: Encoder-decoders, and towers that run for each medium apart.
REFUSED = ("whisper", "granite_speech", "phi4_multimodal", "qwen3_omni")
Bound = tuple[Loaded, dict[str, dict[str, Factors]], dict[str, list[Batch]]]


@pytest.fixture(scope="module")
def whole(tiny: Callable[[str], Path]) -> Bound:
    kind = family("qwen_omni")
    loaded = kind.load(tiny("qwen_omni"), dtype=torch.float32)
    loaded.model.eval()
    draw = torch.Generator().manual_seed(0)
    experts: dict[str, dict[str, Factors]] = {}
    for domain, towers in DOMAINS.items():
        experts[domain] = {}
        for path in (p for paths in lora_modules(loaded.model, kind, towers).values() for p in paths):
            rows, columns = loaded.model.get_submodule(path).weight.shape
            a, b = (torch.randn(2, columns, generator=draw), torch.randn(rows, 2, generator=draw))
            experts[domain][path] = Factors(a=0.2 * a, b=0.2 * b, shape=(rows, columns))
    batches = {}
    for domain in DOMAINS:
        samples = list(load_data(find_data(domain), split="train"))[:6]
        batches[domain] = [b for _, b in Forced(loaded, kind, samples, batch_size=3).batches]
    return loaded, experts, batches


@pytest.fixture(autouse=True)
def untouched(whole: Bound) -> Iterator[None]:
    model = whole[0].model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    learns = [p.requires_grad for p in model.parameters()]
    yield
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert learns == [p.requires_grad for p in model.parameters()]
    assert all(p.grad is None for p in model.parameters())
    assert not any("forward" in module.__dict__ for module in model.modules())


def logits(loaded: Loaded, deltas: dict[str, torch.Tensor], batch: Batch) -> torch.Tensor:
    """Return the logits at the positions whose next token is learned."""
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    with overlaid(loaded.model, deltas), torch.no_grad():
        said = loaded.model(**inputs).logits[:, :-1]
    found: torch.Tensor = said[batch["labels"][:, 1:] != -100]
    return found


def own(experts: dict[str, Factors]) -> dict[str, torch.Tensor]:
    return {path: factors.delta() for path, factors in experts.items()}


def gap(whole: Bound, deltas: dict[str, torch.Tensor]) -> float:
    """Return the mean KL(expert || merged) over all batches of all domains, in nats."""
    loaded, experts, batches = whole
    found = []
    for domain, of_domain in batches.items():
        for batch in of_domain:
            told = logits(loaded, own(experts[domain]), batch).log_softmax(-1)
            said = logits(loaded, deltas, batch).log_softmax(-1)
            found.append(float(kl_div(said, told, log_target=True, reduction="batchmean")))
    return sum(found) / len(found)


def test_a_single_expert_is_found_again_on_what_it_was_shown(whole: Bound) -> None:
    loaded, experts, batches = whole
    for domain in DOMAINS:
        alone, shown = {domain: experts[domain]}, {domain: batches[domain]}
        deltas = layerwise(loaded.model, alone, shown, ridge=1e-7)
        for batch in batches[domain]:
            expert = logits(loaded, own(experts[domain]), batch)
            changed = (expert - logits(loaded, {}, batch)).norm()
            # What is left is the ridge's, and float32's over all layers.
            assert (logits(loaded, deltas, batch) - expert).norm() < 0.03 * changed


def test_units_that_run_alone_are_solved_as_in_whole_runs(
    whole: Bound, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, experts, batches = whole
    fast = layerwise(loaded.model, experts, batches)
    order = _layerwise._Merge._order

    def forgetting(merge: _layerwise._Merge) -> list[str]:
        found = order(merge)
        assert len(merge.before) >= 3  # the layers of each part after its first
        merge.before = {}
        return found

    monkeypatch.setattr(_layerwise._Merge, "_order", forgetting)
    slow = layerwise(loaded.model, experts, batches)
    assert fast.keys() == slow.keys()
    assert all(torch.allclose(fast[path], slow[path], atol=1e-5) for path in fast)


def test_solved_layers_are_nearer_to_the_experts_than_their_average_and_a_polish_goes_the_same_way(
    whole: Bound,
) -> None:
    loaded, experts, batches = whole
    every = {path for modules in experts.values() for path in modules}
    average = {p: sum(m[p].delta() for m in experts.values() if p in m) / len(experts) for p in every}
    solved = layerwise(loaded.model, experts, batches)
    after = polished(loaded.model, experts, batches, average, steps=10)
    assert set(solved) == every
    assert gap(whole, solved) < 0.7 * gap(whole, average)
    assert gap(whole, after) < 0.8 * gap(whole, average)


def test_towers_come_before_the_language_model_whatever_the_order_of_domains(whole: Bound) -> None:
    loaded, experts, batches = whole
    for order in (list(DOMAINS), list(DOMAINS)[::-1]):
        merge = _layerwise._Merge(
            loaded.model, {d: experts[d] for d in order}, {d: batches[d] for d in order}, 1.0, 0.5
        )
        last = max(at for at, unit in enumerate(merge.units) if "language_model" not in unit)
        assert last < min(at for at, unit in enumerate(merge.units) if "language_model" in unit)


def test_an_adapter_of_the_deltas_loses_nothing(
    whole: Bound, tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    loaded, experts, batches = whole
    deltas = layerwise(loaded.model, experts, batches)
    base = tiny("qwen_omni")
    folder = write_deltas(tmp_path / "one", deltas, model=str(base), base=base, family="qwen_omni", note={})
    read = dict(read_adapter(folder).modules)
    assert read.keys() == deltas.keys()
    assert all(torch.allclose(read[path].delta(), deltas[path], atol=1e-5) for path in deltas)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, "at least two domains"),
        ({"ridge": 0.0}, "ridge must be above 0"),
        ({"repair": 1.5, "polish": -1}, "repair must lie in .0, 1.; polish must not be negative"),
        ({"weight": {"cloth": 1.0}}, "weight.cloth: there is no expert for 'cloth'"),
        (
            {"experts": {"textiles": "nowhere", "commands": "nowhere"}},
            "experts.textiles: there is no adapter",
        ),
        (
            {"split": "test", "experts": {"textiles": "x", "commands": "y"}},
            "a test set is never learned from",
        ),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(
    settings: dict[str, Any], told: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=told):
        distil.run(distil.Config(output=tmp_path / "run", **settings), QuietLog())
    assert not (tmp_path / "run").exists()


def test_a_run_writes_a_merge_with_lock_and_card_and_is_known_again(
    tiny: Callable[[str], Path], plain_data: Path, tmp_path: Path
) -> None:
    base, towers = tiny("qwen_omni"), {"north": ["llm", "projector"], "south": ["llm"]}
    experts = drawn_experts(base, tmp_path / "experts", towers, 0.3)
    settings: dict[str, Any] = {
        "model": str(base), "experts": {name: str(folder) for name, folder in experts.items()},
        "data": dict.fromkeys(experts, str(plain_data)), "rows": 4, "held_out": 2, "polish": 1, "threads": 1,
        "output": tmp_path / "run",
    }  # fmt: skip
    log = Saying()
    made = distil.run(distil.Config(**settings), log)
    assert set(made.metrics) == {f"{d}.{w}" for d in experts for w in ("expert", "merged")}
    folder = tmp_path / "run" / "adapter"
    assert read_adapter(folder).names()
    assert verify(folder) == []
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "base_model_relation: merge" in card
    assert f"triptych run distil --config {tmp_path / 'run'} output=FOLDER" in card
    assert "north: " in card
    with pytest.raises(MergeError, match="is no merge of weights alone; `triptych run distil --config"):
        replay(folder, tmp_path / "again")

    weights = (folder / "adapter_model.safetensors").stat().st_mtime_ns
    assert distil.run(distil.Config(**settings), log).metrics == made.metrics
    assert "is finished with these settings" in log.said[-1]
    assert (folder / "adapter_model.safetensors").stat().st_mtime_ns == weights
    with pytest.raises(ConfigError, match=r"ridge 0\.2 "):
        distil.run(distil.Config(**settings, ridge=0.2), log)
    south = Path(experts["south"]) / "adapter_model.safetensors"
    south.write_bytes(south.read_bytes()[:-4] + bytes(4))
    assert [line for line in verify(folder) if "has changed since the merge" in line]


@pytest.mark.slow
def test_the_smoke_preset_runs(tmp_path: Path) -> None:
    config = load(
        distil.Config, preset="smoke", presets=distil.PRESETS,
        overrides=[f"output={tmp_path / 'run'}", "threads=1"],
    )  # fmt: skip
    made = distil.run(config, QuietLog())
    assert set(made.metrics) == {
        f"{d}.{w}" for d in ("textiles", "handwriting") for w in ("expert", "merged")
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in plugins.names("families") if name not in REFUSED])
def test_an_expert_of_any_family_is_found_again(
    name: str, tiny: Callable[[str], Path], questions: Callable[[str, int], list[Any]]
) -> None:
    kind = family(name)
    loaded = kind.load(tiny(name), dtype=torch.float32)
    loaded.model.eval()
    draw = torch.Generator().manual_seed(1)
    expert: dict[str, Factors] = {}
    for path in (p for ps in lora_modules(loaded.model, kind, kind.lora_targets).values() for p in ps):
        module = loaded.model.get_submodule(path)
        if not isinstance(module, torch.nn.Linear):
            continue
        rows, columns = module.weight.shape
        a, b = (torch.randn(2, columns, generator=draw), torch.randn(rows, 2, generator=draw))
        expert[path] = Factors(a=0.1 * a, b=0.1 * b, shape=(rows, columns))
    batches = [batch for _, batch in Forced(loaded, kind, questions(name, 4), batch_size=2).batches]
    deltas = layerwise(loaded.model, {"one": expert}, {"one": batches}, ridge=1e-7)
    for batch in batches:
        before, meant = logits(loaded, {}, batch), logits(loaded, own(expert), batch)
        assert (logits(loaded, deltas, batch) - meant).norm() < 0.05 * (meant - before).norm()


@pytest.mark.slow
def test_towers_that_run_for_each_medium_are_refused(
    tiny: Callable[[str], Path], questions: Callable[[str, int], list[Any]]
) -> None:
    kind = family("granite_speech")
    loaded = kind.load(tiny("granite_speech"), dtype=torch.float32)
    path = lora_modules(loaded.model, kind, ["audio"])["audio"][0]
    rows, columns = loaded.model.get_submodule(path).weight.shape
    expert = {path: Factors(a=torch.ones(1, columns), b=torch.ones(rows, 1), shape=(rows, columns))}
    batches = [b for _, b in Forced(loaded, kind, questions("granite_speech", 2), batch_size=2).batches]
    with pytest.raises(MergeError, match="runs more than once on one batch"):
        layerwise(loaded.model, {"one": expert}, {"one": batches})
