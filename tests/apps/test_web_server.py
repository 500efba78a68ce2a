"""The door of the web app: what it serves, to whom, and what it keeps to itself."""

from __future__ import annotations

import functools
import re
import socket
from pathlib import Path
from typing import Any

import httpx
import pytest

from apps.web.guard import allowed
from apps.web.server import free_port, is_loopback
from studio.errors import TriptychError

get = functools.partial(httpx.get, timeout=90)  # seconds; the machine may be busy
post = functools.partial(httpx.post, timeout=90)


def test_the_page_comes_with_headers_that_forbid_outside_requests(web_app: Any) -> None:
    answer = get(web_app.address)
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert "connect-src 'self' data: blob:" in policy
    assert "http" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize(
    "route",
    [
        "/docs",
        "/openapi.json",
        "/gradio_api/openapi.json",
        "/gradio_api/info",
        "/gradio_api/runs",
        "/gradio_api/run-history/records",
        "/gradio_api/call/ask",
        "/gradio_api/api/ask",
        "/gradio_api/proxy=http://example.org",
        "/gradio_api/file=http://example.org/a.png",
        "/gradio_api/file=HTTPS://example.org/a.png",
        "/gradio_api/deep_link",
        "/gradio_api/vibe-code",
        "/monitoring",
        "/monitoring/summary",
    ],
)
def test_routes_that_the_page_does_not_need_do_not_exist(web_app: Any, route: str) -> None:
    assert get(web_app.address + route).status_code == 404
    assert post(web_app.address + route, json={}).status_code == 404


def test_no_file_outside_the_uploads_is_served(web_app: Any) -> None:
    kept = web_app.store_url.removeprefix("sqlite:///")
    adapter = f"{web_app.variants['ties']}/adapter_config.json"
    inside = Path("pyproject.toml").resolve()
    for file in ("/etc/passwd", kept, adapter, str(inside), "pyproject.toml", f"{web_app.base}/config.json"):
        answer = get(f"{web_app.address}/gradio_api/file={file}")
        assert answer.status_code == 403, file


def test_a_page_of_another_host_name_is_refused(web_app: Any) -> None:
    assert get(web_app.address, headers={"host": "evil.example"}).status_code == 400
    assert get(web_app.address, headers={"host": "localhost:1"}).status_code == 200


def test_uploads_stand_in_a_folder_of_this_user_alone(web_app: Any) -> None:
    files = {"files": ("a.png", b"\x89PNG", "image/png")}
    uploaded = Path(post(f"{web_app.address}/gradio_api/upload", files=files).json()[0])
    folder = uploaded.parent.parent
    assert folder.name.startswith("triptych-")
    assert folder.stat().st_mode & 0o077 == 0


def test_the_configuration_names_no_folder_of_this_machine(web_app: Any) -> None:
    told = get(f"{web_app.address}/config").text + get(web_app.address).text
    for secret in (web_app.base.parent, Path(web_app.data["helpdesk"]).parent, Path.cwd(), Path.home()):
        assert str(secret) not in told or len(secret.parts) < 3, secret
    assert not re.findall(r"[\"'](/(?:tmp|home|root|var|usr)/[^\"']*)", told)


def test_safe_settings_stand_in_the_configuration(web_app: Any) -> None:
    told = get(f"{web_app.address}/config").json()
    assert told["analytics_enabled"] is False
    assert told["footer_links"] == []
    assert not told.get("mcp_server")
    assert not told.get("run_history")
    assert all(event["api_visibility"] == "private" for event in told["dependencies"])


def test_a_picture_by_address_or_from_elsewhere_is_not_read(web_app: Any) -> None:
    told = get(f"{web_app.address}/config").json()
    ask = next(e for e in told["dependencies"] if e["api_name"] == "ask")
    marked = {"meta": {"_type": "gradio.FileData"}}
    places = ("/etc/passwd", f"{web_app.base}/config.json", "../../etc/passwd")
    for picture in [{"path": path, **mark} for path in places for mark in (marked, {})]:
        data = [picture, None, "?", None, ["linear", "ties"], 8, 0, 0]
        body = {"data": data, "fn_index": ask["id"], "session_hash": "stranger"}
        answer = post(f"{web_app.address}/gradio_api/run/predict", json=body)
        assert answer.status_code >= 400 or "did not arrive" in answer.text, answer.text
        assert "root:" not in answer.text


def test_a_taken_port_is_passed_over() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert port < free_port("127.0.0.1", port) <= port + 50
        with pytest.raises(TriptychError, match=f"no free port from {port} to {port}"):
            free_port("127.0.0.1", port, tries=1)


def test_a_wrong_port_or_host_is_told_in_a_sentence() -> None:
    with pytest.raises(TriptychError, match="port 70000 is out of range; allowed: 1 to 65535"):
        free_port("127.0.0.1", 70000)
    with pytest.raises(TriptychError, match=r"'192\.0\.2\.1' is not an address of this machine"):
        free_port("192.0.2.1", 17999)


def test_loopback_addresses_are_known() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "localhost", "::1", "[::1]", "127.8.8.8")))
    assert not any(map(is_loopback, ("0.0.0.0", "192.168.1.4", "example.org", "::")))


def test_the_guard_knows_what_the_page_needs() -> None:
    needed = ("/", "/config", "/theme.css", "/assets/a.js", "/gradio_api/queue/data", "/gradio_api/app_id")
    assert all(map(allowed, (*needed, "/gradio_api/heartbeat/x", "/gradio_api/file=/tmp/a.png")))
    assert not any(map(allowed, ("/gradio_api", "/login", "/gradio_api/queue/joined", "/gradio_api/user")))


def test_the_process_says_nothing_alarming(web_app: Any) -> None:
    get(web_app.address)
    assert "Traceback" not in web_app.log.read_text()
