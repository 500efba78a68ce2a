"""Files, paths and bodies sent to an app with accounts: refused early, or served so that nothing runs."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.apps.knocking import call, handlers

HOSTILE = "</script><img src=x onerror=alert(1)>"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
GIF = b"GIF89a=1;alert(document.cookie)//"


def upload(client: httpx.Client, name: str, content: bytes) -> str:
    answer = client.post("/gradio_api/upload", files={"files": (name, content, "image/png")})
    assert answer.status_code == 200, answer.text
    return str(answer.json()[0])


def knock(address: str, head: str, body: bytes = b"") -> bytes:
    """Send bytes as they are and return the answer's first kilobytes."""
    there = urlsplit(address)
    with socket.create_connection((there.hostname, there.port), timeout=30) as wire:
        wire.sendall(head.replace("\n", "\r\n").encode() + body)
        return wire.recv(4096)


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=../../../../../../etc/passwd",
        "/gradio_api/file=%2e%2e%2f%2e%2e%2f%2e%2e%2f%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "/gradio_api/file=%252e%252e%252fetc%252fpasswd",
        "/gradio_api/file=file:///etc/passwd",
        "/gradio_api/file=/proc/self/environ",
        "/gradio_api/file=/etc/passwd%00.png",
        "/gradio_api/file=http://127.0.0.1:22/",
        "/static/../../../../../../../../etc/passwd",
        "/static/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/assets/..%2f..%2f..%2f..%2f..%2f..%2f..%2f..%2fetc%2fpasswd",
        "/svelte/....//....//....//etc/passwd",
        "/assets//etc/passwd",
    ],
)
def test_no_path_leads_out_of_the_folders(closed_app: Any, people: dict[str, Any], path: str) -> None:
    cookie = "; ".join(f"{key}={value}" for key, value in people["abel"].cookies.items())
    said = knock(closed_app.address, f"GET {path} HTTP/1.1\nHost: localhost\nCookie: {cookie}\n\n")
    assert b"root:" not in said
    assert said.split()[1] in (b"400", b"403", b"404"), said[:200]


def test_a_link_among_the_uploads_leads_nowhere(people: dict[str, Any]) -> None:
    there = Path(upload(people["abel"], "a.png", b"\x89PNG"))
    link = there.with_name("link.png")
    link.symlink_to("/etc/passwd")
    assert people["abel"].get(f"/gradio_api/file={there}").status_code == 200
    assert people["abel"].get(f"/gradio_api/file={link}").status_code == 403


def test_a_gigabyte_is_refused_before_it_is_sent(closed_app: Any, people: dict[str, Any]) -> None:
    there = urlsplit(closed_app.address)
    folder = closed_app.log.parent
    before = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    cookie = "; ".join(f"{key}={value}" for key, value in people["abel"].cookies.items())
    for length, status in ((f"Content-Length: {1 << 30}", b"413"), ("Transfer-Encoding: chunked", b"411")):
        head = (
            f"POST /gradio_api/upload HTTP/1.1\nHost: localhost\nCookie: {cookie}\n{length}\n"
            "Content-Type: multipart/form-data; boundary=b\n\n"
        )
        with socket.create_connection((there.hostname, there.port), timeout=60) as wire:
            wire.sendall(head.replace("\n", "\r\n").encode())
            sent, piece = 0, b"10000\r\n" + bytes(65536) + b"\r\n"
            with contextlib.suppress(ConnectionError):
                while sent < 1 << 30 and not select.select([wire], [], [], 0)[0]:
                    sent += wire.send(piece)
            assert wire.recv(4096).split()[1] == status
        assert sent < 50_000_000
    after = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    assert after - before < 1_000_000


def test_an_upload_that_breaks_off_leaves_nothing(closed_app: Any, people: dict[str, Any]) -> None:
    there = urlsplit(closed_app.address)
    cookie = "; ".join(f"{key}={value}" for key, value in people["abel"].cookies.items())
    head = (
        f"POST /gradio_api/upload HTTP/1.1\nHost: localhost\nCookie: {cookie}\nContent-Length: 900000\n"
        "Content-Type: multipart/form-data; boundary=b\n\n--b\n"
        'Content-Disposition: form-data; name="files"; filename="a.png"\n\n'
    )
    (folder,) = closed_app.log.parent.glob("triptych-*")
    with socket.create_connection((there.hostname, there.port), timeout=60) as wire:
        wire.sendall(head.replace("\n", "\r\n").encode() + bytes(200_000))
        wait_for(lambda: any(one.is_file() for one in folder.glob("tmp*")))
    wait_for(lambda: not any(one.is_file() for one in folder.glob("tmp*")))
    assert "Traceback" not in closed_app.log.read_text()


def wait_for(true: Callable[[], bool]) -> None:
    """Return when something is true; a minute is more than it may take."""
    for _ in range(600):
        if true():
            return
        time.sleep(0.1)
    raise AssertionError("it never came true")


def test_an_expert_uploads_less_than_those_who_train(people: dict[str, Any]) -> None:
    large = {"files": ("big.png", bytes(21_000_000), "image/png")}
    assert people["mara"].post("/gradio_api/upload", files=large).status_code == 413
    assert people["ines"].post("/gradio_api/upload", files=large).status_code == 200


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a.svg", SVG, "application/octet-stream"),
        ("a.html", b"<script>alert(1)</script>", "application/octet-stream"),
        ("a.js", b"alert(1)", "application/octet-stream"),
        ("a.xml", SVG, "application/octet-stream"),
        ("a.gif", GIF, "image/gif"),
        ("a.png", b"\x89PNG\r\n\x1a\n<html><script>alert(1)</script>", "image/png"),
    ],
)
def test_a_file_is_served_as_what_it_says_and_runs_nothing(
    people: dict[str, Any], name: str, content: bytes, kind: str
) -> None:
    there = upload(people["mara"], name, content)
    for headers in ({}, {"range": "bytes=0-3", "x-mark": "mine"}):
        answer = people["mara"].get(f"/gradio_api/file={there}", headers=headers)
        assert answer.headers["content-type"].partition(";")[0] == kind
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "sandbox" in answer.headers["content-security-policy"]
        assert "script-src" not in answer.headers["content-security-policy"]
        assert kind.startswith("image/") or "attachment" in answer.headers["content-disposition"]
        assert "cookie" not in answer.headers
        assert "x-mark" not in answer.headers


def test_calls_that_are_too_large_or_malformed_never_reach_a_handler(closed_app: Any, people: Any) -> None:
    mara = people["mara"]
    for content, status in (
        (b'{"data": ["' + b"x" * 1_100_000 + b'"]}', 413),
        (b"[" * 500_000, 400),
        (b'{"data": ' + b"[" * 100 + b"]" * 100 + b', "fn_index": 0}', 400),
        (b"[1, 2]", 400),
        (b"\xff\xfe", 400),
        (b"", 400),
        (b'{"data": [], "fn_index": 0, "session_hash": {"$ne": 1}}', 403),
    ):
        for path in ("/gradio_api/run/predict", "/gradio_api/queue/join"):
            answer = mara.post(path, content=content, headers={"content-type": "application/json"})
            assert answer.status_code == status, (content[:40], answer.status_code)
    huge = {"x-huge": "x" * 20_000}
    assert mara.get("/config", headers=huge).status_code == 431
    head = "GET /config HTTP/1.1\nHost: localhost\n" + f"X: {'x' * 200_000}\n\n"
    with contextlib.suppress(ConnectionError):
        assert knock(closed_app.address, head).split()[1] in (b"400", b"431")
    assert mara.get("/config").status_code == 200


def test_a_forged_batch_is_no_batch(people: dict[str, Any]) -> None:
    """Gradio hands a handler a list of requests if the caller says so."""
    some = next(one for one in handlers(people["ines"]).values() if not one["queue"])
    data = [None] * len(some["inputs"])
    plain = call(people["ines"], some, data, "ines-page")
    forged = call(people["ines"], some, data, "ines-page", batched=True, simple_format=True)
    assert forged[0] == plain[0]
