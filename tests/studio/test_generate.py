from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import WhisperForConditionalGeneration

from studio import plugins
from studio.errors import ConfigError, DataError
from studio.families import family
from studio.generate import answers, stream
from studio.log import QuietLog
from studio.types import Family, Loaded, Sample, Text, Turn

NAMES = plugins.names("families")


@pytest.fixture(scope="module", params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def kind(name: str) -> Family:
    return family(name)


@pytest.fixture(scope="module")
def loaded(name: str, kind: Family, tiny: Callable[[str], Path]) -> Loaded:
    """Return a tiny model made talkative, in double precision: no answer hangs on the last bit.

    Mixtures of experts have no product in double precision, and Gemma 4's ears compute in single.
    """
    single = name in ("qwen3_omni", "gemma4")
    made = kind.load(tiny(name), dtype=torch.float32 if single else torch.float64)
    with torch.no_grad():
        for path, weight in made.model.named_parameters():
            weight.mul_(3.0 if weight.dim() > 1 and "embed" not in path else 1.0)
    return made


@pytest.fixture(scope="module")
def samples(name: str, questions: Callable[[str, int], list[Sample]]) -> list[Sample]:
    return questions(name, 5)


@pytest.fixture(scope="module")
def alone(loaded: Loaded, kind: Family, samples: list[Sample]) -> list[str]:
    return answers(loaded, kind, samples, max_new_tokens=10, batch_size=1)


def working() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "stream"]


def test_the_tiny_models_have_different_things_to_say(alone: list[str]) -> None:
    assert len(set(alone)) >= 3, alone


@pytest.mark.parametrize("batch_size", [2, 16])
def test_answers_do_not_depend_on_the_batch_size(
    batch_size: int, loaded: Loaded, kind: Family, samples: list[Sample], alone: list[str]
) -> None:
    assert answers(loaded, kind, samples, max_new_tokens=10, batch_size=batch_size) == alone


def test_answers_are_those_of_plain_transformers_one_by_one(
    loaded: Loaded, kind: Family, samples: list[Sample], alone: list[str]
) -> None:
    for sample, answer in zip(samples, alone, strict=True):
        item = kind.encode(loaded.processor, sample, False)
        plain = {
            key: value[None] if key in ("input_ids", "decoder_input_ids") else value
            for key, value in kind.collate(loaded.processor, [item], "left").items()
            if key not in ("attention_mask", "input_ids", "decoder_input_ids", "decoder_attention_mask")
        }
        plain |= {key: item[key][None] for key in ("input_ids", "decoder_input_ids") if key in item}
        plain = {k: v.to(loaded.model.dtype) if v.is_floating_point() else v for k, v in plain.items()}
        if isinstance(loaded.model, WhisperForConditionalGeneration):
            prompt = plain.pop("decoder_input_ids")[0]
            start = loaded.model.generation_config.decoder_start_token_id
            context = prompt[: int((prompt == start).nonzero()[0])]
            settings: dict[str, Any] = {"language": "en", "task": "transcribe", "prompt_ids": context}
        else:
            settings, context = {}, plain["input_ids"][0]
        with torch.inference_mode():
            ids = loaded.model.generate(**plain, **settings, max_new_tokens=10, do_sample=False)[0]
        if not isinstance(loaded.model, WhisperForConditionalGeneration):
            ids = ids[len(context) :]
        assert loaded.processor.tokenizer.decode(ids, skip_special_tokens=True).strip() == answer


def test_the_order_of_the_samples_is_that_of_the_answers(
    loaded: Loaded, kind: Family, samples: list[Sample], alone: list[str]
) -> None:
    assert answers(loaded, kind, samples[::-1], max_new_tokens=10, batch_size=4) == alone[::-1]


def test_no_samples_give_no_answers(loaded: Loaded, kind: Family) -> None:
    assert answers(loaded, kind, []) == []


def test_drawn_answers_are_a_function_of_the_seed_and_not_of_the_batch(
    loaded: Loaded, kind: Family, samples: list[Sample], alone: list[str]
) -> None:
    def drawn(seed: int, batch_size: int) -> list[str]:
        return answers(
            loaded, kind, samples, max_new_tokens=6, batch_size=batch_size, temperature=1.5, seed=seed
        )

    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = drawn(1, 1)
    assert first == drawn(1, 3)
    assert first != drawn(2, 3)
    assert first != alone
    assert torch.equal(state, torch.get_rng_state()), "drawing used the global generator"


def test_noise_draws_as_softmax_does() -> None:
    from studio.generate import _Noise

    scores = torch.log(torch.tensor([0.6, 0.3, 0.1, 0.0]))
    noise = _Noise(1.0, list(range(4000)))
    drawn = noise(torch.empty(0), scores.expand(4000, 4)).argmax(1)
    shares = torch.bincount(drawn, minlength=4) / 4000
    # Three standard errors of a share at n = 4000 are at most 0.024.
    torch.testing.assert_close(shares, scores.exp(), atol=0.024, rtol=0)
    assert shares[3] == 0


def test_progress_is_told_per_batch(loaded: Loaded, kind: Family, samples: list[Sample]) -> None:
    told = []

    class Told(QuietLog):
        def advance(self, n: int = 1, **figures: float) -> None:
            told.append(n)

    answers(loaded, kind, samples, max_new_tokens=1, batch_size=2, log=Told())
    assert told == [2, 2, 1]


def test_a_model_in_training_answers_without_dropout_and_stays_in_training(
    loaded: Loaded, kind: Family, samples: list[Sample], alone: list[str]
) -> None:
    loaded.model.train()
    try:
        assert answers(loaded, kind, samples[:2], max_new_tokens=10) == alone[:2]
        assert loaded.model.training
    finally:
        loaded.model.eval()


def test_a_checkpoints_own_sampling_settings_do_not_reach_greedy_answers(
    loaded: Loaded,
    kind: Family,
    samples: list[Sample],
    alone: list[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for key, value in {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20}.items():
        monkeypatch.setattr(loaded.model.generation_config, key, value)
    assert answers(loaded, kind, samples, max_new_tokens=10) == alone
    assert not caplog.records


def test_a_stream_grows_to_the_answer(
    loaded: Loaded, kind: Family, samples: list[Sample], alone: list[str]
) -> None:
    for sample, answer in zip(samples[:3], alone, strict=False):
        texts = list(stream(loaded, kind, sample, max_new_tokens=10))
        assert texts[-1] == answer
        assert len(texts) == len(set(texts))
        assert not any(text.endswith("\ufffd") for text in texts[:-1])
    assert not working()


def test_a_drawn_stream_is_the_drawn_answer(loaded: Loaded, kind: Family, samples: list[Sample]) -> None:
    settings: dict[str, Any] = {"max_new_tokens": 8, "temperature": 1.2, "seed": 5}
    *_, text = stream(loaded, kind, samples[0], **settings)
    assert [text] == answers(loaded, kind, samples[:1], **settings)


def test_a_closed_stream_ends_its_thread(loaded: Loaded, kind: Family, samples: list[Sample]) -> None:
    texts = stream(loaded, kind, samples[0], max_new_tokens=400)
    next(texts)
    assert len(working()) == 1
    texts.close()  # type: ignore[attr-defined]
    assert not working()


def test_a_stream_that_is_told_to_stop_ends_early(
    loaded: Loaded, kind: Family, samples: list[Sample]
) -> None:
    loaded.model.generation_config.eos_token_id, end = None, loaded.model.generation_config.eos_token_id
    try:
        stop, taken = threading.Event(), 0
        for _ in stream(loaded, kind, samples[0], max_new_tokens=400, stop=stop):
            taken += 1
            stop.set()
        assert taken < 300
        assert not working()
    finally:
        loaded.model.generation_config.eos_token_id = end


def test_a_stream_that_is_told_to_stop_before_its_turn_does_not_wait(
    loaded: Loaded, kind: Family, samples: list[Sample]
) -> None:
    from contextlib import contextmanager

    busy, stop = threading.Lock(), threading.Event()

    @contextmanager
    def within() -> Any:
        with busy:
            yield loaded

    stop.set()
    with busy:
        began = time.monotonic()
        assert list(stream(loaded, kind, samples[0], stop=stop, within=within)) == [""]
        assert time.monotonic() - began < 5
    for thread in working():
        thread.join(5)
    assert not working()


def test_a_slow_reader_does_not_hold_the_model(loaded: Loaded, kind: Family, samples: list[Sample]) -> None:
    from contextlib import contextmanager

    left = threading.Event()

    @contextmanager
    def within() -> Any:
        yield loaded
        left.set()

    texts = stream(loaded, kind, samples[0], max_new_tokens=10, within=within)
    next(texts)
    assert left.wait(30), "the model waits for the reader"
    list(texts)


def test_a_sample_that_cannot_be_encoded_stops_the_answers_with_its_place(
    loaded: Loaded, kind: Family, samples: list[Sample]
) -> None:
    token = loaded.processor.tokenizer.eos_token
    spoilt = Sample(
        turns=(Turn(role="user", parts=(*samples[1].turns[0].parts, Text(text=token))),),
        file=Path("rows.jsonl"),
        line=3,
    )
    with pytest.raises(DataError, match=r"^rows\.jsonl:3"):
        answers(loaded, kind, [*samples, spoilt])
    with pytest.raises(DataError, match=r"^rows\.jsonl:3"):
        next(stream(loaded, kind, spoilt))


@pytest.mark.parametrize(
    "wrong", [{"max_new_tokens": 0}, {"batch_size": 0}, {"temperature": -1.0}, {"temperature": float("nan")}]
)
def test_settings_out_of_range_are_refused(
    wrong: dict[str, Any], loaded: Loaded, kind: Family, samples: list[Sample]
) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        answers(loaded, kind, samples, **wrong)


def test_models_answer_in_bfloat16_too(
    name: str, kind: Family, tiny: Callable[[str], Path], samples: list[Sample]
) -> None:
    half = kind.load(tiny(name), dtype=torch.bfloat16)
    kept = getattr(half.model, "_keep_in_fp32_modules_strict", None) or ()  # as the library wants them
    weights = {n: w for n, w in half.model.named_parameters() if not any(part in n for part in kept)}
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
    texts = answers(half, kind, samples[:3], max_new_tokens=4, batch_size=3)
    *_, text = stream(half, kind, samples[0], max_new_tokens=4)
    assert len(texts) == 3
    assert isinstance(text, str)


def test_a_layer_that_is_compiled_while_answers_are_made_still_computes_every_place(
    tiny: Callable[[str], Path], questions: Callable[[str, int], list[Sample]]
) -> None:
    kind = family("qwen_omni")
    loaded = kind.load(tiny("qwen_omni"))
    samples = questions("qwen_omni", 2)
    batch = kind.collate(loaded.processor, [kind.encode(loaded.processor, samples[1], False)], "left")
    with torch.inference_mode():
        whole = loaded.model(**batch).logits
    plain = answers(loaded, kind, samples, max_new_tokens=3)
    for layer in loaded.model.get_decoder().layers:
        layer.compile(backend="eager")
    assert answers(loaded, kind, samples, max_new_tokens=3) == plain
    with torch.inference_mode():
        assert torch.allclose(loaded.model(**batch).logits, whole, atol=1e-5)
