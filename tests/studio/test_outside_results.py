from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from studio.errors import DataError
from studio.outside_results import read_outside
from tests.studio.outside_layouts import HEAD, ROWS, card, helm, lines, lm_eval, openai_evals, sheet, table

MAKERS: dict[str, Callable[[Path], Path]] = {
    "lm_eval": lambda folder: lm_eval(folder / "run"),
    "openai_evals": lambda folder: openai_evals(folder / "log.jsonl"),
    "vlmeval-tsv": lambda folder: table(folder / "tiny_shapes.tsv"),
    "vlmeval-csv": lambda folder: table(folder / "tiny_shapes.csv"),
    "vlmeval-xlsx": lambda folder: table(folder / "tiny_shapes.xlsx"),
    "helm": lambda folder: helm(folder / "shapes:split=test"),
}


@pytest.mark.parametrize("name", MAKERS)
def test_every_format_is_found_out_and_its_answers_are_read(name: str, tmp_path: Path) -> None:
    found = read_outside(MAKERS[name](tmp_path))
    assert found.format == name.split("-")[0]
    assert {(each.variant, each.domain) for each in found.answers} == {("tiny", "shapes")}
    told = [(each.prompt, each.reference, each.output) for each in found.answers]
    assert told == [row[:3] for row in ROWS]
    assert len({each.where for each in found.answers}) == len(ROWS)


def test_figures_come_with_their_error_and_number_of_rows(tmp_path: Path) -> None:
    (figure,) = read_outside(lm_eval(tmp_path)).figures
    assert (figure.metric, figure.value, figure.stderr, figure.n) == ("exact_match", 0.5, 0.2, 4)


def test_groups_and_scores_of_rows_are_kept(tmp_path: Path) -> None:
    first = read_outside(lm_eval(tmp_path / "a")).answers[0]
    assert (first.groups, first.scores) == ({"kind": "signs"}, {"exact_match": 0.0})
    assert read_outside(table(tmp_path / "tiny_shapes.xlsx")).answers[0].groups == {"category": "signs"}


def test_a_multiple_choice_answers_with_the_likeliest_choice(tmp_path: Path) -> None:
    folder = lm_eval(tmp_path, filtered_resps=[["-3.5", "False"], ["-0.5", "True"]], target=1)
    assert (lambda each: (each.output, each.reference))(read_outside(folder).answers[0]) == ("1", "1")


def test_a_model_card_and_score_files_tell_figures(tmp_path: Path) -> None:
    (figure,) = read_outside(card(tmp_path / "README.md")).figures
    assert (figure.variant, figure.domain, figure.metric, figure.value) == (
        "tiny",
        "shapes",
        "exact_match",
        0.75,
    )
    file = tmp_path / "tiny_shapes_acc.csv"
    file.write_text('"split","Overall","small parts"\n"test","0.5","0.25"\n')
    found = [(each.metric, each.value) for each in read_outside(file).figures]
    assert found == [("Overall_test", 0.5), ("small_parts_test", 0.25)]
    file = tmp_path / "tiny_shapes_score.json"
    file.write_text('{"Overall": 61.5, "by kind": {"signs": 1}}')
    found = [(each.metric, each.value) for each in read_outside(file).figures]
    assert found == [("Overall", 61.5), ("by_kind_signs", 1.0)]


HOSTILE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "nan": (
        lambda f: _text(f / "a.jsonl", '{"doc_id": 0, "target": "a", "resps": "a", "acc": NaN}'),
        ":1: NaN is no",
    ),
    "huge": (
        lambda f: _text(f / "a.jsonl", '{"doc_id": 0, "target": "a", "resps": "a", "acc": 1e999}'),
        "a.jsonl:1: acc: inf is no finite number",
    ),
    "long": (
        lambda f: _text(
            f / "a.jsonl", '{"doc_id": 0, "target": "a", "resps": "a", "acc": 1' + "0" * 400 + "}"
        ),
        "a.jsonl:1: acc: 1000",
    ),
    "digits": (
        lambda f: _text(
            f / "a.jsonl", '{"doc_id": 0, "resps": "a", "target": "b"}\n{"a": 1' + "0" * 5000 + "}"
        ),
        ":2 is no",
    ),
    "missing": (
        lambda f: _text(f / "a.jsonl", '{"doc_id": 0, "resps": "a"}'),
        "a.jsonl:1: there is no 'target'",
    ),
    "cut": (
        lambda f: _text(f / "a.jsonl", '{"doc_id": 0, "resps": "a", "target": "b"}\n{"doc'),
        "a.jsonl:2 is no JSON",
    ),
    "list": (
        lambda f: _text(f / "a.jsonl", '{"doc_id": 0, "resps": "a", "target": "b"}\n[1]'),
        ":2 is no JSON object",
    ),
    "event": (
        lambda f: _text(f / "a.jsonl", '{"spec": {}}\n{"type": "match", "data": 1, "sample_id": "a"}'),
        ":2: 'da",
    ),
    "deep": (lambda f: _text(f / "a_score.json", "[" * 200_000), "nested too deeply"),
    "column": (
        lambda f: _text(f / "a_b.tsv", "index\tprediction\n1\ta\n"),
        "a_b.tsv:1: there is no column 'answer'",
    ),
    "cells": (lambda f: _text(f / "a_b.csv", "index,answer,prediction\n1,a,b,c\n"), "a_b.csv:2: 4 cells"),
    "hit": (
        lambda f: _text(f / "a_b.csv", "index,answer,prediction,hit\n1,a,b,-inf\n"),
        "a_b.csv:2: hit: '-inf'",
    ),
    "zip": (lambda f: _text(f / "a_b.xlsx", "no zip"), "is no .xlsx file"),
    "entity": (
        lambda f: sheet(f / "a_b.xlsx", [HEAD], ahead='<!DOCTYPE a [<!ENTITY b "c">]>'),
        "a document type of its own",
    ),
    "yaml": (lambda f: card(f / "README.md", "&a [*a]"), "refers to parts of itself"),
    "index": (lambda f: card(f / "README.md", ".nan"), "README.md: result 1: nan is no finite number"),
    "helm": (
        lambda f: _text(f / "scenario_state.json", '{"request_states": [{"instance": 1}]}'),
        "request 1 has not",
    ),
    "none": (lambda f: _text(f / "a.json", '{"a": 1}'), "in no known format"),
    "gone": (lambda f: f / "nothing", "does not exist"),
    "empty": (lambda f: _text(f / "results.json", '{"results": {}, "configs": {}}'), "holds no result"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_in_one_sentence_with_their_place(name: str, tmp_path: Path) -> None:
    make, said = HOSTILE[name]
    with pytest.raises(DataError, match=re.escape(said)) as caught:
        read_outside(make(tmp_path))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500 + len(str(tmp_path))


def _text(file: Path, text: str) -> Path:
    file.write_text(text)
    return file


def test_rows_stay_with_their_run_where_a_folder_holds_two(tmp_path: Path) -> None:
    lm_eval(tmp_path / "one", model="pretrained=one")
    lm_eval(tmp_path / "two", model="pretrained=two", filtered_resps=["other"])
    found = read_outside(tmp_path).answers
    first: dict[str, Any] = {each.variant: each.output for each in found if each.where == "shapes:0"}
    assert first == {"one": "Stop.", "two": "other"}


def test_a_log_without_its_spec_at_the_head_is_in_no_format(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="in no known format"):
        read_outside(lines(tmp_path / "log.jsonl", [json.loads('{"final_report": {"accuracy": 1}}')]))
