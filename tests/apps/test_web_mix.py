"""The Mix page in a real browser: sliders change what the mix says; what is saved answers as it did."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from apps.web.mixing.recipe import first, methods, read_mix, settings_of
from apps.web.mixing.saving import checked
from apps.web.panels import visible
from mergers import MergeSpec, merge, merged_factors
from studio.errors import DataError
from studio.types import Image, Sample, Text, Turn
from studio.variants import Engine
from tests.apps.browsing import shoot, too_wide

if TYPE_CHECKING:
    from playwright.sync_api import Page

QUESTION = "what is wrong with the cloth?"
PARTS = ("#mx-form .mx-expert", "#tp-send", "#tp-picture", "#mx-save", "#mx-told .mx-note")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder below which the app of this file keeps what it makes."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def app(serve_app: Callable[..., Any], web_variants: dict[str, Any], runs: Path) -> Any:
    """Return an app of this file's own, with two experts."""
    names = ("base", "textiles", "commands")
    return serve_app({name: web_variants["variants"][name] for name in names}, runs=str(runs))


@pytest.fixture
def open_mix(open_page: Callable[..., Page], app: Any) -> Callable[..., Page]:
    """Return a function that opens the page and waits for the first mix."""

    def start(size: str = "desktop", scheme: str = "light") -> Page:
        page = open_page("/mix", size=size, scheme=scheme, ready=PARTS, app=app)
        page.get_by_text(re.compile(r"Ready after")).wait_for()
        return page

    return start


def slide(page: Page, label: str, value: float) -> None:
    """Move a slider as a person does: its number changes, and then it rests."""
    moved = "(slider, value) => { slider.value = value; for (const kind of ['input', 'change'])"
    moved += " slider.dispatchEvent(new Event(kind, { bubbles: true })); }"
    page.get_by_label(label, exact=True).evaluate(moved, value)


def answer(page: Page) -> str:
    """Return what the mix says once it is done."""
    page.wait_for_selector(".tp-done:first-child")
    return (page.locator(".tp-panel").first.locator(".tp-text").all_text_contents() or [""])[0]


def sample(app: Any) -> Sample:
    """Return the question as the engine takes it."""
    picture = Path(app.data["helpdesk"]).parent / "cloth-1.png"
    return Sample(turns=(Turn(role="user", parts=(Image(path=picture), Text(text=QUESTION))),))


def mixed(app: Any, **mix: Any) -> str:
    """Return what `mergers` and an engine of our own make of a mix of the two experts."""
    experts = [app.variants["textiles"], app.variants["commands"]]
    spec = MergeSpec.from_mapping({"base": str(app.base), "models": experts, "output": "adapter", **mix})
    engine = Engine(app.base, {"base": None})
    engine.live("mix", merged_factors(spec))
    return visible(engine.answer("mix", sample(app)))


def ask(page: Page, app: Any) -> str:
    """Ask the question with its picture and return the mix's answer."""
    picture = Path(app.data["helpdesk"]).parent / "cloth-1.png"
    page.locator("#tp-picture input[type=file]").set_input_files(picture)
    page.locator("#tp-picture").get_by_role("img", name="The picture of the question").wait_for()
    page.get_by_role("textbox", name="Text").fill(QUESTION)
    page.get_by_role("button", name="Ask", exact=True).click()
    return answer(page)


def test_a_slider_changes_the_answer_and_what_is_saved_answers_the_same(
    open_mix: Callable[..., Page], app: Any, runs: Path, axe: Callable[[Page], None]
) -> None:
    page = open_mix()
    equal = ask(page, app)
    assert equal == mixed(app, method="linear", settings={"weight": [1.0, 1.0]})

    slide(page, "Weight of commands", -0.5)
    page.wait_for_function("before => document.querySelector('.tp-text')?.innerText !== before", arg=equal)
    tilted = answer(page)
    assert tilted != equal
    expected = mixed(app, method="linear", settings={"weight": [1.0, -0.5]})
    assert tilted == expected

    page.get_by_label("Method").select_option("ties")
    page.get_by_role("group", name="Settings of ties").wait_for()
    slide(page, "density", 0.6)
    page.locator("details summary").first.click()
    slide(page, "Projector, weight of textiles", 0.25)
    told = page.locator(".mx-file pre")
    page.wait_for_function("() => /projector/.test(document.querySelector('.mx-file pre')?.textContent)")
    page.get_by_role("button", name="Ask", exact=True).click()
    rules = [{"match": "projector", "weight": [0.25, -0.5]}]
    settings = {"weight": [1.0, -0.5], "density": 0.6}
    expected = mixed(app, method="ties", settings=settings, rules=rules)
    page.wait_for_function("text => document.querySelector('.tp-text')?.innerText === text", arg=expected)
    said = answer(page)
    shown = yaml.safe_load(told.text_content() or "")
    assert (shown["method"], shown["settings"]["density"], shown["rules"]) == ("ties", 0.6, rules)

    page.get_by_role("textbox", name="Name").fill("../away")
    page.get_by_role("button", name="Save", exact=True).click()
    page.get_by_text("A name begins with a letter or digit").wait_for()
    page.get_by_role("textbox", name="Name").fill("tuesday")
    page.get_by_role("button", name="Save", exact=True).click()
    with page.expect_download() as waited:
        page.get_by_role("link", name="Download the merge file").click()
    file = runs / "merges" / "tuesday.yaml"
    assert Path(waited.value.path()).read_text() == file.read_text()
    out = runs / "by-command"
    line = [sys.executable, "-m", "apps.cli", "merge", str(file), "-o", str(out)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert visible(Engine(app.base, {"made": out}).answer("made", sample(app))) == said

    page.get_by_label("adapter").check()
    page.get_by_role("textbox", name="Name").fill("tuesday-mix")
    page.get_by_role("button", name="Save", exact=True).click()
    page.get_by_text("Compare has it now").wait_for()
    axe(page)
    shoot(page, "mix-light")
    made = runs / "tuesday-mix"
    assert visible(Engine(app.base, {"made": made}).answer("made", sample(app))) == said
    page.get_by_role("button", name="Save", exact=True).click()
    page.get_by_text("There is something named 'tuesday-mix' already").wait_for()
    page.get_by_role("link", name="Compare").click()
    page.locator("#tp-variants").get_by_text("tuesday-mix").wait_for()


def test_the_experts_answer_beside_the_mix_and_heat_maps_show_where_they_disagree(
    open_mix: Callable[..., Page], app: Any, axe: Callable[[Page], None]
) -> None:
    page = open_mix(scheme="dark")
    page.get_by_label("Ask the experts as well").check()
    ask(page, app)
    page.wait_for_function("() => document.querySelectorAll('.tp-done').length > 2")
    assert page.locator(".tp-panel").count() == page.locator(".tp-done").count()
    engine = Engine(app.base, {name: app.variants[name] for name in ("textiles", "commands")})
    for name in engine.names:
        panel = page.locator(".tp-panel").filter(has=page.get_by_role("heading", name=name))
        assert panel.locator(".tp-text").text_content() == visible(engine.answer(name, sample(app)))
    page.get_by_role("button", name="Measure interference").click()
    page.locator("#mx-maps figure").first.wait_for()
    assert "Sign conflict" in (page.locator("#mx-maps").text_content() or "")
    axe(page)
    shoot(page, "mix-dark")


def test_the_page_fits_a_phone_and_its_sliders_move_by_keys(open_mix: Callable[..., Page]) -> None:
    page = open_mix(size="phone")
    assert not too_wide(page)
    slider = page.get_by_label("Weight of textiles", exact=True)
    slider.focus()
    page.keyboard.press("ArrowLeft")
    page.wait_for_function("() => /0\\.95/.test(document.querySelector('.mx-file pre')?.textContent)")
    shoot(page, "mix-phone")


FORGED: list[Any] = [
    None,
    [],
    {"method": "linear"},
    {"method": "../linear", "experts": ["one"]},
    {"method": "linear", "experts": ["other"]},
    {"method": "linear", "experts": []},
    {"method": "linear", "experts": [["one"]]},
    {"method": "linear", "experts": ["one"], "weights": {"one": {"": 1e9}}},
    {"method": "linear", "experts": ["one"], "weights": {"one": {"": "1"}}},
    {"method": "linear", "experts": ["one"], "weights": {"one": {"re:.*": 1.0}}},
    {"method": "linear", "experts": ["one"], "weights": {"one": {"": float("nan")}}},
    {"method": "ties", "experts": ["one"], "settings_of": "ties", "settings": {"density": 7}},
    {"method": "ties", "experts": ["one"], "settings_of": "ties", "settings": {"elect": "<b>"}},
    {"method": "linear", "experts": ["one"], "settings_of": "linear", "settings": {"normalise": 1}},
]


@pytest.mark.parametrize("told", FORGED)
def test_a_forged_mix_is_refused_in_one_sentence(told: Any) -> None:
    with pytest.raises(DataError, match=r"^[^\n]+\.$"):
        read_mix(told, ["one", "two"])


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "a/b", "a\\b", "/etc/x", "-rf", ".hidden", "a" * 61, "tie", "a\nb", "ü", 7, None],
)
def test_a_name_that_could_leave_the_folder_is_refused(name: Any) -> None:
    with pytest.raises(DataError, match="A name begins"):
        checked(name)


def test_every_method_on_the_form_mixes_as_its_merge_file_merges(
    web_variants: dict[str, Any], tmp_path: Path
) -> None:
    paths = {name: Path(web_variants["variants"][name]) for name in ("textiles", "commands")}
    assert {"linear", "ties", "slerp"} <= set(methods())
    assert {"fisher", "regmean"}.isdisjoint(methods())
    for name in ("linear", "ties", "karcher"):
        mix = read_mix({"method": name, "experts": list(paths)}, list(paths))
        assert mix.settings == {each.name: each.default for each in settings_of(name)}
        spec = mix.spec(paths, web_variants["base"])
        live = merged_factors(spec)
        merge(MergeSpec.from_mapping(spec.to_mapping()), tmp_path / name)
        engine = Engine(web_variants["base"], {"made": tmp_path / name})
        engine.live("live", live)
        asked = Sample(turns=(Turn(role="user", parts=(Text(text="hello"),)),))
        assert engine.answer("live", asked) == engine.answer("made", asked)
    assert first(list("abcdefg")).experts == tuple("abcd")
