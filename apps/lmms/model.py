"""A variant of ours as a model of lmms-eval (written against version 0.7.3).

    lmms-eval --model triptych --model_args variant=nano-omni+runs/handwriting/adapter \\
              --tasks mmbench_en_dev --output_path results --log_samples

``variant`` is what `triptych eval` takes; ``dtype`` is float32 or bfloat16. The chat interface is used where
a task offers both (``--force_simple`` chooses the other one). Requests of equal settings go in batches of 16,
or of ``--batch_size`` where more than one is asked for, which does not change the answers. Greedy, unless the
task asks for a temperature; an answer ends before the first of the task's ``until``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lmms_eval.api.model import lmms

from apps.choices import one_base, read_choices
from apps.lmms.media import placed
from studio.errors import ConfigError, DataError
from studio.types import Part, Sample, Text, Turn

_LENGTH, _BATCH = 128, 16
_ROLES = ("system", "user", "assistant")


class _Variant(lmms):  # type: ignore[misc]
    """What both interfaces share: the engine, and the answering of samples."""

    def __init__(
        self,
        variant: str = "",
        dtype: str = "",
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        device: str | None = None,
        **unknown: Any,
    ) -> None:
        """Load nothing yet; raises `ConfigError` and `CheckpointError` for a wrong ``model_args``."""
        super().__init__()
        if unknown:
            raise ConfigError(f"--model_args: no '{min(unknown)}'; there are variant and dtype")
        if not variant:
            raise ConfigError("--model_args: variant=MODEL[+ADAPTER] is needed, as `triptych eval` takes it")
        if dtype not in ("", "float32", "bfloat16"):
            raise ConfigError(f"--model_args: dtype is float32 or bfloat16, not '{dtype}'")
        import torch

        from studio.variants import Engine

        base, variants = one_base(read_choices([str(variant)]))
        (self._name,) = variants
        usual = "cuda" if torch.cuda.is_available() else "cpu"
        self._engine = Engine(
            base, variants, device=device or usual, dtype=getattr(torch, dtype) if dtype else None
        )
        size = str(batch_size)
        self._batch = int(size) if size.isdigit() and int(size) > 1 else _BATCH
        self._held = tempfile.TemporaryDirectory(prefix="triptych-lmms-")

    @property
    def _media(self) -> Path:
        return Path(self._held.name)

    def _answers(self, samples: Sequence[Sample], settings: Sequence[Mapping[str, Any]]) -> list[str]:
        """Return the answers, those of equal settings together."""
        groups: dict[tuple[int, float], list[int]] = {}
        for at, each in enumerate(settings):
            temperature = float(each.get("temperature") or 0.0) if each.get("do_sample", True) else 0.0
            longest = each.get("max_new_tokens") or each.get("max_gen_toks") or _LENGTH
            groups.setdefault((int(longest), temperature), []).append(at)
        found = [""] * len(samples)
        for (longest, temperature), places in groups.items():
            said = self._engine.answers(
                self._name, [samples[at] for at in places],
                max_new_tokens=longest, temperature=temperature, batch_size=self._batch,
            )  # fmt: skip
            for at, text in zip(places, said, strict=True):
                found[at] = _ended(text, settings[at].get("until"))
        return found

    def _told(self, requests: Sequence[Any], samples: Sequence[Sample], at: int) -> list[str]:
        """Return the answers to requests whose settings are argument ``at``, and let lmms-eval keep them."""
        found = self._answers(samples, [request.args[at] or {} for request in requests])
        for request, text in zip(requests, found, strict=True):
            self.cache_hook.add_partial("generate_until", (request.args[0], request.args[at]), text)
        return found

    def _likely(self, samples: Sequence[Sample], goals: Sequence[str]) -> list[tuple[float, bool]]:
        """Return log p of each answer, its end included, and whether it is the greedy one."""
        told = self._engine.log_probs(self._name, samples, goals, batch_size=self._batch)
        lengths = [{"max_new_tokens": max(1, count)} for _, count in told]
        said = self._answers(samples, lengths)
        return [
            (float(likely), text.strip() == goal.strip())
            for (likely, _), text, goal in zip(told, said, goals, strict=True)
        ]

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Refuse: rounds that depend on earlier answers are not offered."""
        raise ConfigError("tasks of several rounds are not offered; choose one with a single answer")


class Chat(_Variant):
    """Conversations as lmms-eval's chat interface gives them: turns with parts in order."""

    is_simple = False

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Return the answers to requests (ctx, doc_to_messages, settings, doc_id, task, split)."""
        samples = [self._sample(request) for request in requests]
        return self._told(requests, samples, 2)

    def _sample(self, request: Any) -> Sample:
        _, to_messages, _, number, task, split = request.args
        turns = [
            _turn(each, self._media, task, number)
            for each in to_messages(self.task_dict[task][split][number])
        ]
        return Sample(turns=tuple(turns), file=Path(str(task)), line=int(number) + 1)

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Return log p of given answers; such requests have the simple form in every task."""
        return _likelihoods(self, requests)


class Simple(_Variant):
    """Questions as lmms-eval's simple interface gives them: a text, and media that stand before it."""

    is_simple = True

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Return the answers to requests (ctx, settings, doc_to_visual, doc_id, task, split)."""
        samples = []
        for request in requests:
            context, _, to_visual, number, task, split = request.args
            doc = self.task_dict[task][split][number]
            samples.append(_asked(context, to_visual, doc, self._media, task, number))
        return self._told(requests, samples, 1)

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Return log p of the continuation of each request, and whether the variant would say it."""
        return _likelihoods(self, requests)


def _likelihoods(model: _Variant, requests: Sequence[Any]) -> list[tuple[float, bool]]:
    samples, goals = [], []
    for request in requests:
        context, goal, to_visual, number, task, split = request.args
        doc = model.task_dict[task][split][number]
        samples.append(_asked(context, to_visual, doc, model._media, task, number))
        goals.append(str(goal(doc) if callable(goal) else goal).strip())
    return model._likely(samples, goals)


def _asked(
    context: str, to_visual: Callable[[Any], Any] | None, doc: Any, folder: Path, task: str, number: int
) -> Sample:
    media = (to_visual(doc) or []) if to_visual else []
    parts: list[Part] = [placed(each, folder) for each in (media if isinstance(media, list) else [media])]
    if context.strip() or not parts:
        parts.append(Text(text=context))
    turn = Turn(role="user", parts=tuple(parts))
    return Sample(turns=(turn,), file=Path(str(task)), line=int(number) + 1)


def _turn(message: Mapping[str, Any], folder: Path, task: str, number: int) -> Turn:
    role, content = message.get("role"), message.get("content")
    if role not in _ROLES:
        raise DataError(f"{task}:{number}: a message's role is {', '.join(_ROLES)}, not '{role}'")
    pieces = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
    parts: list[Part] = []
    for piece in pieces:
        if piece["type"] != "text":
            parts.append(placed(piece.get("url", piece.get(piece["type"])), folder, piece["type"]))
        elif piece["text"].strip():
            parts.append(Text(text=piece["text"]))
    return Turn(role=role, parts=tuple(parts or [Text(text="")]))


def _ended(text: str, until: Any) -> str:
    """Return a text up to the first of the strings ``until``."""
    for mark in [until] if isinstance(until, str) else until or []:
        if mark:
            text = text.split(str(mark), 1)[0]
    return text.strip()
