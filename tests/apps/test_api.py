"""The service, asked by the official client over a real socket: answers, streams, media, keys, refusals."""

from __future__ import annotations

import base64
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import uvicorn

from apps.api import build
from apps.api.keys import add_key, admission, read_keys
from apps.cli import main
from studio.errors import ConfigError
from studio.types import Sample, Text, Turn
from studio.variants import Engine


def served(app: Any) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(20)


@pytest.fixture(scope="module")
def engine(web_variants: dict[str, Any]) -> Engine:
    return Engine(web_variants["base"], web_variants["variants"])


@pytest.fixture(scope="module")
def address(engine: Engine) -> Iterator[str]:
    yield from served(build(engine))


@pytest.fixture(scope="module")
def client(address: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)


def content(sample: Sample) -> list[dict[str, Any]]:
    """Return a question's parts as the protocol has them."""
    parts: list[dict[str, Any]] = []
    for image in sample.images:
        data = base64.b64encode(image.path.read_bytes()).decode()
        parts.append({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}})
    for sound in sample.sounds:
        data = base64.b64encode(sound.path.read_bytes()).decode()
        parts.append({"type": "input_audio", "input_audio": {"data": data, "format": "wav"}})
    return [*parts, {"type": "text", "text": sample.prompt[-1].text}]


def test_every_variant_answers_as_the_engine_does(
    client: openai.OpenAI, engine: Engine, questions: Callable[[str, int], list[Sample]]
) -> None:
    assert {model.id for model in client.models.list()} == set(engine.names)
    assert client.models.retrieve(engine.names[0]).owned_by == "triptych"
    for sample in questions("qwen_omni", 6):
        for name in engine.names[:3]:
            made = client.chat.completions.create(
                model=name, messages=[{"role": "user", "content": content(sample)}], max_tokens=6, seed=1
            )
            assert made.choices[0].message.content == engine.answer(name, sample, max_new_tokens=6)
            assert made.usage is not None
            assert made.usage.total_tokens == made.usage.prompt_tokens + made.usage.completion_tokens
            assert made.usage.prompt_tokens > 10
            assert made.choices[0].finish_reason in ("stop", "length")


def test_a_stream_adds_up_to_the_answer_and_ends_with_the_usage(
    client: openai.OpenAI, engine: Engine
) -> None:
    turns = (
        Turn(role="system", parts=(Text(text="be brief"),)),
        Turn(role="user", parts=(Text(text="hello"),)),
        Turn(role="assistant", parts=(Text(text="hi"),)),
        Turn(role="user", parts=(Text(text="and now?"),)),
    )
    expected = engine.answer(engine.names[1], Sample(turns=turns), max_new_tokens=8)
    events = list(
        client.chat.completions.create(
            model=engine.names[1],
            messages=[{"role": turn.role, "content": turn.text} for turn in turns],  # type: ignore[misc]
            max_completion_tokens=8,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert "".join(e.choices[0].delta.content or "" for e in events if e.choices) == expected
    assert events[-1].usage is not None
    assert [e.choices[0].finish_reason for e in events if e.choices][-1] in ("stop", "length")
    assert len({e.id for e in events}) == 1


def test_many_ask_at_once_and_none_gets_another_variants_answer(
    client: openai.OpenAI, engine: Engine
) -> None:
    asked = [(name, f"what is {number}?") for number in range(6) for name in engine.names[:3]]

    def ask(place: tuple[str, str]) -> str:
        name, text = place
        made = client.chat.completions.create(
            model=name, messages=[{"role": "user", "content": text}], max_tokens=5
        )
        return made.choices[0].message.content or ""

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, asked))
    for (name, text), answer in zip(asked, found, strict=True):
        sample = Sample(turns=(Turn(role="user", parts=(Text(text=text),)),))
        assert answer == engine.answer(name, sample, max_new_tokens=5)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"messages": []}, "messages must be a list of at least one message"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "unknown role 'robot'"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "must be the user's"),
        ({"messages": [{"role": "user", "content": "  "}]}, "messages[0] is empty"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "unknown part 'text'"),
        ({"url": "http://169.254.169.254/x.png"}, "nothing is fetched"),
        ({"url": "file:///etc/passwd"}, "nothing is fetched"),
        ({"url": "data:image/png;base64,@@@"}, "not valid base64"),
        ({"url": "data:image/png;base64,PHN2Zz48L3N2Zz4="}, "the medium"),
        ({"temperature": 9}, "temperature is 9; it must be a number from 0 to 2"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"n": 4}, "n is 4; only 1 is supported"),
        ({"tools": []}, "unknown field 'tools'"),
    ],
)
def test_what_would_not_be_done_as_asked_is_refused_in_a_sentence(
    address: str, engine: Engine, change: dict[str, Any], sentence: str
) -> None:
    body: dict[str, Any] = {"model": engine.names[0], "messages": [{"role": "user", "content": "x"}]}
    if "url" in change:
        picture = {"type": "image_url", "image_url": {"url": change["url"]}}
        change = {"messages": [{"role": "user", "content": [picture]}]}
    answer = httpx.post(f"{address}/v1/chat/completions", json={**body, **change}, timeout=30)
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert sentence in error["message"]
    assert "/tmp" not in error["message"]
    assert error["type"] == "invalid_request_error"


def test_unknown_models_bad_json_and_large_bodies(
    address: str, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(openai.NotFoundError, match="unknown model 'bse'; did you mean 'base'"):
        client.chat.completions.create(model="bse", messages=[{"role": "user", "content": "x"}])
    url = f"{address}/v1/chat/completions"
    assert "not valid JSON" in httpx.post(url, content=b"{", timeout=30).json()["error"]["message"]
    assert httpx.post(url, content=b"[" * 100_000, timeout=30).status_code == 400
    monkeypatch.setattr("apps.api.server.MAX_BODY", 1000)
    assert httpx.post(url, content=b" " * 5000, timeout=30).status_code == 413
    assert httpx.get(f"{address}/docs", timeout=30).status_code == 404


def test_health_and_figures(address: str, client: openai.OpenAI, engine: Engine) -> None:
    name = engine.names[0]
    client.chat.completions.create(model=name, messages=[{"role": "user", "content": "x"}], max_tokens=2)
    assert httpx.get(f"{address}/healthz", timeout=30).json()["status"] == "ok"
    text = httpx.get(f"{address}/metrics", timeout=30).text
    assert f'triptych_requests_total{{outcome="answered",variant="{name}"}}' in text
    assert "triptych_answers_running 0.0" in text


def test_with_keys_only_those_who_have_one_are_answered(engine: Engine, tmp_path: Path) -> None:
    file = tmp_path / "keys.txt"
    key = add_key(file, "lab")
    assert key not in file.read_text()
    assert list(read_keys(file).values()) == ["lab"]
    assert file.stat().st_mode & 0o077 == 0
    serving = served(build(engine, admit=admission(file)))
    address = next(serving)
    ask = {"model": engine.names[0], "messages": [{"role": "user", "content": "x"}], "max_tokens": 2}
    for path, body in (("chat/completions", ask), ("models", None)):
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": key}):
            send = httpx.post if body else httpx.get
            more: dict[str, Any] = {"json": body} if body else {}
            answer = send(f"{address}/v1/{path}", headers=headers, timeout=30, **more)
            assert answer.status_code == 401, (path, headers)
    assert httpx.get(f"{address}/metrics", timeout=30).status_code == 401
    allowed = openai.OpenAI(base_url=f"{address}/v1", api_key=key, max_retries=0)
    assert allowed.chat.completions.create(**ask).choices
    other = add_key(file, "second")
    assert openai.OpenAI(base_url=f"{address}/v1", api_key=other).models.list().data
    file.write_text(f"{next(d for d, n in read_keys(file).items() if n == 'second')} second\n")
    with pytest.raises(openai.AuthenticationError):
        allowed.models.list()
    serving.close()


def test_the_command_makes_keys_and_refuses_to_be_open_to_the_world(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "keys.txt"
    assert main(["serve", "nano-omni", "--key-file", str(file), "--new-key", "lab"]) == 0
    key = capsys.readouterr().out.strip()
    assert admission(file)(key) == "lab"
    assert main(["serve", "nano-omni", "--key-file", str(file), "--new-key", "lab"]) == 2
    assert "already" in capsys.readouterr().err
    assert main(["serve", "nano-omni", "--host", "0.0.0.0"]) == 2
    assert "name a --key-file" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="holds no key"):
        admission(tmp_path / "nothing")
    (tmp_path / "bad").write_text("hello\n")
    with pytest.raises(ConfigError, match="bad:1: a line is"):
        read_keys(tmp_path / "bad")
    assert json.loads(json.dumps(read_keys(file)))
