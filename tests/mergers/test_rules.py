"""Groups, rules, gradients, routing tables and protection: each tensor is merged as the file says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mergers import MergeSpec, merge, plan, replay
from mergers._groups import group_of, towers_of
from studio.adapters import Factors, read_adapter, write_adapter
from studio.checkpoint import Checkpoint
from studio.errors import ConfigError, MergeError

Base = Callable[[str], Path]
Experts = Callable[..., list[Path]]


def _spec(method: str, models: list[Any], base: Path | None, **more: Any) -> MergeSpec:
    given = [m if isinstance(m, dict) else {"path": str(m)} for m in models]
    data = {"method": method, "models": given, **more}
    return MergeSpec.from_mapping(data | ({"base": str(base)} if base else {}))


def _tensors(folder: Path) -> dict[str, Tensor]:
    checkpoint = Checkpoint(folder)
    return {name: checkpoint.read(name) for name in checkpoint.names()}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("visoin", "'visoin' matches no tensor of .*; did you mean 'vision'"),
        ("head", "'head' matches no tensor of"),
        ("llm.layers.0-7", "'llm.layers.0-7' goes beyond .*, whose llm has layers 0 to 1"),
        ("speech", "'speech' matches no tensor"),
        ("llm.layers.3-1", "ends before it begins"),
        ("re:(", "neither a group nor a regular expression"),
    ],
)
def test_a_selector_that_matches_nothing_is_told(text: str, sentence: str, base_of: Base) -> None:
    base = base_of("qwen_omni")
    with pytest.raises(ConfigError, match=sentence):
        plan(_spec("linear", [base], base, rules=[{"match": text, "freeze": True}]))


def test_rules_give_each_group_what_a_merge_of_its_own_would(
    base_of: Base, experts_of: Experts, tmp_path: Path
) -> None:
    base, experts = base_of("qwen_omni"), experts_of("qwen_omni")
    rules = [
        {"match": ["re:q_proj", "head|model.norm"], "method": "slerp"},
        {"match": "vision", "freeze": True},
        {"match": "llm.layers.0", "method": "linear", "weight": [0.9, 0.1]},
        {"match": "audio", "density": 0.5},
    ]
    common: dict[str, Any] = {"settings": {"density": 0.2}, "protect": False}
    spec = _spec("ties", experts, base, rules=rules, **common)
    report = merge(spec, tmp_path / "out")
    parts = {
        "slerp": _spec("slerp", experts, base),
        "linear": _spec("linear", experts, base, settings={"weight": [0.9, 0.1]}),
        "half": _spec("ties", experts, base, settings={"density": 0.5}, protect=False),
        "rest": _spec("ties", experts, base, **common),
    }
    truth = {"base": _tensors(base)}
    for name, one in parts.items():
        merge(one, tmp_path / name)
        truth[name] = _tensors(tmp_path / name)
    towers = towers_of(Checkpoint(base).config)
    for name, value in _tensors(tmp_path / "out").items():
        group = group_of(name, towers)
        source = "rest"
        if "q_proj" in name or name == "model.norm.weight":
            source = "slerp"
        elif group.tower == "vision":
            source = "base"
        elif group.tower == "llm" and group.layer == 0:
            source = "linear"
        elif group.tower == "audio":
            source = "half"
        assert torch.equal(value, truth[source][name]), (name, source)
    assert report.copied == 33
    again = replay(tmp_path / "out", tmp_path / "again")
    assert again.fingerprint == report.fingerprint
    assert MergeSpec.from_mapping(spec.to_mapping()) == spec


def test_models_and_settings_may_vary_over_the_layers(
    base_of: Base, experts_of: Experts, tmp_path: Path
) -> None:
    base, (one, two) = base_of("llava"), experts_of("llava")
    half = {"path": str(two), "weight": {"layers": [0, 0.5]}}
    scale = {"cases": [{"match": "projector", "value": 3.0}]}
    spec = _spec(
        "task_arithmetic", [{"path": str(one), "weight": 1.0}, half], base, settings={"scale": scale}
    )
    merge(spec, tmp_path / "out")
    b, x, y, found = (_tensors(folder) for folder in (base, one, two, tmp_path / "out"))
    for name, value in found.items():
        share = 0.5 if ".layers.1." in name else 0.0
        factor = 3.0 if "projector" in name else 1.0
        truth = b[name].float() + factor * (
            (x[name].float() - b[name].float()) + share * (y[name].float() - b[name].float())
        )
        assert torch.allclose(value.float(), truth, atol=2e-3, rtol=2**-7), name


def test_a_routing_table_gives_each_layer_its_weights(
    base_of: Base, experts_of: Experts, tmp_path: Path
) -> None:
    base, experts = base_of("llava"), experts_of("llava")
    table = {"llm": [[1, 0], [0, 1]], "vision.layers.1": [0, 1], "vision": [1, 0], "re:projector": [0, 1]}
    file = tmp_path / "table.json"
    file.write_text(json.dumps(table))
    rules = [{"match": "head", "weight": [0, 1]}]
    spec = _spec("linear", experts, base, weights_by_layer=str(file), rules=rules)
    assert spec == _spec("linear", experts, base, weights_by_layer=table, rules=rules)
    assert MergeSpec.from_mapping(json.loads(json.dumps(spec.to_mapping()))) == spec  # the table itself
    merge(spec, tmp_path / "out")
    one, two, found = (_tensors(folder) for folder in (*experts, tmp_path / "out"))
    average = {k: ((one[k].float() + two[k].float()) / 2).to(one[k].dtype) for k in one}
    for name, value in found.items():
        if name.startswith("language_model"):
            truth = (
                one if ".layers.0." in name else two if ".layers.1." in name or "head" in name else average
            )
        elif "vision" in name:
            truth = two if ".layers.1." in name else one
        else:
            truth = two
        # The base comes in and cancels out again, which costs a last bit now and then.
        assert torch.allclose(value.float(), truth[name].float(), rtol=2**-7, atol=1e-6), name


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ({"llm": [[1, 0]] * 3}, "llm has 2 layers, the table 3 rows"),
        ({"lm": [[1, 0]] * 2}, "unknown stack of layers 'lm'; did you mean 'llm'"),
        ({"llm.layers.2": [1, 0]}, "goes beyond"),
        ({"nothing_here": [1, 0]}, "'nothing_here' matches no tensor"),
        ({"vision": [1, 0, 0]}, "'vision' has 3 weights for 2 models"),
        ({"vision": "much"}, "takes one number per model, not 'much'"),
        ("missing.json", "missing.json cannot be read as JSON"),
    ],
)
def test_a_routing_table_that_does_not_fit_is_told(
    table: Any, sentence: str, base_of: Base, experts_of: Experts
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        plan(_spec("linear", experts_of("llava"), base_of("llava"), weights_by_layer=table))


def test_methods_without_weights_take_no_routing_table(base_of: Base, experts_of: Experts) -> None:
    spec = _spec("slerp", experts_of("llava"), base_of("llava"), weights_by_layer={"vision": [1, 0]})
    with pytest.raises(ConfigError, match=r"slerp, which merges vision.*, has no weight per model"):
        plan(spec)


@pytest.mark.parametrize(
    "method", ["ties", "dare_linear", "dare_ties", "della", "breadcrumbs", "della_linear"]
)
def test_embeddings_and_norms_are_protected_from_trimming(
    method: str, base_of: Base, experts_of: Experts
) -> None:
    base, experts = base_of("llava"), experts_of("llava")

    def methods(**more: Any) -> dict[str, str]:
        steps = plan(_spec(method, experts, base, **more)).steps
        return {step.group.rpartition(".")[2]: step.method for step in steps}

    assert methods() == {
        "llm": method, "vision": method, "projector": method, "head": method,
        "embeddings": "task_arithmetic", "norms": "task_arithmetic",
    }  # fmt: skip
    assert set(methods(protect=False).values()) == {method}
    assert set(methods(settings={"preset": "mergekit"}).values()) == {method}
    assert methods(settings={"preset": "mergekit"}, protect=True)["norms"] == "task_arithmetic"
    rules = [{"match": "llm.norms", "density": 0.7}]
    assert methods(rules=rules)["norms"] == "task_arithmetic"  # those of the vision tower, which come last
    found = plan(_spec(method, experts, base, rules=rules)).steps
    assert {s.method for s in found if s.group == "llm.norms"} == {method}
    assert all(s.settings["density"] == 0.7 for s in found if s.group == "llm.norms")


def test_a_protected_tensor_is_the_plain_sum_with_the_same_weights(
    base_of: Base, experts_of: Experts, tmp_path: Path
) -> None:
    base, experts = base_of("llava"), experts_of("llava")
    settings = {"weight": [0.6, 0.2], "scale": 0.5, "density": 0.1}
    merge(_spec("ties", experts, base, settings=settings), tmp_path / "out")
    name = "language_model.model.embed_tokens.weight"
    b, x, y, found = (_tensors(f)[name].float() for f in (base, *experts, tmp_path / "out"))
    truth = b + 0.5 * (0.75 * (x - b) + 0.25 * (y - b))
    assert torch.allclose(found, truth, rtol=2**-8, atol=1e-6)
    assert (found != b).float().mean() > 0.9


def test_other_methods_leave_embeddings_and_norms_to_themselves(base_of: Base, experts_of: Experts) -> None:
    for method in ("linear", "knots", "slerp", "model_stock", "wudi"):
        steps = plan(_spec(method, experts_of("llava"), base_of("llava"))).steps
        assert {step.method for step in steps} == {method}


def test_the_scope_of_a_model_ends_where_a_rule_begins(
    base_of: Base, experts_of: Experts, tmp_path: Path
) -> None:
    base, experts = base_of("llava"), experts_of("llava", 1)
    common = {"settings": {"scope": "model", "density": 0.3}, "protect": False}
    rules = [{"match": "vision", "method": "linear"}, {"match": "projector", "weight": 0.5}]
    merge(_spec("ties", experts, base, rules=rules, **common), tmp_path / "out")
    b, x, found = (_tensors(f) for f in (base, *experts, tmp_path / "out"))
    towers = towers_of(Checkpoint(base).config)
    inside = [n for n in found if group_of(n, towers).tower != "vision"]
    size = torch.cat([(x[n].float() - b[n].float()).abs().flatten() for n in inside])
    threshold = size.topk(int(0.3 * len(size))).values[-1]  # over all of TIES, whatever the weights
    kept = sum(int((found[n] != b[n]).sum()) for n in inside)
    assert kept == pytest.approx(0.3 * len(size), rel=0.02)
    for name in inside:
        small = (x[name].float() - b[name].float()).abs() < threshold
        assert torch.equal(found[name][small], b[name][small]), name


def _adapter(folder: Path, base: Path, seed: int, names: list[str]) -> Path:
    draw = torch.Generator().manual_seed(seed)
    shapes = {k: v.shape for k, v in _tensors(base).items()}
    factors = {}
    for name in names:
        rows, columns = shapes[
            name.replace("model.language_model", "model").replace("model.visual", "visual") + ".weight"
        ]
        a, b = torch.randn(2, columns, generator=draw), torch.randn(rows, 2, generator=draw)
        factors[name] = Factors(a=a, b=b, shape=(rows, columns))
    return write_adapter(folder, factors, base=str(base), family="qwen_omni")


MODULES = [
    *(f"model.language_model.layers.{i}.{m}" for i in range(2) for m in ("self_attn.q_proj", "mlp.up_proj")),
    *(f"model.visual.blocks.{i}.attn.q" for i in range(2)),
]


@pytest.mark.parametrize("with_base", [True, False])
def test_adapters_follow_the_same_rules(with_base: bool, base_of: Base, tmp_path: Path) -> None:
    ground = base_of("qwen_omni")
    experts = [_adapter(tmp_path / str(i), ground, i, MODULES) for i in range(2)]
    rules = [
        {"match": "re:layers.1.mlp", "weight": [0.0, 2.0]},
        {"match": "vision", "freeze": True},
        {"match": "llm", "weight": [{"layers": [1, 0]}, 0.5]},
    ]
    base = ground if with_base else None
    spec = _spec("task_arithmetic", experts, base, rules=rules)
    if not with_base:  # so that the adapters' own names are all there is
        for expert in experts:
            note = json.loads((expert / "triptych.json").read_text())
            (expert / "triptych.json").write_text(json.dumps(note | {"base": ""}))
            config = json.loads((expert / "adapter_config.json").read_text())
            (expert / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": ""}))
    report = merge(spec, tmp_path / "out")
    found, (one, two) = read_adapter(tmp_path / "out"), (read_adapter(e) for e in experts)
    weights = {
        MODULES[0]: (1, 0.5), MODULES[1]: (1, 0.5), MODULES[2]: (0, 0.5), MODULES[3]: (0, 2),
    }  # fmt: skip
    assert set(found.names()) == set(weights)
    assert set(report.dropped) == set(MODULES[4:])
    for name, (x, y) in weights.items():
        truth = x * one.factors(name).delta() + y * two.factors(name).delta()
        assert torch.allclose(found.factors(name).delta(), truth, atol=1e-4), name


def test_names_on_disk_and_in_the_adapter_are_the_same_to_a_rule(base_of: Base, tmp_path: Path) -> None:
    base = base_of("qwen_omni")
    experts = [_adapter(tmp_path / str(i), base, i, MODULES) for i in range(2)]
    for output in ("adapter", "model"):
        found = []
        for text in (r"re:^model\.layers\.0\.mlp", r"re:^model\.language_model\.layers\.0\.mlp"):
            rules = [{"match": text, "method": "linear"}]
            found.append(plan(_spec("ties", experts, base, rules=rules, output=output)).steps)
        assert found[0] == found[1]
        assert sum(step.method == "linear" for step in found[0]) == 1
    with pytest.raises(MergeError, match="the rules freeze every module of these adapters"):
        plan(_spec("ties", experts, base, rules=[{"match": ["llm", "vision"], "freeze": True}]))
    # The base has an audio tower, the adapters leave it alone: nothing wrong with a rule for it.
    plan(_spec("ties", experts, base, rules=[{"match": "audio", "freeze": True}]))


def test_the_plan_shows_group_method_and_weights(base_of: Base, experts_of: Experts) -> None:
    rules = [
        {"match": "vision", "freeze": True},
        {"match": "llm.layers", "weight": [{"layers": [0, 1]}, 0.5]},
    ]
    text = plan(_spec("ties", experts_of("llava"), base_of("llava"), rules=rules)).text()
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "vision 25 frozen (rule 1)" in lines
    assert "llm 14 ties weight=[0 to 1, 0.5] (rule 2)" in lines
    assert "projector 4 ties" in lines
    assert any(line.startswith("llm.embeddings 1 task_arithmetic weight=1") for line in lines)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"rules": [{"freeze": True}]}, "a rule is a mapping with match"),
        ({"rules": [{"match": "vision"}]}, "says nothing"),
        ({"rules": [{"match": "vision", "freeze": True, "weight": 1}]}, "no other key than match, not"),
        ({"rules": [{"match": "vision", "freeze": "yes"}]}, "freeze must be true or false"),
        ({"rules": [{"match": 3, "freeze": True}]}, "match takes words, not 3"),
        ({"rules": [{"match": "vision", "method": "tise"}]}, "unknown merge method 'tise'"),
        ({"rules": [{"match": "vision", "densty": 1.0}]}, "rule for vision: ties: unknown setting 'densty'"),
        ({"rules": [{"match": "vision", "density": 2.0}]}, r"rule for vision: density must lie in \(0, 1\]"),
        ({"rules": [{"match": "vision", "weight": {"layers": []}}]}, "a value that varies is"),
        ({"settings": {"weight": {"layer": [1]}}}, "weight: a value that varies is"),
        ({"settings": {"density": {"layers": [0.5, 0]}}}, r"density must lie in \(0, 1\], not 0"),
        ({"settings": {"weight": [{"cases": [{"match": "llm", "value": 1}]}, 1]}}, "must end with one"),
        ({"settings": {"weight": {"cases": [{"match": "lmm", "value": 1}]}}}, "'lmm' matches no tensor"),
        ({"protect": "maybe"}, "protect must be true or false"),
    ],
)  # fmt: skip
def test_a_rule_that_cannot_be_followed_is_told(
    more: dict[str, Any], sentence: str, base_of: Base, experts_of: Experts
) -> None:
    with pytest.raises(ValueError, match=sentence):
        plan(_spec("ties", experts_of("llava"), base_of("llava"), **more))


def test_freezing_without_a_base_is_told(experts_of: Experts) -> None:
    with pytest.raises(MergeError, match="freezing vision keeps the base's values; name the base"):
        plan(_spec("linear", experts_of("llava"), None, rules=[{"match": "vision", "freeze": True}]))
