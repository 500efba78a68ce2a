"""Who may use the app: names, roles, groups and hashed passwords, in a file or in the store.

    accounts = FileAccounts(Path("users.yaml"))
    accounts.put(Account(name="mara", role="expert", password=hashed("correct horse battery")))
    signed_in(accounts.find("mara"), "correct horse battery")    # True

Passwords are kept as argon2id hashes (RFC 9106) and nothing else; verdicts are kept under ``rater``, a
pseudonym that is drawn when the account is made.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import threading
import unicodedata
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from studio.errors import ConfigError, UnknownName
from studio.files import atomic_file, stamp

if TYPE_CHECKING:
    from argon2 import PasswordHasher

    from studio.store import Store

ROLES = ("expert", "engineer", "administrator")
"""What an account may be; each may do all that stands before it."""
LEAST, MOST = 10, 1000
"""Shortest and longest password, in characters."""
_NAME = re.compile(r"[\w.@+-]{1,100}")


@dataclass(frozen=True, kw_only=True)
class Account:
    """One person: ``password`` is an argon2 hash, or empty where a proxy signs people in.

    ``group`` says what kind of rater it is, ``rater`` is the pseudonym of its verdicts.
    """

    name: str
    role: str = "expert"
    group: str = ""
    password: str = ""
    rater: str = ""
    created: str = ""


class Accounts(Protocol):
    """Where accounts are kept."""

    @property
    def where(self) -> str:
        """The place, as a sentence names it."""

    def all(self) -> list[Account]:
        """Return all accounts by name."""

    def find(self, name: str) -> Account | None:
        """Return the account of this name, or None."""

    def put(self, account: Account) -> Account:
        """Keep an account, in place of one of the same name; return it as kept."""

    def remove(self, name: str) -> None:
        """Forget an account; `UnknownName` if there is none of this name."""


class FileAccounts:
    """Accounts in a YAML or JSON file that only its owner may read; a changed file is read again."""

    def __init__(self, path: Path | str) -> None:
        """Name the file; it need not be there before the first account is kept."""
        self.path = Path(path)
        self._lock = threading.Lock()
        self._known: tuple[str, dict[str, Account]] = ("", {})

    @property
    def where(self) -> str:
        """The file's path."""
        return str(self.path)

    def all(self) -> list[Account]:
        """Return all accounts by name.

        Raises:
            ConfigError: the file cannot be read, others may read it, or an account in it is wrong.
        """
        return [account for _, account in sorted(self._read().items())]

    def find(self, name: str) -> Account | None:
        """Return the account of this name, or None."""
        return self._read().get(plain(name))

    def put(self, account: Account) -> Account:
        """Keep an account, in place of one of the same name; return it as kept."""
        kept = _complete(account)
        self._write({**self._read(), kept.name: kept})
        return kept

    def remove(self, name: str) -> None:
        """Forget an account; `UnknownName` if there is none of this name."""
        known = dict(self._read())
        if known.pop(plain(name), None) is None:
            raise UnknownName("account", name, known)
        self._write(known)

    def _read(self) -> dict[str, Account]:
        with self._lock:
            now = stamp(self.path)
            if now != self._known[0]:
                self._known = (now, self._parsed() if now else {})
            return self._known[1]

    def _parsed(self) -> dict[str, Account]:
        import yaml

        if os.name == "posix" and self.path.stat().st_mode & 0o077:
            raise ConfigError(f"{self.path} holds passwords' hashes and others may read it: chmod 600 it")
        try:
            told = yaml.safe_load(self.path.read_text(encoding="utf-8"))  # JSON is YAML, too
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            reason = " ".join(str(error).split())
            raise ConfigError(f"{self.path} cannot be read as YAML or JSON: {reason}") from None
        rows = told.get("accounts") if isinstance(told, dict) else None
        if not isinstance(rows, list):
            raise ConfigError(f"{self.path} must hold a list named 'accounts'")
        found: dict[str, Account] = {}
        for number, row in enumerate(rows, 1):
            account = _account(row, f"{self.path}: account {number}")
            if not account.rater:  # written by hand: the same pseudonym each time it is read
                digest = hashlib.sha256(account.name.encode()).hexdigest()
                account = replace(account, rater=f"rater-{digest[:10]}")
            if account.name in found:
                raise ConfigError(f"{self.path}: account {number}: '{account.name}' stands there twice")
            found[account.name] = account
        return found

    def _write(self, accounts: dict[str, Account]) -> None:
        import yaml

        told = {"accounts": [asdict(account) for _, account in sorted(accounts.items())]}
        text = (
            json.dumps(told, indent=1, ensure_ascii=False) + "\n"
            if self.path.suffix == ".json"
            else yaml.safe_dump(told, sort_keys=False, allow_unicode=True)
        )
        with atomic_file(self.path) as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(text.encode())


class StoreAccounts:
    """Accounts in the database that keeps the verdicts."""

    def __init__(self, store: Store) -> None:
        """Keep accounts in an open store."""
        self.store = store

    @property
    def where(self) -> str:
        """The store's address, without its password."""
        return f"store '{self.store.url}'"

    def all(self) -> list[Account]:
        """Return all accounts by name."""
        return sorted(self._rows(), key=lambda account: account.name)

    def find(self, name: str) -> Account | None:
        """Return the account of this name, or None."""
        return next(iter(self._rows(plain(name))), None)

    def put(self, account: Account) -> Account:
        """Keep an account, in place of one of the same name; return it as kept."""
        from studio.tables import ACCOUNT

        kept = _complete(account)
        row = _row(kept)
        same = ACCOUNT.c.name == kept.name
        with self.store.begin() as connection:
            if not connection.execute(ACCOUNT.update().where(same).values(row)).rowcount:
                connection.execute(ACCOUNT.insert().values(row))
        return kept

    def remove(self, name: str) -> None:
        """Forget an account; `UnknownName` if there is none of this name."""
        from studio.tables import ACCOUNT

        with self.store.begin() as connection:
            gone = connection.execute(ACCOUNT.delete().where(ACCOUNT.c.name == plain(name))).rowcount
        if not gone:
            raise UnknownName("account", name, [account.name for account in self.all()])

    def _rows(self, name: str | None = None) -> list[Account]:
        from studio.tables import ACCOUNT

        query = ACCOUNT.select() if name is None else ACCOUNT.select().where(ACCOUNT.c.name == name)
        with self.store.begin() as connection:
            rows = [dict(row) for row in connection.execute(query).mappings()]
        return [
            Account(group=row.pop("rater_group"), **{key: row[key] for key in row if key != "id"})
            for row in rows
        ]


def hashed(password: str) -> str:
    """Return a password's argon2id hash, salt and settings included.

    Raises:
        ConfigError: unless it has `LEAST` to `MOST` characters.
    """
    if not LEAST <= len(password) <= MOST:
        raise ConfigError(f"a password has {LEAST} to {MOST} characters, this one {len(password)}")
    return _hasher().hash(_spelling(password))


def signed_in(account: Account | None, password: str) -> bool:
    """Return whether this is the account's password; no account takes as long as a wrong password."""
    from argon2.exceptions import InvalidHashError, VerificationError

    known = account.password if account is not None else ""
    try:
        right = _hasher().verify(known or _nobodys(), _spelling(password[: MOST + 1]))
    except (VerificationError, InvalidHashError):
        return False
    return bool(right and known)


def plain(name: str) -> str:
    """Return a name as accounts are known by it: compatible characters are one, spaces around go."""
    return unicodedata.normalize("NFKC", name).strip()


def accounts_at(place: str, store: Store | None) -> FileAccounts | StoreAccounts:
    """Return the accounts at a place: ``db`` for the store, otherwise a file."""
    if place != "db":
        if Path(place).suffix not in (".yaml", ".yml", ".json"):
            raise ConfigError(
                f"accounts are kept in 'db' or a file that ends in .yaml or .json, not '{place}'"
            )
        return FileAccounts(place)
    if store is None:
        raise ConfigError("accounts in the database need a store")
    return StoreAccounts(store)


def checked(account: Account) -> Account:
    """Return an account as it would be kept, before anything is drawn for it.

    Raises:
        ConfigError: a wrong name, role, group or hash.
    """
    return _account(asdict(account), f"account '{account.name}'")


def _complete(account: Account) -> Account:
    """Return a checked account with what is drawn when it is made."""
    return replace(
        checked(account),
        rater=account.rater or f"rater-{secrets.token_hex(5)}",
        created=account.created or datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _account(row: Any, where: str) -> Account:
    names = [field.name for field in fields(Account)]
    if not isinstance(row, dict) or not isinstance(row.get("name"), str):
        raise ConfigError(f"{where}: an account is a mapping with a name")
    _known(row, names, where)
    texts = {key: "" if value is None else str(value) for key, value in row.items()}
    account = Account(**{**texts, "name": plain(texts["name"])})
    if not _NAME.fullmatch(account.name):
        raise ConfigError(f"{where}: a name is 1 to 100 letters, digits and . _ @ + -, not '{account.name}'")
    if account.role not in ROLES:
        raise ConfigError(f"{where}: {UnknownName('role', account.role, ROLES)}")
    if account.password and not account.password.startswith("$argon2"):
        raise ConfigError(f"{where}: 'password' must be an argon2 hash; triptych users password sets it")
    if len(account.group) > 200:
        raise ConfigError(f"{where}: a group has at most 200 characters")
    return account


def _known(row: dict[str, Any], names: Iterable[str], where: str) -> None:
    for key in row:
        if key not in names:
            raise ConfigError(f"{where}: {UnknownName('key', str(key), names)}")


def _row(account: Account) -> dict[str, str]:
    row = asdict(account)
    row["rater_group"] = row.pop("group")
    return row


def _spelling(password: str) -> str:
    return unicodedata.normalize("NFKC", password)


@cache
def _hasher() -> PasswordHasher:
    from argon2 import PasswordHasher

    return PasswordHasher()  # the settings of RFC 9106 for machines with little memory: 64 MiB, 3 passes


@cache
def _nobodys() -> str:
    """Return a hash that no password gives, to be compared where there is no account."""
    return _hasher().hash(secrets.token_hex(32))
