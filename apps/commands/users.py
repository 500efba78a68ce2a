"""Keep the accounts of the app: who may sign in, in which role and group of raters."""

from __future__ import annotations

import argparse
import dataclasses
import getpass
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from studio.accounts import Account, Accounts

EXAMPLE = (
    "triptych users add mara --role expert --group north   (asks for a password twice)\n"
    "triptych users add ali --role administrator < password.txt\n"
    "triptych users change mara --role engineer\n"
    "triptych users list --accounts users.yaml --json"
)
DEEDS = ("add", "change", "password", "remove", "list")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "deed",
        choices=DEEDS,
        help="add NAME; change NAME's role or group; set NAME's password; remove NAME; list all",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="letters, digits and . _ @ + -")
    parser.add_argument("--role", help="expert (judges), engineer (mixes, trains) or administrator")
    parser.add_argument("--group", help="what kind of rater it is, for rankings by group")
    parser.add_argument(
        "--no-password", action="store_true", help="add without one: a proxy says who it is (header:NAME)"
    )
    parser.add_argument(
        "--accounts",
        metavar="db|FILE",
        default="db",
        help="where accounts are kept: the store (%(default)s), or a file ending in .yaml or .json",
    )
    parser.add_argument(
        "--store",
        metavar="URL",
        default=os.environ.get("TRIPTYCH_DB", "sqlite:///runs/triptych.db"),
        help="the store of 'db' (TRIPTYCH_DB, or sqlite:///runs/triptych.db)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table or a sentence")


def run(options: argparse.Namespace) -> int:
    """Do the one thing that was asked."""
    from studio.errors import ConfigError

    if options.deed == "list":
        _refuse(options, name=options.name, role=options.role, group=options.group)
        with _opened(options) as accounts:
            _show(accounts.all(), options.json)
        return 0
    if not options.name:
        raise ConfigError(f"triptych users {options.deed} needs a name")
    if options.deed in ("password", "remove"):
        _refuse(options, role=options.role, group=options.group)
    if options.no_password and options.deed != "add":
        raise ConfigError("--no-password belongs to triptych users add")
    with _opened(options) as accounts:
        done = _DEEDS[options.deed](accounts, options)
        where = accounts.where
    if options.json:
        print(json.dumps(_told(done)))
    else:
        print(f"{done.name}: {_SAID[options.deed]} {where}; {done.role}, verdicts as {done.rater}")
    return 0


def _add(accounts: Accounts, options: argparse.Namespace) -> Account:
    from studio.accounts import Account, checked, hashed
    from studio.errors import ConfigError

    asked = checked(Account(name=options.name, role=options.role or "expert", group=options.group or ""))
    if accounts.find(options.name) is not None:
        raise ConfigError(
            f"{accounts.where} has an account '{asked.name}' already; triptych users change or password"
        )
    password = "" if options.no_password else hashed(_password(asked.name))
    return accounts.put(dataclasses.replace(asked, password=password))


def _change(accounts: Accounts, options: argparse.Namespace) -> Account:
    from studio.errors import ConfigError

    if options.role is None and options.group is None:
        raise ConfigError("triptych users change needs --role or --group")
    known = _found(accounts, options.name)
    new = {"role": options.role, "group": options.group}
    return accounts.put(
        dataclasses.replace(known, **{key: value for key, value in new.items() if value is not None})
    )


def _set(accounts: Accounts, options: argparse.Namespace) -> Account:
    from studio.accounts import hashed

    known = _found(accounts, options.name)
    return accounts.put(dataclasses.replace(known, password=hashed(_password(known.name))))


def _remove(accounts: Accounts, options: argparse.Namespace) -> Account:
    known = _found(accounts, options.name)
    accounts.remove(known.name)
    return known


_DEEDS = {"add": _add, "change": _change, "password": _set, "remove": _remove}
_SAID = {"add": "added to", "change": "changed in", "password": "new password in", "remove": "removed from"}


def _found(accounts: Accounts, name: str) -> Account:
    from studio.errors import UnknownName

    known = accounts.find(name)
    if known is None:
        raise UnknownName("account", name, [account.name for account in accounts.all()])
    return known


def read_password(name: str) -> str:
    """Return a password from the terminal, or the first line of standard input."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    return getpass.getpass(f"password of {name}: ")


def _password(name: str) -> str:
    """Return a new password, which a terminal is asked for twice."""
    from studio.errors import ConfigError

    first = read_password(name)
    if sys.stdin.isatty() and getpass.getpass("once more: ") != first:
        raise ConfigError("the two passwords differ; nothing was changed")
    return first


@contextmanager
def _opened(options: argparse.Namespace) -> Iterator[Accounts]:
    from studio.accounts import accounts_at
    from studio.errors import ConfigError

    if options.accounts != "db":
        accounts = accounts_at(options.accounts, None)
        if options.deed != "add" and not Path(options.accounts).exists():
            raise ConfigError(f"there is no file {options.accounts}; triptych users add makes it")
        yield accounts
        return
    from studio.store import Store

    with Store(options.store) as store:
        yield accounts_at("db", store)


def _refuse(options: argparse.Namespace, **given: str | None) -> None:
    from studio.errors import ConfigError

    for what, value in given.items():
        if value is not None:
            spelled = value if what == "name" else f"--{what}"
            raise ConfigError(f"triptych users {options.deed} takes no {spelled}")


def _told(account: Account) -> dict[str, Any]:
    """Return an account as JSON shows it: whether there is a password, never its hash."""
    told = dataclasses.asdict(account)
    return {**told, "password": bool(told["password"])}


def _show(accounts: list[Account], as_json: bool) -> None:
    if as_json:
        print(json.dumps([_told(account) for account in accounts], indent=1))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    view = Table()
    for column in ("name", "role", "group", "verdicts as", "password", "since"):
        view.add_column(column)
    for one in accounts:
        by = "yes" if one.password else "none, by proxy"
        view.add_row(*map(Text, (one.name, one.role, one.group, one.rater, by, one.created[:10])))
    Console().print(view if accounts else "no accounts yet")
