"""Results in the layouts of other tools, written by hand: what the tests of reading them read."""

from __future__ import annotations

import csv
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

#: Question, reference, answer and category of four rows; three of the answers are right.
ROWS = (
    ("Which sign?", "stop", "Stop.", "signs"),
    ("Which tool?", "hammer", "hammer", "tools"),
    ("Which tool?", "saw & file", "saw & file", "tools"),
    ("How many?", "7", "9", "numbers"),
)
HEAD = ("index", "question", "answer", "prediction", "category")


def lines(file: Path, rows: Sequence[Any]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def lm_eval(folder: Path, *, model: str = "pretrained=tiny", **first: Any) -> Path:
    """Write a run of lm-eval: figures and samples; ``first`` are fields of the first sample."""
    folder.mkdir(parents=True, exist_ok=True)
    about = {
        "results": {"shapes": {"alias": "shapes", "exact_match,none": 0.5, "exact_match_stderr,none": 0.2}},
        "configs": {"shapes": {"task": "shapes"}},
        "versions": {"shapes": 1.0},
        "n-samples": {"shapes": {"original": 4, "effective": 4}},
        "higher_is_better": {"shapes": {"exact_match": True}},
        "config": {"model": "hf", "model_args": model},
    }
    (folder / "results_2026-11-23T05-00-00.000001.json").write_text(json.dumps(about))
    samples = [
        {
            "doc_id": at,
            "doc": {"question": question, "groups": {"kind": kind}},
            "target": reference,
            "arguments": [[question, {"until": []}]],
            "resps": [[answer]],
            "filtered_resps": [answer],
            "exact_match": float(answer == reference),
        }
        for at, (question, reference, answer, kind) in enumerate(ROWS)
    ]
    samples[0] |= first
    lines(folder / "samples_shapes_2026-11-23T05-00-00.000001.jsonl", samples)
    return folder


def openai_evals(file: Path) -> Path:
    """Write a log of OpenAI's evals."""
    told: list[Any] = [
        {"spec": {"completion_fns": ["tiny"], "eval_name": "shapes.test", "base_eval": "shapes"}}
    ]
    for at, (question, reference, answer, _) in enumerate(ROWS):
        event = {"run_id": "1", "event_id": at, "sample_id": f"shapes.test.{at}"}
        prompt = [{"role": "user", "content": question}]
        told.append({**event, "type": "sampling", "data": {"prompt": prompt, "sampled": [answer]}})
        match = {"correct": answer == reference, "expected": reference, "picked": answer}
        told.append({**event, "type": "match", "data": match})
    return lines(file, [*told, {"final_report": {"accuracy": 0.5}}])


def table(file: Path) -> Path:
    """Write predictions of VLMEvalKit as .tsv, .csv or .xlsx."""
    rows = [HEAD, *((str(at), *row) for at, row in enumerate([(q, r, a, k) for q, r, a, k in ROWS]))]
    if file.suffix == ".xlsx":
        return sheet(file, rows)
    with file.open("w", newline="") as held:
        csv.writer(held, delimiter="\t" if file.suffix == ".tsv" else ",").writerows(rows)
    return file


def sheet(file: Path, rows: Sequence[Sequence[str]], *, ahead: str = "") -> Path:
    """Write an .xlsx file of two parts: texts by number, and one cell left out where it is empty."""
    texts = list(dict.fromkeys(cell for row in rows for cell in row if not cell.isdecimal()))
    space = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'

    def cell(at: int, column: int, value: str) -> str:
        place = f"{chr(65 + column)}{at + 1}"
        if value.isdecimal():
            return f'<c r="{place}"><v>{value}</v></c>'
        return f'<c r="{place}" t="s"><v>{texts.index(value)}</v></c>'

    body = "".join(
        f'<row r="{at + 1}">{"".join(cell(at, c, value) for c, value in enumerate(row) if value)}</row>'
        for at, row in enumerate(rows)
    )
    shared = "".join(f"<si><t>{escape(each)}</t></si>" for each in texts)
    with zipfile.ZipFile(file, "w") as packed:
        packed.writestr("xl/sharedStrings.xml", f"{ahead}<sst {space}>{shared}</sst>")
        packed.writestr(
            "xl/worksheets/sheet1.xml", f"<worksheet {space}><sheetData>{body}</sheetData></worksheet>"
        )
    return file


def helm(folder: Path) -> Path:
    """Write a run's folder of HELM."""
    folder.mkdir(parents=True)
    states = [
        {
            "instance": {
                "id": f"id{at}",
                "split": "test",
                "input": {"text": question},
                "references": [{"output": {"text": reference}, "tags": ["correct"]}],
            },
            "result": {"completions": [{"text": f" {answer}"}]},
        }
        for at, (question, reference, answer, _) in enumerate(ROWS)
    ]
    spec = {"adapter_spec": {"model": "tiny"}, "request_states": states}
    (folder / "scenario_state.json").write_text(json.dumps(spec))
    named = {"name": "exact_match", "split": "test"}
    (folder / "stats.json").write_text(json.dumps([{"name": named, "mean": 0.5, "count": 4}]))
    return folder


def card(file: Path, value: Any = 0.75) -> Path:
    """Write a model card with a model-index."""
    file.write_text(
        f"""---
model-index:
- name: tiny
  results:
  - task: {{type: image-to-text}}
    dataset: {{name: shapes, type: shapes}}
    metrics:
    - {{type: exact_match, value: {value}}}
---
# A card
"""
    )
    return file
