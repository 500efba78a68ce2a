"""What the tests of the app's door share: accounts, signing in, calling handlers, and all of its routes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from studio.accounts import Account, FileAccounts, hashed

PASSWORD = "a hole at the top"
PEOPLE = {"mara": "expert", "erik": "expert", "ines": "engineer", "abel": "administrator"}
ROOT = Path(__file__).resolve().parents[2]
LIMIT = 90  # seconds for one answer; the machine may be busy


def write_accounts(file: Path) -> FileAccounts:
    """Keep `PEOPLE` in a file, all with `PASSWORD`."""
    accounts, password = FileAccounts(file), hashed(PASSWORD)
    for name, role in PEOPLE.items():
        accounts.put(Account(name=name, role=role, group="north", password=password))
    return accounts


@contextmanager
def stranger(address: str) -> Iterator[httpx.Client]:
    """Give a client that nobody knows; it follows no redirect."""
    with httpx.Client(base_url=address, timeout=LIMIT) as client:
        yield client


@contextmanager
def sign_in(address: str, name: str, password: str = PASSWORD) -> Iterator[httpx.Client]:
    """Give a client that has signed in."""
    with stranger(address) as client:
        answer = client.post("/login", data={"name": name, "password": password})
        assert answer.status_code == 303, answer.text
        yield client


def handlers(client: httpx.Client) -> dict[str, dict[str, Any]]:
    """Return the app's handlers by name, as its configuration tells them."""
    return {one["api_name"]: one for one in client.get("/config").json()["dependencies"] if one["api_name"]}


def call(
    client: httpx.Client, handler: dict[str, Any], data: list[Any], session: str, **more: Any
) -> tuple[bool, str]:
    """Send what a page would send to a handler; return whether it ended well, and all that it said."""
    body = {"data": data, "fn_index": handler["id"], "session_hash": session, **more}
    if not handler["queue"]:
        answer = client.post("/gradio_api/run/predict", json=body)
        return answer.status_code == 200, answer.text
    joined = client.post("/gradio_api/queue/join", json=body)
    if joined.status_code != 200:
        return False, joined.text
    said = ""
    with client.stream("GET", f"/gradio_api/queue/data?session_hash={session}") as stream:
        for line in stream.iter_lines():
            said += line
            if line.startswith("data:") and '"process_completed"' in line:
                return bool(json.loads(line[5:])["success"]), said
    return False, said


_ROUTES = """
import json, re, sys
from gradio.routes import App
from apps.web import build
from studio.store import Store
from studio.variants import Engine
told = json.loads(sys.argv[1])

def walk(app):
    for route in app.routes:
        inner = getattr(route, "original_router", None) or getattr(route, "app", None)
        if hasattr(inner, "routes"):
            yield from walk(inner)
        for method in getattr(route, "methods", None) or ():
            yield method, re.sub(r"{[^}]*}", "x", route.path)

app = build(Engine(told["base"], told["variants"]), store=Store(told["store"]))
print("ROUTES" + json.dumps(sorted(set(walk(App.create_app(app))))))
"""


def routes(app: Any) -> list[tuple[str, str]]:
    """Return method and path of every route that Gradio makes for an app, parameters filled in.

    They are listed in a process of its own: Gradio leaves event loops open where it is imported.
    """
    told = {"base": str(app.base), "variants": app.variants, "store": app.store_url}
    done = subprocess.run(
        [sys.executable, "-c", _ROUTES, json.dumps(told)], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return [(method, path) for method, path in json.loads(done.stdout.partition("ROUTES")[2])]
