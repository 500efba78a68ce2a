"""`triptych users`: accounts are added, changed and removed; a password is never an argument."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from apps.cli import main
from studio.accounts import FileAccounts, StoreAccounts, signed_in
from studio.store import Store

PASSWORD = "a hole at the top"


@pytest.fixture
def users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Return a function that runs the command with a line of standard input; what it says comes back."""

    def call(*words: str, said: str = f"{PASSWORD}\n", place: str = str(tmp_path / "users.yaml")) -> Any:
        monkeypatch.setattr(sys, "stdin", io.StringIO(said))
        status = main(["users", *words, "--accounts", place])
        told = capsys.readouterr()
        return status, told.out, told.err

    return call


def test_an_account_is_added_with_the_password_of_standard_input(users: Any, tmp_path: Path) -> None:
    status, out, _ = users("add", "mara", "--role", "engineer", "--group", "north")
    assert status == 0
    assert "engineer" in out
    assert PASSWORD not in out
    account = FileAccounts(tmp_path / "users.yaml").find("mara")
    assert account is not None
    assert signed_in(account, PASSWORD)
    assert PASSWORD not in (tmp_path / "users.yaml").read_text()
    status, out, _ = users("list", "--json")
    assert [(one["name"], one["role"], one["group"], one["password"]) for one in json.loads(out)] == [
        ("mara", "engineer", "north", True)
    ]
    assert "argon2" not in out


def test_accounts_stand_in_the_store_unless_a_file_is_named(users: Any, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'kept.db'}"
    assert users("add", "mara", "--store", url, place="db")[0] == 0
    assert "mara" in users("list", "--store", url, place="db")[1]
    with Store(url) as store:
        assert [account.name for account in StoreAccounts(store).all()] == ["mara"]
    assert users("remove", "mara", "--store", url, place="db")[0] == 0
    assert users("list", "--store", url, place="db")[1].strip() == "no accounts yet"


def test_a_role_changes_and_the_password_stays(users: Any, tmp_path: Path) -> None:
    users("add", "mara")
    before = FileAccounts(tmp_path / "users.yaml").find("mara")
    assert users("change", "mara", "--role", "administrator")[0] == 0
    after = FileAccounts(tmp_path / "users.yaml").find("mara")
    assert before is not None
    assert after is not None
    assert (after.role, after.rater, after.password) == ("administrator", before.rater, before.password)


def test_a_new_password_replaces_the_old_one(users: Any, tmp_path: Path) -> None:
    users("add", "mara")
    assert users("password", "mara", said="another hole below\n")[0] == 0
    account = FileAccounts(tmp_path / "users.yaml").find("mara")
    assert signed_in(account, "another hole below")
    assert not signed_in(account, PASSWORD)


def test_an_account_of_a_proxy_has_no_password(users: Any, tmp_path: Path) -> None:
    assert users("add", "mara", "--no-password", said="")[0] == 0
    account = FileAccounts(tmp_path / "users.yaml").find("mara")
    assert not signed_in(account, "")
    assert "none, by proxy" in users("list")[1]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("add",), "triptych users add needs a name"),
        (("add", "a b"), "a name is 1 to 100 letters"),
        (("add", "ali", "--role", "admin"), "unknown role 'admin'; did you mean 'administrator'"),
        (("add", "mara"), "has an account 'mara' already"),
        (("remove", "mira"), "unknown account 'mira'; did you mean 'mara'"),
        (("password", "mara", "--role", "expert"), "triptych users password takes no --role"),
        (("change", "mara"), "needs --role or --group"),
        (("change", "mara", "--role", "expert", "--no-password"), "--no-password belongs to"),
        (("list", "mara"), "triptych users list takes no mara"),
    ],
)
def test_a_mistake_is_one_sentence_and_changes_nothing(
    users: Any, tmp_path: Path, words: tuple[str, ...], sentence: str
) -> None:
    users("add", "mara")
    before = (tmp_path / "users.yaml").read_bytes()
    status, _, err = users(*words)
    assert status == 2
    assert sentence in err
    assert (tmp_path / "users.yaml").read_bytes() == before


def test_a_short_password_is_refused_and_no_file_is_made(users: Any, tmp_path: Path) -> None:
    status, _, err = users("add", "mara", said="short\n")
    assert (status, "a password has 10 to 1000 characters" in err) == (2, True)
    assert list(tmp_path.iterdir()) == []
