"""Runs what the README shows: every fenced block of commands that follows the comment `<!-- test -->`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
BLOCK = re.compile(r"^<!-- test -->\s*\n```(?:bash|sh|console)?\n(.*?)^```$", re.M | re.S)


def blocks() -> list[str]:
    """Return the marked blocks; a leading ``$`` is a prompt and not a part of the command."""
    if not README.is_file():
        return []
    found = BLOCK.findall(README.read_text(encoding="utf-8"))
    return [re.sub(r"^\$ ", "", block, flags=re.M) for block in found]


@pytest.mark.skipif(not README.is_file(), reason="there is no README yet")
def test_the_readme_marks_commands_to_be_tested() -> None:
    assert blocks(), "no fenced block of the README follows `<!-- test -->`"


@pytest.mark.parametrize("block", blocks())
def test_the_commands_of_the_readme_work(block: str, tmp_path: Path) -> None:
    for shared in ("assets", "recipes", "tests"):
        if (ROOT / shared).exists():
            (tmp_path / shared).symlink_to(ROOT / shared)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block],
        cwd=tmp_path,
        env={**os.environ, "PATH": path, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"{block}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
