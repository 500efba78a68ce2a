"""An app with accounts under attack: whatever is sent to it is refused or does nothing."""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from apps.web.pages import pages
from studio.accounts import Account, FileAccounts, hashed
from tests.apps.knocking import PASSWORD, PEOPLE, call, handlers, routes, sign_in, stranger, write_accounts

HOSTILE = "</script><img src=x onerror=alert(1)>"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
GIF = b"GIF89a=1;alert(document.cookie)//"


@pytest.fixture(scope="module")
def accounts(tmp_path_factory: pytest.TempPathFactory) -> FileAccounts:
    return write_accounts(tmp_path_factory.mktemp("accounts") / "users.yaml")


@pytest.fixture(scope="module")
def closed(serve_app: Callable[..., Any], web_variants: dict[str, Any], accounts: FileAccounts) -> Any:
    """Return a blind app that asks for a password; one of its variants has a hostile name."""
    variants = dict(list(web_variants["variants"].items())[:3])
    variants[HOSTILE] = variants["textiles"]
    return serve_app(variants=variants, accounts=str(accounts.path))


@pytest.fixture(scope="module")
def people(closed: Any) -> Iterator[dict[str, httpx.Client]]:
    """Return everybody's client, signed in."""
    with contextlib.ExitStack() as opened:
        yield {name: opened.enter_context(sign_in(closed.address, name)) for name in PEOPLE}


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


def test_no_route_answers_somebody_who_has_not_signed_in(closed: Any) -> None:
    known = routes(closed)
    assert len(known) > 80
    found = {path for _, path in known} | {f"/{page.path}" for page in pages()}
    found |= {"/gradio_api/file=/etc/passwd", "/docs", "/nothing", "/login/", "/logout/", "//login", "/./"}
    with stranger(closed.address) as nobody:
        for path in sorted(found - {"/login", "/logout"}):
            for method in ("GET", "POST"):
                assert nobody.request(method, path).status_code == 401, (method, path)
            shown = nobody.get(path, headers={"accept": "text/html"})
            assert shown.status_code == 303, path
            assert shown.headers["location"].startswith("/login"), path
        for method in ("OPTIONS", "PUT", "DELETE", "PATCH", "TRACE"):
            assert nobody.request(method, "/config").status_code == 405
        assert nobody.head("/config").status_code == 401
        forged = {"cookie": f"triptych-{urlsplit(closed.address).port}=x; access-token=y"}
        assert nobody.get("/config", headers=forged).status_code == 401


def test_the_form_and_the_way_out_tell_a_stranger_nothing(closed: Any) -> None:
    with stranger(closed.address) as nobody:
        form = nobody.get("/login")
        assert form.status_code == 200
        assert "default-src 'none'" in form.headers["content-security-policy"]
        assert form.headers["cache-control"] == "no-store"
        for name in closed.variants:
            assert name not in form.text
        out = nobody.get("/logout")
        assert (out.status_code, out.headers["location"]) == (303, "/login")


def test_signing_in_gives_a_cookie_that_scripts_and_other_sites_do_not_get(closed: Any) -> None:
    with stranger(closed.address) as client:
        answer = client.post("/login", data={"name": "mara", "password": PASSWORD, "next": "/"})
        told = answer.headers["set-cookie"]
        assert "HttpOnly" in told
        assert "SameSite=Lax" in told
        assert "Path=/" in told
        assert "Max-Age=86400" in told
        assert client.get("/config").status_code == 200
        assert client.get("/config").headers["cache-control"] == "no-store"
        assert client.get("/gradio_api/token").status_code == 404


def test_a_session_that_was_slipped_in_is_worth_nothing(closed: Any) -> None:
    port = urlsplit(closed.address).port
    with stranger(closed.address) as victim:
        victim.cookies.set(f"triptych-{port}", "chosen-by-somebody-else")
        answer = victim.post("/login", data={"name": "mara", "password": PASSWORD})
        fresh = answer.headers["set-cookie"].partition("=")[2].partition(";")[0]
    assert fresh != "chosen-by-somebody-else"
    assert len(fresh) > 40
    for token, status in (("chosen-by-somebody-else", 401), (fresh, 200)):
        cookie = {"cookie": f"triptych-{port}={token}"}
        assert httpx.get(f"{closed.address}/config", headers=cookie).status_code == status


def test_signing_out_ends_the_session_and_only_a_form_does_it(closed: Any) -> None:
    with sign_in(closed.address, "mara") as client:
        cookie = {"cookie": "; ".join(f"{key}={value}" for key, value in client.cookies.items())}
        asked = client.get("/logout")
        assert "Sign out" in asked.text
        assert client.get("/config").status_code == 200
        assert client.post("/logout").status_code == 303
        assert httpx.get(f"{closed.address}/config", headers=cookie).status_code == 401


def test_after_signing_in_nobody_is_sent_to_another_site(closed: Any) -> None:
    with stranger(closed.address) as client:
        for wanted in (
            "https://evil.example",
            "//evil.example",
            "/\\evil.example",
            "/%0d%0aSet-Cookie:x",
            "",
        ):
            data = {"name": "mara", "password": PASSWORD, "next": wanted}
            answer = client.post("/login", data=data)
            assert (answer.status_code, answer.headers["location"]) == (303, "/"), wanted
            assert "evil" not in client.get("/login", params={"next": wanted}).text


def test_a_password_cannot_be_guessed_often(closed: Any) -> None:
    with stranger(closed.address) as client:
        seen = [
            client.post("/login", data={"name": "erika", "password": f"guess {n}"}).status_code
            for n in range(8)
        ]
        assert seen[:5] == [401] * 5
        assert set(seen[5:]) == {429}
        late = client.post("/login", data={"name": "erika", "password": PASSWORD})
        assert int(late.headers["retry-after"]) > 0


@pytest.mark.parametrize("change", ["removed", "new password"])
def test_an_account_that_changed_is_out_at_once(closed: Any, accounts: FileAccounts, change: str) -> None:
    accounts.put(Account(name="temp", password=hashed(PASSWORD)))
    with sign_in(closed.address, "temp") as client:
        assert client.get("/config").status_code == 200
        if change == "removed":
            accounts.remove("temp")
        else:
            accounts.put(Account(name="temp", password=hashed("another hole below")))
        assert client.get("/config").status_code == 401


def test_a_page_of_another_site_can_neither_read_nor_write(closed: Any, people: dict[str, Any]) -> None:
    mara = people["mara"]
    for origin in ("https://evil.example", "null", "http://127.0.0.1:1", f"{closed.address}.evil.example"):
        headers = {"origin": origin}
        told = mara.get("/config", headers=headers).headers
        assert not [name for name in told if name.startswith("access-control")]
        body: dict[str, Any] = {"data": [], "fn_index": 0, "session_hash": "s"}
        for path in ("/gradio_api/run/predict", "/gradio_api/queue/join", "/gradio_api/cancel", "/logout"):
            assert mara.post(path, json=body, headers=headers).status_code == 403, (origin, path)
        assert mara.post("/login", data={"name": "x", "password": "y"}, headers=headers).status_code == 403
    blind = {"sec-fetch-site": "cross-site"}
    assert mara.post("/gradio_api/run/predict", json={}, headers=blind).status_code == 403
    assert mara.options("/config", headers={"origin": "https://evil.example"}).status_code == 405
    assert mara.get("/config").status_code == 200


def test_nobody_takes_over_somebody_elses_page(people: dict[str, Any]) -> None:
    mara, erik = people["mara"], people["erik"]
    some = next(one for one in handlers(mara).values() if not one["queue"])
    call(mara, some, [None] * len(some["inputs"]), "mara-page")
    for path in ("/gradio_api/run/predict", "/gradio_api/queue/join", "/gradio_api/cancel"):
        body = {"data": [], "fn_index": some["id"], "session_hash": "mara-page", "event_id": "e"}
        assert erik.post(path, json=body).status_code == 403, path
    for path in ("/gradio_api/queue/data?session_hash=mara-page", "/gradio_api/heartbeat/mara-page"):
        assert erik.get(path).status_code == 403, path


def test_an_expert_is_refused_by_every_handler_of_an_engineers_page(people: dict[str, Any]) -> None:
    """A plain POST reaches private handlers, too: each must ask who it is."""
    told = people["mara"].get("/config").json()
    by_id = {one["id"]: one for one in told["dependencies"]}
    roles = {page.path: page.role for page in pages()}
    tried = 0
    for path, part in told["page"].items():
        for number in part["dependencies"]:
            one = by_id[number]
            reads = one["backend_fn"] and one["targets"] and one["targets"][0][1] != "unload"
            if roles[path] != "expert" and reads:
                done, said = call(people["mara"], one, [None] * len(one["inputs"]), f"page-{number}")
                assert not done, (path, one["api_name"], said)
                assert f"for the role {roles[path]}" in said, (path, one["api_name"], said)
                tried += 1
    assert tried or not set(roles.values()) - {"expert"}


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
def test_no_path_leads_out_of_the_folders(closed: Any, people: dict[str, Any], path: str) -> None:
    cookie = "; ".join(f"{key}={value}" for key, value in people["abel"].cookies.items())
    said = knock(closed.address, f"GET {path} HTTP/1.1\nHost: localhost\nCookie: {cookie}\n\n")
    assert b"root:" not in said
    assert said.split()[1] in (b"400", b"403", b"404"), said[:200]


def test_a_link_among_the_uploads_leads_nowhere(people: dict[str, Any]) -> None:
    there = Path(upload(people["abel"], "a.png", b"\x89PNG"))
    link = there.with_name("link.png")
    link.symlink_to("/etc/passwd")
    assert people["abel"].get(f"/gradio_api/file={there}").status_code == 200
    assert people["abel"].get(f"/gradio_api/file={link}").status_code == 403


def test_a_gigabyte_is_refused_before_it_is_sent(closed: Any, people: dict[str, Any]) -> None:
    there = urlsplit(closed.address)
    folder = closed.log.parent
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


def test_calls_that_are_too_large_or_malformed_never_reach_a_handler(closed: Any, people: Any) -> None:
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
        assert knock(closed.address, head).split()[1] in (b"400", b"431")
    assert mara.get("/config").status_code == 200


def test_a_forged_batch_is_no_batch(people: dict[str, Any]) -> None:
    """Gradio hands a handler a list of requests if the caller says so."""
    some = next(one for one in handlers(people["ines"]).values() if not one["queue"])
    data = [None] * len(some["inputs"])
    plain = call(people["ines"], some, data, "ines-page")
    forged = call(people["ines"], some, data, "ines-page", batched=True, simple_format=True)
    assert forged[0] == plain[0]


def test_a_hostile_name_of_a_variant_is_no_markup(people: dict[str, Any]) -> None:
    for path in ("/", "/config"):
        told = people["mara"].get(path)
        assert HOSTILE not in told.text or told.headers["content-type"].startswith("application/json")
        assert told.headers["x-content-type-options"] == "nosniff"


def test_the_log_holds_neither_passwords_nor_tokens(closed: Any, people: dict[str, Any]) -> None:
    said = closed.log.read_text()
    assert PASSWORD not in said
    for client in people.values():
        for token in client.cookies.values():
            assert token not in said
