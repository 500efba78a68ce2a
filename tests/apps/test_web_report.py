"""The page of reports in a real browser, and the saved page by itself: looks, faults, and who sees it."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from studio.adapters import Factors, write_adapter
from studio.eval_report.assemble import Origin, assemble
from studio.eval_report.evaluation import read_evaluation
from studio.eval_report.page import write_report
from tests.apps.browsing import SIZES, faults, laid_out, shoot, too_wide
from tests.studio.evaluations import answers, write_evaluation

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

READY = ("#tp-report-name", "#tp-report-refresh", "#tp-report-body :is(.tp-report, .tp-card)")
_LENGTH = """async (node) => {
  await new Promise((done) => { node.onloadedmetadata = done; node.load(); });
  return node.duration;
}"""
HOSTILE = "mix <img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of runs with an evaluation of two experts and a mix, with all that may be there."""
    folder = tmp_path_factory.mktemp("reports")
    picture, sound = folder / "cloth.png", folder / "voice.wav"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(picture)
    soundfile.write(sound, 0.2 * np.sin(np.arange(16_000) / 9), 16_000)
    right = {
        "cloth": {"base": 2, "loom": 36, "voice": 3, HOSTILE: 20},
        "speech": {"base": 1, "loom": 2, "voice": 34, HOSTILE: 33},
    }
    said = {d: {name: answers(hits, 40) for name, hits in each.items()} for d, each in right.items()}
    sure = {name: [0.1 + 0.02 * at for at in range(40)] for name in ("loom", HOSTILE)}
    base = {"base": "public/base"}
    models = {"base": {**base, "folder": None}}
    for name in ("loom", "voice"):
        modules = {"layers.0.q": Factors(a=torch.ones(2, 6), b=torch.ones(8, 2), shape=(8, 6))}
        made = write_adapter(folder / "runs" / name, modules, base="public/base")
        models[name] = {**base, "folder": str(made)}
    made = write_evaluation(
        folder / "runs" / "trials" / "eval", said, ["exact_match", "wer"], media=[picture, sound],
        confidence=sure, more={"models": models, "partial": True, "missing": {HOSTILE: {"cloth": 2}}},
    )  # fmt: skip
    one = {"domain": "cloth", "variant": HOSTILE, "metric": "exact_match", "higher_is_better": True, "n": 40}
    area = {"value": 0.6, "low": 0.5, "high": 0.7}
    points = [{"strength": s, "value": 0.8 - s / 10, "low": 0.2, "high": 0.9} for s in range(6)]
    curves = [{**one, "perturbation": kind, "points": points, "area": area} for kind in ("blur", "gain")]
    (made / "robustness.json").write_text(json.dumps({"curves": curves, "attacks": []}))
    groups = [{"name": name, **area, "n": 20, "note": ""} for name in ("a", "b")]
    gap = {"value": 0.2, "low": 0.1, "high": 0.3, "p": 0.02, "p_holm": 0.04}
    found = [{**one, "by": ["site"], "groups": groups, "worst": "a", "best": "b", "gap": gap, "warnings": []}]
    (made / "groups.json").write_text(json.dumps({"results": found, "pairs": []}))
    for hidden in (".hidden/eval", "data/eval"):
        write_evaluation(folder / "runs" / hidden, {"cloth": {"x": answers(1, 3)}})
    outside = write_evaluation(folder / "outside", {"secret": {"x": answers(1, 3)}})
    (folder / "runs" / "link").symlink_to(outside)
    (folder / "runs" / "linked").mkdir()
    for name in ("evaluation.json", "samples.jsonl"):
        (folder / "runs" / "linked" / name).symlink_to(outside / name)
    return folder / "runs"


@pytest.fixture(scope="module")
def app(serve_app: Callable[..., Any], evaluated: Path) -> Any:
    """Return an app over these runs."""
    return serve_app(runs=str(evaluated))


def test_the_newest_evaluation_is_shown_and_can_be_saved(
    open_page: Callable[..., Page], axe: Callable[[Page], None], app: Any, evaluated: Path, tmp_path: Path
) -> None:
    page = open_page("/report", ready=READY, app=app)
    page.get_by_role("heading", name="What was kept").wait_for()
    assert page.locator("#tp-report-name input").input_value() == "trials/eval"
    for name in (
        "Scores",
        "Gains and losses",
        "Groups",
        "Robustness",
        "Calibration",
        "The worst regressions",
    ):
        assert page.get_by_role("heading", name=name, exact=True).count() == 1, name
    assert page.get_by_role("note").get_by_text("Partial.").count() == 1
    assert page.locator(".tp-report img[src^='data:image/png']").count() == 10
    assert page.locator(".tp-report audio[src^='data:audio/mpeg']").count() == 10
    assert page.locator(".tp-report").get_by_text(HOSTILE, exact=True).count() >= 2
    axe(page)
    assert not too_wide(page)
    shoot(page, "report")
    with page.expect_download() as got:
        page.get_by_role("button", name="Save as a page").click()
    got.value.save_as(tmp_path / "report.html")
    assert "What was kept" in (tmp_path / "report.html").read_text(encoding="utf-8")
    for size, scheme in (("phone", "light"), ("desktop", "dark"), ("phone", "dark")):
        seen = open_page("/report", size=size, scheme=scheme, ready=(*READY, ".tp-report figure"), app=app)
        axe(seen)
        assert not too_wide(seen)
        shoot(seen, f"report-{size}-{scheme}")


def test_only_evaluations_that_lie_inside_are_offered_and_none_by_another_name(evaluated: Path) -> None:
    from types import SimpleNamespace

    from apps.web.reports.shelf import Shelf
    from studio.errors import DataError

    shelf = Shelf(SimpleNamespace(runs=evaluated, engine=SimpleNamespace()))  # type: ignore[arg-type]
    assert shelf.names() == ["trials/eval"]
    assert shelf.report("trials/eval") is shelf.report("trials/eval")
    for name in ("../outside", "link", "linked", "/etc", "data/eval", "", None, 3, ["trials/eval"]):
        with pytest.raises(DataError, match="There is no such evaluation any more"):
            shelf.report(name)


def test_experts_and_blind_visitors_see_nothing(evaluated: Path, app: Any, tmp_path: Path) -> None:
    for path in ("/config", "/report"):
        with urllib.request.urlopen(app.address + path, timeout=60) as reply:
            text = reply.read().decode()
        for name in ("trials/eval", HOSTILE, str(evaluated)):
            assert name not in text, (path, name)
    from types import SimpleNamespace

    from apps.web.desk import Desk
    from apps.web.examples import Examples
    from apps.web.pages import report
    from studio.store import Store

    engine: Any = SimpleNamespace(names=["base", "loom"], folders={})
    with Store(f"sqlite:///{tmp_path / 'kept.db'}") as store:
        desk = Desk(engine, store, Examples(None), runs=evaluated, blind=True)
        page = laid_out(lambda: report._Reports(desk))
        request: Any = SimpleNamespace(session_hash="s")
        asked = [page.look(None, request), page.show("trials/eval", request)]
        for told in (*asked, page.take("trials/eval", request)):
            assert "This page is for the role engineer" in str(told)
            assert "loom" not in str(told)


def test_the_page_by_itself_opens_offline_and_has_no_fault(
    browser: Browser, evaluated: Path, tmp_path: Path
) -> None:
    evaluation = read_evaluation(evaluated / "trials" / "eval")
    kinds = {"base": "base", "loom": "expert", "voice": "expert", HOSTILE: "merge"}
    facts = {"recipe": {"method": "ties", "models": ["loom", "voice"]}}
    origins = [Origin(name=name, kind=kind, sha256="a" * 64, facts=facts) for name, kind in kinds.items()]
    file = write_report(tmp_path, assemble(evaluation, origins=origins, examples=1))
    for size, scheme in (("desktop", "light"), ("phone", "light"), ("desktop", "dark"), ("phone", "dark")):
        page = browser.new_page(viewport=SIZES[size], color_scheme=scheme)  # type: ignore[arg-type]
        asked: list[str] = []
        page.on("request", lambda request, asked=asked: asked.append(request.url[:5]))
        page.on("console", lambda line, asked=asked: asked.append(line.text))
        page.goto(file.as_uri())
        page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        assert faults(page) == []
        assert not too_wide(page)
        assert set(asked) <= {"file:", "data:"}
        shoot(page, f"report-page-{size}-{scheme}")
        if (size, scheme) == ("desktop", "light"):
            assert page.get_by_role("row", name="loom").count() >= 2
            length = page.locator("audio").first.evaluate(_LENGTH)
            assert length == pytest.approx(1, abs=0.1)
            assert page.locator("img").first.evaluate("node => node.naturalWidth") == 64
            page.emulate_media(media="print")
            assert page.locator(".contents").is_hidden()
            assert len(page.pdf()) > 20_000
        page.close()
