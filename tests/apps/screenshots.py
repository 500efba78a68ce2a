"""Takes the README's pictures of a running app: ``python tests/apps/screenshots.py http://127.0.0.1:7860``.

Start `triptych demo` first; the app's own examples and newest variants are shown, as a visitor sees them.
"""

from __future__ import annotations

import shutil
import sys
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

FOLDER = Path(__file__).resolve().parents[2] / "assets" / "screenshots"
LOOKS = {
    "compare": ({"width": 1280, "height": 800}, "light"),
    "compare-dark": ({"width": 1280, "height": 800}, "dark"),
    "compare-phone": ({"width": 390, "height": 844}, "light"),
}
FLAGS = ["--no-sandbox", "--headless", "--disable-gpu", "--disable-background-networking"]


def main(address: str, domain: str = "helpdesk") -> None:
    """Ask one example of ``domain`` at each size and colour, and keep a small PNG of each."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        for name, (size, scheme) in LOOKS.items():
            page = chromium.new_page(viewport=size, color_scheme=scheme)
            page.goto(address)
            page.get_by_role("button", name=domain, exact=True).click()
            page.get_by_label("Remove Image").or_(page.get_by_label("Reset audio")).first.wait_for()
            page.wait_for_timeout(1000)
            page.get_by_role("button", name="Send").click()
            page.wait_for_selector(".tp-verdict", timeout=120_000)
            page.wait_for_timeout(300)
            shot = Image.open(BytesIO(page.screenshot(full_page=True))).convert("RGB")
            shot.quantize(128).save(FOLDER / f"{name}.png", optimize=True)
            page.close()
        chromium.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
