"""The guard by itself, before a small app that says who was let in: hosts, proxies, guests, limits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from apps.cli import main
from apps.web.gates import Gate, HeaderGate, OpenGate, gate, settle
from apps.web.guard import Guard
from apps.web.limits import RATES, Limit, Limits, Rate
from apps.web.login import PasswordGate, local
from apps.web.server import Door
from apps.web.sessions import IDLE, LONGEST, Sessions
from apps.web.visitors import LOCAL, SEAT, Refused, Visitor
from studio.accounts import Account, FileAccounts, StoreAccounts
from studio.errors import ConfigError
from studio.store import Store
from tests.apps.knocking import PASSWORD, write_accounts

PROXY, STRANGER = "10.0.0.7", "203.0.113.9"


async def shows(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer with who was let in, and how the request seems to have come."""
    who = scope[SEAT]
    forwarded = sum(name.startswith(b"x-forwarded") for name, _ in scope["headers"])
    told = f"{who.name} {who.role} {who.group} {scope['scheme']} {scope['client'][0]} {forwarded}"
    headers = [(b"content-type", b"text/plain"), (b"access-control-allow-origin", b"*")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": told.encode()})


def guarded(door: Door) -> Guard:
    guard = door.guard(["mix"])
    guard.app, guard.ready = shows, True
    return guard


def ask(guard: Guard, path: str = "/", peer: str = "127.0.0.1", method: str = "GET", **more: Any) -> Any:
    """Send one request to the guard as from an address."""

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app=guard, client=(peer, 5))  # type: ignore[arg-type]
        base = more.pop("base", "http://127.0.0.1:7860")
        async with httpx.AsyncClient(transport=transport, base_url=base) as client:
            return await client.request(method, path, **more)

    return asyncio.run(send())


@pytest.fixture
def store(tmp_path: Path) -> Any:
    with Store(f"sqlite:///{tmp_path / 'kept.db'}") as opened:
        yield opened


@pytest.fixture
def by_proxy(store: Store) -> Guard:
    """Return the guard of an app behind a proxy that says who asks."""
    StoreAccounts(store).put(Account(name="ines", role="engineer", group="north", rater="rater-1"))
    names = HeaderGate("X-Remote-User", StoreAccounts(store))
    return guarded(Door(gate=names, proxies=["10.0.0.0/24"], names=["compare.example.org"]))


def test_the_loopback_has_one_visitor_who_is_an_expert_where_the_app_is_blind() -> None:
    plain = guarded(Door(gate=OpenGate(local=True, blind=False)))
    assert ask(plain).text.startswith("local administrator")
    blind = guarded(Door(gate=OpenGate(local=True, blind=True)))
    assert ask(blind).text.startswith("local expert")


def test_guests_beyond_the_loopback_are_experts_with_a_pseudonym_each() -> None:
    guard = guarded(Door(gate=OpenGate(local=False, blind=False), host="0.0.0.0"))
    first, again, other = (
        ask(guard, peer=peer).text.split()[:2] for peer in ("10.1.1.1", "10.1.1.1", "10.1.1.2")
    )
    assert first == again != other
    assert first[1] == "expert"
    assert "10.1.1.1" not in first[0]


@pytest.mark.parametrize(
    ("host", "name", "known"),
    [
        ("127.0.0.1", "127.0.0.1:7860", True),
        ("127.0.0.1", "LOCALHOST", True),
        ("127.0.0.1", "[::1]:7860", True),
        ("127.0.0.1", "evil.example", False),
        ("127.0.0.1", "127.0.0.1.evil.example", False),
        ("127.0.0.1", "compare.example.org", True),
        ("127.0.0.1", "10.1.1.1", False),
        ("0.0.0.0", "10.1.1.1:7860", True),
        ("0.0.0.0", "compare.example.org", True),
        ("0.0.0.0", "evil.example", False),
    ],
)
def test_only_known_names_reach_the_app(host: str, name: str, known: bool) -> None:
    guard = guarded(Door(gate=OpenGate(local=True, blind=False), host=host, names=["compare.example.org"]))
    assert ask(guard, headers={"host": name}).status_code == (200 if known else 400)
    forwarded = ask(guard, headers={"host": "evil.example", "x-forwarded-host": "127.0.0.1"})
    assert forwarded.status_code == 400


def test_a_proxy_that_is_trusted_says_who_asks(by_proxy: Guard) -> None:
    told = {"x-remote-user": "ines", "x-forwarded-for": f"1.2.3.4, {STRANGER}", "x-forwarded-proto": "https"}
    assert ask(by_proxy, peer=PROXY, headers=told).text == f"rater-1 engineer north https {STRANGER} 2"


def test_whoever_passes_by_the_proxy_is_nobody(by_proxy: Guard) -> None:
    told = {"x-remote-user": "ines", "x-forwarded-for": PROXY}
    for peer in (STRANGER, "127.0.0.1", "10.0.1.7"):
        answer = ask(by_proxy, peer=peer, headers=told)
        assert answer.status_code == 401
        assert "proxy" in answer.text


def test_a_header_that_stands_there_twice_or_not_at_all_names_nobody(by_proxy: Guard) -> None:
    twice = [("x-remote-user", "ines"), ("x-remote-user", "abel")]
    for headers in (twice, [], [("x-remote-user", "")], [("x-remote-user", "../ines")]):
        assert ask(by_proxy, peer=PROXY, headers=headers).status_code == 401


def test_a_new_person_of_the_proxy_gets_an_account_as_expert(by_proxy: Guard, store: Store) -> None:
    name, role = ask(by_proxy, peer=PROXY, headers={"x-remote-user": "new@example.org"}).text.split()[:2]
    assert role == "expert"
    account = StoreAccounts(store).find("new@example.org")
    assert account is not None
    assert account.rater == name
    assert account.password == ""


def test_what_a_stranger_says_of_proxies_is_forgotten() -> None:
    guard = guarded(Door(gate=OpenGate(local=False, blind=False), host="0.0.0.0"))
    told = {"x-forwarded-for": "9.9.9.9", "x-forwarded-proto": "https", "x-gradio-server": "http://evil"}
    assert ask(guard, peer=STRANGER, headers=told).text.endswith(f"http {STRANGER} 0")


def test_behind_tls_the_cookie_is_for_tls_alone(tmp_path: Path) -> None:
    accounts = write_accounts(tmp_path / "users.yaml")
    guard = guarded(Door(gate=PasswordGate(accounts), proxies=[PROXY], names=["compare.example.org"]))
    form = {"data": {"name": "mara", "password": PASSWORD}, "base": "http://compare.example.org"}
    secure = {"x-forwarded-proto": "https", "x-forwarded-host": "compare.example.org"}
    told = ask(guard, "/login", PROXY, "POST", headers=secure, **form).headers["set-cookie"]
    assert told.startswith("__Host-triptych-")
    assert told.endswith("; Secure")
    plain = ask(guard, "/login", STRANGER, "POST", headers=secure, **form).headers["set-cookie"]
    assert "Secure" not in plain


def test_a_form_that_is_too_long_is_not_read(tmp_path: Path) -> None:
    guard = guarded(Door(gate=PasswordGate(write_accounts(tmp_path / "users.yaml"))))
    assert ask(guard, "/login", method="POST", data={"name": "x" * 9000}).status_code == 413
    assert ask(guard, "/login", method="POST", content=b"\xff\xfe=1").status_code == 401


def test_accounts_that_cannot_be_read_let_nobody_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    accounts = write_accounts(tmp_path / "users.yaml")
    guard = guarded(Door(gate=PasswordGate(accounts)))
    accounts.path.chmod(0o644)
    accounts.path.write_text("accounts: [")
    told = ask(guard, "/login", method="POST", data={"name": "mara", "password": PASSWORD})
    assert told.status_code == 401
    assert "chmod 600" in capsys.readouterr().out


def test_cors_headers_of_the_app_behind_do_not_leave() -> None:
    told = ask(guarded(Door()), headers={"origin": "https://evil.example"}).headers
    assert "access-control-allow-origin" not in told
    assert told["x-frame-options"] == "DENY"


def test_until_the_app_has_started_only_its_own_start_is_answered() -> None:
    guard = guarded(Door())
    guard.ready = False
    assert ask(guard, "/config").status_code == 503


def test_a_visitor_that_uploads_too_much_waits() -> None:
    guard = guarded(Door(gate=OpenGate(local=False, blind=False), host="0.0.0.0"))
    seen = [ask(guard, "/gradio_api/upload", STRANGER, "POST", content=b"x").status_code for _ in range(62)]
    assert set(seen[:60]) == {200}
    assert seen[-1] == 429
    assert ask(guard, "/gradio_api/upload", "203.0.113.10", "POST", content=b"x").status_code == 200


def test_a_bucket_fills_by_the_minute() -> None:
    now = [0.0]
    limit = Limit(Rate(burst=2, per_minute=6), clock=lambda: now[0])
    assert [limit.take("a"), limit.take("a")] == [0, 0]
    assert limit.take("a") == pytest.approx(10)
    assert limit.take("b") == 0
    now[0] = 10.0
    assert limit.take("a") == 0
    assert limit.take("a") > 0
    limit.give_back("a")
    assert limit.take("a") == 0
    assert limit.take("a", 3) == float("inf")


def test_a_visitor_asks_and_votes_so_often_and_the_loopback_has_no_limit() -> None:
    limits, mara = Limits(clock=lambda: 0.0), Visitor(name="rater-1")
    for _ in range(int(RATES["votes"].burst)):
        limits.spend("votes", mara)
    with pytest.raises(Refused, match="more votes than 60 a minute; try again in 1 seconds"):
        limits.spend("votes", mara)
    limits.spend("questions", mara)
    for _ in range(1000):
        limits.spend("votes", LOCAL)


def test_a_session_ends_when_nobody_uses_it_and_after_a_day() -> None:
    now = [0.0]
    sessions = Sessions(clock=lambda: now[0])
    left, used = sessions.open("mara", ""), sessions.open("mara", "")
    while now[0] < LONGEST - IDLE:
        now[0] += IDLE / 2
        assert sessions.find(used)
    assert sessions.find(left) is None
    now[0] = LONGEST + 1
    assert sessions.find(used) is None
    assert sessions.find("") is None


@pytest.mark.parametrize("wanted", ["/mix", "/results", "/"])
def test_after_signing_in_the_way_goes_on(wanted: str) -> None:
    assert local(wanted) == wanted


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda _: settle(None, local=False), "beyond this machine the app wants accounts"),
        (lambda _: settle("db", local=True, guests=True), "exclude each other"),
        (lambda s: gate("db", s, local=False), "has no account with a password yet; triptych users add NAME"),
        (lambda s: gate("users.txt", s, local=False), "'db' or a file that ends in"),
        (lambda s: gate("header:", s, local=False), "'' is not the name of a header"),
        (lambda s: Door(gate=gate("header:X-Remote-User", s, local=True)), "say the proxy's address"),
        (lambda _: Door(proxies=["nginx"]), "proxy 'nginx' is no address and no network"),
        (lambda _: Door(names=["https://compare.example.org"]), "is not a host's name"),
    ],
)
def test_a_door_that_makes_no_sense_is_told(
    store: Store, make: Callable[[Store], Gate | Door | None], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        make(store)


def test_an_app_beyond_this_machine_does_not_start_without_accounts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    adapters = ["nano-omni", "again=nano-omni"]
    assert main(["app", *adapters, "--host", "0.0.0.0"]) == 2
    assert "--no-accounts to let in everyone as an expert" in capsys.readouterr().err
    assert main(["app", *adapters, "--accounts", "users.yaml", "--no-accounts"]) == 2
    assert "exclude each other" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert FileAccounts(tmp_path / "users.yaml").all() == []
