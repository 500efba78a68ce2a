from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "transformers", "gradio", "peft", "numpy", "PIL", "sqlalchemy", "soundfile")
LIGHT = ("studio.plugins", "studio.types", "studio.errors", "studio.log", "studio.config", "studio.files")


def heavy_after(code: str) -> list[str]:
    """Return which heavy packages are loaded after ``code`` ran in a fresh interpreter."""
    probe = f"{code}\nimport sys\nprint('\\nHEAVY', *[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    return done.stdout.rpartition("HEAVY")[2].split()


def cpu_seconds(*arguments: str) -> float:
    """Return the CPU time of a fresh interpreter, the least of three runs."""
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(times)


@pytest.mark.parametrize("module", [*LIGHT, "studio.assets", "apps.cli"])
def test_light_modules_import_nothing_heavy(module: str) -> None:
    assert heavy_after(f"import {module}") == []


def test_families_say_what_they_are_without_torch() -> None:
    """Merging asks them for their towers, and `triptych ls` for their first lines."""
    code = (
        "from studio import plugins\n"
        "from studio.families import family\n"
        "for name in plugins.names('families'):\n"
        "    assert family(name).towers and family(name).model_types\n"
    )
    assert heavy_after(code) == ["numpy"]


@pytest.mark.parametrize("arguments", [["ls"], ["ls", "methods"], ["--version"]])
def test_listing_imports_nothing_heavy(arguments: list[str]) -> None:
    assert heavy_after(f"from apps.cli import main\nassert main({arguments!r}) == 0") == []


@pytest.mark.parametrize("name", ["linear", "task_arithmetic", "ties", "dare_ties", "slerp"])
def test_whole_models_are_merged_without_torch(name: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    draw = torch.Generator().manual_seed(0)
    for folder in ("base", "one", "two"):
        (tmp_path / folder).mkdir()
        values = {"layers.0.weight": torch.randn(40, 30, generator=draw).bfloat16()}
        save_file(values, tmp_path / folder / "model.safetensors")
        (tmp_path / folder / "config.json").write_text('{"model_type": "qwen2"}')
    line = ["merge", "--method", name, "--base", "base", "one", "two", "-o", "out"]
    code = f"import os\nos.chdir({str(tmp_path)!r})\nfrom apps.cli import main\nassert main({line!r}) == 0"
    assert heavy_after(code) == ["numpy"]
    assert (tmp_path / "out/model.safetensors").is_file()


def test_help_answers_within_half_a_second_of_cpu_beyond_bare_python() -> None:
    spent = cpu_seconds("-m", "apps.cli", "--help") - cpu_seconds("-c", "pass")
    assert spent < 0.5, f"triptych --help took {spent:.2f} s of CPU time"
