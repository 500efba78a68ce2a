"""A model as it answers: without dropout, and computing the scores of each row's last place only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Switch dropout off for the block, and back on if it was on."""
    training = model.training
    if training:
        model.eval()
    try:
        yield
    finally:
        if training:
            model.train()


@contextmanager
def last_only(model: Any) -> Iterator[None]:
    """Let what comes behind the last attention see each row's last place only; no other is looked at.

    That is the last layer's products and the head: for a vocabulary of 150,000 the scores of a prompt take
    more memory than all the rest. The residual stream stays [B, L, D]: what is added to it is broadcast, so
    that its last place is right, and the others are not read any more.
    """
    handles = [each.register_forward_pre_hook(_last) for each in _behind(model)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _behind(model: Any) -> Iterator[Any]:
    """Yield the modules behind a decoder's last attention that take hidden states [B, L, D]."""
    head = model.get_output_embeddings()
    if head is None:
        return
    yield head
    if getattr(model.config, "is_encoder_decoder", False):
        return
    last: Any = next(iter(reversed(getattr(model.get_decoder(), "layers", None) or [None])), None)
    if getattr(last, "_compiled_call_impl", None) is not None:
        return  # torch.compile does not promise to look at hooks again
    for path in ("mlp", "self_attn.o_proj"):
        with suppress(AttributeError):
            yield last.get_submodule(path)


def _last(_module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return (args[0][:, -1:], *args[1:]) if args and args[0].dim() == 3 else args
