"""Evaluation with a real engine: right figures, nothing asked twice, and errors before the first answer."""

from __future__ import annotations

import io
import json
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pictures
from rich.console import Console
from safetensors.torch import load_file, save_file

from apps.answer_cache import AnswerCache, Contents
from apps.evaluate import evaluate
from apps.figures import table
from studio.data import load_data, write_jsonl
from studio.errors import DataError, MediaError, TriptychError, UnknownName
from studio.log import QuietLog
from studio.media import save_sound
from studio.scores import wilson
from studio.types import Image, Sample, Sound, Text, Turn
from studio.variants import Engine


class Listening(QuietLog):
    """Remembers what was said and how much was done."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.stages: list[tuple[str, int]] = []
        self.done = 0

    def stage(self, name: str, total: int, unit: str = "samples") -> None:
        self.stages.append((name, total))

    def advance(self, n: int = 1, **figures: float) -> None:
        self.done += n

    def say(self, message: str) -> None:
        self.said.append(message)


class Recorded:
    """A real engine that counts what it is asked, and may be interrupted."""

    def __init__(self, engine: Engine, stop_after: int | None = None) -> None:
        self.engine, self.asked, self._stop_after = engine, 0, stop_after
        self.names, self.fingerprint = engine.names, engine.fingerprint

    def answers(self, name: str, samples: Sequence[Sample], **settings: Any) -> list[str]:
        if self._stop_after is not None and self.asked >= self._stop_after:
            raise KeyboardInterrupt
        self.asked += len(samples)
        return self.engine.answers(name, samples, **settings)


def question(*parts: Any, answer: str = "yes") -> Sample:
    """A conversation of one question and its reference."""
    turns = (
        Turn(role="user", parts=(*parts, Text(text="what is it?"))),
        Turn(role="assistant", parts=(Text(text=answer),)),
    )
    return Sample(turns=turns)


@pytest.fixture(scope="module")
def engine(tiny: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """Two variants: a tiny base, and the same with other weights."""
    folder = tiny("qwen_omni")
    other = shutil.copytree(folder, tmp_path_factory.mktemp("models") / "other")
    for file in other.glob("*.safetensors"):
        weights = {name: tensor.roll(1) for name, tensor in load_file(file).items()}
        save_file(weights, file, {"format": "pt"})
    return Engine(folder, {"base": None, "other": other})


@pytest.fixture
def data(tmp_path: Path) -> dict[str, list[Sample]]:
    """Two domains of three samples: pictures and sounds."""
    pictures, sounds = [], []
    for number in range(3):
        Pictures.new("RGB", (16, 16), (80 * number, 0, 0)).save(tmp_path / f"{number}.png")
        save_sound(tmp_path / f"{number}.wav", np.full(1600, 0.1 * number, np.float32), 16_000)
        pictures.append(question(Image(path=tmp_path / f"{number}.png"), answer="red"))
        sounds.append(question(Sound(path=tmp_path / f"{number}.wav"), answer="silence"))
    write_jsonl(tmp_path / "pictures.jsonl", pictures)
    write_jsonl(tmp_path / "sounds.jsonl", sounds)
    return {name: load_data(tmp_path / f"{name}.jsonl") for name in ("pictures", "sounds")}


def run(engine: Any, data: Any, log: Any = None, **more: Any) -> Any:
    """Evaluate by exact match and word error rate with short answers."""
    settings = {"metrics": ["exact_match", "wer"], "batch_size": 2, "max_new_tokens": 4} | more
    return evaluate(engine, data, log=log or QuietLog(), **settings)


def test_results_hold_value_n_and_interval_for_every_domain_and_variant(
    engine: Engine, data: dict[str, list[Sample]], tmp_path: Path
) -> None:
    # the model is random, so what it says to the first picture is made the reference of that sample
    said = engine.answer("base", data["pictures"][0], max_new_tokens=4)
    right = question(*data["pictures"][0].images, answer=f" {said.upper()}. ")
    results = run(engine, {**data, "pictures": [right, *data["pictures"][1:]]}, out=tmp_path / "out")
    assert list(results) == ["pictures", "sounds"]
    assert list(results["pictures"]) == ["base", "other"]
    cell = results["pictures"]["base"]
    assert (cell["metric"], cell["value"], cell["n"]) == ("exact_match", 1 / 3, 3)
    assert tuple(cell["ci"]) == wilson(1, 3)
    assert cell["metrics"]["exact_match"]["value"] == cell["value"]
    assert cell["metrics"]["wer"]["higher_is_better"] is False


def test_the_files_tell_every_sample_and_every_setting(
    engine: Engine, data: dict[str, list[Sample]], tmp_path: Path
) -> None:
    results = run(engine, data, out=tmp_path / "out")
    told = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert told["results"] == results
    assert told["decoding"] == {"max_new_tokens": 4, "temperature": 0.0}
    assert told["variants"] == {name: engine.fingerprint(name) for name in ("base", "other")}
    assert told["data"]["sounds"]["n"] == 3
    rows = [json.loads(line) for line in (tmp_path / "out" / "samples.jsonl").read_text().splitlines()]
    assert len(rows) == 2 * 3 * 2
    assert [row["variant"] for row in rows[:2]] == ["base", "other"]
    first = rows[0]
    assert first["where"] == data["pictures"][0].where
    assert (first["prompt"], first["reference"]) == ("what is it?", "red")
    assert first["media"][0]["path"] == str(tmp_path / "0.png")
    assert len(first["media"][0]["sha256"]) == 64
    assert set(first["scores"]) == {"exact_match", "wer"}
    for domain in data:
        mean = np.mean(
            [r["scores"]["exact_match"] for r in rows if r["domain"] == domain and r["variant"] == "base"]
        )
        assert results[domain]["base"]["value"] == pytest.approx(mean)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "evaluation.json",
        "samples.jsonl",
        "scores.json",
    ]


def test_scores_are_told_by_variant_with_their_intervals(
    engine: Engine, data: dict[str, list[Sample]], tmp_path: Path
) -> None:
    results = run(engine, data, out=tmp_path / "out")
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert list(scores) == ["base", "other"]
    assert set(scores["base"]) == {f"{d}.{m}" for d in data for m in ("exact_match", "wer")}
    cell, told = results["sounds"]["other"]["metrics"]["wer"], scores["other"]["sounds.wer"]
    assert told == {"value": cell["value"], "low": cell["ci"][0], "high": cell["ci"][1], "n": 3}


def test_variants_are_compared_with_a_baseline_sample_by_sample(
    engine: Engine, data: dict[str, list[Sample]]
) -> None:
    results = run(engine, data, baseline="base")
    found = results["sounds"]["other"]["metrics"]["wer"]["against"]
    gained = (
        results["sounds"]["other"]["metrics"]["wer"]["value"]
        - results["sounds"]["base"]["metrics"]["wer"]["value"]
    )
    assert found["value"] == pytest.approx(gained)
    assert found["ci"][0] <= found["value"] <= found["ci"][1]
    assert 0 < found["p"] <= 1
    assert "against" not in results["sounds"]["base"]["metrics"]["wer"]


def test_metrics_of_probabilities_ask_the_engine_once(
    engine: Engine, data: dict[str, list[Sample]], tmp_path: Path
) -> None:
    log = Listening()
    metrics = ["perplexity", "calibration_error"]
    first = run(engine, data, log, metrics=metrics, cache=tmp_path)
    assert sum(stage.startswith("probabilities") for stage, _ in log.stages) == 8  # variants, domains, texts
    total, tokens = map(sum, zip(*engine.log_probs("base", data["sounds"], ["silence"] * 3), strict=True))
    cell = first["sounds"]["base"]["metrics"]
    assert cell["perplexity"]["value"] == pytest.approx(math.exp(-total / tokens), rel=1e-4)
    assert 0 <= cell["calibration_error"]["value"] <= 1
    again = Listening()
    assert run(engine, data, again, metrics=metrics, cache=tmp_path) == first
    assert again.stages == []


def test_a_metric_that_does_not_fit_is_told_with_its_domain(
    engine: Engine, data: dict[str, list[Sample]]
) -> None:
    with pytest.raises(DataError, match="domain 'pictures': reference 1 holds no box"):
        run(engine, data, metrics=["exact_match", "box_iou"])
    with pytest.raises(DataError, match="domain 'pictures': consistency needs for every sample: paraphrase"):
        run(engine, data, metrics=["consistency"])


def test_a_second_run_asks_nothing_and_says_so(
    engine: Engine, data: dict[str, list[Sample]], tmp_path: Path
) -> None:
    first, second, log = Recorded(engine), Recorded(engine), Listening()
    before = run(first, data, cache=tmp_path / "cache", out=tmp_path / "a")
    again = run(second, data, log, cache=tmp_path / "cache", out=tmp_path / "b")
    assert (first.asked, second.asked) == (12, 0)
    assert again == before
    assert log.said == ["reused 12 of 12 answers"]
    assert log.stages == []
    for name in ("scores.json", "samples.jsonl", "evaluation.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_equal_weights_and_equal_questions_are_asked_once(
    tiny: Callable[[str], Path], data: dict[str, list[Sample]], tmp_path: Path
) -> None:
    twin = shutil.copytree(tiny("qwen_omni"), tmp_path / "twin")
    asked, log = Recorded(Engine(tiny("qwen_omni"), {"base": None, "twin": twin})), Listening()
    results = run(asked, {**data, "again": data["sounds"]}, log)
    assert asked.asked == 6
    assert log.said == ["reused 12 of 18 answers"]
    assert results["again"]["twin"] == results["sounds"]["base"]


def test_only_what_changed_is_asked_again(
    engine: Engine, data: dict[str, list[Sample]], tmp_path: Path
) -> None:
    run(engine, data, cache=tmp_path / "cache")
    moved = tmp_path / "moved"
    shutil.copytree(tmp_path, moved, ignore=shutil.ignore_patterns("cache"))
    Pictures.new("RGB", (16, 16), "blue").save(moved / "1.png")
    there = {name: load_data(moved / f"{name}.jsonl") for name in data}
    asked = Recorded(engine)
    run(asked, there, cache=tmp_path / "cache")
    assert asked.asked == 2  # one new picture, two variants; a new place or name is no change
    run(asked, there, cache=tmp_path / "cache", max_new_tokens=5)
    assert asked.asked == 2 + 12


def test_an_interrupted_run_goes_on_where_it_was(engine: Engine, tmp_path: Path) -> None:
    data = {"text": [question(answer=str(i)) for i in range(5)]}
    for number, sample in enumerate(data["text"]):  # different questions
        turns = (Turn(role="user", parts=(Text(text=f"word {number}"),)), *sample.turns[1:])
        data["text"][number] = Sample(turns=turns, line=number)
    stopped = Recorded(engine, stop_after=5)
    with pytest.raises(KeyboardInterrupt):
        run(stopped, data, cache=tmp_path / "cache", out=tmp_path / "out")
    partial = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert (partial["partial"], partial["missing"]) == (True, {"other": {"text": 5}})
    assert list(partial["results"]["text"]) == ["base"]
    rest, log = Recorded(engine), Listening()
    results = run(rest, data, log, cache=tmp_path / "cache", out=tmp_path / "out")
    assert rest.asked == 5
    assert log.said == ["reused 5 of 10 answers"]
    assert (log.stages, log.done) == ([("evaluating other", 5)], 5)
    assert results == run(engine, data)
    whole = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert (whole["partial"], "missing" in whole) == (False, False)


def test_a_cache_file_cut_short_costs_one_answer(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path, "print")
    cache.add(["k1", "k2"], ["one\nline", "zw\u00f6lf"])
    file = tmp_path / "print.jsonl"
    file.write_bytes(file.read_bytes()[:-6])
    again = AnswerCache(tmp_path, "print")
    assert "k2" not in again
    again.add(["k3"], ["three"])
    third = AnswerCache(tmp_path, "print")
    assert (third["k1"], third["k3"]) == ("one\nline", "three")
    assert "k1" not in AnswerCache(tmp_path, "other")


def test_the_key_is_the_prompt_and_not_the_reference_or_the_place(tmp_path: Path) -> None:
    contents = Contents({"max_new_tokens": 4})
    one = question(answer="a")
    assert contents.key(one) == contents.key(Sample(turns=question(answer="b").turns, line=7))
    longer = Sample(turns=(Turn(role="system", parts=(Text(text="x"),)), *one.turns))
    split = Sample(turns=(Turn(role="user", parts=(Text(text="what is "), Text(text="it?"))), one.turns[1]))
    others = [contents.key(longer), contents.key(split), Contents({"max_new_tokens": 5}).key(one)]
    assert len({contents.key(one), *others}) == 4


def test_mistakes_are_told_before_the_first_answer(
    engine: Engine, data: dict[str, list[Sample]], tmp_path: Path
) -> None:
    asked = Recorded(engine)
    with pytest.raises(UnknownName, match="unknown metric 'exactmatch'; did you mean 'exact_match'"):
        run(asked, data, metrics=["exactmatch"])
    with pytest.raises(DataError, match=r"<memory>:0 and 1 more: no reference to score against"):
        run(asked, {"d": [Sample(turns=question().turns[:1])] * 2})
    with pytest.raises(DataError, match="domain 'd' holds no samples"):
        run(asked, {"d": []})
    with pytest.raises(TriptychError, match="at least one variant, one domain and one metric"):
        run(asked, data, metrics=[])
    (tmp_path / "0.png").unlink()
    (tmp_path / "1.wav").write_bytes((tmp_path / "1.wav").read_bytes()[:-4])
    with pytest.raises(
        MediaError, match=r"2 of 6 media files are wrong:\n.*pictures\.jsonl:1: .*0\.png' does not"
    ):
        run(asked, data, out=tmp_path / "out")
    (tmp_path / "0.png").write_text("no picture")
    with pytest.raises(MediaError, match=r"2 of 6 media files are wrong"):
        run(asked, data, out=tmp_path / "out")
    assert asked.asked == 0
    assert not (tmp_path / "out").exists()


def test_the_table_shows_values_intervals_sample_sizes_and_means(
    engine: Engine, data: dict[str, list[Sample]]
) -> None:
    results = run(engine, data)
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(table(results))
    shown = console.export_text()
    for word in (
        "exact_match",
        "higher is better",
        "base",
        "other",
        "pictures",
        "sounds",
        "n = 3",
        "mean",
        "0.000",
    ):
        assert word in shown
    assert f"{wilson(0, 3)[1]:.3f}" in shown
    console.print(table(results, "wer"))
    assert "lower is better" in console.export_text()


def test_a_changed_processor_is_another_variant(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shutil.copytree(tiny("qwen_omni"), tmp_path / "model")
    before = Engine(folder, {"base": None}).fingerprint("base")
    assert before == Engine(tiny("qwen_omni"), {"base": None}).fingerprint("base")
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text() + "{# changed #}")
    assert Engine(folder, {"base": None}).fingerprint("base") != before
