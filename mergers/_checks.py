"""Do these models belong together? Each objection names what differs and the word that overrides it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mergers._spec import MergeSpec
from mergers._stacks import COUNTS, PER_LAYER
from studio.checkpoint import Checkpoint
from studio.errors import MergeError

#: Objections that ``allow`` overrides, with what they protect from.
CHECKS = {
    "base": "adapters trained on another base",
    "config": "configurations that differ in shape or meaning",
    "tokenizer": "tokenizers that give the same text other numbers",
    "overwrite": "an output folder that no merge made",
    "quantized": "weights that are codes, not values",
    "extra": "tensors that the base does not have",
    "tied": "an adapter on a table that embedding and head share",
    "statistics": "statistics of other weights than those that are merged",
    "norm": "a result much longer or shorter than what went in",
}

#: Entries of config.json that change neither shapes nor meaning.
FREE = (
    "_name_or_path",
    "architectures",
    "dtype",
    "torch_dtype",
    "transformers_version",
    "use_cache",
    "attn_implementation",
    "_attn_implementation",
    "_attn_implementation_autoset",
    "return_dict",
    "output_attentions",
    "output_hidden_states",
    "initializer_range",
    "gradient_checkpointing",
)
#: What depends on the vocabulary.
WORDS = ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")
TOKENIZERS = ("tokenizer.json", "vocab.json", "merges.txt", "tokenizer.model", "added_tokens.json")


def check_models(spec: MergeSpec, donor: Checkpoint, models: Mapping[int, Checkpoint]) -> list[str]:
    """Refuse full models that do not belong to the donor; return what is worth a note."""
    notes: list[str] = []
    for checkpoint in (donor, *models.values()):
        if "quantization_config" in checkpoint.config and "quantized" not in spec.allow:
            raise MergeError(
                f"{checkpoint.folder} is quantized: averages of its codes mean nothing; merge the "
                "full-precision model (allow: quantized overrides)"
            )
    for checkpoint in models.values():
        if checkpoint.folder.resolve() == donor.folder.resolve():
            continue
        if "config" not in spec.allow:
            _check_config(donor, checkpoint, free_of(spec))
        if "tokenizer" not in spec.allow and not (spec.recipe and spec.recipe.tokenizer):
            _check_tokenizer(donor.folder, checkpoint.folder)
        if _differs(donor.folder, checkpoint.folder, "chat_template.jinja"):
            notes.append(
                f"{checkpoint.folder} has another chat template; the result has that of {donor.folder}"
            )
    return notes


def free_of(spec: MergeSpec) -> tuple[str, ...]:
    """Return the entries of config.json that may differ, since slices and tokenizer_source settle them."""
    recipe = spec.recipe
    sliced = recipe is not None and not all(module.whole for module in recipe.modules)
    words = recipe is not None and recipe.tokenizer
    return (*((*COUNTS, *PER_LAYER) if sliced else ()), *(WORDS if words else ()))


def _check_config(donor: Checkpoint, other: Checkpoint, free: Sequence[str] = ()) -> None:
    if not donor.config or not other.config:
        return
    ours, theirs = dict(_flat(donor.config)), dict(_flat(other.config))
    # An entry that only one of them has is a default that the other's library did not write.
    both = [key for key in ours if key in theirs and key.rpartition(".")[2] not in free]
    different = [key for key in both if ours[key] != theirs[key]]
    if different:
        shown = "; ".join(f"{key} is {theirs[key]!r}, not {ours[key]!r}" for key in different[:3])
        more = f" and {len(different) - 3} more" if len(different) > 3 else ""
        raise MergeError(
            f"{other.folder} is configured otherwise than {donor.folder}: {shown}{more} "
            "(allow: config overrides)"
        )


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if key in FREE:
            continue
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _check_tokenizer(donor: Path, other: Path) -> None:
    for name in TOKENIZERS:
        if not _differs(donor, other, name):
            continue
        why = f"{name} differs"
        if name == "tokenizer.json":
            token = _first_difference(vocabulary(donor / name), vocabulary(other / name))
            if token is None:
                continue  # the same numbers for the same words; only how the file was written differs
            why = f"'{token}' has another number"
        raise MergeError(
            f"the tokenizers of {donor} and {other} differ: {why}; the rows of their embeddings stand for "
            "different words (allow: tokenizer overrides)"
        )


def _differs(donor: Path, other: Path, name: str) -> bool:
    """Return whether both have a file and its contents differ; a model saved without it says nothing."""
    one, two = donor / name, other / name
    if not one.is_file() or not two.is_file():
        return False
    return hashlib.sha256(one.read_bytes()).digest() != hashlib.sha256(two.read_bytes()).digest()


def vocabulary(file: Path) -> dict[str, int]:
    """Return token -> number, added and special tokens included."""
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        found = data["model"].get("vocab", {})
        words = dict(found) if isinstance(found, dict) else {str(w[0]): i for i, w in enumerate(found)}
        return words | {token["content"]: token["id"] for token in data.get("added_tokens", ())}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise MergeError(f"{file} cannot be read as a tokenizer (allow: tokenizer overrides)") from None


def _first_difference(one: Mapping[str, int], two: Mapping[str, int]) -> str | None:
    return next((w for w in [*one, *two] if one.get(w) != two.get(w)), None)


def check_norm(spec: MergeSpec, merged: float, longest: float) -> None:
    """Refuse a result whose change from the base is out of all proportion to what went in."""
    if "norm" in spec.allow or longest == 0:
        return
    ratio = merged / longest
    if not 1e-3 <= ratio <= 10:
        raise MergeError(
            f"{spec.method} gives a change {ratio:.3g} times as long as the longest that went in, which "
            "hardly ever works; look at weights and scale (allow: norm overrides)"
        )
