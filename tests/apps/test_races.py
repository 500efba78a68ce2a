"""Many people at once, over real sockets: no answer of another variant, no verdict lost, not even to kill -9.

The sizes of the issue (32 people, 500 questions) are marked slow; a few people and questions run always.
"""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from apps.web.panels import visible
from studio.store import Store
from studio.variants import Engine
from tests.apps.asking import Person, asked
from tests.apps.browsing import SHOTS
from tests.apps.knocking import ROOT, handlers, stranger

NAMES = ("base", "textiles", "linear", "ties")
TOKENS = 8
_SERVER = """
import json, sys
from apps.web import launch
from studio.variants import Engine
told = json.loads(sys.argv[1])
launch(Engine(told["base"], told["variants"]), store_url=told["store"], port=told["port"], runs=told["runs"])
"""


def question(number: int) -> str:
    """Return one of many different questions, of different lengths."""
    return f"question {number}: what is wrong {'here ' * (number % 5)}?"


def known(base: Path, variants: dict[str, str | None], count: int) -> dict[str, list[str]]:
    """Return every variant's answers to the questions, each variant asked alone."""
    engine = Engine(base, variants)
    samples = [asked(question(number)) for number in range(count)]
    return {name: engine.answers(name, samples, max_new_tokens=TOKENS) for name in variants}


def percentile(seconds: list[float], share: float) -> float:
    """Return the value below which a share of the values lie."""
    return sorted(seconds)[min(len(seconds) - 1, int(share * len(seconds)))]


def report(name: str, seconds: list[float], people: int, wall: float) -> None:
    """Print how long answers took, and keep it beside the screenshots."""
    figures = {
        "people": people,
        "questions": len(seconds),
        "variants": len(NAMES),
        "wall_s": round(wall, 2),
        "p50_s": round(percentile(seconds, 0.5), 3),
        "p95_s": round(percentile(seconds, 0.95), 3),
    }
    print(f"{name}: {json.dumps(figures)}")
    SHOTS.mkdir(parents=True, exist_ok=True)
    (SHOTS / f"{name}.json").write_text(json.dumps(figures, indent=1) + "\n")


def compare(app: Any, variants: dict[str, str | None], people: int, count: int) -> None:
    """Let people ask and judge all questions, and hold answers and verdicts against what is known."""
    expected = known(app.base, variants, count)
    assert len({tuple(texts) for texts in expected.values()}) == len(NAMES)
    numbers, taking = iter(range(count)), threading.Lock()
    seconds: list[float] = []
    judged: dict[str, str] = {}

    def work(person: int) -> int:
        wrong = 0
        with stranger(app.address) as client:
            page = Person(client, handlers(client), f"person{person}")
            while True:
                with taking:
                    number = next(numbers, None)
                if number is None:
                    return wrong
                answers, token, took = page.ask(question(number), NAMES, TOKENS)
                right = {name: visible(expected[name][number]) for name in NAMES}
                wrong += sum(answers.get(name) != text for name, text in right.items())
                place = number % len(NAMES)
                assert page.vote(place, token)
                assert not page.vote(place, token), "a token counts once"
                with taking:
                    seconds.append(took)
                    judged[question(number)] = list(answers)[place]

    began = time.monotonic()
    with ThreadPoolExecutor(people) as pool:
        wrong = sum(pool.map(work, range(people)))
    report(f"races-{people}", seconds, people, time.monotonic() - began)
    assert wrong == 0
    with Store(app.store_url) as store:
        kept = {one.prompt: (one, store.votes(one.id)) for one in store.comparisons()}
    assert len(kept) == len(judged) == count
    for number in range(count):
        comparison, votes = kept[question(number)]
        assert [vote.choice for vote in votes] == [judged[question(number)]]
        assert {one.variant: one.text for one in comparison.answers} == {
            name: expected[name][number] for name in NAMES
        }


def test_eight_people_get_no_wrong_answer_and_lose_no_verdict(
    serve_app: Callable[..., Any], web_variants: dict[str, Any]
) -> None:
    variants = {name: web_variants["variants"][name] for name in NAMES}
    compare(serve_app(variants), variants, people=8, count=16)


@pytest.mark.slow
def test_32_people_and_500_questions_get_no_wrong_answer_and_lose_no_verdict(
    serve_app: Callable[..., Any], web_variants: dict[str, Any]
) -> None:
    variants = {name: web_variants["variants"][name] for name in NAMES}
    compare(serve_app(variants), variants, people=32, count=500)


@contextmanager
def started(told: dict[str, Any], log: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start an app that may be killed, and give its process and address."""
    with open(log, "w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", _SERVER, json.dumps(told)],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True,
        )  # fmt: skip
        try:
            assert process.stdout is not None
            address = next((word for line in process.stdout for word in line.split() if "://" in word), "")
            assert address, log.read_text()
            yield process, address
        finally:
            process.kill()
            process.communicate(timeout=60)


def killed(web_variants: dict[str, Any], folder: Path, people: int, after: int) -> None:
    """Kill a server while people vote, and look for every acknowledged verdict in its store."""
    variants = {name: web_variants["variants"][name] for name in NAMES}
    store_url = f"sqlite:///{folder / 'kept.db'}"
    settings = {"base": str(web_variants["base"]), "variants": variants, "store": store_url, "port": 18860}
    acknowledged: dict[str, str] = {}
    enough, taking = threading.Event(), threading.Lock()

    def work(person: int, address: str) -> None:
        with suppress(httpx.TransportError, httpx.RemoteProtocolError), stranger(address) as client:
            page = Person(client, handlers(client), f"person{person}")
            for number in range(10_000):
                text = f"{question(number)} asks {person}"
                answers, token, _ = page.ask(text, NAMES, TOKENS)
                if not page.vote(number % len(NAMES), token):
                    return
                with taking:
                    acknowledged[text] = list(answers)[number % len(NAMES)]
                    if len(acknowledged) >= after:
                        enough.set()

    with started({**settings, "runs": str(folder / "runs")}, folder / "log.txt") as (process, address):
        threads = [threading.Thread(target=work, args=(person, address)) for person in range(people)]
        for thread in threads:
            thread.start()
        assert enough.wait(500)
        process.send_signal(signal.SIGKILL)
        for thread in threads:
            thread.join(120)
        assert process.wait(60) == -signal.SIGKILL
    assert len(acknowledged) >= after
    with Store(store_url) as store:
        kept = {one.prompt: [vote.choice for vote in store.votes(one.id)] for one in store.comparisons()}
    assert {text: kept.get(text) for text in acknowledged} == {
        text: [choice] for text, choice in acknowledged.items()
    }


def test_every_acknowledged_verdict_outlives_kill_9(web_variants: dict[str, Any], tmp_path: Path) -> None:
    killed(web_variants, tmp_path, people=4, after=8)


@pytest.mark.slow
def test_every_acknowledged_verdict_of_32_people_outlives_kill_9(
    web_variants: dict[str, Any], tmp_path: Path
) -> None:
    killed(web_variants, tmp_path, people=32, after=150)


def api(web_variants: dict[str, Any], people: int, count: int) -> None:
    """Let programs ask `triptych serve` for different variants at once, half of them streaming."""
    variants = {name: web_variants["variants"][name] for name in NAMES}
    expected = known(web_variants["base"], variants, count)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    base = str(web_variants["base"])
    models = [f"{name}={base}" + (f"+{path}" if path else "") for name, path in variants.items()]
    line = [sys.executable, "-m", "apps.cli", "serve", *models, "--port", str(port)]
    process = subprocess.Popen(line, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        shown = next((text for text in process.stderr if "://" in text), "")
        address = re.findall(r"http://\S+", shown)[0]
        for _ in range(600):
            with suppress(httpx.TransportError):
                httpx.get(address.replace("/v1", "/healthz"))
                break
            time.sleep(0.1)
        seconds: list[float] = []

        def ask(job: tuple[int, str]) -> bool:
            number, name = job
            body = {
                "model": name, "max_tokens": TOKENS, "stream": bool(number % 2),
                "messages": [{"role": "user", "content": question(number)}],
            }  # fmt: skip
            began = time.monotonic()
            reply = httpx.post(f"{address}/chat/completions", json=body, timeout=300)
            seconds.append(time.monotonic() - began)
            assert reply.status_code == 200, reply.text
            return said(reply, bool(number % 2)) == expected[name][number]

        jobs = [(number, name) for number in range(count) for name in NAMES]
        began = time.monotonic()
        with ThreadPoolExecutor(people) as pool:
            right = list(pool.map(ask, jobs))
        report(f"races-api-{people}", seconds, people, time.monotonic() - began)
        assert sum(not one for one in right) == 0
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


def said(reply: httpx.Response, streamed: bool) -> str:
    """Return the text of a reply, whole or in events."""
    if not streamed:
        return str(reply.json()["choices"][0]["message"]["content"])
    events = [line[6:] for line in reply.text.splitlines() if line.startswith("data: {")]
    deltas = [json.loads(event)["choices"] for event in events]
    return "".join(one[0]["delta"].get("content") or "" for one in deltas if one)


def test_programs_that_ask_for_different_variants_at_once_get_the_right_one(
    web_variants: dict[str, Any],
) -> None:
    api(web_variants, people=8, count=6)


@pytest.mark.slow
def test_32_programs_get_the_right_variant_for_500_questions(web_variants: dict[str, Any]) -> None:
    api(web_variants, people=32, count=500)
