"""The safe settings of an app, each as a check that asks a running one (`apps.door_check.inspect`)."""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from apps.door_check import A_FILE, API, EVIL, HUGE, IN_IT, PATIENCE, Caller, Check, Finding, Reply, finding

_HEADERS = ("content-security-policy", "x-content-type-options", "referrer-policy")
_BEHIND_LOGIN = (
    "/config",
    f"{API}/info",
    f"{API}/app_id",
    f"{API}/startup-events",
    f"{API}/heartbeat/doctor",
    f"{API}/queue/data?session_hash=doctor",
    f"{API}/file={A_FILE}",
    f"{API}/token",
    "/theme.css",
    "/robots.txt",
    "/openapi.json",
)


def api(app: Caller) -> Iterator[Finding]:
    """Descriptions of the API, handlers that anybody may call, and calls past the queue."""
    told = [path for path in (f"{API}/info", "/openapi.json", f"{API}/openapi.json") if _there(app.ask(path))]
    yield finding("api description", _list("answers", told), "none: /info and /openapi.json are closed")
    docs = [path for path in ("/docs", "/redoc") if _there(app.ask(path))]
    yield finding("docs", _list("answers", docs), "none")
    mcp = [path for path in (f"{API}/mcp/", f"{API}/mcp/schema") if _there(app.ask(path))]
    yield finding("mcp server", _list("answers", mcp), "none")
    if app.config is None:
        yield _unseen("open api")
        return
    public = [one for one in _handlers(app) if one.get("api_visibility", "public") == "public"]
    names = [str(one.get("api_name") or one["id"]) for one in public]
    queued = next((one for one in _handlers(app) if one.get("queue") is not False and one["inputs"]), None)
    fault = _list("public handlers", names)
    if not fault and queued is not None:
        tried = app.call({"data": [], "fn_index": queued["id"], "session_hash": "doctor"})
        if tried.status not in (400, 401, 403, 404):
            fault = f"a queued handler runs by a plain POST ({tried.status}): queue(api_open=False)"
    yield finding("open api", fault, "every handler is private, and queued ones only run by the queue")


def settings(app: Caller) -> Iterator[Finding]:
    """What the launch leaves on: monitoring, analytics, run history, a share link, error details."""
    seen = [path for path in ("/monitoring", "/monitoring/summary") if _there(app.ask(path))]
    yield finding("monitoring", _list("answers", seen), "off or closed")
    runs = [path for path in (f"{API}/runs", f"{API}/run-history/buckets") if _there(app.ask(path))]
    told = app.config
    on = _list("answers", runs) or ("run_history is on" if told and told.get("run_history") else "")
    yield finding("run history", on, "off or closed")
    shared = b"Disallow: /\n" in app.ask("/robots.txt").body + b"\n"
    link = (
        "the app is shared by a public link: share=False"
        if shared or app.host.endswith(".gradio.live")
        else ""
    )
    yield finding("share", link, "no public link")
    if told is None:
        yield from map(_unseen, ("analytics", "error details"))
        return
    counted = "usage is reported: analytics_enabled=False" if told.get("analytics_enabled") else ""
    yield finding("analytics", counted, "off")
    errors = "errors are shown in full: show_error=False" if told.get("show_error") else ""
    yield finding("error details", errors, "kept on the server")


def other_sites(app: Caller) -> Iterator[Finding]:
    """Whether pages of other sites can read or call the app."""
    open_to = []
    for origin in (f"https://{EVIL}", "null"):
        plain = app.ask("/config", headers={"Origin": origin})
        asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        before = app.ask(f"{API}/run/predict", "OPTIONS", asked)
        if {origin, "*"} & {r.headers.get("access-control-allow-origin", "-") for r in (plain, before)}:
            open_to.append(origin)
    yield finding("cors", _list("pages may read it from", open_to), "pages of other sites may not read it")
    host = app.ask("/", headers={"Host": EVIL})
    serves = not host.barred and host.status < 400
    fault = f"it answers under any name, {EVIL} too: a page may rebind its own name to it" if serves else ""
    yield finding("host header", fault, f"refused under an unknown name ({host.status})")


def files(app: Caller) -> Iterator[Finding]:
    """Whether a path leads to a file that was never uploaded, or to another server."""
    up = "../" * 12
    bare = A_FILE.lstrip("/")
    paths = (
        f"{API}/file={A_FILE}",
        f"{API}/file={up}{bare}",
        f"{API}/file={up.replace('/', '%2f').replace('.', '%2e')}{bare.replace('/', '%2f')}",
        f"{API}/file/{A_FILE}",
        f"/static/{up}{bare}",
        f"/assets/{up.replace('/', '%2f')}{bare}",
        f"/svelte/{up.replace('.', '%2e')}{bare}",
    )
    out = [path for path in paths if IN_IT in app.ask(path).body]
    yield finding("file traversal", _list("a file of the system comes by", out), "no path leads out")
    proxies = [
        path
        for path in (f"{API}/proxy=http://127.0.0.1:{app.port}/", f"{API}/file=http://127.0.0.1:{app.port}/")
        if _there(app.ask(path)) or app.ask(path).status in (301, 302, 307)
    ]
    yield finding(
        "request forgery", _list("fetches other addresses by", proxies), "fetches nothing for others"
    )


def headers(app: Caller) -> Iterator[Finding]:
    """Headers that keep a browser from sniffing, framing and telling."""
    told = app.ask("/login" if app.ask("/").barred else "/").headers
    missing = [name for name in _HEADERS if name not in told]
    policy = told.get("content-security-policy", "")
    if "frame-ancestors" not in policy and "x-frame-options" not in told:
        missing.append("frame-ancestors or x-frame-options")
    yield finding("security headers", _list("missing", missing), ", ".join(_HEADERS))


def upload_size(app: Caller) -> Iterator[Finding]:
    """Whether an upload of a terabyte is refused before it begins."""
    body = {"Content-Type": "multipart/form-data; boundary=b", "Content-Length": str(HUGE)}
    try:
        told = app.ask(f"{API}/upload", "POST", body, seconds=PATIENCE)
        fault = "" if told.status >= 400 else f"a terabyte is answered by {told.status}"
        fine = f"a terabyte is refused at once ({told.status})"
    except OSError:
        limit = (app.config or {}).get("max_file_size")
        fault = "" if limit else "it waits for a terabyte: launch(max_file_size=...)"
        fine = f"at most {limit or 0:,} bytes a file"
    yield finding("upload size", fault, fine)


def accounts(app: Caller) -> Iterator[Finding]:
    """What is open to somebody who has not signed in."""
    front = app.ask("/", signed_in=False)
    if not front.barred and b'"auth_required"' not in front.body:
        beyond = _listens_beyond(app.port) if app.loopback else app.host
        found = f"none, and others can reach it at {beyond}" if beyond else ""
        yield finding("accounts", found, "none, and only this machine can reach it")
        return
    open_routes = [path for path in _BEHIND_LOGIN if _answers(app.ask(path, signed_in=False))]
    for path in ("/cancel", "/reset", "/run/predict", "/queue/join", "/upload"):
        tried = app.ask(f"{API}{path}", "POST", {"Content-Type": "application/json"}, b"{}", signed_in=False)
        if not tried.barred and tried.status != 404:
            open_routes.append(f"{API}{path}")
    yield finding("accounts", _list("open without signing in", open_routes), "every route asks to sign in")


def cookies(app: Caller, told: Reply) -> Finding:
    """Return what is wrong with the cookie that signing in gave."""
    given = told.headers.get("set-cookie", "").lower()
    wants = ["httponly", "samesite=lax|samesite=strict", *(["secure"] if app.secure else [])]
    missing = [want.split("|")[0] for want in wants if not any(part in given for part in want.split("|"))]
    if "max-age" not in given and "expires" not in given:
        missing.append("max-age")
    return finding("session cookie", _list("lacks", missing), "HttpOnly, SameSite, and it expires")


def names(app: Caller, variants: Sequence[str]) -> Finding:
    """Return which of these names stand in what is served before a verdict."""
    pages = ["/", "/config", f"{API}/info", "/theme.css"]
    pages += [f"/{path}" for path in (app.config or {}).get("page", {}) if path]
    found = sorted({name for path in pages for name in variants if _stands_in(name, app.ask(path).body)})
    return finding("names", _list("served before the verdict", found), f"none of {len(variants)} is served")


CHECKS: tuple[Check, ...] = (api, settings, other_sites, files, headers, upload_size, accounts)


def _stands_in(name: str, body: bytes) -> bool:
    """Return whether a name stands in a page or in JSON, as it is or with its escapes."""
    return name.encode() in body or name.encode("unicode_escape") in body


def _handlers(app: Caller) -> list[dict[str, Any]]:
    return [one for one in (app.config or {}).get("dependencies", []) if one.get("backend_fn", True)]


def _there(reply: Reply) -> bool:
    return reply.status == 200


def _answers(reply: Reply) -> bool:
    """Return whether a route says anything of its own to a stranger."""
    return not reply.barred and reply.status not in (400, 404, 405)


def _list(what: str, those: Sequence[str]) -> str:
    more = f" and {len(those) - 4} more" if len(those) > 4 else ""
    return f"{what}: {', '.join(those[:4])}{more}" if those else ""


def _unseen(name: str) -> Finding:
    return Finding(
        name=name, state="note", found="not seen: /config is closed to strangers; --user looks inside"
    )


def _listens_beyond(port: int) -> str:
    """Return the address beyond the loopback at which this machine listens on a port, or nothing.

    Linux tells it in ``/proc/net``: addresses are bytes in the machine's order, 0A is the state of listening.
    """
    for file, size in (("/proc/net/tcp", 4), ("/proc/net/tcp6", 16)):
        try:
            rows = [line.split() for line in Path(file).read_text().splitlines()[1:]]
        except OSError:
            continue
        for row in rows:
            host, _, told = row[1].partition(":")
            words = bytes.fromhex(host)
            packed = b"".join(
                words[i : i + 4][:: -1 if sys.byteorder == "little" else 1] for i in range(0, size, 4)
            )
            address = ipaddress.ip_address(packed)
            if row[3] == "0A" and int(told, 16) == port and not address.is_loopback:
                return str(address)
    return ""
