"""What every family must keep, found by discovery: a new file under studio/families is tested as it is."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from studio import plugins
from studio.errors import CheckpointError, DataError, MediaError
from studio.families import detect, family
from studio.types import Family, Image, Loaded, Sample, Sound, Text, Turn

NAMES = plugins.names("families")
Questions = Callable[[str, int], list[Sample]]


@pytest.fixture(scope="module", params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def kind(name: str) -> Family:
    return family(name)


@pytest.fixture(scope="module")
def loaded(name: str, kind: Family, tiny: Callable[[str], Path]) -> Loaded:
    return kind.load(tiny(name))


def tokens(item: dict[str, Any]) -> list[int]:
    """Return the ids that the answer is a continuation of, labels aligned: ids[i] is what label[i] may be."""
    if "input_ids" in item:
        return item["input_ids"].tolist()
    return item["decoder_input_ids"].tolist()[1:]  # such labels are shifted already


def learned(processor: Any, item: dict[str, Any]) -> str:
    return processor.tokenizer.decode(item["labels"][item["labels"] != -100].tolist())


def ends(processor: Any) -> str:
    """Return the mark that ends an answer: the tokenizer's end, or that of turns where they have one."""
    marks = ("<end_of_turn>", "<turn|>", "<|end|>")
    words = processor.tokenizer.get_vocab()
    return next((mark for mark in marks if mark in words), str(processor.tokenizer.eos_token))


def speech(text: str, loss: bool = True) -> Turn:
    return Turn(role="assistant", parts=(Text(text=text),), loss=loss)


def conversation(first: Sample, *more: Turn) -> Sample:
    return replace(first, turns=(*first.turns, *more))


def takes_turns(loaded: Loaded) -> bool:
    return bool(getattr(loaded.processor, "chat_template", None))


def test_tiny_checkpoint_is_small_and_the_same_every_time(
    name: str, kind: Family, tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    from studio.checkpoint import Checkpoint

    again = kind.tiny(tmp_path / "again")
    assert sum(file.stat().st_size for file in again.rglob("*")) < 1_500_000
    assert Checkpoint(again).fingerprint() == Checkpoint(tiny(name)).fingerprint()
    assert detect(again).name == name


def test_tiny_processor_loads_offline_by_auto_processor(
    loaded: Loaded, name: str, tiny: Callable[[str], Path]
) -> None:
    from transformers import AutoProcessor

    found = AutoProcessor.from_pretrained(tiny(name), local_files_only=True)
    assert type(found) is type(loaded.processor)
    assert type(loaded.model).__module__.startswith("transformers.models.")


def test_only_the_assistants_words_and_the_end_of_turn_are_learned(
    name: str, kind: Family, loaded: Loaded, questions: Questions
) -> None:
    for sample in questions(name, 6):
        item = kind.encode(loaded.processor, sample, True)
        assert item["labels"].shape == (item.get("input_ids", item.get("decoder_input_ids"))).shape
        assert learned(loaded.processor, item).lstrip(" ") == sample.answer + ends(loaded.processor)


def test_every_assistant_turn_of_a_conversation_is_learned_except_where_loss_is_off(
    name: str, kind: Family, loaded: Loaded, questions: Questions
) -> None:
    if not takes_turns(loaded):
        pytest.skip("one answer per row: tested below")
    again = Turn(role="user", parts=(Text(text="sure?"),))
    sample = conversation(questions(name, 4)[3], again, speech("yes", loss=False), again, speech("no doubt"))
    item = kind.encode(loaded.processor, sample, True)
    end = ends(loaded.processor)
    text = re.sub(rf"{re.escape(end)} ?", end, learned(loaded.processor, item)).lstrip(" ")
    assert text == f"a red circle 3{end}no doubt{end}"


def test_a_turn_whose_loss_is_off_leaves_nothing_to_learn(
    name: str, kind: Family, loaded: Loaded, questions: Questions
) -> None:
    sample = questions(name, 2)[1]
    silent = replace(sample, turns=(*sample.prompt, speech("a red circle", loss=False)))
    assert (kind.encode(loaded.processor, silent, True)["labels"] == -100).all()


def test_the_prompt_to_generate_from_is_what_stands_before_the_learned_tokens(
    name: str, kind: Family, loaded: Loaded, questions: Questions
) -> None:
    for sample in questions(name, 6):
        whole = kind.encode(loaded.processor, sample, True)
        prompt = tokens(kind.encode(loaded.processor, sample, False))
        begin = int((whole["labels"] != -100).nonzero()[0])
        assert prompt == tokens(whole)[:begin]
        assert "labels" not in kind.encode(loaded.processor, sample, False)


def test_learned_labels_are_the_tokens_that_follow(
    name: str, kind: Family, loaded: Loaded, questions: Questions
) -> None:
    item = kind.encode(loaded.processor, questions(name, 2)[1], True)
    ids, labels = tokens(item), item["labels"].tolist()
    assert all(label in (-100, token) for token, label in zip(ids, labels, strict=False))


def test_the_loss_of_a_batch_is_that_of_its_rows(
    name: str, kind: Family, loaded: Loaded, questions: Questions
) -> None:
    items = [kind.encode(loaded.processor, sample, True) for sample in questions(name, 6)]
    counts = torch.tensor([float((item["labels"] != -100).sum()) for item in items])
    with torch.no_grad():
        rows = [loaded.model(**kind.collate(loaded.processor, [item], "right")).loss for item in items]
        batch = loaded.model(**kind.collate(loaded.processor, items, "right")).loss
    # Tokens are averaged over the batch, so rows weigh by their counts; 1e-5 is float32 rounding.
    torch.testing.assert_close(batch, (torch.stack(rows) * counts).sum() / counts.sum(), rtol=1e-5, atol=1e-5)


def test_padding_on_the_left_leaves_the_last_scores_alone(
    name: str, kind: Family, loaded: Loaded, questions: Questions
) -> None:
    from transformers import GenerationMixin

    items = [kind.encode(loaded.processor, sample, False) for sample in questions(name, 5)]
    together = kind.collate(loaded.processor, items, "left")
    settings = {
        "max_new_tokens": 1,
        "do_sample": False,
        "return_dict_in_generate": True,
        "output_logits": True,
    }
    with torch.inference_mode():
        batch = GenerationMixin.generate(loaded.model, **together, **settings).logits[0]
        for row, item in zip(batch, items, strict=True):
            single = kind.collate(loaded.processor, [item], "left")
            alone = GenerationMixin.generate(loaded.model, **single, **settings).logits[0][0]
            torch.testing.assert_close(row, alone, rtol=1e-4, atol=1e-5)  # float32 rounding


def test_every_weight_lies_in_one_tower(kind: Family, loaded: Loaded) -> None:
    prefixes = [prefix for found in kind.towers.values() for prefix in found]
    assert len(prefixes) == len(set(prefixes))
    names = [name for name, _ in loaded.model.named_parameters()]
    for name in names:
        assert any(f"{name}.".startswith(f"{prefix}.") for prefix in prefixes), name
    for prefix in prefixes:
        if prefix not in names:
            loaded.model.get_submodule(prefix)


def test_lora_targets_are_linear_and_stay_in_their_tower(kind: Family, loaded: Loaded) -> None:
    where = {prefix: tower for tower, found in kind.towers.items() for prefix in found}
    for tower, rule in kind.lora_targets.items():
        paths = [path for path, _ in loaded.model.named_modules() if re.fullmatch(rule, path)]
        assert paths, f"{tower}: {rule} matches nothing"
        for path in paths:
            assert isinstance(loaded.model.get_submodule(path), torch.nn.Linear), path
            holders = [prefix for prefix in where if path == prefix or path.startswith(f"{prefix}.")]
            assert where[max(holders, key=len)] == tower, path


def test_what_is_predicted_hangs_on_every_medium(
    name: str, kind: Family, loaded: Loaded, questions: Questions
) -> None:
    for sample in questions(name, 6):
        for part in (Image, Sound):
            media = [p for turn in sample.turns for p in turn.parts if isinstance(p, part)]
            if not media:
                continue
            others = [p for s in questions(name, 12)[6:] for t in s.turns for p in t.parts]
            other = next(p for p in others if isinstance(p, part) and p not in media)
            turns = tuple(
                replace(turn, parts=tuple(other if p == media[-1] else p for p in turn.parts))
                for turn in sample.turns
            )
            with torch.no_grad():
                one, two = (
                    loaded.model(**kind.collate(loaded.processor, [item], "right")).logits[0, -1]
                    for item in (
                        kind.encode(loaded.processor, each, True)
                        for each in (sample, replace(sample, turns=turns))
                    )
                )
            assert not torch.equal(one, two), part


def test_a_special_token_in_the_users_text_is_refused_with_file_and_line(
    name: str, kind: Family, loaded: Loaded, questions: Questions
) -> None:
    sample = questions(name, 2)[1]
    token = loaded.processor.tokenizer.eos_token
    spoilt = replace(sample.turns[0], parts=(*sample.turns[0].parts, Text(text=f"and {token}")))
    with pytest.raises(DataError, match=rf"^made\.jsonl:2: .*{re.escape(token)}"):
        kind.encode(loaded.processor, replace(sample, turns=(spoilt, sample.turns[1])), True)


@pytest.mark.parametrize("part", [Image, Sound])
def test_a_missing_medium_is_named_with_file_and_line(
    part: type[Image] | type[Sound], name: str, kind: Family, loaded: Loaded, tmp_path: Path
) -> None:
    if ("image" if part is Image else "audio") not in kind.modalities:
        pytest.skip(f"{name} takes no such medium")
    turn = Turn(role="user", parts=(part(path=tmp_path / "nowhere"), Text(text="what?")))
    sample = Sample(turns=(turn, speech("this")), file=Path("rows.jsonl"), line=7)
    with pytest.raises(MediaError, match=r"^rows\.jsonl:7: .*nowhere"):
        kind.encode(loaded.processor, sample, True)


def test_a_chat_template_that_cannot_be_masked_is_refused(
    name: str, kind: Family, tiny: Callable[[str], Path], questions: Questions
) -> None:
    spoilt = kind.load(tiny(name)).processor
    if not getattr(spoilt, "chat_template", None):
        pytest.skip("no chat template")
    sample = conversation(
        questions(name, 2)[1], Turn(role="user", parts=(Text(text="sure?"),)), speech("yes")
    )
    spoilt.chat_template = (
        "{% for message in messages %}{{ loop.length }}{{ message['role'] }}: "
        "{% for part in message['content'] %}{{ part['text'] }}{% endfor %}<|e|>\n{% endfor %}"
    )
    with pytest.raises(CheckpointError, match="chat template"):
        kind.encode(spoilt, sample, True)


def test_a_checkpoint_that_lacks_a_weight_is_refused_by_its_name(
    name: str, kind: Family, tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(tiny(name), tmp_path / "holed"))
    weights = load_file(folder / "model.safetensors")
    lost = next(key for key in weights if "layers.1" in key or "blocks.1" in key)
    save_file({k: v for k, v in weights.items() if k != lost}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=re.escape(lost.rpartition(".")[2])):
        kind.load(folder)


def test_a_truncated_checkpoint_is_refused_in_one_sentence(
    name: str, kind: Family, tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    import shutil

    folder = Path(shutil.copytree(tiny(name), tmp_path / "cut"))
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        kind.load(folder)
