"""Signing in and out: a form, a cookie that scripts cannot read, and few tries.

Gradio has a login of its own. It is not used, because its cookie is also sent without TLS and to other
sites, never expires, may be read back by scripts (`/gradio_api/token`), and leaves routes open.
"""

from __future__ import annotations

from functools import cache
from html import escape
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

from anyio import CapacityLimiter, to_thread

from apps.web.http import Header, Receive, Scope, Send, answer, cookie, read_body
from apps.web.limits import Limit, Rate
from apps.web.sessions import LONGEST, Sessions, mark
from apps.web.visitors import Visitor
from studio.accounts import Account, Accounts, plain, signed_in
from studio.errors import TriptychError

_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
HEADERS: tuple[Header, ...] = (
    (b"content-security-policy", _POLICY.encode()),
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"same-origin"),  # without it a browser's form says that it came from nowhere
)
_FORM = """{problem}<form method="post" action="./login">
  <input type="hidden" name="next" value="{next}">
  <label for="name">Name</label>
  <input id="name" name="name" value="{name}" autocomplete="username" autocapitalize="none"
    required autofocus>
  <label for="password">Password</label>
  <input id="password" name="password" type="password" autocomplete="current-password" required>
  <button>Sign in</button>
</form>"""
_LEAVE = """<p>You are signed in as {name}, in the role {role}.</p>
<form method="post" action="./logout"><button>Sign out</button></form>
<p><a href="./">Back to the app</a></p>"""
_WRONG = "The name or the password is wrong."
_LONGEST_FORM = 8192
#: Tries that fail: of one name from one address, of one name from anywhere, and from one address.
TRIES = (Rate(burst=5, per_minute=1), Rate(burst=50, per_minute=2), Rate(burst=20, per_minute=5))


class PasswordGate:
    """Lets in who has signed in with an account's name and password."""

    def __init__(self, accounts: Accounts) -> None:
        """Open the gate."""
        self.accounts, self.sessions = accounts, Sessions()
        self._tries = tuple(map(Limit, TRIES))
        self._hashing = CapacityLimiter(2)  # each takes 64 MiB

    async def visitor(self, scope: Scope) -> Visitor | None:
        """Return who asks, or None: accounts that are gone or have a new password are nobody."""
        account = await self._account(scope)
        if account is None:
            return None
        return Visitor(name=account.rater, role=account.role, group=account.group)

    async def refuse(self, scope: Scope, send: Send) -> None:
        """Show a browser the way to the form; tell a program that it must sign in."""
        page = scope["method"] in ("GET", "HEAD") and b"text/html" in _accepted(scope)
        if page:
            path = "" if scope["path"] == "/" else f"?next={quote(scope['path'])}"
            await answer(send, 303, "", [(b"location", f"/login{path}".encode()), *HEADERS])
        else:
            await answer(send, 401, '{"detail": "Sign in first."}\n', HEADERS, "application/json")

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> bool:
        """Answer a request to the form itself; return whether it was one."""
        path, method = scope["path"], scope["method"]
        if path not in ("/login", "/logout"):
            return False
        if path == "/logout":
            await self._leave(scope, send)
        elif method == "POST":
            await self._sign_in(scope, receive, send)
        else:
            wanted = parse_qs(scope["query_string"].decode("latin-1")).get("next", ["/"])[0]
            await _form(send, 200, next_page=wanted)
        return True

    async def _sign_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await read_body(receive, _LONGEST_FORM)
        if body is None:
            await _form(send, 413, problem="That is more than a name and a password.")
            return
        try:
            fields = parse_qs(body.decode(), keep_blank_values=True, max_num_fields=8)
        except ValueError:
            fields = {}
        name, password, wanted = (fields.get(key, [""])[0] for key in ("name", "password", "next"))
        name = plain(name)[:100]
        address = scope["client"][0] if scope["client"] else ""
        keys = (f"{name}\n{address}", name, address)
        waits = [limit.take(key) for limit, key in zip(self._tries, keys, strict=True)]
        if any(waits):
            seconds = max(1, round(max(waits)))
            problem = f"Too many tries; wait {seconds} seconds."
            await _form(send, 429, wanted, name, problem, [(b"retry-after", str(seconds).encode())])
            return
        account = await to_thread.run_sync(self._checked, name, password, limiter=self._hashing)
        if account is None:
            await _form(send, 401, wanted, name, _WRONG)
            return
        for limit, key in zip(self._tries, keys, strict=True):
            limit.give_back(key)
        self.sessions.close(cookie(scope, self._name(scope)))  # what was there before is worth nothing now
        token = self.sessions.open(account.name, account.password)
        there = (b"location", local(wanted).encode())
        await answer(send, 303, "", [there, self._set(scope, token, LONGEST), *HEADERS])

    async def _leave(self, scope: Scope, send: Send) -> None:
        account = await self._account(scope)
        if scope["method"] == "POST" or account is None:
            self.sessions.close(cookie(scope, self._name(scope)))
            await answer(send, 303, "", [(b"location", b"/login"), self._set(scope, "", 0), *HEADERS])
        else:
            body = _LEAVE.format(name=escape(account.name), role=escape(account.role))
            await _page(send, 200, "Sign out", body)

    def _checked(self, name: str, password: str) -> Account | None:
        try:
            account = self.accounts.find(name)
        except TriptychError as error:
            print(error, flush=True)
            account = None
        return account if signed_in(account, password) else None

    async def _account(self, scope: Scope) -> Account | None:
        """Return the account behind a request's cookie, as it is now."""
        session = self.sessions.find(cookie(scope, self._name(scope)))
        if session is None:
            return None
        account = await to_thread.run_sync(found, self.accounts, session.name)
        return account if account is not None and mark(account.password) == session.mark else None

    def _name(self, scope: Scope) -> str:
        prefix = "__Host-" if scope["scheme"] == "https" else ""
        return f"{prefix}triptych-{scope['server'][1]}"  # cookies are shared by all ports of a host

    def _set(self, scope: Scope, token: str, seconds: float) -> Header:
        secure = "; Secure" if scope["scheme"] == "https" else ""
        told = f"{self._name(scope)}={token}; Path=/; HttpOnly; SameSite=Lax; Max-Age={seconds:.0f}{secure}"
        return b"set-cookie", told.encode()


def found(accounts: Accounts, name: str) -> Account | None:
    """Return an account; where accounts cannot be read (the log says why), there is nobody."""
    try:
        return accounts.find(name)
    except TriptychError as error:
        print(error, flush=True)
        return None


def local(wanted: str) -> str:
    """Return the page to go to after signing in: only a plain path of this app, otherwise its root."""
    try:
        parts = urlsplit(wanted)
    except ValueError:
        return "/"
    plain_path = wanted.startswith("/") and not wanted.startswith("//") and wanted.isascii()
    strange = any(not sign.isalnum() and sign not in "/-_." for sign in wanted)
    return "/" if parts.scheme or parts.netloc or strange or not plain_path else wanted


def _accepted(scope: Scope) -> bytes:
    return b",".join(value for name, value in scope["headers"] if name == b"accept")


async def _form(
    send: Send,
    status: int,
    next_page: str = "/",
    name: str = "",
    problem: str = "",
    headers: list[Header] | None = None,
) -> None:
    told = f'<p class="bad" role="alert">{escape(problem)}</p>' if problem else ""
    body = _FORM.format(problem=told, next=escape(local(next_page)), name=escape(name))
    await _page(send, status, "Sign in", body, headers)


async def _page(send: Send, status: int, title: str, body: str, headers: list[Header] | None = None) -> None:
    page = _template().replace("{title}", title).replace("{body}", body)
    await answer(send, status, page, [*(headers or ()), *HEADERS], "text/html; charset=utf-8")


@cache
def _template() -> str:
    return (Path(__file__).parent / "login.html").read_text(encoding="utf-8")
