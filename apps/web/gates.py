"""Who may come in where no password is asked for: one machine's user, guests, and whom a proxy names."""

from __future__ import annotations

import hashlib
import re
import secrets
import threading
from typing import Protocol

from anyio import to_thread

from apps.web.http import Receive, Scope, Send, answer
from apps.web.login import HEADERS, PasswordGate
from apps.web.visitors import LOCAL, Visitor
from studio.accounts import Account, Accounts, accounts_at
from studio.errors import ConfigError, TriptychError
from studio.store import Store

PROXY = "triptych.proxy"
"""Under this key of the scope the guard says whether a request came through a trusted proxy."""


class Gate(Protocol):
    """Says who a request comes from."""

    async def visitor(self, scope: Scope) -> Visitor | None:
        """Return who asks, or None for nobody who is known."""

    async def refuse(self, scope: Scope, send: Send) -> None:
        """Answer a request of nobody who is known."""

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> bool:
        """Answer a request that is for the gate itself; return whether it was one."""


def settle(accounts: str | None, *, local: bool, guests: bool = False) -> None:
    """Refuse what makes no sense before anything is opened.

    Raises:
        ConfigError: an app beyond this machine that says nothing of accounts, or two things.
    """
    if accounts is None and not local and not guests:
        raise ConfigError(
            "beyond this machine the app wants accounts: --accounts db (triptych users add NAME),"
            " --accounts header:NAME behind a proxy, or --no-accounts to let in everyone as an expert"
        )
    if accounts is not None and guests:
        raise ConfigError("--accounts and --no-accounts exclude each other")


def gate(accounts: str | None, store: Store, *, local: bool, blind: bool = False) -> Gate:
    """Return the gate that ``accounts`` asks for: ``db``, a file, ``header:NAME``, or None for none.

    Raises:
        ConfigError: nobody could sign in.
    """
    if accounts is None:
        return OpenGate(local=local, blind=blind)
    if accounts.startswith("header:"):
        name = accounts.removeprefix("header:")
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9-]{1,60}", name):
            raise ConfigError(f"'{name}' is not the name of a header, such as X-Remote-User")
        return HeaderGate(name, accounts_at("db", store))
    place = accounts_at(accounts, store)
    if not any(account.password for account in place.all()):
        spelled = "" if accounts == "db" else f" --accounts {accounts}"
        raise ConfigError(
            f"{place.where} has no account with a password yet;"
            f" triptych users add NAME --role administrator{spelled} makes one"
        )
    return PasswordGate(place)


class OpenGate:
    """Lets everyone in: as administrator where only this machine can ask, otherwise as an expert.

    ``blind`` hides the variants' names, so that nobody is more than an expert. Guests have a pseudonym
    by their address that holds as long as the app runs.
    """

    def __init__(self, *, local: bool, blind: bool) -> None:
        """Open the gate."""
        self._everyone = (Visitor(name="local") if blind else LOCAL) if local else None
        self._salt = secrets.token_bytes(16)

    async def visitor(self, scope: Scope) -> Visitor | None:
        """Return the visitor of this machine, or a guest."""
        if self._everyone is not None:
            return self._everyone
        address = scope["client"][0] if scope["client"] else ""
        digest = hashlib.sha256(self._salt + address.encode()).hexdigest()
        return Visitor(name=f"guest-{digest[:10]}")

    async def refuse(self, scope: Scope, send: Send) -> None:
        """Answer nobody: there is nobody whom this gate does not know."""
        raise AssertionError("an open gate refuses nobody")

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> bool:
        """Return that there is no form."""
        return False


class HeaderGate:
    """Lets in whom a reverse proxy names in a header; a request past the proxy is nobody's.

    Role, group and pseudonym come from the account of that name; one who comes for the first time gets
    an account as expert.
    """

    def __init__(self, header: str, accounts: Accounts) -> None:
        """Open the gate; ``header`` is the name of the header, in any case."""
        self._header, self._accounts = header.lower().encode(), accounts
        self._first = threading.Lock()  # a page asks for many things at once

    async def visitor(self, scope: Scope) -> Visitor | None:
        """Return whom the proxy names; a header that stands there twice names nobody."""
        told = [value for name, value in scope["headers"] if name == self._header]
        if not scope.get(PROXY) or len(told) != 1:
            return None
        try:
            account = await to_thread.run_sync(self._account, told[0].decode())
        except (UnicodeDecodeError, TriptychError) as error:
            print(error, flush=True)
            return None
        return Visitor(name=account.rater, role=account.role, group=account.group)

    async def refuse(self, scope: Scope, send: Send) -> None:
        """Say that the proxy must be asked."""
        await answer(send, 401, "sign in at the proxy in front of this app\n", HEADERS)

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> bool:
        """Return that there is no form."""
        return False

    def _account(self, name: str) -> Account:
        known = self._accounts.find(name)
        if known is None:
            with self._first:
                known = self._accounts.find(name) or self._accounts.put(Account(name=name))
        return known
