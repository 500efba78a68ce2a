from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import pytest

from apps.cli import main
from studio.shardwork import Engine, engine


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TRIPTYCH_ENGINE", "TRIPTYCH_WORKERS"):
        monkeypatch.setenv(name, "")  # what a command sets is taken back after the test


def test_a_check_by_two_processes_prints_what_one_finds(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []
    for workers in ("1", "2"):
        monkeypatch.setenv("TRIPTYCH_CACHE", str(tmp_path / workers))
        assert main(["check", "handwriting", "--json", "--engine", "local", "--workers", workers]) == 0
        told.append(json.loads(capsys.readouterr().out))
        assert engine() == Engine(workers=int(workers))
    assert told[0] == told[1]


@pytest.mark.parametrize("command", [["check", "handwriting"], ["run", "sft"]])
def test_an_engine_that_does_not_exist_or_is_not_installed_is_told_before_any_work(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--engine", "slurm"]) == 2
    assert "unknown engine 'slurm'; known: local, ray" in capsys.readouterr().err
    assert main([*command, "--workers", "-2"]) == 2
    if importlib.util.find_spec("ray") is None:
        assert main([*command, "--engine", "ray"]) == 2
        assert "pip install 'triptych[ray]'" in capsys.readouterr().err
    assert os.environ["TRIPTYCH_ENGINE"] == ""
