"""Variants that answer together, live merges, and adapters whose files change under a running engine."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from studio.adapter_format import Factors
from studio.adapters import add_lora, read_adapter, save_adapter
from studio.errors import CheckpointError, ConfigError, UnknownName
from studio.families import family
from studio.log import QuietLog
from studio.types import Sample
from studio.variants import Engine

KIND = family("qwen_omni")
SETTINGS: dict[str, Any] = {"max_new_tokens": 6}


@pytest.fixture(scope="module")
def base(tiny: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("models") / "base"
    shutil.copytree(tiny("qwen_omni"), folder)
    weights = load_file(folder / "model.safetensors")
    louder = {k: v * (3.0 if v.dim() > 1 and "embed" not in k else 1.0) for k, v in weights.items()}
    save_file(louder, folder / "model.safetensors", {"format": "pt"})
    return folder


def adapter(base: Path, folder: Path, seed: int, towers: list[str], **settings: Any) -> Path:
    model = add_lora(KIND.load(base).model, KIND, towers, seed=seed, **{"r": 4, **settings})
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for path, weight in model.named_parameters():
            if "lora_B" in path:
                weight.copy_(torch.randn(weight.shape, generator=draw) * 0.3)
    return save_adapter(model, folder, base=base, family=KIND)


@pytest.fixture(scope="module")
def folders(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path | None]:
    root = tmp_path_factory.mktemp("variants")
    return {
        "base": None,
        "words": adapter(base, root / "words", 1, ["llm"]),
        "eyes": adapter(base, root / "eyes", 2, ["vision", "projector", "llm"], r=2),
        "ears": adapter(base, root / "ears", 3, ["audio", "llm"], r=3),
        "length": adapter(base, root / "length", 4, ["llm"], use_dora=True),
        "model": Path(shutil.copytree(base, root / "model")),
    }


@pytest.fixture(scope="module")
def samples(questions: Callable[[str, int], list[Sample]]) -> list[Sample]:
    return questions("qwen_omni", 7)


@pytest.fixture(scope="module")
def alone(base: Path, folders: dict[str, Path | None], samples: list[Sample]) -> dict[str, list[str]]:
    """Return what each variant says through an engine of its own, one question at a time."""
    found = {}
    for name, folder in folders.items():
        engine = Engine(base, {name: folder})
        found[name] = [engine.answer(name, sample, **SETTINGS) for sample in samples]
    assert len({tuple(texts) for texts in found.values()}) >= 5  # the model is a copy of the base
    return found


def test_together_all_kinds_of_variants_say_what_each_says_alone(
    base: Path, folders: dict[str, Path | None], samples: list[Sample], alone: dict[str, list[str]]
) -> None:
    engine = Engine(base, folders)
    reasons = {name: engine.apart(name) for name in engine.names}
    assert [name for name, reason in reasons.items() if reason] == ["length", "model"]
    assert "DoRA" in reasons["length"]
    for size in (16, 3):
        assert engine.together(engine.names, samples, batch_size=size, **SETTINGS) == alone
    assert engine.together(["eyes"], samples[:1], **SETTINGS) == {"eyes": alone["eyes"][:1]}
    assert engine.together(["words", "eyes"], [], **SETTINGS) == {"words": [], "eyes": []}
    hot = {"temperature": 0.8, "seed": 5, **SETTINGS}
    told = engine.together(["words", "eyes"], samples, batch_size=4, **hot)
    assert told == {name: engine.answers(name, samples, **hot) for name in ("words", "eyes")}


def test_answers_stream_together_and_stop_when_asked(
    base: Path, folders: dict[str, Path | None], samples: list[Sample], alone: dict[str, list[str]]
) -> None:
    engine = Engine(base, folders)
    names = ["base", "words", "eyes", "ears"]
    grown = list(engine.stream_together(names, samples[1], **SETTINGS))
    assert grown[-1] == {name: alone[name][1] for name in names}
    assert len(grown) > 2
    stop = threading.Event()
    texts = engine.stream_together(names, samples[1], stop=stop, max_new_tokens=400)
    next(texts)
    stop.set()
    assert len(list(texts)) < 20
    texts = engine.stream_together(names, samples[1], max_new_tokens=400)
    next(texts)
    texts.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name == "stream"]
    assert engine.answer("words", samples[0], **SETTINGS) == alone["words"][0]
    with pytest.raises(ConfigError, match="max_new_tokens is 0"):
        next(engine.stream_together(names, samples[1], max_new_tokens=0))


def test_a_live_variant_answers_with_the_factors_it_was_given_last(
    base: Path, folders: dict[str, Path | None], samples: list[Sample], alone: dict[str, list[str]]
) -> None:
    engine = Engine(base, {"base": None, "words": folders["words"]})
    assert folders["words"] is not None
    modules = dict(read_adapter(folders["words"]).modules)
    engine.live("mix", modules)
    assert engine.names == ("base", "words", "mix")
    assert engine.answers("mix", samples, **SETTINGS) == alone["words"]
    first = engine.fingerprint("mix")
    half = {
        path: Factors(a=each.a, b=each.b * 0.0, shape=each.shape, kind=each.kind)
        for path, each in modules.items()
    }
    engine.live("mix", half)
    told = engine.together(["mix", "words"], samples, **SETTINGS)
    assert told == {"mix": alone["base"], "words": alone["words"]}
    assert engine.fingerprint("mix") != first
    *_, text = engine.stream("mix", samples[2], **SETTINGS)
    assert text == alone["base"][2]
    with pytest.raises(ConfigError, match="'words' is not a live one"):
        engine.live("words", modules)
    engine.remove("mix")
    with pytest.raises(UnknownName):
        engine.answer("mix", samples[0])


def test_an_adapter_written_anew_is_read_anew_and_one_that_is_gone_is_told(
    base: Path,
    folders: dict[str, Path | None],
    samples: list[Sample],
    alone: dict[str, list[str]],
    tmp_path: Path,
) -> None:
    def put(name: str) -> None:
        shutil.rmtree(tmp_path / "own", ignore_errors=True)
        shutil.copytree(folders[name] or "", tmp_path / "own")

    put("words")
    engine = Engine(base, {"base": None, "own": tmp_path / "own"})
    for name in ("words", "eyes", "length", "words"):  # of the two kinds that are kept apart in memory
        put(name)
        assert engine.answers("own", samples, **SETTINGS) == alone[name], name
    shutil.rmtree(tmp_path / "own")
    with pytest.raises(CheckpointError, match="own"):
        engine.answers("own", samples, **SETTINGS)
    assert engine.answers("base", samples, **SETTINGS) == alone["base"]


def test_variants_that_turn_out_not_to_mix_answer_in_turn_with_a_word_about_it(
    tiny: Callable[[str], Path], questions: Callable[[str, int], list[Sample]], tmp_path: Path
) -> None:
    kind = family("phi4_multimodal")
    folder = tiny("phi4_multimodal")
    variants: dict[str, Path | None] = {"base": None}
    for seed in (1, 2):
        model = add_lora(kind.load(folder).model, kind, ["llm", "projector"], r=2, seed=seed)
        with torch.no_grad():
            for path, weight in model.named_parameters():
                if "lora_B" in path:
                    weight.normal_()
        variants[str(seed)] = save_adapter(model, tmp_path / str(seed), base=folder, family=kind)
    engine, said = Engine(folder, variants), []

    class Saying(QuietLog):
        def say(self, message: str) -> None:
            said.append(message)

    asked = questions("phi4_multimodal", 4)
    told = engine.together(engine.names, asked, log=Saying(), **SETTINGS)
    assert told == {name: engine.answers(name, asked, **SETTINGS) for name in engine.names}
    assert len(said) == 1
    assert "answer in turn, because" in said[0]
