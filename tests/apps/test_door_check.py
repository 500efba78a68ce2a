"""`triptych doctor --app`: our app has no fault, and every fault of a careless one is found."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from apps.cli import main
from apps.door_check import Caller, Reply
from apps.door_checks import _listens_beyond, cookies

#: As many tutorials would launch it, and then a little more.
_CARELESS = """
import sys
import gradio as gr
with gr.Blocks(analytics_enabled=True) as app:
    text = gr.Textbox()
    hidden = gr.Dropdown(["ties", "l\\u00efnear"], visible=False)
    gr.Button("go").click(lambda text, hidden: text, [text, hidden], text, api_name="go")
app.queue(api_open=True)
app.launch(server_port=int(sys.argv[1]), allowed_paths=["/"], enable_monitoring=True, show_error=True,
           strict_cors=False, quiet=True, prevent_thread_lock=True,
           app_kwargs={"docs_url": "/docs", "redoc_url": "/redoc"})
print("ready", flush=True)
app.block_thread()
"""


def doctor(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    status = main(["doctor", "--app", *words, "--json"])
    return status, {one["name"]: one for one in json.loads(capsys.readouterr().out)["checks"]}


@pytest.fixture(scope="module")
def careless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    nowhere = {"HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}
    kept = {key: value for key, value in os.environ.items() if not key.startswith("GRADIO_")}
    own = {"NO_PROXY": "127.0.0.1,localhost", "TMPDIR": str(tmp_path_factory.mktemp("careless"))}
    process = subprocess.Popen(
        [sys.executable, "-c", _CARELESS, str(port)],
        env={**kept, **nowhere, **own},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert any("ready" in line for line in process.stdout), process.stdout.read()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.communicate()


def test_an_app_of_ours_on_the_loopback_has_no_fault(
    web_app: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    status, found = doctor(capsys, web_app.address)
    assert {name: one["found"] for name, one in found.items() if one["state"] != "ok"} == {}
    assert status == 0
    assert "only this machine" in found["accounts"]["found"]


def test_every_fault_of_a_careless_app_is_found(careless: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, found = doctor(capsys, careless, "--variant", "ties", "--variant", "l\u00efnear")
    assert status == 1
    told = {name: one["found"] for name, one in found.items() if one["state"] == "fault"}
    assert set(told) == {
        "api description",
        "docs",
        "open api",
        "monitoring",
        "run history",
        "analytics",
        "error details",
        "cors",
        "host header",
        "file traversal",
        "security headers",
        "upload size",
        "names",
    }
    assert told["names"] == "served before the verdict: l\u00efnear, ties"
    assert told["open api"] == "public handlers: go"


def test_the_table_says_the_same(careless: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--app", careless]) == 1
    out = capsys.readouterr().out
    assert "12 faults found" in out
    assert "host header" in out


def test_a_careless_login_is_found(careless: str) -> None:
    told = cookies(
        Caller(careless), Reply(status=200, headers={"set-cookie": "a=b; Path=/; samesite=none"}, body=b"")
    )
    assert (told.state, told.found) == ("fault", "lacks: httponly, samesite=lax, max-age")


def test_a_port_that_others_reach_is_known_from_one_that_they_do_not() -> None:
    for address, beyond in (("127.0.0.1", ""), ("0.0.0.0", "0.0.0.0"), ("::1", ""), ("::", "::")):
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as listening:
            listening.bind((address, 0))
            listening.listen()
            assert _listens_beyond(listening.getsockname()[1]) == beyond


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--app", "ftp://x"), "'ftp://x' is not the address of an app"),
        (("--app", "http://127.0.0.1:99999"), "has no port from 1 to 65535"),
        (("--app", "http://127.0.0.1:9"), "nothing answers at http://127.0.0.1:9"),
        (("--json",), "--user, --variant and --json belong to --app URL"),
    ],
)
def test_an_app_that_is_not_there_is_one_sentence(
    words: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", *words]) == 2
    assert sentence in capsys.readouterr().err


def test_a_password_that_is_wrong_is_one_sentence(
    careless: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("wrong\n"))
    assert main(["doctor", "--app", careless, "--user", "mara"]) == 2
    assert "does not let mara in with this password" in capsys.readouterr().err
