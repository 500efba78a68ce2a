from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CODE = sorted(
    f for room in ("studio", "mergers", "recipes", "apps", "tests") for f in (ROOT / room).rglob("*.py")
)
FORBIDDEN = {"utils", "util", "common", "helpers", "helper", "manager", "managers", "base", "misc"}
#: A test may invent the home of somebody who does not exist, to see that it is not shown.
INVENTED = ("/home/me", "/home/someone", "/home/user")
ABSOLUTE = re.compile(r"""(?<![\w.:/<$~-])/(?:home|root|work|Users|mnt|opt|data|workspace)/[\w.-]+""")
TEXT = {".py", ".md", ".toml", ".yaml", ".yml", ".json", ".sh", ".css", ".js", ".html", ""}


def tracked() -> list[Path]:
    """Return the files of the project, as git knows them, or as they lie where there is no git."""
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    names = done.stdout.splitlines() if done.returncode == 0 else []
    return [ROOT / name for name in names if (ROOT / name).is_file()] or CODE


@pytest.mark.parametrize(
    "name", ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile", ".ci/run"]
)
def test_the_house_has_its_papers(name: str) -> None:
    assert (ROOT / name).is_file()
    assert (ROOT / name).stat().st_size > 200


def test_no_file_is_longer_than_400_lines() -> None:
    lengths = {file.relative_to(ROOT).as_posix(): len(file.read_text().splitlines()) for file in CODE}
    assert {name: count for name, count in lengths.items() if count > 400} == {}


def test_half_of_the_files_are_shorter_than_150_lines() -> None:
    lengths = sorted(len(file.read_text().splitlines()) for file in CODE if "tests" not in file.parts)
    assert lengths[len(lengths) // 2] < 150


def test_no_module_has_a_name_that_says_nothing() -> None:
    assert [file for file in CODE if file.stem.strip("_") in FORBIDDEN or file.parent.name in FORBIDDEN] == []


def test_no_text_names_a_place_on_somebodys_machine() -> None:
    found = []
    for file in tracked():
        if file.suffix in TEXT and file.stat().st_size < 2_000_000 and "assets" not in file.parts[:-3]:
            for number, line in enumerate(file.read_text(errors="replace").splitlines(), 1):
                places = [place for place in ABSOLUTE.findall(line) if place not in INVENTED]
                found += [f"{file.relative_to(ROOT)}:{number}: {place}" for place in places]
    assert found == []


def test_nothing_is_left_to_do_in_the_code() -> None:
    marks = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X|HA" + r"CK)\b")
    assert [f.relative_to(ROOT) for f in CODE if marks.search(f.read_text())] == []


def test_weights_are_shipped_as_safetensors_only() -> None:
    pickled = {".bin", ".pt", ".pth", ".pkl", ".ckpt", ".npy"}
    assert [file for file in tracked() if file.suffix in pickled] == []


def test_the_continuous_integration_script_can_be_run() -> None:
    script = ROOT / ".ci/run"
    assert script.stat().st_mode & 0o111
    assert "set -euo pipefail" in script.read_text()
    subprocess.run(["bash", "-n", str(script)], check=True)
