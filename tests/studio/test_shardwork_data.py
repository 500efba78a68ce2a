"""Data is found to be the same, and prepared to the same bytes, by whatever number of processes."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from studio import families
from studio.cache import Kept
from studio.data import kept_facts, samples, write_jsonl
from studio.data.findings import check, lengths
from studio.data.findings.copies import media_of
from studio.data.kept_facts import examine
from studio.data.steps import _measured
from studio.data.steps._step import Bench
from studio.data.steps.image_quality import picture_figures
from studio.errors import DataError
from studio.log import QuietLog
from studio.training import encoding
from studio.training.encoding import encode_samples, open_encoded
from studio.types import Text, Turn

Tiny = Callable[[str], Path]
Questions = Callable[[str, int], list[Any]]


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (kept_facts, lengths, encoding):
        monkeypatch.setattr(module, "SHARD", 4)


def checked(data: Path, model: Path | None, cache: Path) -> dict[str, Any]:
    gauge = families.gauge(model) if model else None
    report = check([data], QuietLog(), gauge=gauge, kept=Kept(cache))
    media = {medium for row in samples(data) for medium in media_of(row)}
    facts = {
        str(path): dataclasses.asdict(known.facts) | {"picture": picture, "digest": known.digest}
        for (path, picture), known in examine(sorted(media), QuietLog(), Kept(cache)).items()
    }
    assert report.media == len(media)
    found: dict[str, Any] = json.loads(json.dumps({"facts": facts, **report.as_json()}))
    return found


def prepared(samples: list[Any], model: Path, folder: Path) -> dict[str, bytes]:
    encode_samples(families.gauge(model), samples, folder, QuietLog())
    assert len(open_encoded(families.gauge(model), samples, folder)) == len(samples)
    return {file.name: file.read_bytes() for file in folder.glob("*.safetensors")}


def same_by_both(
    samples: list[Any], model: Path, folder: Path, other: Callable[[], None], measure: bool
) -> None:
    """Check (and ``measure`` rows) and prepare alone, then as ``other`` says; all must be the same."""
    gauge = model if measure else None
    media = sorted({part.path for row in samples for part in (*row.images, *row.sounds)})
    data = media[0].parent / f"{folder.name}.jsonl"  # rows name their media relative to where they stand
    long = Turn(role="user", parts=(Text(text="word " * 3000),))
    write_jsonl(data, [*samples, dataclasses.replace(samples[0], turns=(long, *samples[0].turns[1:]))])
    try:
        alone = checked(data, gauge, folder / "cache-1"), prepared(samples, model, folder / "shards-1")
        other()
        assert checked(data, gauge, folder / "cache-2") == alone[0]
        assert prepared(samples, model, folder / "shards-2") == alone[1]
    finally:
        data.unlink()
    assert len(alone[1]) == len(samples) // 4
    assert len(alone[0]["facts"]) == len(media) > 8
    assert any(finding["kind"] == "long_row" for finding in alone[0]["findings"]) == measure


def test_two_processes_find_and_prepare_what_one_does(
    tiny: Tiny, questions: Questions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIPTYCH_WORKERS", "1")
    two = partial(monkeypatch.setenv, "TRIPTYCH_WORKERS", "2")
    same_by_both(questions("qwen_omni", 16), tiny("qwen_omni"), tmp_path, two, measure=False)


def test_two_processes_measure_for_curation_what_one_does(
    questions: Questions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_measured, "SHARD", 4)
    paths = sorted({part.path for row in questions("qwen_omni", 16) for part in row.images})
    paths.append(tmp_path / "missing.png")
    found = []
    for workers in ("1", "2"):
        monkeypatch.setenv("TRIPTYCH_WORKERS", workers)
        bench = Bench(log=QuietLog(), kept=Kept(tmp_path / workers))
        found.append(_measured.measured(paths, picture_figures, "pictures", bench))
    assert found[0] == found[1]
    assert list(found[0]) == paths[:-1]


@pytest.mark.slow
def test_a_wrong_row_is_told_by_workers_as_here(
    tiny: Tiny, questions: Questions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = questions("qwen_omni", 12)
    special = families.gauge(tiny("qwen_omni")).processor.tokenizer.all_special_tokens[0]
    for at in (5, 10):
        turns = (Turn(role="user", parts=(Text(text=special),)), samples[at].turns[-1])
        samples[at] = dataclasses.replace(samples[at], turns=turns)
    told = []
    for workers in ("1", "2"):
        monkeypatch.setenv("TRIPTYCH_WORKERS", workers)
        with pytest.raises(DataError) as wrong:
            encode_samples(families.gauge(tiny("qwen_omni")), samples, tmp_path / workers, QuietLog())
        told.append(str(wrong.value))
    assert told[0] == told[1]
    assert told[0].startswith("2 of 12 rows are wrong")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs ray: pip install 'triptych[ray]'")
@pytest.mark.filterwarnings("ignore")
def test_ray_finds_and_prepares_what_one_process_does(
    tiny: Tiny, questions: Questions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    def other() -> None:
        monkeypatch.setenv("TRIPTYCH_ENGINE", "ray")
        monkeypatch.setenv("TRIPTYCH_WORKERS", "2")

    monkeypatch.setenv("TRIPTYCH_WORKERS", "1")
    try:
        same_by_both(questions("qwen_omni", 16), tiny("qwen_omni"), tmp_path, other, measure=True)
    finally:
        ray.shutdown()
