from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "studio": {"studio"},
    "mergers": {"studio", "mergers"},
    "recipes": {"studio", "mergers", "recipes"},
    "apps": {"studio", "mergers", "recipes", "apps"},
}
DOORS = {
    "gradio": ("apps/web/",),
    "mergekit": ("mergers/_mergekit.py", "mergers/_mergekit_run.py"),
    "peft": ("studio/adapters.py", "studio/peft_methods.py", "studio/variants.py"),
    "bitsandbytes": ("studio/quantise.py",),
    "soundfile": ("studio/media.py", "studio/media_facts.py", "studio/synthetic/"),
    "torchaudio": ("studio/media.py", "studio/augment/", "studio/perturb/", "studio/synthetic/"),
    "PIL": (
        "studio/media.py",
        "studio/media_facts.py",
        "studio/augment/",
        "studio/perturb/",
        "studio/synthetic/",
        "studio/heatmap_picture.py",
        "studio/chart_picture.py",
        "studio/explain_picture.py",
    ),
    "transformers": ("studio/families/", "studio/generate.py"),
    "accelerate": ("studio/training/", "recipes/"),
    "sqlalchemy": ("studio/store.py", "studio/tables.py", "studio/migrations/"),
    "alembic": ("studio/store.py", "studio/migrations/"),
    "pyarrow": ("studio/data/",),
    "optuna": ("recipes/",),
    "captum": ("studio/explain.py", "studio/explain_gradient.py"),
    "ray": ("studio/shardwork_ray.py",),
    "fairlearn": ("studio/groups.py",),
}
FILES = sorted(file for room in MAY_IMPORT for file in (ROOT / room).rglob("*.py"))


def imports(file: Path) -> set[tuple[str, int]]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {(alias.name.partition(".")[0], node.lineno) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(((node.module or "").partition(".")[0], node.lineno))
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_follow_the_arrow_and_use_the_doors(file: Path) -> None:
    name = file.relative_to(ROOT).as_posix()
    allowed = MAY_IMPORT[name.partition("/")[0]]
    for package, line in imports(file):
        assert package not in MAY_IMPORT or package in allowed, f"{name}:{line} imports {package}"
        assert name.startswith(DOORS.get(package, (name,))), f"{name}:{line} imports {package} past its door"
