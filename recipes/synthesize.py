"""Make rows for media without answers: a teacher or templates propose, agreement and a metric decide.

    triptych run synthesize data=photos question="What is this?" model=runs/teacher output=runs/made
    triptych run synthesize data=calls propose=questions model=runs/teacher against=answer

The folder `output` gets train.jsonl with its media, rejected.json (every other row with the reason),
synthesize.json (the report) and run.json. Every row says in `source` that it is synthetic, and where from.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from recipes import _synthesis as parts
from recipes._proposals import draft_of, given, propose, read_proposals, reference
from recipes._synthesis import Draft, Model
from studio import plugins
from studio.assets import find_data
from studio.config import to_dict
from studio.data import write_jsonl
from studio.data.identity import data_hash, sample_key
from studio.errors import ConfigError, DataError, unknown
from studio.files import atomic_write
from studio.log import Log
from studio.runs import find_same, new_record, write_run
from studio.scores import measure
from studio.training.threads import set_threads
from studio.types import Run, Sample

#: Rows whose proposals stand in one file: what a kill can cost.
CHUNK = 32


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is proposed, by whom, and what it takes to be kept."""

    data: str = field(default="handwriting", metadata={"help": "rows, or a folder of pictures and sounds"})
    split: str = field(default="train", metadata={"help": "which rows of a folder"})
    question: str = field(default="", metadata={"help": "what is asked about media that have no rows"})
    output: Path = field(default=Path("runs/synthesize"), metadata={"help": "the new rows' folder"})
    propose: Literal["answers", "questions"] = field(
        default="answers", metadata={"help": "answers to the rows' questions, or other questions"}
    )
    model: str = field(
        default="nano-omni", metadata={"help": "the teacher: model, run, adapter, base+adapter; '' for none"}
    )
    templates: tuple[str, ...] = field(
        default=(), metadata={"help": "texts with {fields} of a row that propose instead of the teacher"}
    )
    prompt: str = field(
        default="Say this in other words: {question}", metadata={"help": "how a teacher is asked to vary"}
    )
    variations: int = field(default=1, metadata={"help": "proposals for each row"})
    samples: int = field(default=5, metadata={"help": "the teacher's answers to each question"})
    temperature: float = field(default=0.7, metadata={"help": "how freely it answers; 0 is greedy"})
    agreement: float = field(default=0.6, metadata={"help": "share of the answers that must agree"})
    metric: str = field(default="exact_match", metadata={"help": "by which answers agree, and score"})
    against: str = field(
        default="", metadata={"help": "what answers are scored against: answer, judge, or groups.NAME"}
    )
    score: float = field(default=1.0, metadata={"help": "least score (the most, for an error rate)"})
    judge: str = field(default="", metadata={"help": "a second model, for against=judge"})
    max_new_tokens: int = field(default=48, metadata={"help": "longest answer"})
    batch_size: int = field(default=16, metadata={"help": "answers at a time"})
    limit: int = field(default=0, metadata={"help": "only so many rows; 0 takes all"})
    seed: int = field(default=0, metadata={"help": "seed of templates and answers"})
    device: str = field(default="cpu", metadata={"help": "where models run, as cpu or cuda"})
    resume: bool | None = field(default=None, metadata={"help": "go on from what output holds; none: if so"})


PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {"limit": 4, "samples": 2, "max_new_tokens": 8, "agreement": 0.0, "output": "runs/made-smoke"}
}

#: Settings that do not change what is proposed; with others the same proposals are filtered again.
APART = ("output", "resume", "agreement", "score", "batch_size", "device")


def run(config: Config, log: Log) -> Run:
    """Propose, filter and write; a killed run goes on where it was, other thresholds filter anew.

    Raises `TriptychError` for a mistake in settings, models or data, before anything is proposed.
    """
    check(config)
    began = time.monotonic()
    set_threads()
    rows = parts.read_rows(find_data(config.data), config.split, config.question)[: config.limit or None]
    if config.against.startswith("groups.") and not any(reference(config, row) for row in rows):
        raise ConfigError(f"against={config.against}, and no row has that group")

    # Models: found and hashed now, loaded when they are first asked.
    size = (config.device, config.batch_size, config.max_new_tokens)
    teacher = Model(config.model, *size) if config.model else None
    judge = Model(config.judge, *size) if config.judge else None
    inputs = {"data": data_hash(rows)}
    inputs |= {"model": teacher.fingerprint} if teacher else {}
    inputs |= {"judge": judge.fingerprint} if judge else {}
    record = new_record("synthesize", to_dict(config), inputs, apart=APART)
    if find_same(config.output, record, config.resume, apart=APART) is None:
        shutil.rmtree(config.output / "proposed", ignore_errors=True)
    write_run(config.output, record)

    # Proposals: chunk by chunk into files, so that nothing is asked twice. A chunk's answers are a function
    # of the seed and its first row alone.
    folder = config.output / "proposed" / record.fingerprint[:16]
    proposed: list[dict[str, Any]] = []
    drafts: list[Draft] = []
    log.stage("proposing", len(rows), "rows")
    for begin in range(0, len(rows), CHUNK):
        file = folder / f"{begin:08}.json"
        if not file.exists():
            made = propose(config, rows[begin : begin + CHUNK], begin, teacher, judge)
            atomic_write(file, json.dumps(made, ensure_ascii=False))
        for one in read_proposals(file.read_text(encoding="utf-8")):
            proposed.append(one)
            drafts.append(draft_of(one, rows[one["row"]]))
        log.advance(min(CHUNK, len(rows) - begin))

    # Filters: each row is kept, or rejected with the first reason there is.
    by = f"{config.propose} by {teacher.name if teacher and not config.templates else 'templates'}"
    media = parts.Media(config.output)
    weights = teacher.fingerprint[:16] if teacher else ""
    kept: list[Sample] = []
    kept_of: list[dict[str, Any]] = []
    rejected: list[dict[str, Any]] = []
    seen: set[str] = set()
    for one, draft in zip(proposed, drafts, strict=True):
        reason = one["problem"] or _reason(config, one)
        if not reason:
            told = {k: one[k] for k in ("agreement", "score") if one[k] is not None}
            told |= {"by": by, "weights": weights, "samples": len(one["samples"]), "seed": config.seed}
            sample = parts.finished(draft, one["answer"], told, by, media)
            key = sample_key(sample)
            reason = "the same as a row before it" if key in seen else ""
            seen.add(key)
        if reason:
            where = f"{draft.sample.file.name}:{draft.sample.line}"
            shown = {k: v for k, v in one.items() if k != "problem" and v not in (None, "", [])}
            rejected.append({"where": where, "reason": reason, **shown})
        else:
            kept.append(sample)
            kept_of.append(one)
    told_all = report(config, rows, proposed, kept_of, rejected)

    # Write: rows first, so that a report never speaks of rows that are not there.
    if not kept:
        reasons = ", ".join(f"{count} x {reason}" for reason, count in told_all["reasons"].items())
        raise DataError(f"none of {len(proposed)} proposals was kept: {reasons}")
    write_jsonl(config.output / "train.jsonl", kept)
    atomic_write(config.output / "rejected.json", json.dumps(rejected, indent=1, ensure_ascii=False) + "\n")
    atomic_write(config.output / "synthesize.json", json.dumps(told_all, indent=2, ensure_ascii=False) + "\n")
    figures = {"rows": float(len(rows)), "kept": float(len(kept)), "rejected": float(len(rejected))}
    figures |= {f"accuracy_{name}": one["value"] for name, one in told_all["own_answers"].items()}
    timings = {"all": time.monotonic() - began}
    write_run(config.output, dataclasses.replace(record, state="finished", metrics=figures, timings=timings))
    for reason, count in told_all["reasons"].items():
        log.say(f"{count} rejected: {reason}")
    return Run(folder=config.output, metrics=figures)


def check(config: Config) -> None:
    """Raise one `ConfigError` with every setting that is out of range or does not go with another."""
    wrong = [
        f"{name} must be at least {least}, not {value}"
        for name, least in (("samples", 1), ("variations", 1), ("max_new_tokens", 1), ("batch_size", 1),
                            ("limit", 0), ("temperature", 0))
        if (value := getattr(config, name)) < least
    ]  # fmt: skip
    if not 0 <= config.agreement <= 1:
        wrong.append(f"agreement must be from 0 to 1, not {config.agreement}")
    if config.samples > 1 and config.temperature == 0 and config.model and not given(config):
        wrong.append("temperature is 0, so all samples are the same; set samples=1, or a temperature")
    if not config.model and not config.templates:
        wrong.append("either model or templates must be given: nobody proposes")
    if config.against not in ("", "answer", "judge") and not config.against.startswith("groups."):
        wrong.append(f"against: {unknown('reference', config.against, ('answer', 'judge', 'groups.NAME'))}")
    if (config.against == "judge") != bool(config.judge):
        wrong.append("judge and against=judge go together")
    if not config.templates and config.propose == "questions" and "{question}" not in config.prompt:
        wrong.append(f"prompt needs {{question}} where the question is to stand, not '{config.prompt}'")
    if wrong:
        raise ConfigError("; ".join(wrong))
    plugins.canonical("metrics", config.metric)


def _reason(config: Config, one: dict[str, Any]) -> str:
    """Return why a proposal is rejected, or the empty string."""
    if not one["answer"].strip():
        return "the answer is empty"
    if one["agreement"] is not None and one["agreement"] < config.agreement - 1e-9:
        return f"fewer than {config.agreement:g} of the answers agree"
    if config.against:
        if one["score"] is None:
            return f"there is no {config.against} to score against"
        better = plugins.load("metrics", config.metric).HIGHER_IS_BETTER
        if (one["score"] < config.score) if better else (one["score"] > config.score):
            beyond = "below" if better else "above"
            return f"{config.metric} against {config.against} is {beyond} {config.score:g}"
    return ""


def report(
    config: Config,
    rows: Sequence[Sample],
    proposed: Sequence[dict[str, Any]],
    kept: Sequence[dict[str, Any]],
    rejected: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """Return the report: how many were kept, why others were not, and how right both are.

    Where rows have answers of their own, ``own_answers`` holds the metric of what was proposed against them:
    of each row's first sample, of the answer that most agree on, and of the rows that were kept.
    """
    known = [one for one in proposed if rows[one["row"]].answer and one["answer"]]
    told: dict[str, Any] = {}
    sets = {"agreed": (known, "answer"), "kept": ([one for one in kept if rows[one["row"]].answer], "answer")}
    if all(one["samples"] for one in known):
        sets["first_sample"] = (known, "first")
    for name, (some, which) in sets.items():
        if some and config.propose == "answers":
            said = [one["samples"][0] if which == "first" else one["answer"] for one in some]
            score = measure(config.metric, said, [rows[one["row"]].answer for one in some], seed=config.seed)
            told[name] = {"value": score.value, "n": score.n, "low": score.low, "high": score.high}
    shares = Counter(f"{one['agreement']:.1f}" for one in proposed if one["agreement"] is not None)
    return {
        "rows": len(rows),
        "proposed": len(proposed),
        "kept": len(kept),
        "rejected": len(rejected),
        "reasons": dict(Counter(one["reason"] for one in rejected).most_common()),
        "agreement": dict(sorted(shares.items())),
        "metric": config.metric,
        "own_answers": told,
        "settings": {"agreement": config.agreement, "against": config.against, "score": config.score},
    }
