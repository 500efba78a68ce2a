from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from mergers import MergeSpec, merged_deltas, verify
from recipes import distil, search
from recipes._baseline_merges import added
from recipes._search_bench import Objective, read_objectives
from recipes._search_makers import MAKERS, Ground, Maker, defaults_of
from recipes._search_result import Found, chosen, front_of
from recipes._search_rows import Rows, take_rows
from recipes._search_space import Candidate, Space
from studio.adapters import read_adapter
from studio.config import from_dict, load
from studio.data import load_data
from studio.errors import TriptychError
from studio.log import QuietLog
from studio.types import Run
from tests.drawn_experts import drawn_experts

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def experts(tiny: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return two experts of the tiny omni base: one changes the projector, too."""
    towers = {"north": ["llm", "projector"], "south": ["llm"]}
    made = drawn_experts(tiny("qwen_omni"), tmp_path_factory.mktemp("experts"), towers, 0.3)
    return {name: str(folder) for name, folder in made.items()}


@pytest.fixture
def settings(
    tiny: Callable[[str], Path], experts: dict[str, str], plain_data: Path, tmp_path: Path
) -> dict[str, Any]:
    return {
        "model": str(tiny("qwen_omni")), "experts": experts, "data": dict.fromkeys(experts, str(plain_data)),
        "rows": {"search": 5, "report": 4, "fit": 0}, "methods": ["task_arithmetic", "ties"], "trials": 5,
        "max_new_tokens": 3, "baselines": {"peft": False, "mergekit": False}, "output": str(tmp_path / "s"),
    }  # fmt: skip


def searched(settings: dict[str, Any], log: QuietLog | None = None, **more: Any) -> Run:
    return search.run(from_dict(search.Config, {**settings, **more}), log or QuietLog())


def told(folder: Path, name: str = "search.json") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / name).read_text())
    return found


def shown(folder: Path) -> list[Any]:
    """Return what was tried and found, without what depends on the machine's speed."""
    return [
        [t["method"], t["weights"], t["settings"], t["state"], t["values"]] for t in told(folder)["trials"]
    ]


class Stopping(QuietLog):
    """Interrupts a search after some candidates, as Ctrl-C does."""

    def __init__(self, after: int) -> None:
        self.left = after

    def say(self, message: str) -> None:
        self.left -= message.startswith("candidate ")
        if not self.left:
            raise KeyboardInterrupt


def test_a_search_ends_with_a_merge_file_a_front_and_a_report(settings: dict[str, Any]) -> None:
    run = searched(settings, groups=["projector"], objectives=["mean", "worst"])
    found, report = told(run.folder), told(run.folder, "report.json")
    assert found["state"] == "finished"
    assert len(found["trials"]) == 5
    values = {t["trial"]: tuple(t["objectives"].values()) for t in found["trials"]}
    for number in found["front"]:
        assert not any(all(a > b for a, b in zip(v, values[number], strict=True)) for v in values.values())
        assert (run.folder / "front" / f"trial-{number}.yaml").is_file()
    assert found["best"] == max(found["front"], key=lambda number: sum(values[number]))

    # The merge file makes what was measured, and the folder holds it as an adapter.
    spec = MergeSpec.from_yaml(run.folder / "merge.yaml")
    best = next(t for t in found["trials"] if t["trial"] == found["best"])
    assert spec.method == best["method"]
    assert spec.settings["weight"] == best["weights"][""]
    assert [rule.match for rule in spec.rules] == [("projector",)]
    made, written = merged_deltas(spec), read_adapter(run.folder / "adapter")
    assert set(made) == set(written.names())
    for path, delta in made.items():
        assert torch.allclose(delta, written.modules[path].delta(), atol=1e-5)

    names = [variant["name"] for variant in report["variants"]]
    assert names == ["base", "north", "south", "average", "searched"]
    assert report["variants"][0]["scores"]["north"]["n"] == 4
    with Image.open(run.folder / "front.png") as picture:
        assert picture.format == "PNG"
    assert "searched" in (run.folder / "report.html").read_text()
    assert "triptych merge" in (run.folder / "README.md").read_text()


def test_a_search_that_was_interrupted_finds_what_it_would_have_found(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    whole = searched(settings)
    apart = {**settings, "output": str(tmp_path / "again")}
    with pytest.raises(KeyboardInterrupt):
        searched(apart, Stopping(2))
    assert told(tmp_path / "again")["state"] == "partial"
    searched(apart)
    assert shown(tmp_path / "again") == shown(whole.folder)
    with pytest.raises(TriptychError, match="holds another run"):
        searched(apart, score="tokens")


def test_a_killed_search_goes_on(settings: dict[str, Any], tmp_path: Path) -> None:
    file, out = tmp_path / "search.yaml", Path(settings["output"])
    file.write_text(yaml.safe_dump({**settings, "trials": 400}))
    line = [sys.executable, "-m", "apps.cli", "run", "search", "--config", str(file)]
    with subprocess.Popen(line, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as killed:
        until = time.monotonic() + 600
        while not (out / "search.json").is_file() or len(told(out)["trials"]) < 3:
            assert killed.poll() is None
            assert time.monotonic() < until
            time.sleep(0.05)
        os.kill(killed.pid, signal.SIGKILL)
    before = [trial for trial in shown(out) if trial[3] != "running"]
    # What was done stays, the trial that was running is done, and one more.
    run = searched(settings, trials=len(before) + 2)
    after = shown(run.folder)
    assert after[: len(before)] == before
    assert len(after) >= len(before) + 2
    assert all(trial[3] in ("complete", "pruned") for trial in after)
    assert told(out)["state"] == "finished"


@pytest.mark.slow
def test_several_processes_search_together(settings: dict[str, Any]) -> None:
    run = searched(settings, parallel=2, trials=6, search="random")
    assert [t["state"] for t in told(run.folder)["trials"]] == ["complete"] * 6


def test_evolution_searches_the_weights(settings: dict[str, Any]) -> None:
    run = searched(settings, search="cmaes", methods=["task_arithmetic"], trials=12)
    assert run.metrics["trials"] == 12
    weights = [trial["weights"][""] for trial in told(run.folder)["trials"]]
    assert len({tuple(each) for each in weights}) == 12
    assert all(0 <= weight <= 1.5 for each in weights for weight in each)


def test_a_method_that_learns_from_rows_is_searched_like_any_other(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, int]] = []

    def half(
        ground: Ground, *, weight: tuple[float, ...] = (), share: float = 1.0
    ) -> dict[str, torch.Tensor]:
        """Weigh the experts, and note how many rows there are."""
        seen.append({d: sum(len(b["labels"]) for b in batches) for d, batches in ground.rows.items()})
        return added(list(ground.factors.values()), [share * each for each in weight])

    monkeypatch.setitem(MAKERS, "half", Maker(make=half, settings=lambda: {"weight": (), "share": 1.0}))
    rows = {"search": 5, "report": 4, "fit": 3}
    run = searched(settings, methods=["half"], rows=rows, trials=3, score="likelihood")
    assert seen[0] == {"north": 3, "south": 3}
    best = next(t for t in told(run.folder)["trials"] if t["trial"] == told(run.folder)["best"])
    north, south = (read_adapter(path).modules for path in settings["experts"].values())
    written = read_adapter(run.folder / "adapter").modules
    for path in south:
        share, (one, other) = best["settings"]["share"], best["weights"][""]
        expected = share * (one * north[path].delta() + other * south[path].delta())
        assert torch.allclose(written[path].delta(), expected, atol=1e-4)


def test_what_distillation_found_is_a_settings_file_that_the_recipe_runs(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    rows, space = {"search": 5, "report": 4, "fit": 4}, {"polish": [2], "distil.ridge": [0.02]}
    run = searched(settings, methods=["distil"], rows=rows, space=space, trials=1)
    assert not (run.folder / "merge.yaml").exists()
    assert [file.name for file in (run.folder / "front").iterdir()] == ["trial-1.distil.yaml"]
    file = run.folder / "merge.distil.yaml"
    assert f"triptych run distil --config {file} output=OUT" in (run.folder / "README.md").read_text()
    config = load(distil.Config, file, overrides=[f"output={tmp_path / 'again'}", "held_out=1"])
    best = told(run.folder)["trials"][0]
    assert (config.ridge, config.polish, config.rows) == (0.02, 2, 4)
    assert config.weight == pytest.approx(dict(zip(settings["experts"], best["weights"][""], strict=True)))
    assert verify(run.folder / "adapter") == []
    assert "distil of 2 models" in (run.folder / "adapter" / "README.md").read_text()
    made = read_adapter(distil.run(config, QuietLog()).folder / "adapter").modules
    assert set(made) == set(read_adapter(run.folder / "adapter").modules)


def test_a_candidate_that_cannot_be_merged_is_no_end(settings: dict[str, Any]) -> None:
    space = {"ties.density": [0.0]}
    run = searched(settings, space=space, trials=6)
    found = told(run.folder)["trials"]
    failed = [t for t in found if t["state"] == "failed"]
    assert failed
    assert all(t["method"] == "ties" and "density" in t["why"] for t in failed)
    with pytest.raises(TriptychError, match=r"none of 2 candidates .*density"):
        searched(settings, methods=["ties"], space=space, trials=2, output=f"{settings['output']}2")


def test_a_budget_in_seconds_ends_a_search(settings: dict[str, Any]) -> None:
    run = searched(settings, trials=1000, seconds=1e-6)
    assert run.metrics["trials"] == 1


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"experts": {"north": "nowhere"}}, "experts must name two domains"),
        ({"methods": ["tie"]}, "did you mean 'ties'"),
        ({"methods": ["regmean"]}, "regmean needs files of statistics"),
        ({"methods": ["passthrough"]}, "merges 1 experts, not 2"),
        ({"groups": ["audio"]}, "'audio' matches no tensor"),
        ({"space": {"densty": [0.1]}}, "densty"),
        ({"space": {"density": {"low": 2, "high": 1}}}, "low < high is needed"),
        ({"by_group": ["colour"]}, "colour"),
        ({"objectives": ["average"]}, "average"),
        ({"objectives": []}, "objectives must name at least one"),
        ({"objectives": ["mean", "worst"], "search": "cmaes"}, "cmaes takes one objective, not 2"),
        ({"score": "word_error"}, "word_error"),
        ({"score": "wer"}, "wer cannot be divided"),
        ({"trials": 0, "parallel": 0}, "trials must be at least 1, not 0; parallel"),
        ({"rows": {"search": 0}}, "rows.search must be at least 1"),
        ({"rows": {"search_split": "test", "report_split": "train"}}, "a test set is never searched on"),
        ({"rows": {"search_split": "dev"}}, "dev"),
        ({"data": {"east": "textiles"}}, "data.east has no expert"),
        ({"training": {"output": "x"}}, "training takes settings of sft"),
        ({"storage": "nowhere://x"}, "cannot open nowhere://x"),
    ],
)
def test_mistakes_are_told_in_one_sentence(
    settings: dict[str, Any], changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(TriptychError) as caught:
        searched({**settings, **changes})
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (Path(settings["output"]) / "search.json").exists()


def test_an_expert_that_is_none_is_named(settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(TriptychError, match=r"experts\.south: there is no adapter in"):
        searched(settings, experts={**settings["experts"], "south": str(tmp_path)})
    with pytest.raises(TriptychError, match="the expert for 'north' has 0 by 'exact' on its own rows"):
        searched(settings, score="exact")


def test_no_question_of_the_report_is_searched_on(plain_data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    shutil.copytree(plain_data, folder)
    report = (folder / "test.jsonl").read_text()
    train = folder / "train.jsonl"
    # The same questions, some with another answer and other names of files: the contents count.
    shutil.copytree(folder / "media", folder / "moved")
    train.write_text(train.read_text() + report.replace("media/", "moved/").replace("a red", "a blue"))
    taken = take_rows({"d": str(folder)}, Rows(search=100, report=100, fit=0), 0, QuietLog())["d"]
    assert taken.shared == len(report.splitlines()) == len(taken.report)
    assert len(taken.search) == len(load_data(train)) - taken.shared
    prompts = {sample.prompt[0].text for sample in taken.report}
    assert not any(sample.prompt[0].text in prompts for sample in taken.search)
    train.write_text(report)
    with pytest.raises(TriptychError, match="no row is left to search on"):
        take_rows({"d": str(folder)}, Rows(), 0, QuietLog())


def test_one_file_is_cut_into_rows_to_search_and_to_report(plain_data: Path) -> None:
    name = str(plain_data / "train.jsonl")
    taken = take_rows({"d": name}, Rows(search=4, report=3, fit=2), 0, QuietLog())["d"]
    lines = [[sample.line for sample in part] for part in (taken.search, taken.fit, taken.report)]
    assert [len(part) for part in lines] == [4, 2, 3]
    assert len({line for part in lines for line in part}) == 9


def test_rows_without_a_reference_are_named(plain_data: Path, tmp_path: Path) -> None:
    file = tmp_path / "open.jsonl"
    file.write_text('{"messages": [{"role": "user", "content": "what?"}]}\n' * 3)
    with pytest.raises(TriptychError, match=r"open\.jsonl:\d: no reference to score against"):
        take_rows({"d": str(file)}, Rows(), 0, QuietLog())


def found(number: int, *values: float, state: str = "complete") -> Found:
    scores = {"exact": {f"d{at}": value for at, value in enumerate(values)}}
    return Found(number=number, state=state, candidate=Candidate(method="ties"), values=scores)


def test_the_front_is_what_nothing_surpasses() -> None:
    each = tuple(Objective(score="exact", what=f"d{at}") for at in range(2))
    every = [
        found(1, 0.5, 0.5), found(2, 0.9, 0.1), found(3, 0.4, 0.5), found(4, 0.1, 0.8), found(5, 0.9, 0.1),
        found(6, 1.0, 1.0, state="pruned"),
    ]  # fmt: skip
    assert [f.number for f in front_of(every, each)] == [2, 1, 4]
    best = chosen(every, each)
    assert best is not None
    assert best.number == 1 or sum(best.values["exact"].values()) == 1.0
    assert chosen(every[-1:], each) is None


def test_objectives_are_read_from_words() -> None:
    read = read_objectives(["mean", "exact.worst", "domains"], "tokens", ["a", "b"])
    assert [(o.score, o.what) for o in read] == [
        ("tokens", "mean"), ("exact", "worst"), ("tokens", "a"), ("tokens", "b"),
    ]  # fmt: skip
    values = {"tokens": {"a": 0.2, "b": 0.6}, "exact": {"a": 1.0, "b": 0.5}}
    assert [o.value(values) for o in read] == pytest.approx([0.4, 0.5, 0.2, 0.6])


def test_a_space_follows_from_the_methods_signatures(experts: dict[str, str]) -> None:
    paths = {name: Path(path) for name, path in experts.items()}
    space = Space(
        ["task_arithmetic", "ties", "wudi"], paths, ["towers"], ["density"], {"ties.elect": ["raw"]}
    )
    assert set(space.settings["ties"]) == {"density", "scale", "elect"}
    assert set(space.settings["wudi"]) == {"scale", "ridge"}
    assert "density" not in space.settings["task_arithmetic"]
    # South leaves the projector alone: its weight there is no question.
    assert space.touching == {"projector": (True, False), "llm": (True, True)}
    drawn = Candidate(
        method="ties", weights={"projector": (0.5, 0.0), "llm": (1.0, 0.3)},
        own={"llm": {"density": 0.2}, "projector": {"density": 0.9}}, settings={"scale": 2.0},
    )  # fmt: skip
    spec = drawn.spec(Path("base"), list(paths.values()), 3)
    assert spec.seed == 3
    assert spec.settings == {"scale": 2.0}
    assert [(r.match[0], dict(r.settings)) for r in spec.rules] == [
        ("projector", {"density": 0.9, "weight": [0.5, 0.0]}),
        ("llm", {"density": 0.2, "weight": [1.0, 0.3]}),
    ]  # fmt: skip


def test_methods_as_they_come_are_tried_before_anything_is_drawn(settings: dict[str, Any]) -> None:
    experts = {name: Path(folder) for name, folder in settings["experts"].items()}
    space = Space(("task_arithmetic", "ties"), experts, (), (), {"weight": {"low": 0.6, "high": 1.2}})
    first = space.known()
    assert [each["method"] for each in first] == ["task_arithmetic"] * 2 + ["ties"] * 2
    assert first[0]["weight.north"] == first[0]["weight.south"] == 1.0
    assert "weight.north" not in first[1]  # a half is outside the range, and is drawn
    assert first[2]["ties.density"] == defaults_of("ties")["density"]
