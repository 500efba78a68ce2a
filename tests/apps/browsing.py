"""Chromium, its sizes, its pictures, the faults that axe-core finds, and pages without it, for tests.

Screenshots stand in ``runs/screenshots``, or where ``TRIPTYCH_SCREENSHOT_DIR`` says.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import gradio as gr

if TYPE_CHECKING:
    from playwright.sync_api import Page

CHROMIUM = os.environ.get("CHROMIUM", shutil.which("chromium") or "/usr/bin/chromium")
FLAGS = [
    "--no-sandbox",
    "--headless",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
]
SHOTS = Path(os.environ.get("TRIPTYCH_SCREENSHOT_DIR", "runs/screenshots"))
SIZES = {"desktop": {"width": 1360, "height": 900}, "phone": {"width": 390, "height": 844}}
LIMIT = 120_000  # milliseconds; a tiny model answers within one second, but the machine may be busy
SERIOUS = ("serious", "critical")
T = TypeVar("T")


def laid_out(make: Callable[[], T]) -> T:
    """Return what a function lays out of Gradio's parts, in a thread and an event loop of its own.

    Gradio leaves a loop open where there is none, and the thread of a test that ran after a browser's has one
    that is running.
    """

    async def inside() -> T:
        with gr.Blocks(analytics_enabled=False):
            return make()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, inside()).result()


def shoot(page: Page, name: str) -> None:
    """Keep a screenshot of the whole page."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}.png", full_page=True)


def too_wide(page: Page) -> int:
    """Return by how many pixels the page is wider than its window; 0 if it fits."""
    return max(0, int(page.evaluate("document.documentElement.scrollWidth - window.innerWidth")))


def faults(page: Page) -> list[str]:
    """Return the serious and critical faults that axe-core finds on a page as it stands, one a line."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [
        f"{fault['impact']} {fault['id']}: {fault['help']}: {node['html'][:200]}"
        for fault in found
        if fault["impact"] in SERIOUS
        for node in fault["nodes"]
    ]
