"""A running web app over a tiny model, two experts and two merges, and a browser that opens its pages."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
import soundfile
from PIL import Image

from studio.accounts import FileAccounts
from tests.apps.browsing import CHROMIUM, FLAGS, LIMIT, SIZES, faults
from tests.apps.knocking import PEOPLE, sign_in, write_accounts

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).resolve().parents[2]
_SERVER = """
import json, signal, sys
from pathlib import Path
from apps.web import launch
from studio.data import load_data
from studio.variants import Engine
signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background ignores Ctrl-C
told = json.loads(sys.argv[1])
engine = Engine(told["base"], told["variants"])
data = {name: load_data(file) for name, file in told["data"].items()}
launch(engine, data=data, store_url=told["store"], port=told["port"], **told["settings"])
"""


@dataclass(frozen=True, kw_only=True)
class WebApp:
    """A served app: its address, what it serves, and where it keeps comparisons."""

    address: str
    base: Path
    variants: dict[str, str | None]
    data: dict[str, str]
    store_url: str
    log: Path


@pytest.fixture(scope="session")
def web_variants(tiny: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the tiny base and its variants: the base, two random experts and two merges of them."""
    import torch

    from mergers import MergeSpec, merge
    from studio.adapters import add_lora, save_adapter
    from studio.families import family

    base, folder = tiny("qwen_omni"), tmp_path_factory.mktemp("variants")
    omni = family("qwen_omni")
    variants: dict[str, str | None] = {"base": None}
    for seed, name in enumerate(("textiles", "commands"), start=5):
        model = add_lora(omni.load(base).model, omni, ["llm", "projector"], r=4, alpha=8, seed=seed)
        draw = torch.Generator().manual_seed(seed)
        for path, weight in model.named_parameters():
            if "lora_B" in path:
                weight.data.normal_(0, 0.4, generator=draw)
        variants[name] = str(save_adapter(model, folder / name, base=base, family=omni))
    experts = [str(variants["textiles"]), str(variants["commands"])]
    for method in ("linear", "ties"):
        spec = MergeSpec.from_flags(method=method, models=experts, base=base, output="adapter")
        merge(spec, folder / method)
        variants[method] = str(folder / method)
    return {"base": base, "variants": variants}


@pytest.fixture(scope="session")
def web_data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return domain -> test file with pictures, recordings and texts."""
    folder = tmp_path_factory.mktemp("web-data")
    draw = np.random.default_rng(3)
    rows = []
    for place in range(3):
        pixels = np.kron(draw.integers(40, 220, (8, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"cloth-{place}.png")
        time = np.arange(16000) / 16000
        tone = 0.3 * np.sin(2 * np.pi * (220 + 110 * place) * time) * np.sin(np.pi * time)
        soundfile.write(folder / f"voice-{place}.wav", tone.astype(np.float32), 16000)
        user = [
            {"type": "image", "path": f"cloth-{place}.png"},
            {"type": "audio", "path": f"voice-{place}.wav"},
            {"type": "text", "text": f"what is wrong here? {place}"},
        ]
        answer = {"role": "assistant", "content": "a hole at the top right"}
        rows.append({"messages": [{"role": "user", "content": user}, answer]})
    file = folder / "test.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {"helpdesk": str(file)}


@pytest.fixture(scope="session")
def serve_app(
    web_variants: dict[str, Any], web_data: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., WebApp]]:
    """Return a function that starts an app in a process of its own, as `triptych app` would start it.

    ``variants`` replaces the variants and ``store_url`` the empty store; what else is named goes to
    `apps.web.launch`. All apps end with the session, and each must end well.
    """
    with ExitStack() as apps:

        def start(
            variants: Mapping[str, str | None] | None = None, store_url: str = "", **settings: Any
        ) -> WebApp:
            folder = tmp_path_factory.mktemp("web-app")
            made = WebApp(
                address="",
                base=web_variants["base"],
                variants=dict(variants or web_variants["variants"]),
                data=web_data,
                store_url=store_url or f"sqlite:///{folder / 'kept.db'}",
                log=folder / "log.txt",
            )
            return apps.enter_context(_served(made, {"runs": str(folder / "runs"), **settings}))

        yield start


@contextmanager
def _served(told: WebApp, settings: Mapping[str, Any]) -> Iterator[WebApp]:
    asked = {
        "base": str(told.base),
        "variants": told.variants,
        "data": told.data,
        "store": told.store_url,
        "port": 17860 + 60 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")),
        "settings": settings,
    }
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GRADIO_")}
    with open(told.log, "w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", _SERVER, json.dumps(asked)],
            cwd=ROOT,
            env=environment | {"TMPDIR": str(told.log.parent), "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        try:
            assert process.stdout is not None
            address = next((word for line in process.stdout for word in line.split() if "://" in word), "")
            assert address, told.log.read_text()
            yield replace(told, address=address)
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)
    assert process.returncode == 0, told.log.read_text()


@pytest.fixture(scope="session")
def web_app(serve_app: Callable[..., WebApp]) -> WebApp:
    """Return the app that most tests share: names are shown, there are no accounts."""
    return serve_app()


#: A variant's name as somebody would choose it who wants a script to run.
HOSTILE = "</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="session")
def closed_accounts(tmp_path_factory: pytest.TempPathFactory) -> FileAccounts:
    """Return the accounts of `closed_app`: those of `tests.apps.knocking.PEOPLE`."""
    return write_accounts(tmp_path_factory.mktemp("accounts") / "users.yaml")


@pytest.fixture(scope="session")
def closed_app(
    serve_app: Callable[..., WebApp], web_variants: dict[str, Any], closed_accounts: FileAccounts
) -> WebApp:
    """Return a blind app that asks for a password; one of its variants has a hostile name."""
    variants = dict(list(web_variants["variants"].items())[:3])
    variants[HOSTILE] = variants["textiles"]
    return serve_app(variants=variants, accounts=str(closed_accounts.path), blind=True)


@pytest.fixture(scope="session")
def people(closed_app: WebApp) -> Iterator[dict[str, httpx.Client]]:
    """Return everybody's client of `closed_app`, signed in."""
    with ExitStack() as opened:
        yield {name: opened.enter_context(sign_in(closed_app.address, name)) for name in PEOPLE}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Return one Chromium for all tests of a file; without one they are skipped."""
    if not Path(CHROMIUM).exists():
        pytest.skip(f"there is no Chromium at {CHROMIUM}")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Callable[..., Page]]:
    """Return a function that opens a page; afterwards nothing may have gone wrong on any of them.

    ``ready`` are selectors that are waited for; ``size`` is "desktop" or "phone"; ``app`` is the shared one
    unless given. Errors of scripts, answers of 400 and above, and requests to other hosts fail the test.
    """
    pages: list[tuple[Page, WebApp]] = []
    outside: list[str] = []
    wrong: list[str] = []

    def start(
        path: str = "/",
        *,
        size: str = "desktop",
        scheme: str = "light",
        ready: Sequence[str] = (),
        app: WebApp | None = None,
    ) -> Page:
        served: WebApp = app or request.getfixturevalue("web_app")
        context = browser.new_context(viewport=SIZES[size], color_scheme=scheme)
        context.set_default_timeout(LIMIT)
        page = context.new_page()

        def note(url: str) -> None:
            if not url.startswith((served.address, "data:", "blob:")):
                outside.append(url)

        page.on("request", lambda asked: note(asked.url))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda line: wrong.append(line.text) if line.type == "error" else None)
        page.on("response", lambda reply: wrong.append(reply.url) if reply.status >= 400 else None)
        page.goto(served.address + path)
        for part in ready:  # Gradio mounts the fields one after the other, in no fixed order
            page.wait_for_selector(part)
        pages.append((page, served))
        return page

    yield start
    for page, _ in pages:
        page.context.close()
    assert not outside, f"the page asked other hosts: {outside}"
    assert not wrong
    for _, served in pages:
        assert "Traceback" not in served.log.read_text()


@pytest.fixture(scope="session")
def axe() -> Callable[[Page], None]:
    """Return a function that fails when axe-core finds a serious or critical fault on a page as it stands."""

    def check(page: Page) -> None:
        found = faults(page)
        assert not found, "\n".join(found)

    return check
