"""Accounts: what is kept of a person, in a file or in the store, and what is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from studio.accounts import (
    Account,
    Accounts,
    FileAccounts,
    StoreAccounts,
    accounts_at,
    hashed,
    signed_in,
)
from studio.errors import ConfigError, UnknownName
from studio.store import Store

PASSWORD = "a hole at the top"


@pytest.fixture(params=["db", "users.yaml", "users.json"])
def accounts(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Accounts]:
    with Store(f"sqlite:///{tmp_path / 'kept.db'}") as store:
        yield accounts_at(request.param if request.param == "db" else str(tmp_path / request.param), store)


def test_an_account_comes_back_as_it_was_kept(accounts: Accounts) -> None:
    assert accounts.all() == []
    kept = accounts.put(Account(name="mara", role="engineer", group="north", password=hashed(PASSWORD)))
    accounts.put(Account(name="ali@example.org"))
    assert accounts.find("mara") == kept
    assert [account.name for account in accounts.all()] == ["ali@example.org", "mara"]
    assert kept.rater.startswith("rater-")
    assert "mara" not in kept.rater
    assert accounts.find("nobody") is None


def test_a_change_keeps_the_pseudonym_and_a_removal_forgets(accounts: Accounts) -> None:
    kept = accounts.put(Account(name="mara"))
    changed = accounts.put(Account(**{**vars(kept), "role": "administrator"}))
    assert (changed.rater, changed.created) == (kept.rater, kept.created)
    assert [account.role for account in accounts.all()] == ["administrator"]
    accounts.remove("mara")
    assert accounts.all() == []
    with pytest.raises(UnknownName, match="unknown account 'mara'"):
        accounts.remove("mara")


def test_names_written_with_compatible_characters_are_the_same_person(accounts: Accounts) -> None:
    accounts.put(Account(name=" \uff4dara "))
    found = accounts.find("mara")
    assert found is not None
    assert found.name == "mara"


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (Account(name="../x"), "a name is 1 to 100 letters"),
        (Account(name=""), "a name is 1 to 100 letters"),
        (Account(name="a", role="enginer"), "unknown role 'enginer'; did you mean 'engineer'"),
        (Account(name="a", password="secret"), "must be an argon2 hash"),
        (Account(name="a", group="g" * 201), "at most 200 characters"),
    ],
)
def test_a_wrong_account_is_told_and_not_kept(accounts: Accounts, wrong: Account, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        accounts.put(wrong)
    assert accounts.all() == []


def test_only_the_right_password_signs_in() -> None:
    account = Account(name="mara", password=hashed(PASSWORD))
    assert account.password.startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    assert signed_in(account, PASSWORD)
    assert not signed_in(account, PASSWORD + ".")
    assert not signed_in(account, "x" * 1_000_000)
    assert not signed_in(None, PASSWORD)
    assert not signed_in(Account(name="proxied"), "")
    assert not signed_in(Account(name="broken", password="$argon2id$nonsense"), PASSWORD)


def test_the_same_password_has_another_hash_each_time_and_one_meaning_in_unicode() -> None:
    assert hashed(PASSWORD) != hashed(PASSWORD)
    assert signed_in(Account(name="a", password=hashed("scho\u0308ne Naht")), "sch\u00f6ne Naht")


@pytest.mark.parametrize("password", ["", "123456789", "x" * 1001])
def test_a_password_that_is_too_short_or_too_long_is_refused(password: str) -> None:
    with pytest.raises(ConfigError, match="a password has 10 to 1000 characters"):
        hashed(password)


def test_a_file_of_accounts_is_for_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "users.yaml"
    FileAccounts(file).put(Account(name="mara"))
    assert file.stat().st_mode & 0o777 == 0o600
    file.chmod(0o640)
    with pytest.raises(ConfigError, match=r"others may read it: chmod 600"):
        FileAccounts(file).all()


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "users.json"
    reader, writer = FileAccounts(file), FileAccounts(file)
    writer.put(Account(name="mara"))
    assert reader.find("mara") is not None
    writer.remove("mara")
    assert reader.find("mara") is None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("- a", "must hold a list named 'accounts'"),
        ("accounts: [1]", "account 1: an account is a mapping with a name"),
        ("accounts: [{name: a}, {name: a}]", "account 2: 'a' stands there twice"),
        ("accounts: [{name: a, rolle: expert}]", "unknown key 'rolle'; did you mean 'role'"),
        ("accounts: [", "cannot be read as YAML or JSON"),
        ("accounts: [{name: a, password: plain}]", "triptych users password sets it"),
    ],
)
def test_a_file_that_is_wrong_is_told_by_place(tmp_path: Path, text: str, sentence: str) -> None:
    file = tmp_path / "users.yaml"
    file.write_text(text)
    file.chmod(0o600)
    with pytest.raises(ConfigError, match=sentence):
        FileAccounts(file).all()


def test_a_place_that_is_no_place_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'db' or a file that ends in \.yaml or \.json, not 'users\.txt'"):
        accounts_at("users.txt", None)


def test_a_failed_write_leaves_the_old_accounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accounts = FileAccounts(tmp_path / "users.json")
    accounts.put(Account(name="mara"))
    before = accounts.path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        accounts.put(Account(name="ali"))
    assert accounts.path.read_bytes() == before
    assert json.loads(before)["accounts"][0]["name"] == "mara"
    assert len(list(tmp_path.iterdir())) == 1


def test_accounts_of_the_store_stand_beside_the_votes(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'kept.db'}"
    with Store(url) as store:
        StoreAccounts(store).put(Account(name="mara", group="north"))
    with Store(url) as again:
        assert [account.group for account in StoreAccounts(again).all()] == ["north"]
        assert again.votes() == []
