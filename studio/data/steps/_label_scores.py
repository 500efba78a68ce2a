"""How probable a model finds each of a set's answers, for each row."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from studio import families
from studio.adapters import is_adapter, load_adapter, read_adapter
from studio.assets import find_model
from studio.checkpoint import Checkpoint
from studio.data.identity import sample_key
from studio.data.steps._measured import digests
from studio.data.steps._step import Bench, Place, place
from studio.errors import CheckpointError
from studio.later import torch
from studio.types import Family, Loaded, Sample, Text

_AT_ONCE = 16
_IGNORE = -100


def weights_of(name: str) -> str:
    """Return the fingerprint of a model's or an adapter's own weights."""
    return Checkpoint(_folder(name)).fingerprint()


def answer_scores(
    name: str, device: str, rows: Sequence[Sample], labels: Sequence[str], bench: Bench
) -> Mapping[Place, list[float]]:
    """Return the share of each label by row: softmax over the log-likelihoods of the whole answers.

    Raises:
        CheckpointError: if the model cannot be loaded.
        DataError: if the family takes no such row.
    """
    digest_of = digests(rows, bench)
    own = f"{weights_of(name)}:{json.dumps(list(labels))}"
    keys = {place(row): f"answers:{own}:{sample_key(_answering(row, ''), digest_of)}" for row in rows}
    known = {key: json.loads(text) for key, text in bench.kept.get(list(set(keys.values()))).items()}
    todo = [row for row in rows if keys[place(row)] not in known]
    if todo:
        family, loaded = _load(name, device)
        bench.log.stage("scoring answers", len(todo), "rows")
        for row in todo:
            likely: list[float] = []
            for at in range(0, len(labels), _AT_ONCE):
                said = [_answering(row, label) for label in labels[at : at + _AT_ONCE]]
                likely += _likelihoods(family, loaded, said, device)
            shares = torch.tensor(likely, dtype=torch.float64).softmax(0).tolist()
            known[keys[place(row)]] = shares
            bench.kept.put({keys[place(row)]: json.dumps(shares)})
            bench.log.advance()
    return {where: known[key] for where, key in keys.items()}


def _answering(row: Sample, answer: str) -> Sample:
    last = replace(row.turns[-1], parts=(Text(text=answer),))
    return replace(row, turns=(*(replace(turn, loss=False) for turn in row.turns[:-1]), last))


def _likelihoods(family: Family, loaded: Loaded, rows: Sequence[Sample], device: str) -> list[float]:
    """Return the log-likelihood of each row's last answer, summed over its tokens."""
    items = [family.encode(loaded.processor, row, True) for row in rows]
    batch = {key: value.to(device) for key, value in family.collate(loaded.processor, items, "right").items()}
    labels = batch.pop("labels")
    with torch.no_grad():
        logits = loaded.model(**batch, use_cache=False).logits.float()
    if "decoder_input_ids" not in batch:
        logits, labels = logits[:, :-1], labels[:, 1:]
    wanted = labels != _IGNORE
    chosen = logits.log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    values: list[float] = (chosen * wanted).sum(-1).tolist()
    return values


def _folder(name: str) -> Path:
    folder = find_model(name)
    return next((f for f in (folder, folder / "adapter", folder / "model") if _is_model(f)), folder)


def _is_model(folder: Path) -> bool:
    return is_adapter(folder) or (folder / "config.json").is_file()


def _load(name: str, device: str) -> tuple[Family, Loaded]:
    folder = _folder(name)
    adapter = read_adapter(folder) if is_adapter(folder) else None
    if adapter is not None and not adapter.base:
        raise CheckpointError(f"{folder} does not say which model it adapts")
    base = find_model(adapter.base) if adapter is not None else folder
    family = families.detect(base)
    loaded: Any = family.load(base, dtype=torch.float32, device=device)
    if adapter is not None:
        loaded = loaded._replace(model=load_adapter(loaded.model, folder).merge_and_unload())
    loaded.model.eval()
    return family, loaded
