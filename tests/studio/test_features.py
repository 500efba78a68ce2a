"""Frozen towers computed once: the same losses and gradients, shared files, and when towers run after all."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from studio import plugins
from studio.cache import evict, room
from studio.data import write_jsonl
from studio.errors import ConfigError
from studio.families import _llava_build, _qwen_vl_build, detect, family, gauge, paligemma
from studio.families._gauge import Gauge
from studio.log import QuietLog
from studio.training import feature_files
from studio.training.encoding import Encoded, encode_samples, open_encoded
from studio.training.features import TowerCache
from studio.training.loss import TokenLoss
from studio.training.processes import join
from studio.training.skipping import skip_towers
from studio.training.towers import train_mode
from studio.types import Sample, Sound

CPU = torch.device("cpu")
#: Kinds of model beside those that a family's `tiny` shows.
OTHERS: dict[str, Callable[[Path], Path]] = {
    "qwen2_vl": lambda folder: _qwen_vl_build.build(folder, "qwen2_vl"),
    "qwen2_5_vl": lambda folder: _qwen_vl_build.build(folder, "qwen2_5_vl"),
    "llava 1.5": lambda folder: _llava_build.build(folder, "llava"),
    "llava_onevision": lambda folder: _llava_build.build(folder, "llava_onevision"),
    "paligemma 2": lambda folder: paligemma.build(folder, "gemma2"),
}
KINDS = [name for name in plugins.names("families") if family(name).features] + list(OTHERS)
Tiny = Callable[[str], Path]
Questions = Callable[[str, int], list[Sample]]


class Saying(QuietLog):
    """Remembers what was said, and which stages there were."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.stages: list[tuple[str, int]] = []

    def say(self, message: str) -> None:
        self.said.append(message)

    def stage(self, name: str, total: int, unit: str = "samples") -> None:
        self.stages.append((name, total))


@dataclasses.dataclass
class Work:
    """A model in which the language model learns, its encoded rows, and what a run does with them."""

    model: Any
    gauge: Gauge
    data: Encoded
    log: Saying

    @property
    def collate(self) -> Callable[[Sequence[Any]], Any]:
        return partial(self.gauge.family.collate, self.gauge.processor, side="right")

    def cache(self) -> TowerCache:
        return TowerCache(self.model, self.gauge, self.log, device=CPU)

    def learn(self, *towers: str) -> None:
        paths = tuple(path for tower in towers for path in self.gauge.family.towers[tower])
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name.startswith(paths))
        train_mode(self.model)

    def measured(self, collate: Callable[[Sequence[Any]], Any]) -> tuple[float, dict[str, torch.Tensor]]:
        """Return the loss of all rows and the gradients."""
        self.model.zero_grad()
        loss = TokenLoss(self.model, CPU)
        batch = collate([self.data[index] for index in range(len(self.data))])
        value = loss(self.model, batch, [1.0] * len(self.data))
        value.backward()
        loss.close()
        learned = {n: p.grad.clone() for n, p in self.model.named_parameters() if p.grad is not None}
        return float(value.detach()), learned


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPTYCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def prepared(
    tiny: Tiny, questions: Questions, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Work]:
    """Return a factory: a kind of model -> it, fresh, with its rows encoded once in this session."""
    known: dict[str, tuple[Path, Path, list[Sample]]] = {}

    def make(kind: str, rows: int = 5) -> Work:
        if kind not in known:
            place = tmp_path_factory.mktemp("features")
            folder = OTHERS[kind](place / "model") if kind in OTHERS else tiny(kind)
            known[kind] = folder, place / "encoded", questions(detect(folder).name, rows)
        folder, shards, samples = known[kind]
        found = gauge(folder)
        encode_samples(found, samples, shards, QuietLog())
        work = Work(found.family.load(folder).model, found, open_encoded(found, samples, shards), Saying())
        work.learn("llm")
        return work

    return make


def files() -> list[Path]:
    return sorted(feature_files.features_folder().rglob("*.safetensors"))


@pytest.mark.parametrize("learning", [("llm",), ("llm", "projector")])
@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradients_are_those_of_the_towers(
    kind: str, learning: tuple[str, ...], prepared: Callable[..., Work]
) -> None:
    work = prepared(kind)
    if not set(learning) <= work.gauge.family.towers.keys():
        pytest.skip("the family has no projector")
    work.learn(*learning)
    loss, gradients = work.measured(work.collate)
    features = work.cache()
    skippable = [f for f in work.gauge.family.features.values() if f.projectors or learning == ("llm",)]
    assert len(features.cuts) == len(skippable)
    if not skippable:
        return  # a projector that cannot be told from its tower: the plain path, in every step
    marks = kind in ("llava", "llava_onevision")  # a mark between tiles learns with the language model
    assert {cut.projected for cut in features.cuts.values()} == {learning == ("llm",) and not marks}
    assert features.fill([work.data], work.collate) == ""
    assert features.attach(work.data)
    assert not {key for item in map(work.data.__getitem__, range(5)) for key in item} & {
        key for cut in features.cuts.values() for key in cut.feature.takes
    }
    # The order of sums may change with the number of media that go through a tower together, nothing else.
    kept, again = work.measured(features.collate(work.collate))
    assert kept == pytest.approx(loss, rel=1e-5)
    assert again.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(again[name], gradient, rtol=1e-5, atol=1e-5, msg=name)


def skipped(work: Work) -> bool:
    """Return what a run finds out before its first step."""
    alone = join(Path("unused"))
    found = skip_towers(work.model, work.gauge, [work.data], work.collate, work.log, alone)
    return found is not None


def test_second_run_finds_the_features_of_the_first_and_no_tower_runs(prepared: Callable[..., Work]) -> None:
    first = prepared("qwen_omni")
    assert skipped(first)
    assert [name for name, _ in first.log.stages] == ["features of image", "features of audio"]
    assert any(said.startswith("tower_cache: on") for said in first.log.said)
    second = prepared("qwen_omni")
    assert skipped(second)
    assert second.log.stages == []
    features = second.cache()
    loss = second.measured(features.collate(second.collate))[0]
    for parameter in second.model.model.visual.parameters():
        parameter.data.fill_(torch.nan)  # nothing reads them any more
    for parameter in second.model.model.audio_tower.parameters():
        parameter.data.fill_(torch.nan)
    assert second.measured(features.collate(second.collate))[0] == loss


def test_changed_tower_is_another_key_and_a_changed_language_model_is_not(
    prepared: Callable[..., Work],
) -> None:
    def places() -> set[Path]:
        return {file.parent for file in files()}

    assert skipped(prepared("smolvlm"))
    assert len(places()) == 1
    work = prepared("smolvlm")
    with torch.no_grad():
        next(work.model.model.text_model.parameters()).add_(1.0)
    assert skipped(work)
    assert len(places()) == 1
    with torch.no_grad():
        next(work.model.model.vision_model.parameters()).view(-1)[0] += 1e-3
    assert skipped(work)
    assert len(places()) == 2


def test_projector_that_learns_is_not_part_of_the_key(prepared: Callable[..., Work]) -> None:
    for change in (0.0, 1.0):
        work = prepared("gemma")
        work.learn("llm", "projector")
        with torch.no_grad():
            next(work.model.model.multi_modal_projector.parameters()).add_(change)
        assert skipped(work)
    assert len(work.log.stages) == 0


def test_tower_that_learns_is_computed_in_every_step_and_the_other_one_is_not(
    prepared: Callable[..., Work],
) -> None:
    work = prepared("qwen_omni")
    work.learn("llm", "vision")
    assert skipped(work)
    assert any("image is computed in every step, because 'model.visual" in said for said in work.log.said)
    keys = {key for index in range(len(work.data)) for key in work.data[index]}
    assert {"pixel_values", "kept.audio.0"} <= keys
    assert "input_features" not in keys


def test_family_without_the_hook_is_told_and_takes_the_plain_path(prepared: Callable[..., Work]) -> None:
    work = prepared("smolvlm")
    work.gauge = dataclasses.replace(work.gauge, family=dataclasses.replace(work.gauge.family, features={}))
    assert not skipped(work)
    assert work.log.said == ["tower_cache: off; family smolvlm does not say how features are kept"]
    assert "pixel_values" in {key for index in range(len(work.data)) for key in work.data[index]}


def test_whisper_that_masks_its_sounds_anew_is_not_cached(prepared: Callable[..., Work]) -> None:
    work = prepared("whisper")
    work.model.config.apply_spec_augment = True
    assert not skipped(work)
    assert any("SpecAugment" in said for said in work.log.said)


def test_wrong_features_are_found_out_before_the_first_step(prepared: Callable[..., Work]) -> None:
    work = prepared("internvl")
    [(modality, feature)] = work.gauge.family.features.items()

    def wrong(model: Any, batch: Any, projected: bool) -> list[torch.Tensor]:
        return [each * 1.5 for each in feature.compute(model, batch, projected)]

    features = {modality: dataclasses.replace(feature, compute=wrong)}
    work.gauge = dataclasses.replace(
        work.gauge, family=dataclasses.replace(work.gauge.family, features=features)
    )
    assert not skipped(work)
    assert any(said.startswith("tower_cache: off, because the loss differs") for said in work.log.said)
    assert files() == []
    assert work.data.instead is None


def test_other_media_of_an_epoch_take_the_towers(prepared: Callable[..., Work], tmp_path: Path) -> None:
    work = prepared("gemma")
    features = work.cache()
    assert features.fill([work.data], work.collate) == ""
    assert features.attach(work.data)
    other = prepared("gemma").data
    other.digest = lambda index, keys: f"augmented {index}"  # type: ignore[method-assign]
    assert not features.attach(other)
    assert "pixel_values" in {key for index in range(len(other)) for key in other[index]}


def test_two_processes_share_the_work_and_the_files(
    prepared: Callable[..., Work], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("studio.training.features.FILE", 1)
    one, other = prepared("whisper"), prepared("whisper")
    a, b = one.cache(), other.cache()
    assert a.fill([one.data], one.collate, part=(0, 2)) == ""
    assert len(files()) == 3
    assert not a.attach(one.data)
    assert b.fill([other.data], other.collate, part=(1, 2)) == ""
    assert len(files()) == 5
    assert a.attach(one.data)
    assert b.attach(other.data)


def test_features_that_do_not_fit_are_not_begun(
    prepared: Callable[..., Work], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIPTYCH_CACHE_GB", "0.0001")
    work = prepared("whisper")
    assert not skipped(work)
    assert any("need 0.00096 GB, the cache may take 0.0001 GB" in said for said in work.log.said)
    assert files() == []
    monkeypatch.setenv("TRIPTYCH_CACHE_GB", "much")
    with pytest.raises(ConfigError, match="number of gigabytes from 0 on, not 'much'"):
        room(feature_files.features_folder())


def test_files_used_least_lately_make_room(tmp_path: Path) -> None:
    now = time.time()
    for age in range(4):
        file = tmp_path / f"{age}"
        file.write_bytes(bytes(100))
        os.utime(file, (now - 3600.0 * 2 * age, now - 3600.0 * 2 * age))
    evict(tmp_path, 250)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["0", "1"]
    evict(tmp_path, 0)
    assert [file.name for file in tmp_path.iterdir()] == ["0"], "a file of the last hour may be in use"


def test_damaged_file_is_computed_again(prepared: Callable[..., Work]) -> None:
    assert skipped(prepared("gemma"))
    [file] = files()
    file.write_bytes(file.read_bytes()[:100])
    work = prepared("gemma")
    assert skipped(work)
    assert work.log.stages == [("features of image", 3)]


SCRIPT = """
import sys, time
from functools import partial
from pathlib import Path
import torch
from studio.families import gauge
from studio.log import QuietLog
from studio.training import features
from studio.training.encoding import encode_samples, open_encoded
from studio.data import load_data

features.FILE = 1
folder, data, shards, slow = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4])
found = gauge(folder)
samples = load_data(data, split="train")
encode_samples(found, samples, shards, QuietLog())
rows = open_encoded(found, samples, shards)
model = found.family.load(folder).model.requires_grad_(False)
cache = features.TowerCache(model, found, QuietLog(), device=torch.device("cpu"))
write = features.FeatureFiles.write
def slowly(*args):
    print("writing", flush=True)
    time.sleep(slow)
    return write(*args)
features.FeatureFiles.write = slowly
collate = partial(found.family.collate, found.processor, side="right")
assert cache.fill([rows], collate) == "" and cache.attach(rows)
print("done", flush=True)
"""


@pytest.mark.slow
def test_killed_while_features_are_written_goes_on_from_the_last_file(
    tiny: Tiny, questions: Questions, tmp_path: Path
) -> None:
    moved = []
    for sample in questions("whisper", 5):
        [sound] = sample.sounds
        own = Sound(path=Path(shutil.copy(sound.path, tmp_path)))
        turn = dataclasses.replace(sample.turns[0], parts=(own,))
        moved.append(dataclasses.replace(sample, turns=(turn, *sample.turns[1:])))
    write_jsonl(tmp_path / "train.jsonl", moved)
    command = [sys.executable, "-c", SCRIPT, str(tiny("whisper")), str(tmp_path), str(tmp_path / "shards")]
    with subprocess.Popen([*command, "0.3"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(3):
            assert process.stdout.readline() == "writing\n"
        process.send_signal(signal.SIGKILL)
    assert len(files()) == 2
    done = subprocess.run([*command, "0"], stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout.split() == ["writing"] * 3 + ["done"]
    assert len(files()) == 5
