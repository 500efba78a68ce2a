"""``tokenizer`` of a mergekit file: whose words, how many rows, and what single words are given.

tokenizer:
  source: union
  pad_to_multiple_of: 64
  tokens:
    <|im_start|>: {source: a, force: true}                                     a's row for every model
    <|im_end|>: {source: {kind: model_token, model: a, token: </s>}}           where a model lacks it
    <|new|>: {source: {kind: zero}}
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from studio.errors import unknown

KEYS = ("source", "tokens", "pad_to_multiple_of")
KINDS = ("zero", "model_token")


@dataclass(frozen=True, kw_only=True)
class Given:
    """The row of one word for models that lack it, or with ``force`` for all.

    model   whose row it is, by how the file names it; None for zeros
    row     of which other word, by its text or number; None for that of the same word
    """

    model: Any = None
    row: str | int | None = None
    force: bool = False


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The vocabulary that a file asks for: ``source`` is base, union or a folder; "" leaves it alone."""

    source: str = ""
    multiple: int = 1
    tokens: Mapping[str, Given] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Return whether a file asks for any."""
        return bool(self.source)


def read_wanted(source: Any, given: Any, reference: Callable[[Any, str], Any], wrong: list[str]) -> Wanted:
    """Return what ``tokenizer_source`` and ``tokenizer`` ask for; what is wrong is added to ``wrong``.

    ``reference`` reads a model as the file names it, and says where.
    """
    if source and given:
        wrong.append("give tokenizer_source or tokenizer, not both")
    more = given if isinstance(given, Mapping) else {}
    if given and not more:
        wrong.append(f"tokenizer is a mapping with source, tokens or pad_to_multiple_of, not {given!r}")
    wrong += [unknown("key of tokenizer", str(key), KEYS) for key in more if key not in KEYS]
    if more:
        source = more.get("source") or "union"
    if isinstance(source, Mapping):
        source = str(reference(source, "tokenizer.source"))
    multiple = more.get("pad_to_multiple_of") or 1
    if type(multiple) is not int or multiple < 1:
        wrong.append(f"tokenizer.pad_to_multiple_of must be a whole number >= 1, not {multiple!r}")
        multiple = 1
    tokens = more.get("tokens") or {}
    if not isinstance(tokens, Mapping):
        wrong.append(f"tokenizer.tokens maps words to what they are given, not {tokens!r}")
        tokens = {}
    read = {str(word): _given(str(word), entry, reference, wrong) for word, entry in tokens.items()}
    return Wanted(source=str(source) if source else "", multiple=multiple, tokens=read)


def _given(word: str, entry: Any, reference: Callable[[Any, str], Any], wrong: list[str]) -> Given:
    where = f"tokenizer.tokens.{word}"
    if not isinstance(entry, Mapping) or not entry.get("source"):
        wrong.append(f"{where} needs a source: a model, or a mapping with kind zero or model_token")
        return Given()
    wrong += [
        unknown(f"key of {where}", str(k), ("source", "force")) for k in entry if k not in ("source", "force")
    ]
    source, force = entry["source"], entry.get("force", False)
    if not isinstance(force, bool):
        wrong.append(f"{where}.force must be true or false, not {force!r}")
    if not isinstance(source, Mapping) or "kind" not in source:
        return Given(model=reference(source, where), force=bool(force))
    kind = str(source["kind"])
    if kind not in KINDS:
        wrong.append(unknown(f"kind of {where}", kind, KINDS))
    if kind != "model_token":
        return Given(force=bool(force))
    named = [source[key] for key in ("token", "token_id") if source.get(key) is not None]
    if len(named) != 1 or not isinstance(named[0], (str, int)):
        wrong.append(f"{where} of the kind model_token needs either token or token_id")
        return Given()
    row = named[0] if "token_id" in source and source["token_id"] is not None else str(named[0])
    return Given(model=reference(source.get("model"), where), row=row, force=bool(force))
