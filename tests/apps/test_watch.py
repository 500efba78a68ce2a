"""triptych watch: new versions are compared, an endpoint is asked, a history survives, inputs drift."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from apps.api import build
from apps.api.keys import add_key, admission
from apps.cli import main
from apps.endpoint import Endpoint, EndpointError, checked_address, read_key
from apps.watch import bad
from studio.errors import ConfigError
from studio.variants import Engine
from studio.watch_history import History, good_ones, read_entries
from tests.apps.asking import asked
from tests.apps.test_api import served

N, TOKENS = 24, 4
LIMITS = ["--max-new-tokens", str(TOKENS), "--once", "--json"]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def answered(web_variants: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data file whose right answers are those that the expert for textiles gives."""
    engine = Engine(web_variants["base"], web_variants["variants"])
    samples = [asked(f"what is wrong here? {place}") for place in range(N)]
    said = engine.answers("textiles", samples, max_new_tokens=TOKENS)
    others = engine.answers("commands", samples, max_new_tokens=TOKENS)
    rows = [
        {"messages": [{"role": "user", "content": one.turns[0].text}, {"role": "assistant", "content": text}]}
        for one, text in zip(samples, said, strict=True)
        if text.strip()
    ]
    assert sum(a != b for a, b in zip(said, others, strict=True)) > 0.8 * N
    assert len(rows) > 0.9 * N
    file = tmp_path_factory.mktemp("answered") / "cloth.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.fixture
def experts(web_variants: dict[str, Any], tmp_path: Path) -> Path:
    """Return a folder with one expert in it, as a training leaves it."""
    shutil.copytree(web_variants["variants"]["textiles"], tmp_path / "experts" / "site" / "adapter")
    return tmp_path / "experts"


def watch(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, dict[str, Any]]:
    """Run the command once and return its status and what it says."""
    capsys.readouterr()
    status = main(["watch", *map(str, arguments), *LIMITS])
    out = capsys.readouterr().out
    return status, json.loads(out) if out else {}


def replace(folder: Path, other: str | Path) -> None:
    shutil.rmtree(folder)
    shutil.copytree(other, folder)


def test_a_planted_regression_is_found_and_what_has_not_changed_is_free(
    experts: Path,
    answered: Path,
    web_variants: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    history, adapter = tmp_path / "history", experts / "site" / "adapter"
    line = [experts, "--data", answered, "--history", history, "--must", f"{answered}.exact_match >= 0.9"]
    status, told = watch(capsys, *line)
    figure = f"{answered}.exact_match"
    assert (status, told["wrong"]) == (0, {})
    assert told["variants"]["site"]["verdict"] == "first"
    assert told["variants"]["site"]["figures"][figure]["value"] == 1.0

    with monkeypatch.context() as asking:
        asking.setattr(Engine, "answers", None)  # nobody is asked where nothing has changed
        before = (history / "history.jsonl").read_bytes()
        assert watch(capsys, *line)[0] == 0
        assert (history / "history.jsonl").read_bytes() == before

    # Saved anew, the same answers: another version, no worse.
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"revision": "saved anew"}))
    status, told = watch(capsys, *line)
    assert (status, told["variants"]["site"]["verdict"], told["look"]) == (0, "steady", 2)

    replace(adapter, web_variants["variants"]["commands"])
    status, told = watch(capsys, *line)
    assert (status, told["variants"]["site"]["verdict"]) == (1, "regressed")
    first, last, rule = sorted(told["wrong"]["site"], key=lambda one: ("rule" in one, "last" in one))
    assert "than the first version (look 1, n = " in first
    assert "than the last good version (look 2, n = " in last
    assert rule == f"breaks the rule '{figure} >= 0.9'"
    assert watch(capsys, *line)[0] == 1  # and it stays wrong until something is done
    for name in ("scores.html", "scores.png", "watch.json", "looks/00003/samples.jsonl"):
        assert (history / name).stat().st_size > 100
    assert "regressed" in (history / "scores.html").read_text()

    replace(adapter, web_variants["variants"]["textiles"])
    status, told = watch(capsys, *line)  # mended: compared with the good ones, not with the bad one
    assert (status, told["variants"]["site"]["verdict"]) == (0, "steady")
    entries = read_entries(history)
    assert [entry["verdict"] for entry in entries] == ["first", "steady", "regressed", "steady"]
    assert {test["look"] for test in entries[3]["tests"]} == {1, 2}


def test_a_version_can_be_accepted_and_is_then_the_good_one(
    experts: Path,
    answered: Path,
    web_variants: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    history = tmp_path / "history"
    line = [experts, "--data", answered, "--history", history]
    watch(capsys, *line)
    replace(experts / "site" / "adapter", web_variants["variants"]["commands"])
    assert watch(capsys, *line)[0] == 1
    assert main(["watch", "--accept", "sit", "--history", str(history)]) == 2
    assert "did you mean 'site'?" in capsys.readouterr().err
    assert main(["watch", "--accept", "site", "--history", str(history)]) == 0
    assert watch(capsys, *line)[0] == 0
    good = good_ones(read_entries(history), "site")
    assert {name: entry["look"] for name, entry in good.items()} == {"last good": 2}


def test_a_variant_that_cannot_be_read_is_told_and_the_others_are_looked_at(
    experts: Path, answered: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = experts / "broken"
    broken.mkdir()
    (broken / "adapter_config.json").write_text("{")
    status, told = watch(capsys, experts, "--data", answered, "--history", tmp_path / "history")
    assert status == 1
    assert told["variants"]["site"]["verdict"] == "first"
    assert told["variants"]["broken"]["verdict"] == "failed"
    assert "broken" in told["wrong"]["broken"][0]
    watch(capsys, experts, "--data", answered, "--history", tmp_path / "history")
    assert len(read_entries(tmp_path / "history")) == 2  # the same fault is kept once
    shutil.rmtree(broken)
    weights = experts / "site" / "adapter" / "adapter_model.safetensors"
    weights.rename(tmp_path / "away")
    status, told = watch(capsys, experts, "--data", answered, "--history", tmp_path / "history")
    assert (status, told["variants"]["site"]["verdict"]) == (1, "failed")
    (tmp_path / "away").rename(weights)
    status, told = watch(capsys, experts, "--data", answered, "--history", tmp_path / "history")
    assert (status, told["variants"]["site"]["verdict"], told["wrong"]) == (0, "steady", {})


def test_many_small_losses_are_seen_against_the_first_good_version() -> None:
    entries = [
        {"kind": "scores", "variant": "a", "look": look, "verdict": verdict}
        for look, verdict in enumerate(("first", "steady", "better", "regressed", "steady"), 1)
    ]
    good = good_ones(entries, "a")
    assert {name: entry["look"] for name, entry in good.items()} == {"first": 1, "last good": 5}
    good = good_ones([*entries[:4], {"kind": "accepted", "variant": "a", "look": 4}], "a")
    assert {name: entry["look"] for name, entry in good.items()} == {"last good": 4}


def test_an_accepted_version_still_keeps_the_rules(tmp_path: Path) -> None:
    test = {"figure": "f", "against": "first", "look": 1, "difference": -0.5, "n": 9, "p": 0.0, "level": 0.1}
    entry = {"kind": "scores", "variant": "a", "look": 2, "tests": [{**test, "worse": True}]}
    with History(tmp_path / "history") as history:
        history.add({**entry, "verdict": "regressed", "broken": ["f >= 0.9"]})
        assert len(bad(history, ["a"])["a"]) == 2
        history.add({"kind": "accepted", "variant": "a", "look": 2})
        assert bad(history, ["a", "b"]) == {"a": ["breaks the rule 'f >= 0.9'"]}


_WRITER = """
import sys
from pathlib import Path
from studio.watch_history import History
with History(Path(sys.argv[1])) as history:
    print("open", flush=True)
    while True:
        history.add({"kind": "scores", "look": history.next_look, "text": "x" * 20000}, {"kind": "inputs"})
"""


def test_a_history_survives_kill_9_and_has_one_watcher_at_a_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "history"
    writer = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "open\n"
    with pytest.raises(ConfigError, match=rf"is watched by process {writer.pid} on .* already; end that one"):
        History(folder)
    assert main(["watch", "--accept", "site", "--history", str(folder)]) == 2
    assert f"watched by process {writer.pid}" in capsys.readouterr().err
    while len(read_entries(folder)) < 20:
        pass
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    writer.stdout.close()
    whole = len(read_entries(folder))
    with open(folder / "history.jsonl", "ab") as file:
        file.write(b'\n{"kind": "scores", "look": 99, "va')  # as a kill within a line leaves it
    with History(folder) as history:
        assert len(history.entries) == whole >= 20
        history.add({"kind": "inputs", "look": history.next_look})
    assert len(read_entries(folder)) == whole + 1


@pytest.fixture
def endpoint(web_variants: dict[str, Any], tmp_path: Path) -> Iterator[tuple[str, Engine, str]]:
    """Return a service that wants a key, the engine behind it, and the key."""
    engine = Engine(web_variants["base"], {"site": web_variants["variants"]["textiles"]})
    key = add_key(tmp_path / "keys.txt", "watch")
    for address in served(build(engine, admit=admission(tmp_path / "keys.txt"))):
        yield address, engine, key


def test_an_endpoint_is_watched_by_what_it_answers(
    endpoint: tuple[str, Engine, str],
    answered: Path,
    web_variants: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address, engine, key = endpoint
    history, secret = tmp_path / "history", tmp_path / "key"
    line = [address, "--data", answered, "--history", history]
    status, told = watch(capsys, *line)  # without its key
    assert status == 1
    assert "answered 401: this service needs a key" in told["wrong"]["endpoint"][0]
    secret.write_text(f"{key}\n")
    line += ["--key-file", secret]
    status, told = watch(capsys, *line)
    assert (status, told["variants"]["site"]["verdict"]) == (0, "first")
    assert next(iter(told["variants"]["site"]["figures"].values()))["value"] == 1.0
    kept = len(read_entries(history))
    assert watch(capsys, *line)[0] == 0
    assert len(read_entries(history)) == kept  # it answers as before
    engine.remove("site")
    engine.add("site", web_variants["variants"]["commands"])  # somebody changes what is served
    monkeypatch.setenv("TRIPTYCH_ENDPOINT_KEY", key)
    status, told = watch(capsys, *line[:-2])
    assert (status, told["variants"]["site"]["verdict"]) == (1, "regressed")
    assert key not in (history / "history.jsonl").read_text()
    assert watch(capsys, *line, "--model", "sit")[0] == 1
    assert watch(capsys, *line, "--metric", "perplexity")[0] == 1


@pytest.mark.parametrize(
    ("url", "keyed", "told"),
    [
        ("ftp://127.0.0.1", False, "is no address"),
        ("http://", False, "is no address"),
        ("http://127.0.0.1:x", False, "is no address"),
        ("http://me:secret@127.0.0.1", False, "a key goes into"),
        ("http://127.0.0.1/?key=secret", False, "a key goes into"),
        ("https://models.example.org", False, "say --host models.example.org as well"),
        ("http://inside.example.org", True, "use https"),
    ],
)
def test_what_would_leak_is_refused_before_anything_is_sent(url: str, keyed: bool, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as refused:
        checked_address(url, ["inside.example.org"], keyed)
    assert "secret" not in str(refused.value)


def test_addresses_end_in_the_version_of_the_protocol(tmp_path: Path) -> None:
    assert checked_address("http://127.0.0.1:8000", [], True) == "http://127.0.0.1:8000/v1"
    assert checked_address("http://[::1]:8000/v1/", [], True) == "http://[::1]:8000/v1"
    assert checked_address("https://a.example.org/x", ["a.example.org"], True) == "https://a.example.org/x"
    (tmp_path / "key").write_text("two lines\nhere")
    with pytest.raises(ConfigError, match="one line of plain characters"):
        read_key(tmp_path / "key")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_key(tmp_path / "nowhere")


@pytest.fixture
def moody() -> Iterator[Callable[..., tuple[str, list[str]]]]:
    """Return a function that serves given replies (status, body) in turn; it returns the paths asked for."""
    servers = []

    def start(*replies: tuple[int, str]) -> tuple[str, list[str]]:
        seen: list[str] = []
        left = list(replies)

        class Moody(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                seen.append(self.path)
                status, body = left.pop(0) if left else (200, '{"data": []}')
                self.send_response(status)
                self.send_header("Retry-After", "7")
                self.send_header("Location", "http://127.0.0.1:1/elsewhere")
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        server = HTTPServer(("127.0.0.1", 0), Moody)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}", seen

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_service_is_asked_again_only_where_that_can_help(moody: Callable[..., Any]) -> None:
    waited: list[float] = []
    address, seen = moody((503, "busy"), (200, '{"data": [{"id": "a"}]}'))
    assert Endpoint(address, wait=waited.append).names == ("a",)
    assert (seen, waited) == (["/v1/models"] * 2, [7.0])
    for replies, told, count in [
        ([(404, '{"error": {"message": "no such thing"}}')], "answered 404: no such thing", 1),
        ([(302, "")], "answered 302", 1),  # it is followed nowhere
        ([(200, "<html>")], "no JSON object", 1),
        ([(200, '{"data": []}')], "lists no model", 1),
        ([(500, "")] * 9, "answered 500: no reason", 3),
    ]:
        address, seen = moody(*replies)
        with pytest.raises(EndpointError, match=told):
            Endpoint(address, tries=3, wait=waited.append)
        assert len(seen) == count
    with pytest.raises(EndpointError, match="cannot be reached"):
        Endpoint("http://127.0.0.1:9", tries=2, wait=waited.append)


def test_drifted_inputs_are_told_and_the_same_inputs_are_compared_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw = np.random.default_rng(0)
    for folder, factor in (("usual", 1.0), ("same", 1.0), ("dark", 0.7)):
        (tmp_path / folder).mkdir()
        for place in range(40):
            pixels = draw.normal(150, 12) + draw.normal(0, 20, (16, 16, 3))
            shown = np.clip(factor * pixels, 0, 255).astype(np.uint8)
            Image.fromarray(shown).save(tmp_path / folder / f"{place}.png")
    line = ["--reference", tmp_path / "usual", "--history", tmp_path / "history", "--inputs"]
    status, told = watch(capsys, *line, tmp_path / "same")
    assert (status, told["wrong"], told["inputs"]["drifted"]) == (0, {}, False)
    status, told = watch(capsys, *line, tmp_path / "dark")
    assert status == 1
    assert any("pictures: brightness moved from 0.5" in one for one in told["wrong"]["inputs"])
    assert watch(capsys, *line, tmp_path / "dark")[0] == 1
    assert len(read_entries(tmp_path / "history")) == 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "watch needs --history"),
        (["--history", "h"], "a folder or an endpoint to watch, or --inputs"),
        (["runs", "--history", "h"], "watch needs --data"),
        (["nowhere", "--data", "textiles", "--history", "h"], "nowhere is no folder"),
        (["runs", "--data", "textiles", "--history", "h", "--every", "1y"], "is no time; allowed"),
        (["runs", "--data", "textiles", "--history", "h", "--alpha", "2"], "--alpha must be between 0 and 1"),
        (["runs", "--data", "textiles", "--history", "h", "--looks", "0"], "--looks must be at least 1"),
        (["runs", "--data", "textiles", "--history", "h", "--metric", "exact"], "did you mean 'exact_match'"),
        (["runs", "--data", "textiles", "--history", "h", "--must", "x.y > 1"], "unknown figure 'x.y'"),
        (["http://far.example.org", "--data", "textiles", "--history", "h"], "say --host far.example.org"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_written(
    arguments: list[str],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["watch", *arguments, "--once"]) == 2
    assert told in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
