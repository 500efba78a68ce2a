"""What every recipe must keep, found by discovery: a new file under recipes is tested as it is."""

from __future__ import annotations

import ast
import dataclasses
import inspect
from types import ModuleType

import pytest

from studio import plugins
from studio.config import from_dict, help_text, load, settings, to_dict

NAMES = plugins.names("recipes")


@pytest.fixture(scope="module", params=NAMES)
def recipe(request: pytest.FixtureRequest) -> ModuleType:
    return plugins.load("recipes", request.param)


def test_there_are_recipes() -> None:
    assert "sft" in NAMES


def test_config_is_a_frozen_keyword_only_dataclass(recipe: ModuleType) -> None:
    assert dataclasses.is_dataclass(recipe.Config)
    assert recipe.Config.__dataclass_params__.frozen
    assert all(field.kw_only for field in dataclasses.fields(recipe.Config))


def test_config_has_at_most_25_fields_and_each_says_what_it_means(recipe: ModuleType) -> None:
    found = settings(recipe.Config)
    assert 0 < len(found) <= 25
    assert not [setting.name for setting in found if len(setting.help) < 5]
    every = [own for setting in found for own in setting.group or [setting]]
    assert not [setting.name for setting in every if len(setting.help) < 5]
    assert len(help_text(recipe.Config).splitlines()) == len(every)


def test_defaults_have_the_types_that_are_declared(recipe: ModuleType) -> None:
    given = {s.name: s.default for s in settings(recipe.Config) if not s.required}
    made = from_dict(recipe.Config, {**{s.name: "given" for s in settings(recipe.Config)}, **given})
    assert from_dict(recipe.Config, to_dict(made)) == made


def test_presets_name_settings_that_exist_and_one_is_smoke(recipe: ModuleType) -> None:
    assert "smoke" in recipe.PRESETS
    needed = [f"{s.name}=given" for s in settings(recipe.Config) if s.required]
    for preset in recipe.PRESETS:
        load(recipe.Config, overrides=needed, preset=preset, presets=recipe.PRESETS)


def test_run_takes_a_config_and_a_log_and_says_what_it_does(recipe: ModuleType) -> None:
    assert list(inspect.signature(recipe.run).parameters) == ["config", "log"]
    assert inspect.getdoc(recipe.run)
    assert inspect.getdoc(recipe)


def test_a_recipe_reports_to_its_log_and_never_prints(recipe: ModuleType) -> None:
    calls = [node for node in ast.walk(ast.parse(inspect.getsource(recipe))) if isinstance(node, ast.Call)]
    assert not [c.lineno for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"]
