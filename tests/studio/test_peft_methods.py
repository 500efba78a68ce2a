"""Every method of PEFT is either refused in one sentence, or starts, learns, is saved and comes back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from torch import Tensor

from mergers import MergeSpec, merge
from studio import plugins
from studio.adapter_note import read_note
from studio.adapters import add_adapter, load_adapter, lora_modules, read_adapter, save_adapter
from studio.checkpoint import Checkpoint
from studio.errors import CheckpointError, ConfigError
from studio.families import family
from studio.log import QuietLog
from studio.methods import METHODS, REFUSED, method
from studio.module_names import weight_names
from studio.training.loss import TokenLoss
from studio.training.towers import train_mode
from studio.types import Sample
from studio.variants import Engine

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # what PEFT says of its own insides

Tiny = Callable[[str], Path]
Questions = Callable[[str, int], list[Sample]]
TYPED = sorted(name for name, found in METHODS.items() if found.type and name != "bitfit")
#: These begin with a little noise; the others at the base, to rounding.
NOISY = {"c3a": 1e-5, "unilora": 1e-2, "vblora": 0.1}
#: Rates at which six steps show that a method learns: the fewer numbers it has, the larger.
RATES = {"unilora": 1.0, "fourierft": 2.0, "waveft": 0.5, "pvera": 0.3, "tinylora": 0.1, "vera": 0.1}
OPTIONS: dict[str, dict[str, Any]] = {
    "fourierft": {"n_frequency": 16}, "waveft": {"n_frequency": 16}, "unilora": {"theta_d_length": 64},
    "vblora": {"num_vectors": 16}, "adalora": {"tinit": 1, "tfinal": 2, "deltaT": 1},
}  # fmt: skip
#: All methods on one family, in a slow run on a second; on every other one of each way to change weights.
FEW = ("dora", "pissa", "adalora", "ia3", "oft", "ln_tuning", "vera", "lokr")
CASES = [pytest.param("qwen_omni", chosen) for chosen in TYPED]
CASES += [pytest.param("whisper", chosen, marks=pytest.mark.slow) for chosen in TYPED]
CASES += [
    pytest.param(name, chosen, marks=pytest.mark.slow)
    for name in plugins.names("families")
    if name not in ("qwen_omni", "whisper")
    for chosen in FEW
]


def _batch(name: str, processor: Any, questions: Questions) -> Any:
    kind = family(name)
    items = [kind.encode(processor, sample, True) for sample in questions(name, 3)]
    return kind.collate(processor, items, "right")


def _logits(model: Any, batch: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model.eval()(**{k: v for k, v in batch.items() if k != "labels"}).logits
    return found


def _adapted(name: str, tiny: Tiny, chosen: str, **more: Any) -> Any:
    kind = family(name)
    model, _ = kind.load(tiny(name))
    settings = {"r": 4, "alpha": 8, "steps": 8, "options": OPTIONS.get(chosen), **more}
    return add_adapter(model, kind, chosen, {"llm": {}}, **settings)


def _learn(model: Any, batch: Any, lr: float, steps: int = 6) -> list[float]:
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(learning, lr=lr, weight_decay=0.0)
    loss, losses = TokenLoss(model, torch.device("cpu")), []
    torch.manual_seed(0)
    train_mode(model)  # as a run does: batch norms keep their statistics
    for _ in range(steps):
        value = loss(model, batch, [1.0] * 3) / 20
        value.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(value.item())
    loss.close()
    return losses


def test_every_method_of_peft_is_known_or_refused() -> None:
    ours = {found.type for found in METHODS.values()} | {name.upper() for name in REFUSED}
    assert {kind.value for kind in PEFT_TYPE_TO_CONFIG_MAPPING} - ours == set()
    assert not METHODS.keys() & REFUSED.keys()
    kinds = {kind.value: config for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    for found in METHODS.values():
        fields = set(kinds[found.type].__dataclass_fields__) if found.type else set()
        named = {found.r, found.alpha, found.dropout, *found.given, *(found.block or ())[:1]} - {""}
        assert named <= fields, found.name


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("doar", r"unknown method 'doar'; did you mean 'dora'\?"),
        ("qlora", "precision=nf4"),
        ("prompt_tuning", "M-RoPE"),
        ("bottleneck", "PEFT has no bottleneck adapters"),
        ("xlora", "merge them instead"),
    ],
)
def test_a_method_that_cannot_be_is_refused_with_its_reason(name: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        method(name)


@pytest.mark.parametrize(("name", "chosen"), CASES)
def test_a_method_starts_at_the_base_learns_and_comes_back(
    name: str, chosen: str, tiny: Tiny, questions: Questions, tmp_path: Path
) -> None:
    kind = family(name)
    base, processor = kind.load(tiny(name))
    batch = _batch(name, processor, questions)
    model = _adapted(name, tiny, chosen)
    apart = (_logits(model, batch) - _logits(base, batch)).abs().max()
    assert apart <= NOISY.get(
        chosen, 1e-4
    )  # float32; PiSSA and OLoRA take the base apart and add it up again
    losses = _learn(model, batch, RATES.get(chosen, 0.02))
    assert losses[-1] < losses[0], losses
    learned = _logits(model, batch)
    save_adapter(model, tmp_path / "adapter", base=tiny(name), family=kind)
    ours = load_adapter(kind.load(tiny(name)).model, tmp_path / "adapter")
    theirs = PeftModel.from_pretrained(kind.load(tiny(name)).model, tmp_path / "adapter")
    exact = chosen not in ("pissa", "olora", "adalora")  # saved as the LoRA that does the same
    for again in (ours, theirs):
        torch.testing.assert_close(
            _logits(again, batch), learned, rtol=0, atol=0 if exact else 1e-5 * float(learned.abs().max())
        )


@pytest.mark.parametrize("chosen", ["pissa", "olora", "adalora", "dora"])
def test_what_is_low_rank_merges_into_the_untouched_base(
    chosen: str, tiny: Tiny, questions: Questions, tmp_path: Path
) -> None:
    kind, folder = family("qwen_omni"), tiny("qwen_omni")
    batch = _batch("qwen_omni", kind.load(folder).processor, questions)
    model = _adapted("qwen_omni", tiny, chosen)
    _learn(model, batch, 0.02, 4)
    save_adapter(model, tmp_path / "adapter", base=folder, family=kind)
    adapter, disk = read_adapter(tmp_path / "adapter"), Checkpoint(folder)
    assert str(adapter.config.get("init_lora_weights", True)) == "True"
    names = weight_names({name: adapter.shape(name) for name in adapter.names()}, disk)
    truth = dict(model.merge_and_unload().named_parameters())
    for name, factors in adapter.modules.items():
        weight = disk.read(names[name]).float()
        apart = weight + factors.delta(weight) - truth[f"{name}.weight"]
        assert float(apart.norm() / truth[f"{name}.weight"].norm()) < 1e-5, name  # float32


def test_a_method_that_is_no_delta_does_not_merge_but_answers(
    tiny: Tiny, questions: Questions, tmp_path: Path
) -> None:
    kind, folder = family("qwen_omni"), tiny("qwen_omni")
    processor = kind.load(folder).processor
    batch = _batch("qwen_omni", processor, questions)
    for chosen, rate in (("ia3", 0.3), ("oft", 0.1)):
        model = _adapted("qwen_omni", tiny, chosen)
        _learn(model, batch, rate)
        save_adapter(model, tmp_path / chosen, base=folder, family=kind)
    assert (read_note(tmp_path / "ia3").kind, read_note(tmp_path / "ia3").apart) == ("IA3", True)
    spec = MergeSpec.from_flags(
        method="task_arithmetic", models=[str(tmp_path / "ia3")], base=folder, output="model"
    )
    with pytest.raises(CheckpointError, match=r"type IA3, and only LORA .* use it beside its base"):
        merge(spec, tmp_path / "merged", QuietLog())
    assert not (tmp_path / "merged").exists()
    one = questions("qwen_omni", 2)[1]
    engine = Engine(folder, {"base": None, "ia3": tmp_path / "ia3", "oft": tmp_path / "oft"})
    answers = {name: engine.answer(name, one, max_new_tokens=8) for name in engine.names}
    with_oft = load_adapter(kind.load(folder).model, tmp_path / "oft").eval()
    again = Engine(folder, {"oft": tmp_path / "oft"}).answer("oft", one, max_new_tokens=8)
    assert answers["oft"] == again
    assert float((_logits(with_oft, batch) - _logits(kind.load(folder).model, batch)).abs().max()) > 1e-3
    assert engine.answer("base", one, max_new_tokens=8) == answers["base"]


@pytest.mark.parametrize(
    ("chosen", "settings", "sentence"),
    [
        (
            "vera",
            {"options": {"d_inital": 1}},
            r"unknown setting of vera 'd_inital'; did you mean 'd_initial'",
        ),
        ("lora", {"options": {"lora_alpha": 1}}, r"adapter.options.lora_alpha: set it as adapter.alpha"),
        ("lora", {"options": {"target_modules": "x"}}, "unknown setting of lora 'target_modules'"),
        ("adalora", {"steps": 3}, "at least 5 steps; this run has 3"),
        ("boft", {"options": {"boft_block_size": 7}}, "method=boft does not fit this model: "),
    ],
)
def test_settings_that_a_method_does_not_have_are_refused(
    chosen: str, settings: dict[str, Any], sentence: str, tiny: Tiny
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        _adapted("qwen_omni", tiny, chosen, **settings)


def test_towers_differ_in_rank_strength_and_dropout(tiny: Tiny, tmp_path: Path) -> None:
    kind, folder = family("qwen_omni"), tiny("qwen_omni")
    towers = {"llm": {}, "audio": {"r": 3, "alpha": 5, "dropout": 0.25}}
    model = add_adapter(kind.load(folder).model, kind, "rslora", towers, r=4, alpha=8, dropout=0.5)
    inner = model.get_base_model()
    for tower, paths in lora_modules(kind.load(folder).model, kind, towers).items():
        for path in paths:
            part, own = inner.get_submodule(path), {"r": 4, "alpha": 8, "dropout": 0.5} | towers[tower]
            assert part.scaling["default"] == pytest.approx(own["alpha"] / own["r"] ** 0.5), path
            assert part.lora_dropout["default"].p == own["dropout"]
    save_adapter(model, tmp_path / "adapter", base=folder, family=kind)
    assert {read_adapter(tmp_path / "adapter").rank(path) for path in paths} == {3}
    with pytest.raises(ConfigError, match=r"towers\.audio\.r: method=ia3 has no r"):
        add_adapter(kind.load(folder).model, kind, "ia3", towers)
    with pytest.raises(ConfigError, match="method=miss has one r and one alpha"):
        add_adapter(kind.load(folder).model, kind, "miss", {"llm": {}, "audio": {"r": 3}}, r=4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen_omni", "gemma", "qwen2_audio"])
def test_prompts_of_peft_are_not_what_stands_before_the_text(
    name: str, tiny: Tiny, questions: Questions
) -> None:
    """Why they are refused: a learned prompt equal to some tokens does not do what those tokens do."""
    from peft import PromptTuningConfig, get_peft_model

    kind = family(name)
    model, processor = kind.load(tiny(name))
    batch = {k: v for k, v in _batch(name, processor, questions).items() if k != "labels"}
    ids = torch.tensor([5, 6, 7, 9])
    before = ids.expand(len(batch["input_ids"]), -1)
    with_tokens = dict(batch)
    for key, value in (
        ("input_ids", before), ("attention_mask", torch.ones_like(before)),
        ("token_type_ids", torch.zeros_like(before)), ("mm_token_type_ids", torch.zeros_like(before)),
    ):  # fmt: skip
        if key in batch:
            with_tokens[key] = torch.cat([value, batch[key]], dim=1)
    wanted, words = _logits(model, with_tokens), model.get_input_embeddings().weight[ids].detach()
    prompted = get_peft_model(model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4))
    prompted.prompt_encoder["default"].embedding.weight.data.copy_(words)
    seen = batch["attention_mask"].bool()
    assert float((_logits(prompted, batch) - wanted)[:, 4:][seen].abs().max()) > 1e-3
