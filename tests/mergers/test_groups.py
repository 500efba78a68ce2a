"""Every tensor belongs to a group that its name tells; selectors pick them, values vary over their layers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mergers._groups import Groups, Subject, group_of, selector, subjects_of, towers_of
from mergers._rules import settle
from studio.checkpoint import Checkpoint
from studio.families import family
from studio.module_names import tensor_names

Base = Callable[[str], Path]

PLACES = {
    "qwen_omni": {
        "visual.patch_embed.proj.weight": "vision", "visual.blocks.1.norm1.weight": "vision.norms",
        "visual.merger.mlp.0.weight": "projector", "visual.merger.ln_q.weight": "projector.norms",
        "audio_tower.proj.bias": "projector", "audio_tower.layers.0.fc1.bias": "audio",
        "audio_tower.audio_bos_eos_token.weight": "audio.embeddings",
        "model.layers.1.mlp.up_proj.weight": "llm",
        "model.embed_tokens.weight": "llm.embeddings", "model.norm.weight": "llm.norms",
    },
    "smolvlm": {
        "model.vision_model.post_layernorm.bias": "vision.norms", "lm_head.weight": "llm.head",
        "model.vision_model.embeddings.position_embedding.weight": "vision.embeddings",
        "model.connector.modality_projection.proj.weight": "projector",
        "model.text_model.norm.weight": "llm.norms",
    },
    "whisper": {
        "model.encoder.conv1.weight": "audio", "model.encoder.embed_positions.weight": "audio.embeddings",
        "model.encoder.layer_norm.bias": "audio.norms",
        "model.decoder.layers.0.encoder_attn.q_proj.weight": "llm",
        "model.decoder.embed_tokens.weight": "llm.embeddings",
    },
    "qwen2_5_vl": {
        "visual.merger.mlp.2.weight": "projector", "visual.blocks.0.attn.qkv.weight": "vision",
        "lm_head.weight": "llm.head",
    },
    "qwen2_audio": {
        "multi_modal_projector.linear.weight": "projector", "audio_tower.layer_norm.weight": "audio.norms",
        "language_model.lm_head.weight": "llm.head",
        "language_model.model.layers.1.mlp.up_proj.weight": "llm",
    },
    "llava": {
        "vision_tower.embeddings.class_embedding": "vision.embeddings",
        "vision_tower.pre_layrnorm.weight": "vision.norms",
        "multi_modal_projector.linear_2.bias": "projector",
    },
    "voxtral": {
        "multi_modal_projector.linear_1.weight": "projector", "audio_tower.conv2.weight": "audio",
    },
    "granite_speech": {
        "projector.linear.weight": "projector", "encoder.input_linear.weight": "audio",
        "language_model.model.embed_tokens.weight": "llm.embeddings",
    },
    "phi4_multimodal": {
        "model.embed_tokens_extend.image_embed.img_projection_up.weight": "projector",
        "model.embed_tokens_extend.image_embed.img_processor.encoder.layers.1.mlp.fc1.weight": "vision",
        "model.embed_tokens_extend.audio_embed.encoder.encoders.1.self_attn.q_proj.weight": "audio",
        "model.layers.0.self_attn.qkv_proj.weight": "llm", "model.embed_tokens.weight": "llm.embeddings",
    },
    "gemma4": {
        "model.embed_vision.embedding_projection.weight": "projector",
        "model.vision_tower.patch_embedder.position_embedding_table": "vision.embeddings",
        "model.language_model.embed_tokens_per_layer.weight": "llm.embeddings",
        "model.language_model.layers.0.self_attn.k_norm.weight": "llm.norms",
        "model.audio_tower.layers.1.lconv1d.conv_norm.weight": "audio.norms",
        "model.language_model.layers.1.per_layer_projection.weight": "llm",
    },
}  # fmt: skip


def _groups(folder: Path) -> Groups:
    found = Checkpoint(folder)
    subjects = subjects_of(([name] for name in found.names()), towers_of(found.config))
    return Groups(subjects=list(subjects.values()), where=str(folder))


@pytest.mark.parametrize("name", PLACES)
def test_every_tensor_finds_its_group(name: str, base_of: Base) -> None:
    found = Checkpoint(base_of(name))
    towers = towers_of(found.config)
    places = {tensor: group_of(tensor, towers) for tensor in found.names()}
    assert {tensor: places[tensor].label for tensor in PLACES[name]} == PLACES[name]
    whole = {(p.tower, p.layer) for p in places.values() if p.layer is not None}
    assert {layer for tower, layer in whole if tower == "llm"} == {0, 1}
    assert {p.tower for p in places.values()} >= {"llm"}
    for tensor, place in places.items():
        assert (place.kind == "norms") == ("norm" in tensor.split(".")[-2] or ".ln_" in tensor), tensor


@pytest.mark.parametrize("name", ["qwen_omni", "smolvlm", "whisper"])
def test_module_paths_and_names_on_disk_fall_into_the_same_group(name: str, base_of: Base) -> None:
    base = Checkpoint(base_of(name))
    towers = towers_of(base.config)
    model = family(name).load(base.folder).model
    wanted = {key: tuple(value.shape) for key, value in model.named_parameters()}
    for path, tensor in tensor_names(wanted, base).items():
        assert group_of(path, towers) == group_of(tensor, towers), path
        assert group_of(f"base_model.model.{path}", towers) == group_of(tensor, towers), path


def test_a_model_of_no_known_family_is_told_apart_by_customary_names() -> None:
    assert group_of("thinker.model.layers.3.mlp.up_proj.weight").label == "llm"
    assert group_of("thinker.visual.blocks.3.attn.qkv.weight").layer == 3
    assert group_of("talker.model.layers.3.mlp.up_proj.weight").label == "speech"
    assert group_of("model.layers.7.mlp.experts.2.down_proj.weight").layer == 7
    assert group_of("transformer.h.11.ln_1.weight").label == "llm.norms"
    assert group_of("transformer.wte.weight").label == "llm.embeddings"


@pytest.mark.parametrize(
    ("text", "picks"),
    [
        ("vision", 33), ("projector", 7), ("llm.layers.1", 12), ("llm.layers.0-1", 24), ("llm.layers", 24),
        ("llm.norms", 5), ("norms", 20), ("embeddings", 2), (r"re:q_proj\.weight$", 4), ("audio_tower", 39),
    ],
)  # fmt: skip
def test_selectors_pick_groups_ranges_and_patterns(text: str, picks: int, base_of: Base) -> None:
    groups = _groups(base_of("qwen_omni"))
    selector(text).check(groups)
    assert sum(selector(text).matches(subject) for subject in groups.subjects) == picks


@pytest.mark.parametrize("points", [[0, 1], [0.1, 0.7, 0.2], [0.4], [1.0, 0.0, 0.0, 0.5]])
@pytest.mark.parametrize("count", [1, 2, 3, 24])
@pytest.mark.filterwarnings("ignore:numpy.core is deprecated:DeprecationWarning")  # which mergekit imports
def test_a_gradient_is_that_of_mergekit(points: list[float], count: int) -> None:
    from mergekit.config import evaluate_setting

    names = [f"model.layers.{i}.mlp.up_proj.weight" for i in range(count)]
    subjects = subjects_of([[name] for name in [*names, "lm_head.weight"]], {})
    groups = Groups(subjects=list(subjects.values()), where="model")
    for i, name in enumerate(names):
        t = i / (count - 1) if count > 1 else 1
        theirs = evaluate_setting(name, points, t, validate=float)
        assert settle({"layers": points}, subjects[name], groups) == pytest.approx(theirs, abs=1e-12)
    assert settle({"layers": points}, subjects["lm_head.weight"], groups) == points[0]


def test_gradients_over_a_slice_and_cases_settle_to_plain_values() -> None:
    names = [f"model.layers.{i}.{m}.weight" for i in range(6) for m in ("mlp.up_proj", "self_attn.q_proj")]
    subjects = subjects_of([[name] for name in names], {})
    groups = Groups(subjects=list(subjects.values()), where="model")
    value = {
        "cases": [
            {"match": "self_attn", "value": {"layers": [0, 1], "over": [2, 4]}},
            {"match": "llm.layers.0-2", "value": "raw"},
            {"value": {"layers": ["a", "b"]}},
        ]
    }
    found = [settle(value, subject, groups) for subject in subjects.values()]
    assert found[1::2] == [0, 0, 0, 0.5, 1, 1]
    assert found[0::2] == ["raw", "raw", "raw", "a", "a", "b"]


def test_a_subject_goes_by_all_its_names() -> None:
    one = Subject(
        names=("visual.blocks.0.attn.q.weight", "model.visual.blocks.0.attn.q"), group=group_of("visual")
    )
    assert selector("re:^model.visual").matches(one)
    assert selector("re:^visual").matches(one)
