from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from studio.adapters import Factors, add_lora, read_adapter, save_adapter, write_adapter
from studio.errors import CheckpointError, ConfigError, UnknownName
from studio.families import family
from studio.generate import answers
from studio.types import Loaded, Sample
from studio.variants import Engine

NAME = "smolvlm"
KIND = family(NAME)
SETTINGS: dict[str, Any] = {"max_new_tokens": 8}


@pytest.fixture(scope="module")
def base(tiny: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tiny base made talkative, so that variants have something to differ in."""
    folder = tmp_path_factory.mktemp("models") / "base"
    shutil.copytree(tiny(NAME), folder)
    louder(folder, 3.0)
    return folder


def louder(folder: Path, factor: float) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    grown = {k: v * (factor if v.dim() > 1 and "embed" not in k else 1.0) for k, v in weights.items()}
    save_file(grown, folder / "model.safetensors", {"format": "pt"})


def make_adapter(base: Path, folder: Path, seed: int, towers: list[str], **settings: Any) -> Path:
    model = add_lora(KIND.load(base).model, KIND, towers, seed=seed, **settings)
    with torch.no_grad():
        draw = torch.Generator().manual_seed(seed)
        for path, weight in model.named_parameters():
            if "lora_B" in path or "modules_to_save" in path:
                weight.copy_(torch.randn(weight.shape, generator=draw) * 0.3)
    return save_adapter(model, folder, base=base, family=KIND)


@pytest.fixture(scope="module")
def folders(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path | None]:
    """Return all kinds of variants: the base, adapters of several shapes, a merged one, and full models."""
    root = tmp_path_factory.mktemp("variants")
    made: dict[str, Path | None] = {"base": None}
    made["words"] = make_adapter(base, root / "words", 1, ["llm"], r=4)
    made["eyes"] = make_adapter(base, root / "eyes", 2, ["vision", "projector"], r=2, alpha=8)
    made["length"] = make_adapter(base, root / "length", 3, ["llm"], r=3, use_dora=True)
    made["head"] = make_adapter(base, root / "head", 4, ["llm"], r=2, modules_to_save=["lm_head"])
    made["merged"] = merge(root / "merged", base, root / "words", root / "eyes")
    for name, factor in (("model", 1.3), ("other", 1.7)):
        made[name] = Path(shutil.copytree(base, root / name))
        louder(root / name, factor)
    return made


def merge(folder: Path, base: Path, *sources: Path) -> Path:
    """Return the sum of two adapters by stacked factors: another rank in each tower."""
    modules: dict[str, Factors] = {}
    for source in sources:
        modules |= dict(read_adapter(source).modules)
    assert len({factors.rank for factors in modules.values()}) == 2
    fingerprint = read_adapter(sources[0]).base_fingerprint
    return write_adapter(folder, modules, base=str(base), base_fingerprint=fingerprint, family=NAME)


@pytest.fixture(scope="module")
def samples(questions: Callable[[str, int], list[Sample]]) -> list[Sample]:
    return questions(NAME, 6)


@pytest.fixture(scope="module")
def alone(base: Path, folders: dict[str, Path | None], samples: list[Sample]) -> dict[str, list[str]]:
    """Return every variant's answers from a model that was loaded for it alone, by peft itself."""
    from peft import PeftModel

    found = {}
    for name, folder in folders.items():
        full = folder is not None and not (folder / "adapter_config.json").exists()
        model, processor = KIND.load(folder if full and folder else base)
        if folder is not None and not full:
            model = PeftModel.from_pretrained(model, folder).eval()
        found[name] = answers(Loaded(model, processor), KIND, samples, batch_size=1, **SETTINGS)
    return found


@pytest.fixture(scope="module")
def engine(base: Path, folders: dict[str, Path | None]) -> Engine:
    return Engine(base, folders, max_models=2)


def test_the_variants_of_this_test_differ(alone: dict[str, list[str]]) -> None:
    assert len({tuple(texts) for texts in alone.values()}) == len(alone)


def test_names_keep_their_order(engine: Engine, folders: dict[str, Path | None]) -> None:
    assert engine.names == tuple(folders)


def test_every_variant_answers_as_if_it_were_alone(
    engine: Engine, samples: list[Sample], alone: dict[str, list[str]]
) -> None:
    for name in [*engine.names, *reversed(engine.names)]:
        assert engine.answers(name, samples, batch_size=4, **SETTINGS) == alone[name], name
        assert engine.answer(name, samples[1], **SETTINGS) == alone[name][1], name


def test_every_variant_streams_what_it_answers(
    engine: Engine, samples: list[Sample], alone: dict[str, list[str]]
) -> None:
    for name in engine.names:
        *_, text = engine.stream(name, samples[0], **SETTINGS)
        assert text == alone[name][0], name


def test_eight_threads_asking_different_variants_get_no_wrong_answer(
    engine: Engine, samples: list[Sample], alone: dict[str, list[str]]
) -> None:
    asked = [(name, i) for i in range(len(samples)) for name in engine.names]

    def ask(place: tuple[str, int]) -> bool:
        name, i = place
        if i % 2:
            *_, text = engine.stream(name, samples[i], **SETTINGS)
        else:
            text = engine.answer(name, samples[i], **SETTINGS)
        return text == alone[name][i]

    with ThreadPoolExecutor(8) as pool:
        right = list(pool.map(ask, asked))
    assert len(right) >= 40
    assert sum(not one for one in right) == 0


def test_streams_of_all_variants_taken_in_turns_are_right(
    engine: Engine, samples: list[Sample], alone: dict[str, list[str]]
) -> None:
    names = engine.names[:5]
    last: dict[str, str] = {}
    running: dict[str, Iterator[str]] = {n: engine.stream(n, samples[3], **SETTINGS) for n in names}
    while running:
        for name in list(running):
            text = next(running[name], None)
            if text is None:
                del running[name]
            else:
                last[name] = text
    assert last == {name: alone[name][3] for name in names}


def test_an_abandoned_stream_frees_the_base(
    engine: Engine, samples: list[Sample], alone: dict[str, list[str]]
) -> None:
    texts = engine.stream("words", samples[2], max_new_tokens=400)
    next(texts)
    texts.close()  # type: ignore[attr-defined]
    assert engine.answer("base", samples[2], **SETTINGS) == alone["base"][2]
    assert not [thread for thread in threading.enumerate() if thread.name == "stream"]


def test_full_models_make_room_for_each_other(
    base: Path, folders: dict[str, Path | None], samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[str] = []

    def load(path: Path, **settings: Any) -> Loaded:
        loads.append(Path(path).name)
        return KIND.load(path, **settings)

    from dataclasses import replace

    import studio.resident

    monkeypatch.setattr(studio.resident, "detect", lambda folder: replace(KIND, load=load))
    engine = Engine(base, folders, max_models=1)
    for name in ("model", "model", "words", "base", "other", "other", "model"):
        engine.answer(name, samples[0], max_new_tokens=1)
    assert loads == ["model", "base", "other", "model"]
    two = Engine(base, folders, max_models=2)
    for name in ("model", "other", "model", "other"):
        two.answer(name, samples[0], max_new_tokens=1)
    assert loads[4:] == ["model", "other"]
    one = sum(weight.numel() for weight in KIND.load(base).model.state_dict().values()) * 4
    for memory, expected in ((int(2.5 * one), ["model", "other"] * 2), (4 * one, ["model", "other"])):
        loads.clear()
        tight = Engine(base, folders, memory=memory)
        for name in ("model", "other", "model", "other"):
            tight.answer(name, samples[0], max_new_tokens=1)
        assert loads == expected


def test_an_adapter_of_another_base_is_refused(
    base: Path, folders: dict[str, Path | None], tmp_path: Path
) -> None:
    other = Path(shutil.copytree(base, tmp_path / "other"))
    louder(other, 1.01)
    with pytest.raises(CheckpointError, match=r"variant 'words': .*made for the base .*not for"):
        Engine(other, {"words": folders["words"]})


def test_an_adapter_whose_keys_match_no_module_is_refused_and_the_base_stays_whole(
    base: Path,
    folders: dict[str, Path | None],
    samples: list[Sample],
    alone: dict[str, list[str]],
    tmp_path: Path,
) -> None:
    import json

    from safetensors.torch import load_file, save_file

    assert folders["words"] is not None
    odd = Path(shutil.copytree(folders["words"], tmp_path / "odd"))
    weights = load_file(odd / "adapter_model.safetensors")
    renamed = {key.replace("text_model", "language_model"): value for key, value in weights.items()}
    save_file(renamed, odd / "adapter_model.safetensors", {"format": "pt"})
    config = json.loads((odd / "adapter_config.json").read_text())
    assert config["r"] == 4
    engine = Engine(base, {"odd": odd, "words": folders["words"], "base": None})
    assert engine.answers("words", samples, **SETTINGS) == alone["words"]
    with pytest.raises(CheckpointError, match="no match"):
        engine.answer("odd", samples[0], **SETTINGS)
    assert engine.answers("words", samples, **SETTINGS) == alone["words"]
    assert engine.answers("base", samples, **SETTINGS) == alone["base"]


def test_an_adapter_that_trains_the_bases_biases_lives_on_a_base_of_its_own(
    base: Path, samples: list[Sample], alone: dict[str, list[str]], tmp_path: Path
) -> None:
    from peft import LoraConfig, PeftModel, get_peft_model

    made = {}
    for name, shift in (("up", 2.0), ("down", -2.0)):
        config = LoraConfig(r=2, bias="all", target_modules=KIND.lora_targets["vision"])
        model = get_peft_model(KIND.load(base).model, config)
        with torch.no_grad():
            for path, weight in model.named_parameters():
                if path.endswith("bias"):
                    weight.add_(shift)
        made[name] = save_adapter(model, tmp_path / name, base=base, family=KIND)
    engine = Engine(base, {**made, "base": None})
    for name, folder in made.items():
        loaded = KIND.load(base)
        model = PeftModel.from_pretrained(loaded.model, folder).eval()
        expected = answers(Loaded(model, loaded.processor), KIND, samples, **SETTINGS)
        assert engine.answers(name, samples, **SETTINGS) == expected
        assert expected != alone["base"]
        assert engine.answers("base", samples, **SETTINGS) == alone["base"]


def test_fingerprints_follow_the_contents_and_not_the_names(
    base: Path, folders: dict[str, Path | None], tmp_path: Path
) -> None:
    engine = Engine(base, folders)
    prints = {name: engine.fingerprint(name) for name in engine.names}
    assert len(set(prints.values())) == len(prints)
    assert folders["words"] is not None
    copy = Path(shutil.copytree(folders["words"], tmp_path / "copy"))
    again = Engine(base, {"copied": copy})
    assert again.fingerprint("copied") == prints["words"]
    settings = (copy / "adapter_config.json").read_text()
    (copy / "adapter_config.json").write_text(settings.replace('"lora_alpha": 32', '"lora_alpha": 16'))
    assert again.fingerprint("copied") != prints["words"]


def test_a_folder_joins_a_running_engine_and_its_name_is_its_own(
    base: Path,
    folders: dict[str, Path | None],
    samples: list[Sample],
    alone: dict[str, list[str]],
    tmp_path: Path,
) -> None:
    engine = Engine(base, {"base": None, "words": folders["words"]})
    assert engine.answer("words", samples[0], **SETTINGS) == alone["words"][0]
    assert folders["eyes"] is not None
    engine.add("eyes", folders["eyes"])
    assert engine.names == ("base", "words", "eyes")
    assert engine.answer("eyes", samples[0], **SETTINGS) == alone["eyes"][0]
    with pytest.raises(ConfigError, match="there is a variant 'eyes' already"):
        engine.add("eyes", folders["words"] or base)
    with pytest.raises(CheckpointError, match="no model here"):
        engine.add("nothing", tmp_path)
    engine.live("mix", dict(read_adapter(folders["words"] or base).modules))
    assert engine.answer("mix", samples[0], **SETTINGS) == alone["words"][0]
    assert "mix" in engine.names
    assert list(engine.folders) == ["base", "words", "eyes"]


def test_an_adapter_that_disappears_is_told_and_the_others_answer_on(
    base: Path,
    folders: dict[str, Path | None],
    samples: list[Sample],
    alone: dict[str, list[str]],
    tmp_path: Path,
) -> None:
    assert folders["words"] is not None
    gone = Path(shutil.copytree(folders["words"], tmp_path / "gone"))
    engine = Engine(base, {"gone": gone, "words": folders["words"]})
    assert engine.answer("gone", samples[0], **SETTINGS) == alone["words"][0]
    shutil.rmtree(gone)
    with pytest.raises(CheckpointError, match="was it moved"):
        engine.answer("gone", samples[0], **SETTINGS)
    assert engine.answer("words", samples[0], **SETTINGS) == alone["words"][0]


def test_an_unknown_variant_is_answered_with_the_nearest(engine: Engine, samples: list[Sample]) -> None:
    with pytest.raises(UnknownName, match="did you mean 'merged'"):
        engine.answer("mergd", samples[0])


def test_a_folder_without_a_model_is_refused_before_anything_is_loaded(base: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no model here"):
        Engine(base, {"nothing": tmp_path})


def test_prompts_are_encoded_once_for_all_variants(
    base: Path, folders: dict[str, Path | None], samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    import studio.resident

    encoded: list[int] = []

    def encode(processor: Any, sample: Sample, supervise: bool) -> Any:
        encoded.append(sample.line)
        return KIND.encode(processor, sample, supervise)

    monkeypatch.setattr(studio.resident, "detect", lambda folder: replace(KIND, encode=encode))
    engine = Engine(base, folders)
    for name in ("base", "words", "model", "other"):
        engine.answers(name, samples, max_new_tokens=1)
    assert sorted(encoded) == [sample.line for sample in samples]


def test_an_edited_picture_is_encoded_anew_and_old_prompts_are_forgotten(
    tiny: Callable[[str], Path], samples: list[Sample], tmp_path: Path
) -> None:
    from dataclasses import replace

    from studio.prompts import Prompts
    from studio.types import Image, Turn

    first, second = samples[1].images[0].path, samples[2].images[0].path
    picture = tmp_path / "picture.png"
    shutil.copy(first, picture)
    turn = Turn(role="user", parts=(Image(path=picture), *samples[1].turns[0].parts[1:]))
    sample = replace(samples[1], turns=(turn,))
    prompts = Prompts(KIND, KIND.load(tiny(NAME)).processor)
    before = prompts(sample)
    assert prompts(sample) is before
    shutil.copy(second, picture)
    assert not torch.equal(prompts(sample)["pixel_values"], before["pixel_values"])
    small = Prompts(KIND, KIND.load(tiny(NAME)).processor, limit=40_000)
    for each in samples:
        small(each)
    assert 0 < len(small) < len(samples)
