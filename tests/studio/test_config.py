from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studio.config import flatten, from_dict, help_text, load, settings, to_dict, to_yaml
from studio.errors import ConfigError, UnknownName


@dataclass(frozen=True, kw_only=True)
class Config:
    """A configuration with every kind of field."""

    model: str = field(default="nano-omni", metadata={"help": "the base"})
    out: Path = field(default=Path("runs/x"), metadata={"help": "where it goes"})
    rate: float = field(default=1e-4, metadata={"help": "peak learning rate"})
    steps: int | None = field(default=None, metadata={"help": "steps; none for all"})
    towers: dict[str, Literal["lora", "full", "freeze"]] = field(
        default_factory=lambda: {"llm": "lora"}, metadata={"help": "what is trained"}
    )
    names: tuple[str, ...] = field(default=("a", "b"), metadata={"help": "some names"})
    size: tuple[int, int] = field(default=(1, 2), metadata={"help": "two numbers"})
    schedule: Literal["cosine", "linear"] = field(default="cosine", metadata={"help": "shape of the rate"})
    bf16: bool = field(default=False, metadata={"help": "half precision"})
    tracker: str | None = field(
        default=None, metadata={"help": "where to report", "choices": ("none", "tensorboard")}
    )
    extra: dict[str, Any] = field(default_factory=dict, metadata={"help": "anything"})


@dataclass(frozen=True, kw_only=True)
class Needy:
    """A configuration with a field that must be given."""

    data: Path = field(metadata={"help": "the rows"})
    n: int = field(default=1, metadata={"help": "how many"})


def wrong(*overrides: str, config: type[Any] = Config, **more: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load(config, overrides=overrides, **more)
    return str(caught.value)


def test_later_sources_win_defaults_preset_file_overrides(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("rate: 2e-4\nsteps: 7\n")
    made = load(
        Config,
        file=tmp_path / "c.yaml",
        overrides=["steps=9"],
        preset="smoke",
        presets={"smoke": {"rate": 1.0, "steps": 3, "bf16": True}},
    )
    assert (made.rate, made.steps, made.bf16, made.model) == (2e-4, 9, True, "nano-omni")


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("rate=3e-4", "rate", 3e-4),
        ("rate=1", "rate", 1.0),
        ("steps=12", "steps", 12),
        ("steps=none", "steps", None),
        ("model=007", "model", "007"),
        ("model=a=b", "model", "a=b"),
        ("out=there/x", "out", Path("there/x")),
        ("bf16=yes", "bf16", True),
        ("bf16=False", "bf16", False),
        ("names=a,b , c", "names", ("a", "b", "c")),
        ("names=[x]", "names", ("x",)),
        ("names=", "names", ()),
        ("size=3,4", "size", (3, 4)),
        ("towers={vision: full}", "towers", {"vision": "full"}),
        ("towers.vision=full", "towers", {"llm": "lora", "vision": "full"}),
        ("extra.a.b=1e-3", "extra", {"a": {"b": 0.001}}),
        ("extra.on=true", "extra", {"on": True}),
        ("schedule=linear", "schedule", "linear"),
        ("tracker=tensorboard", "tracker", "tensorboard"),
    ],
)
def test_an_override_is_read_as_its_fields_type(text: str, name: str, value: Any) -> None:
    found = getattr(load(Config, overrides=[text]), name)
    assert found == value
    assert type(found) is type(value)


def test_dotted_overrides_add_up() -> None:
    made = load(Config, overrides=["towers.vision=full", "towers.audio=freeze"])
    assert made.towers == {"llm": "lora", "vision": "full", "audio": "freeze"}
    assert load(Config).towers == {"llm": "lora"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("rat=1", "unknown setting 'rat'; did you mean 'rate'?"),
        ("rate=fast", "rate must be a number, not 'fast'"),
        ("rate=nan", "rate must be a finite number"),
        ("steps=1.5", "steps must be a whole number, not '1.5'"),
        ("bf16=2", "bf16 must be true or false, not '2'"),
        ("schedule=cosin", "did you mean 'cosine'?"),
        ("tracker=tensorbord", "did you mean 'tensorboard'?"),
        ("towers.llm=fulll", "did you mean 'full'?"),
        ("towers=lora", "towers must be a mapping"),
        ("rate.x=1", "has no entries"),
        ("size=1,2,3", "size must have 2 entries, not 3"),
        ("extra.a={", "cannot be read"),
        ("steps", "'steps' is not of the form key=value"),
        ("out=", "out must be a path"),
    ],
)
def test_a_wrong_override_is_told_in_one_sentence(text: str, says: str) -> None:
    assert says in wrong(text)


def test_all_errors_are_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("rat: 1\nsteps: many\n")
    message = wrong("bf16=2", "zz", file=tmp_path / "c.yaml")
    assert message.startswith("4 settings are wrong:")
    assert f"{tmp_path}/c.yaml: steps must be a whole number" in message


def test_a_missing_required_value_is_named_with_its_meaning() -> None:
    assert "data must be given: the rows" in wrong(config=Needy)
    assert "data must be given" in wrong("n=x", config=Needy)
    assert load(Needy, overrides=["data=d"]).data == Path("d")
    assert wrong("data=", config=Needy) == "data must be a path, not ''"


def test_unknown_preset_offers_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean 'smoke'"):
        load(Config, preset="smok", presets={"smoke": {}})


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("c.yaml", "rate: 1\nrate: 2\n", "c.yaml:2: 'rate' stands twice"),
        ("c.yaml", "rate: [1\n", "not valid YAML"),
        ("c.yaml", "- rate\n", "a mapping of settings is expected, not list"),
        ("c.json", "{,}", "c.json:1: not valid JSON"),
        ("c.yaml", "\0", "not valid YAML"),
        ("c.yaml", "!!python/object/apply:os.system ['true']", "not valid YAML"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, name: str, text: str, says: str) -> None:
    (tmp_path / name).write_text(text)
    assert says in wrong(file=tmp_path / name)


def test_a_file_that_is_missing_or_binary_is_named(tmp_path: Path) -> None:
    assert "No such file" in wrong(file=tmp_path / "none.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    assert "it is not UTF-8 text" in wrong(file=tmp_path / "b.yaml")


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("# nothing\n")
    assert load(Config, file=tmp_path / "c.yaml") == Config()


def test_a_run_folder_gives_the_settings_of_that_run(tmp_path: Path) -> None:
    made = load(Config, overrides=["rate=0.5", "towers.vision=full"])
    (tmp_path / "run.json").write_text(json.dumps({"recipe": "sft", "config": to_dict(made)}))
    assert load(Config, file=tmp_path) == made
    assert load(Config, file=tmp_path / "run.json", overrides=["rate=1"]).rate == 1.0


texts = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=12)
configs = st.builds(
    Config,
    model=texts,
    out=st.just(Path("a b/c")),
    rate=st.floats(allow_nan=False, allow_infinity=False),
    steps=st.none() | st.integers(),
    towers=st.dictionaries(texts, st.sampled_from(["lora", "full", "freeze"]), max_size=3),
    names=st.lists(texts, max_size=3).map(tuple),
    size=st.tuples(st.integers(), st.integers()),
    bf16=st.booleans(),
    extra=st.dictionaries(texts, texts | st.integers() | st.booleans() | st.none(), max_size=3),
)


@given(configs)
def test_yaml_json_and_dict_read_back_unchanged(
    tmp_path_factory: pytest.TempPathFactory, made: Config
) -> None:
    assert from_dict(Config, json.loads(json.dumps(to_dict(made)))) == made
    file = tmp_path_factory.mktemp("round") / "c.yaml"
    file.write_text(to_yaml(made), encoding="utf-8")
    assert load(Config, file=file) == made


def test_help_tells_name_type_default_and_meaning() -> None:
    lines = help_text(Config).splitlines()
    assert len(lines) == len(settings(Config))
    line = next(line for line in lines if line.split()[0] == "rate")
    assert line.split()[:3] == ["rate", "float", "0.0001"]
    assert line.endswith("peak learning rate")
    assert "(required)" in help_text(Needy)
    assert "[none, tensorboard]" in help_text(Config)


def test_yaml_carries_the_help_as_comments() -> None:
    assert "# peak learning rate\nrate: 0.0001\n" in to_yaml(Config())


@dataclass(frozen=True, kw_only=True)
class Rates:
    """A group of settings."""

    peak: float = field(default=1e-3, metadata={"help": "highest rate"})
    shape: Literal["cosine", "linear"] = field(default="cosine", metadata={"help": "what it looks like"})
    more: dict[str, Any] = field(default_factory=dict, metadata={"help": "anything"})


@dataclass(frozen=True, kw_only=True)
class Grouped:
    """A configuration with a group."""

    name: str = field(default="x", metadata={"help": "a name"})
    rates: Rates = field(default_factory=Rates, metadata={"help": "the rates"})


def test_fields_of_a_group_are_set_one_by_one_in_every_face(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("rates:\n  peak: 2e-4\n")
    presets = {"p": {"rates": {"shape": "linear"}}}
    overrides = ["rates.more.deep.x=3", "name=y"]
    made = load(Grouped, tmp_path / "c.yaml", overrides, preset="p", presets=presets)
    assert made == Grouped(name="y", rates=Rates(peak=2e-4, shape="linear", more={"deep": {"x": 3}}))
    assert from_dict(Grouped, json.loads(json.dumps(to_dict(made)))) == made
    (tmp_path / "again.yaml").write_text(to_yaml(made))
    assert load(Grouped, tmp_path / "again.yaml") == made
    assert load(Grouped, overrides=["rates={peak: 5}"]).rates == Rates(peak=5.0)
    assert from_dict(Grouped, {"rates": Rates(peak=5.0)}).rates == Rates(peak=5.0)
    assert [line.split()[0] for line in help_text(Grouped).splitlines()] == [
        "name", "rates.peak", "rates.shape", "rates.more",
    ]  # fmt: skip
    assert flatten(to_dict(made)) == {
        "name": "y", "rates.peak": 2e-4, "rates.shape": "linear", "rates.more.deep.x": 3,
    }  # fmt: skip


def test_mistakes_in_a_group_are_told_with_their_place() -> None:
    assert wrong("rates.peak=high", config=Grouped) == "rates.peak must be a number, not 'high'"
    assert "rates.peek is an unknown setting 'peek'; did you mean 'peak'?" in wrong(
        "rates.peek=1", config=Grouped
    )
    assert wrong("peak=1", config=Grouped) == "unknown setting 'peak'; it is called 'rates.peak'"
    assert "must be a mapping" in wrong("rates=3", config=Grouped)
    assert "rates.shape has unknown value 'cosin'" in wrong("rates.shape=cosin", config=Grouped)
