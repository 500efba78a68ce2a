"""From a conversation to tokens and labels, for every family with a chat template.

A conversation is cut into segments at the borders of the assistant's turns, and each segment is
tokenised on its own: the prompt then has exactly the tokens that generation starts from, the answer
exactly those that the model would have to produce, and no token straddles the border.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from studio.errors import CheckpointError, DataError
from studio.later import torch
from studio.types import Batch, Image, Sample, Sound, Text, Turn

if TYPE_CHECKING:
    from torch import Tensor

IGNORE = -100


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A stretch of the rendered conversation: learned or not, with the media it mentions in order."""

    text: str
    learned: bool
    images: tuple[Image, ...] = ()
    sounds: tuple[Sound, ...] = ()


def _message(turn: Turn) -> dict[str, Any]:
    content: list[dict[str, str]] = []
    for part in turn.parts:
        if isinstance(part, Text):
            content.append({"type": "text", "text": part.text})
        else:
            content.append({"type": "image" if isinstance(part, Image) else "audio"})
    return {"role": turn.role, "content": content}


def _render(processor: Any, turns: Sequence[Turn], prompt: bool) -> str:
    messages = [_message(turn) for turn in turns]
    text: str = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
    return text


def segments(processor: Any, sample: Sample, supervise: bool, *, end: str = "") -> list[Segment]:
    """Cut a sample into segments; learned ones hold an assistant's text and its end-of-turn mark.

    ``end`` is put behind every answer where the template puts no special token there.

    Raises `DataError` for a special token inside the user's text (it would be taken for a medium) and
    `CheckpointError` for a chat template that does not let the answer be told apart from the prompt.
    """
    if processor.chat_template is None:
        raise CheckpointError(
            f"{type(processor).__name__} has no chat template; a model needs one to be trained"
        )
    special = special_tokens(processor.tokenizer)
    for turn in sample.turns:
        for part in turn.parts:
            found = next((t for t in special if isinstance(part, Text) and t in part.text), None)
            if found is not None:
                raise DataError(f"{sample.where}: text contains the model's special token {found}")
    turns = sample.turns if supervise else sample.prompt
    cut: list[Segment] = []
    done, pending = "", 0
    for index, turn in enumerate(turns):
        if turn.role != "assistant":
            continue
        before = _render(processor, turns[:index], prompt=True)
        after = _render(processor, turns[: index + 1], prompt=False)
        rest = after[len(before) :]
        answer = turn.text.strip()
        lead = len(rest) - len(rest.lstrip())
        tail = rest[lead + len(answer) :].rstrip()
        mark = tail if tail.endswith(tuple(special)) else tail + end
        if not (
            after.startswith(before) and before.startswith(done) and rest[lead:].startswith(answer) and mark
        ):
            raise CheckpointError(
                f"{sample.where}: the chat template of {type(processor).__name__} rewrites earlier turns or "
                "adds no end-of-turn mark, so the answer cannot be told apart from the prompt"
            )
        cut.append(_segment(before[len(done) :], turns[pending:index], learned=False))
        cut.append(Segment(text=rest[:lead] + answer + mark, learned=turn.loss and supervise))
        done, pending = before + rest[: lead + len(answer)] + tail, index + 1
    if pending < len(turns):
        whole = _render(processor, turns, prompt=not supervise)
        if not whole.startswith(done):
            raise CheckpointError(f"{sample.where}: the chat template rewrites earlier turns")
        cut.append(_segment(whole[len(done) :], turns[pending:], learned=False))
    return [segment for segment in cut if segment.text]


def special_tokens(tokenizer: Any) -> set[str]:
    """Return all special tokens: those with a name, and those that are only marked so in the vocabulary."""
    marked = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    return {*tokenizer.all_special_tokens, *marked}


def _segment(text: str, turns: Sequence[Turn], learned: bool) -> Segment:
    parts = [part for turn in turns for part in turn.parts]
    return Segment(
        text=text,
        learned=learned,
        images=tuple(part for part in parts if isinstance(part, Image)),
        sounds=tuple(part for part in parts if isinstance(part, Sound)),
    )


def encode(
    processor: Any,
    sample: Sample,
    supervise: bool,
    media: Callable[[Any, Segment], Batch],
    join: int | dict[str, int] = 0,
) -> Batch:
    """Encode a sample segment by segment: ``input_ids`` [L], ``labels`` [L], and the media tensors.

    ``media(processor, segment)`` runs the processor on one segment that mentions media and returns its
    tensors, ``input_ids`` [1, L] included. Tensors of later segments are joined along axis ``join``
    (per key when it is a mapping), and filled up with zeros along the others.
    """
    ids: list[Tensor] = []
    labels: list[Tensor] = []
    tensors: dict[str, list[Tensor]] = {}
    for segment in segments(processor, sample, supervise):
        if segment.images or segment.sounds:
            made = media(processor, segment)
            part = made.pop("input_ids")[0]
            made.pop("attention_mask", None)
            for key, value in made.items():
                tensors.setdefault(key, []).append(value)
        else:
            made = processor.tokenizer(segment.text, add_special_tokens=False, return_tensors="pt")
            part = made["input_ids"][0].long()
        ids.append(part)
        labels.append(part if segment.learned else torch.full_like(part, IGNORE))
    batch: Batch = {"input_ids": torch.cat(ids)}
    if supervise:
        batch["labels"] = torch.cat(labels)
    for key, values in tensors.items():
        along = join if isinstance(join, int) else join.get(key, 0)
        batch[key] = values[0] if len(values) == 1 else torch.cat(_alike(values, along), dim=along)
    return batch


def _alike(values: Sequence[Tensor], along: int) -> list[Tensor]:
    """Return tensors filled up with zeros to one size, at the end of each axis but ``along``.

    A processor does so within a segment; the media of two turns may be of different sizes.
    """
    most = [max(sizes) for sizes in zip(*(value.shape for value in values), strict=True)]
    filled = []
    for value in values:
        gaps = [0 if axis == along else most[axis] - size for axis, size in enumerate(value.shape)]
        sides = [side for gap in reversed(gaps) for side in (0, gap)]
        filled.append(torch.nn.functional.pad(value, sides) if any(gaps) else value)
    return filled


def pad(rows: Sequence[Tensor], side: Literal["left", "right"], value: float) -> Tensor:
    """Stack rows [L_i] into [B, max L], filled up with ``value`` on the given side."""
    width = max(row.shape[-1] for row in rows)
    padded = []
    for row in rows:
        gap = width - row.shape[-1]
        padded.append(torch.nn.functional.pad(row, (gap, 0) if side == "left" else (0, gap), value=value))
    return torch.stack(padded)


def collate_text(processor: Any, items: Sequence[Batch], side: Literal["left", "right"]) -> Batch:
    """Pad ``input_ids`` and ``labels`` to [B, L] and add the ``attention_mask``."""
    filler = processor.tokenizer.pad_token_id
    batch: Batch = {
        "input_ids": pad([item["input_ids"] for item in items], side, filler),
        "attention_mask": pad([torch.ones_like(item["input_ids"]) for item in items], side, 0),
    }
    if all("labels" in item for item in items):
        batch["labels"] = pad([item["labels"] for item in items], side, IGNORE)
    return batch


def decode(processor: Any, batch: Batch, ids: Tensor) -> list[str]:
    """Return the answers [B] of a decoder-only model: what stands behind the prompt, as text."""
    fresh = ids[:, batch["input_ids"].shape[1] :]
    texts: list[str] = processor.tokenizer.batch_decode(fresh, skip_special_tokens=True)
    return [text.strip() for text in texts]
