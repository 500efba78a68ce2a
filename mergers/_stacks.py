"""Stacks of layers in a checkpoint: which there are, which is the language model's, and what counts them."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mergers._groups import group_of, towers_of
from studio.checkpoint import Checkpoint
from studio.errors import MergeError

_LAYER = re.compile(r"(.+?)\.(\d+)\.(.+)")
#: Configuration keys that count layers.
COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers")
#: Lists with an entry per layer, and what is derived from the number of layers.
PER_LAYER = ("layer_types", "mlp_layer_types", "no_rope_layers", "max_window_layers", "attn_layer_indices")
#: Parts of a configuration that describe something else than the language model.
_OTHERS = re.compile(r"vision|visual|audio|image|speech|talker|token2wav|code2wav|projector")
#: The loose tensors of a language model that come before its layers; the others come after them.
_BEFORE = re.compile(r"emb(?!ed_out)|wte|wpe|rotary|position|token_type")


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Layers whose tensors are called ``prefix.0.``, ``prefix.1.`` and so on."""

    prefix: str
    count: int

    def place(self, name: str) -> tuple[int, str] | None:
        """Return a tensor's layer and its name there; None outside the stack."""
        found = _LAYER.fullmatch(name)
        return (int(found[2]), found[3]) if found and found[1] == self.prefix else None

    def name(self, layer: int, rest: str) -> str:
        """Return the whole name of a layer's tensor."""
        return f"{self.prefix}.{layer}.{rest}"


def stacks(names: Iterable[str]) -> list[Stack]:
    """Return the stacks, by the first number in each name; numbers with gaps are no layers."""
    found: dict[str, set[int]] = {}
    for name in names:
        if match := _LAYER.fullmatch(name):
            found.setdefault(match[1], set()).add(int(match[2]))
    return [
        Stack(prefix=prefix, count=len(numbers))
        for prefix, numbers in found.items()
        if numbers == set(range(len(numbers)))
    ]


def language_names(checkpoint: Checkpoint) -> list[str]:
    """Return the tensors of the language model: those that are in no tower."""
    towers = towers_of(checkpoint.config)
    return [name for name in checkpoint.names() if group_of(name, towers).tower == "llm"]


def only_stack(checkpoint: Checkpoint, names: Sequence[str], what: str) -> Stack:
    """Return the one stack among some tensors of a checkpoint, or raise `MergeError`."""
    found = stacks(names)
    if len(found) != 1:
        has = " and ".join(stack.prefix for stack in found) or "none"
        raise MergeError(f"slices need one stack of layers in {what} of {checkpoint.folder}; it has {has}")
    return found[0]


def comes_before(name: str) -> bool:
    """Return whether a tensor outside of the layers belongs to what comes before them."""
    return bool(_BEFORE.search(name))


def depth(found: Sequence[Stack], name: str) -> float:
    """Return how deep in its own stack a tensor lies, from 0 to 1; 0 outside, 1 in a stack of one."""
    for stack in found:
        if (place := stack.place(name)) is not None:
            return place[0] / (stack.count - 1) if stack.count > 1 else 1.0
    return 0.0


def sliced_config(
    config: Mapping[str, Any], stack: Stack, layers: Sequence[tuple[Checkpoint, int]]
) -> dict[str, Any]:
    """Return a configuration for other layers of a stack: ``layers`` says where each one comes from.

    Lists with an entry per layer take the entry of the layer that comes.
    """
    fresh = copy.deepcopy(dict(config))
    places = list(_counted(fresh, stack))
    if not places:
        raise MergeError(
            f"config.json of the base model does not say that there are {stack.count} layers in "
            f"{stack.prefix}; slices cannot be told to it"
        )
    for path, key in places:
        part = _at(fresh, path)
        for name, value in list(part.items()):
            if isinstance(value, list) and len(value) == stack.count and name in PER_LAYER:
                part[name] = [_entry(source, path, name, layer) for source, layer in layers]
        part[key] = len(layers)
    return fresh


def _counted(config: Mapping[str, Any], stack: Stack, path: tuple[str, ...] = ()) -> Iterator[Any]:
    """Yield (path, key) of every count of a stack's layers."""
    side = next((s for s in ("encoder", "decoder") if s in stack.prefix.split(".")), "")
    for key, value in config.items():
        if isinstance(value, Mapping) and not _OTHERS.search(key):
            yield from _counted(value, stack, (*path, key))
        elif key in COUNTS and value == stack.count:
            # Where encoder and decoder are counted, the plain count is that of the encoder.
            plain = "encoder" if "decoder_layers" in config else side
            if (key.partition("_")[0] if "coder" in key else plain) == side:
                yield path, key


def _entry(source: Checkpoint, path: Sequence[str], name: str, layer: int) -> Any:
    found = _at(source.config, path).get(name)
    if not isinstance(found, list) or layer >= len(found):
        raise MergeError(f"config.json of {source.folder} has no {name} for layer {layer}")
    return found[layer]


def _at(config: Mapping[str, Any], path: Sequence[str]) -> Any:
    part: Any = config
    for key in path:
        part = part.get(key, {})
    return part
