"""An app with accounts under attack: whatever is sent to it is refused or does nothing."""

from __future__ import annotations

import io
import json
import re
import sys
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from apps.cli import main
from apps.web.pages import pages
from studio.accounts import Account, FileAccounts, hashed
from studio.store import Store
from tests.apps.knocking import PASSWORD, call, handlers, routes, sign_in, stranger

HOSTILE = "</script><img src=x onerror=alert(1)>"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
GIF = b"GIF89a=1;alert(document.cookie)//"


def test_no_route_answers_somebody_who_has_not_signed_in(closed_app: Any) -> None:
    known = routes(closed_app)
    assert len(known) > 80
    found = {path for _, path in known} | {f"/{page.path}" for page in pages()}
    found |= {"/gradio_api/file=/etc/passwd", "/docs", "/nothing", "/login/", "/logout/", "//login", "/./"}
    with stranger(closed_app.address) as nobody:
        for path in sorted(found - {"/login", "/logout"}):
            for method in ("GET", "POST"):
                assert nobody.request(method, path).status_code == 401, (method, path)
            shown = nobody.get(path, headers={"accept": "text/html"})
            assert shown.status_code == 303, path
            assert shown.headers["location"].startswith("/login"), path
        for method in ("OPTIONS", "PUT", "DELETE", "PATCH", "TRACE"):
            assert nobody.request(method, "/config").status_code == 405
        assert nobody.head("/config").status_code == 401
        forged = {"cookie": f"triptych-{urlsplit(closed_app.address).port}=x; access-token=y"}
        assert nobody.get("/config", headers=forged).status_code == 401


def test_the_form_and_the_way_out_tell_a_stranger_nothing(closed_app: Any) -> None:
    with stranger(closed_app.address) as nobody:
        form = nobody.get("/login")
        assert form.status_code == 200
        assert "default-src 'none'" in form.headers["content-security-policy"]
        assert form.headers["cache-control"] == "no-store"
        for name in closed_app.variants:
            assert name not in form.text
        out = nobody.get("/logout")
        assert (out.status_code, out.headers["location"]) == (303, "/login")


def test_signing_in_gives_a_cookie_that_scripts_and_other_sites_do_not_get(closed_app: Any) -> None:
    with stranger(closed_app.address) as client:
        answer = client.post("/login", data={"name": "mara", "password": PASSWORD, "next": "/"})
        told = answer.headers["set-cookie"]
        assert "HttpOnly" in told
        assert "SameSite=Lax" in told
        assert "Path=/" in told
        assert "Max-Age=86400" in told
        assert client.get("/config").status_code == 200
        assert client.get("/config").headers["cache-control"] == "no-store"
        assert client.get("/gradio_api/token").status_code == 404


def test_a_session_that_was_slipped_in_is_worth_nothing(closed_app: Any) -> None:
    port = urlsplit(closed_app.address).port
    with stranger(closed_app.address) as victim:
        victim.cookies.set(f"triptych-{port}", "chosen-by-somebody-else")
        answer = victim.post("/login", data={"name": "mara", "password": PASSWORD})
        fresh = answer.headers["set-cookie"].partition("=")[2].partition(";")[0]
    assert fresh != "chosen-by-somebody-else"
    assert len(fresh) > 40
    for token, status in (("chosen-by-somebody-else", 401), (fresh, 200)):
        cookie = {"cookie": f"triptych-{port}={token}"}
        assert httpx.get(f"{closed_app.address}/config", headers=cookie).status_code == status


def test_signing_out_ends_the_session_and_only_a_form_does_it(closed_app: Any) -> None:
    with sign_in(closed_app.address, "mara") as client:
        cookie = {"cookie": "; ".join(f"{key}={value}" for key, value in client.cookies.items())}
        asked = client.get("/logout")
        assert "Sign out" in asked.text
        assert client.get("/config").status_code == 200
        assert client.post("/logout").status_code == 303
        assert httpx.get(f"{closed_app.address}/config", headers=cookie).status_code == 401


def test_after_signing_in_nobody_is_sent_to_another_site(closed_app: Any) -> None:
    with stranger(closed_app.address) as client:
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


def test_a_password_cannot_be_guessed_often(closed_app: Any) -> None:
    with stranger(closed_app.address) as client:
        seen = [
            client.post("/login", data={"name": "erika", "password": f"guess {n}"}).status_code
            for n in range(8)
        ]
        assert seen[:5] == [401] * 5
        assert set(seen[5:]) == {429}
        late = client.post("/login", data={"name": "erika", "password": PASSWORD})
        assert int(late.headers["retry-after"]) > 0


@pytest.mark.parametrize("change", ["removed", "new password"])
def test_an_account_that_changed_is_out_at_once(
    closed_app: Any, closed_accounts: FileAccounts, change: str
) -> None:
    closed_accounts.put(Account(name="temp", password=hashed(PASSWORD)))
    with sign_in(closed_app.address, "temp") as client:
        assert client.get("/config").status_code == 200
        if change == "removed":
            closed_accounts.remove("temp")
        else:
            closed_accounts.put(Account(name="temp", password=hashed("another hole below")))
        assert client.get("/config").status_code == 401


def test_a_page_of_another_site_can_neither_read_nor_write(closed_app: Any, people: dict[str, Any]) -> None:
    mara = people["mara"]
    for origin in (
        "https://evil.example",
        "null",
        "http://127.0.0.1:1",
        f"{closed_app.address}.evil.example",
    ):
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
                _, said = call(people["mara"], one, [None] * len(one["inputs"]), f"page-{number}")
                assert f"for the role {roles[path]}" in said, (path, one["api_name"], said)
                tried += 1
    assert tried or not set(roles.values()) - {"expert"}


def asked(client: httpx.Client, session: str, text: str) -> tuple[dict[str, Any], str, str]:
    """Ask two variants; return the handler of verdicts, the token of the answers, and all that was said."""
    known = handlers(client)
    data = [None, None, text, None, None, True, 2, 8, 0, 0]
    done, said = call(client, known["ask"], data, session)
    assert done, said
    tokens = re.findall(r'data-token=..?"([\w-]+)', said)
    assert tokens, said[-3000:]
    return known["vote"], tokens[-1], said


def test_a_verdict_that_is_forged_or_replayed_is_not_kept(closed_app: Any, people: dict[str, Any]) -> None:
    mara, erik = people["mara"], people["erik"]
    vote, token, _ = asked(mara, "voting-page", f"{HOSTILE} which is it?")
    with Store(closed_app.store_url) as store:
        before = len(store.votes())
        good = {"vote": "0", "token": token, "reasons": [], "scores": [], "note": "", "correction": ""}
        forged: list[dict[str, Any]] = [
            {"vote": "0"},
            {**good, "token": "x" * 24},
            {**good, "token": ["x"]},
            {**good, "vote": "9"},
            {**good, "vote": "textiles"},
            {**good, "reasons": ["<b>mine</b>"]},
            {**good, "scores": [{"place": 0, "criterion": "correctness", "points": 99}]},
            {**good, "note": "x" * 5000},
        ]
        for one in forged:
            call(mara, vote, [None] * len(vote["inputs"]), "voting-page", event_data=one)
        call(erik, vote, [None] * len(vote["inputs"]), "erik-page", event_data=good)
        assert not call(erik, vote, [None] * len(vote["inputs"]), "voting-page", event_data=good)[0]
        assert len(store.votes()) == before
        note = "'); DROP TABLE triptych_vote; --"
        real = {**good, "note": note, "correction": HOSTILE}
        first = call(mara, vote, [None] * len(vote["inputs"]), "voting-page", event_data=real)[1]
        again = call(
            mara, vote, [None] * len(vote["inputs"]), "voting-page", event_data={**good, "vote": "1"}
        )
        assert "Thank you" in first
        assert "judged before" in again[1]
        kept = store.votes()[before:]
        assert [(one.note, one.correction, one.rater_group) for one in kept] == [(note, HOSTILE, "north")]
        assert kept[0].rater.startswith("rater-")
        (asked_of,) = [one for one in store.comparisons() if one.id == kept[0].comparison]
        assert asked_of.prompt == f"{HOSTILE} which is it?"


def test_what_people_and_variants_write_is_no_markup(closed_app: Any, people: dict[str, Any]) -> None:
    """The question, and the name of a variant when it is revealed, stand on the page as text."""
    ines = people["ines"]
    known = handlers(ines)
    data = [None, None, HOSTILE, None, ["textiles", HOSTILE], False, 2, 8, 0, 0]
    done, said = call(ines, known["ask"], data, "ines-asks")
    assert done, said
    assert "&lt;img src=x onerror" in said
    assert "<img src=x" not in said
    for path in ("/", "/config"):
        told = ines.get(path)
        assert HOSTILE not in told.text or told.headers["content-type"].startswith("application/json")


def test_the_doctor_finds_no_fault_from_outside_or_inside(
    closed_app: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [word for name in closed_app.variants if name != "base" for word in ("--variant", name)]
    assert main(["doctor", "--app", closed_app.address, "--json", *names]) == 0
    outside = json.loads(capsys.readouterr().out)
    assert outside["faults"] == 0
    monkeypatch.setattr(sys, "stdin", io.StringIO(PASSWORD + "\n"))
    status = main(["doctor", "--app", closed_app.address, "--user", "mara", "--json", *names])
    inside = json.loads(capsys.readouterr().out)
    assert (status, [one for one in inside["checks"] if one["state"] != "ok"]) == (0, [])
    assert [one["found"] for one in inside["checks"] if one["name"] == "accounts"] == [
        "every route asks to sign in"
    ]


def test_the_log_holds_neither_passwords_nor_tokens(closed_app: Any, people: dict[str, Any]) -> None:
    said = closed_app.log.read_text()
    assert PASSWORD not in said
    for client in people.values():
        for token in client.cookies.values():
            assert token not in said
