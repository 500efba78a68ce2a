"""Tables that a model's input embedding and its head share: an adapter on one of them cannot just be baked.

Beside the base PEFT changes the module it is on, and not the other one that has the same weights. Baked into
the one table that is on disk, the same change reaches both, which is another model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mergers._groups import group_of
from mergers._sources import tied_name
from studio.adapters import Adapter
from studio.checkpoint import Checkpoint
from studio.errors import MergeError
from studio.later import torch

#: How models call the table of their tokens.
TABLES = ("embed_tokens", "wte", "word_embeddings", "tok_embeddings", "embed_in", "shared")


def is_tied(base: Checkpoint) -> bool:
    """Return whether a model's head is its table of tokens, by its configuration and what is on disk."""
    said = list(_flags(base.config))
    if said and not any(said):
        return False
    tables = [name for name in base.names() if _leaf(name) in TABLES]
    heads = [name for name in base.names() if _is_head(name)]
    return any(_same(base, table, heads) for table in tables)


def check_tied(adapter: Adapter, base: Checkpoint) -> None:
    """Refuse an adapter on one of two modules that share their weights, unless it stores both, and equal."""
    names = [*adapter.names(), *adapter.values]
    whole = set(adapter.tied.values())  # stored for both
    touched = [n for n in names if (_leaf(n) in TABLES or _is_head(n)) and n not in whole]
    if not touched or not is_tied(base):
        return
    values = [adapter.value(name) for name in touched if name in adapter.values]
    if len(values) == len(touched) == 2 and torch.equal(values[0], values[1]):
        return
    raise MergeError(
        f"'{touched[0]}' of {adapter.folder} is on a table that embedding and head share in {base.folder}: "
        "as an adapter it changes one of them, baked it would change both; run it as an adapter, train "
        "without it, or change both on purpose (allow: tied)"
    )


def _flags(config: Mapping[str, Any]) -> Iterator[bool]:
    for key, value in config.items():
        if key == "tie_word_embeddings":
            yield bool(value)
        elif isinstance(value, Mapping):
            yield from _flags(value)


def _same(base: Checkpoint, table: str, heads: list[str]) -> bool:
    fitting = [head for head in heads if base.shape(head) == base.shape(table)]
    return not heads or any(tied_name(base, head) == table for head in fitting)


def _leaf(name: str) -> str:
    """Return the last part of a module's path."""
    return name.removesuffix(".weight").rpartition(".")[2]


def _is_head(name: str) -> bool:
    return group_of(name).kind == "head"
