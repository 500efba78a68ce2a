"""The two sides of `bench_sft.py`: each trains once, in a process of its own, and tells what it took.

    python tests/benchmarks/sft_sides.py '{"side": "ours", "model": ..., "data": ..., ...}'

Time begins when everything is imported, and ends behind the last step: loading, checks, encoding, features
and the gates of fast paths are in it. The last line printed is JSON.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import resource
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch

from recipes import sft
from studio.adapters import add_lora, load_adapter
from studio.config import from_dict
from studio.data import load_data
from studio.families import detect
from studio.log import QuietLog
from studio.training.batches import epoch_batches
from studio.training.loss import TokenLoss
from studio.types import Sample

#: Rows that the final loss is computed on, the same for both.
HELD_OUT = 100


def spent() -> float:
    """Return the CPU seconds of this process and of those that it has waited for."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


class Clock(QuietLog):
    """Notes wall and CPU time at the end of every step."""

    def __init__(self) -> None:
        self.times: list[tuple[float, float]] = []
        self.told: list[str] = []
        self.training = False

    def say(self, message: str) -> None:
        self.told.append(message)

    def stage(self, name: str, total: int, unit: str = "samples") -> None:
        self.training = name == "training"

    def advance(self, n: int = 1, **figures: float) -> None:
        if self.training:
            self.times.append((time.monotonic(), spent()))


def conversation(sample: Sample) -> list[dict[str, Any]]:
    """Return a sample as processors' chat templates take it."""
    kinds = {"Text": "text", "Image": "image", "Sound": "audio"}
    return [
        {
            "role": turn.role,
            "content": [
                {"type": kind, **({"text": part.text} if kind == "text" else {})}
                for part in turn.parts
                for kind in (kinds[type(part).__name__],)
            ],
        }
        for turn in sample.turns
    ]


def straightforward(processor: Any, end: str) -> Any:
    """Return the collator that one writes first: the processor on the batch, labels where the answer is."""
    from PIL import Image as Pictures

    from studio.media import load_sound

    words = processor.tokenizer

    def collate(samples: list[Sample]) -> Any:
        texts = [processor.apply_chat_template(conversation(sample), tokenize=False) for sample in samples]
        media: dict[str, Any] = {}
        if samples[0].images:
            media["images"] = [[Pictures.open(p.path).convert("RGB") for p in s.images] for s in samples]
        if samples[0].sounds:
            rate = processor.feature_extractor.sampling_rate
            media["audio"] = [load_sound(part.path, rate) for s in samples for part in s.sounds]
            media["sampling_rate"] = rate
        batch = processor(text=texts, padding=True, return_tensors="pt", **media)
        batch.pop("num_audio_tokens", None)
        labels = torch.full_like(batch["input_ids"], -100)
        for row, sample in enumerate(samples):
            ids = batch["input_ids"][row].tolist()
            answer = words(sample.answer + end, add_special_tokens=False)["input_ids"]
            begin = max(at for at in range(len(ids)) if ids[at : at + len(answer)] == answer)
            labels[row, begin : begin + len(answer)] = torch.tensor(answer)
        batch["labels"] = labels
        return batch

    return collate


def our_order(given: dict[str, Any], family: Any, processor: Any, samples: list[Sample]) -> list[int]:
    """Return the rows of all steps as ours draws them; every step but an epoch's last must be full."""
    lengths = [len(family.encode(processor, sample, True)["input_ids"]) for sample in samples]
    size = given["batch"]
    return [
        index
        for epoch in range(given["epochs"])
        for batch in epoch_batches(lengths, size, given["seed"], epoch)
        for index in batch
    ]


def in_order(kind: Any) -> Any:
    """Return a trainer that takes rows as they come."""

    class InOrder(kind):  # type: ignore[misc]
        def _get_train_sampler(self, *_: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    return InOrder


def arguments(kind: Any, given: dict[str, Any], **more: Any) -> Any:
    """Return the settings of a Trainer that are ours."""
    return kind(
        output_dir=given["output"], num_train_epochs=1 if given["order"] == "ours" else given["epochs"],
        per_device_train_batch_size=given["batch"], learning_rate=given["lr"],
        lr_scheduler_type=given["schedule"],
        use_cpu=True, report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True,
        remove_unused_columns=False, dataloader_num_workers=0, seed=given["seed"], bf16=False, **more,
    )  # fmt: skip


def trainer(model: Any, processor: Any, samples: list[Sample], given: dict[str, Any], clock: Any) -> None:
    """Train by transformers' Trainer."""
    from transformers import Trainer, TrainingArguments

    (in_order(Trainer) if given["order"] == "ours" else Trainer)(
        model=model, args=arguments(TrainingArguments, given), train_dataset=samples,
        data_collator=straightforward(processor, given["end"]), callbacks=[clock],
    ).train()  # fmt: skip


def trl(model: Any, processor: Any, samples: list[Sample], given: dict[str, Any], clock: Any) -> None:
    """Train by TRL's SFTTrainer with its own collator for pictures; the answer alone is learned."""
    from datasets import Dataset
    from datasets import Image as Picture
    from trl import SFTConfig, SFTTrainer

    rows = [
        {
            "images": [str(part.path) for part in sample.images],
            "prompt": [{"role": t.role, "content": t.text} for t in sample.turns[:-1]],
            "completion": [{"role": "assistant", "content": sample.answer}],
        }
        for sample in samples
    ]
    data = Dataset.from_list(rows).cast_column("images", [Picture()])
    settings = arguments(SFTConfig, given, max_length=None, gradient_checkpointing=False)
    (in_order(SFTTrainer) if given["order"] == "ours" else SFTTrainer)(
        model=model, args=settings, train_dataset=data, processing_class=processor, callbacks=[clock]
    ).train()  # fmt: skip


def ours(given: dict[str, Any], clock: Clock) -> None:
    """Train by the recipe."""
    settings = {
        "model": given["model"], "data": given["data"], "output": given["output"], "lr": given["lr"],
        "epochs": given["epochs"], "batch_size": given["batch"], "seed": given["seed"], "precision": "fp32",
        "towers": {tower: "lora" for tower in given["towers"] if tower != "llm"},
        "schedule": given["schedule"], "optimiser": {"warmup": 0}, "speed": given["speed"],
        "adapter": {"r": 16, "alpha": 32}, "save_every": 10**6,
    }  # fmt: skip
    sft.run(from_dict(sft.Config, settings), clock)


def peer(given: dict[str, Any], clock: Clock, order: list[int] | None) -> Any:
    """Train by the peer, with the same LoRA from the same start, and return the model."""
    from transformers import TrainerCallback

    class Times(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.times.append((time.monotonic(), spent()))

    family = detect(given["model"])
    model, processor = family.load(given["model"], dtype=torch.float32)
    model = add_lora(model, family, given["towers"], r=16, alpha=32, seed=given["seed"])
    model.config.use_cache = False
    samples = load_data(Path(given["data"]), split="train")
    samples = [samples[index] for index in order] if order else samples
    {"trainer": trainer, "trl": trl}[given["side"]](model, processor, samples, given, Times())
    return model


def final_loss(model: Any, given: dict[str, Any]) -> float:
    """Return the mean loss of held-out rows by the trained model, computed alike for both sides."""
    family = detect(given["model"])
    plain, processor = family.load(given["model"], dtype=torch.float32)
    if model is None:
        model = load_adapter(plain, Path(given["output"]) / "adapter")
    model.eval()
    loss = TokenLoss(model, torch.device("cpu"))
    samples = load_data(Path(given["held_out"]), split="test")[:HELD_OUT]
    items = [family.encode(processor, sample, True) for sample in samples]
    count = sum(int((item["labels"] != -100).sum()) for item in items)
    total = 0.0
    with torch.no_grad():
        for at in range(0, len(items), 10):
            batch = family.collate(processor, items[at : at + 10], "right")
            total += float(loss(model, batch, [1.0] * len(items[at : at + 10])))
    return total / count


def main() -> None:
    """Train one side as the argument says, and print what it took."""
    given = json.loads(sys.argv[1])
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if given["side"] != "ours":
        __import__("transformers").Trainer  # noqa: B018
        if given["side"] == "trl":
            __import__("trl").SFTTrainer  # noqa: B018
    clock, model, order = Clock(), None, None
    # Whatever is imported for the first model is imported now, on both sides.
    family = detect(given["model"])
    first, processor = family.load(given["model"], dtype=torch.float32)
    add_lora(first, family, given["towers"])
    if given["side"] != "ours" and given["order"] == "ours":
        order = our_order(given, family, processor, load_data(Path(given["data"]), split="train"))
    del first
    began = (time.monotonic(), spent())
    with contextlib.redirect_stdout(sys.stderr):
        if given["side"] == "ours":
            ours(given, clock)
        else:
            model = peer(given, clock, order)
        ended = clock.times[-1]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        steps = len(clock.times) // given["epochs"]
        later = [
            after - before for after, before in zip(clock.times[-1], clock.times[steps - 1], strict=True)
        ]
        print("\n".join(clock.told))
        lost = final_loss(model, given)
    made = given["rows"] * given["epochs"]
    print(json.dumps({
        "side": given["side"], "wall": ended[0] - began[0], "cpu": ended[1] - began[1],
        "samples_per_s": made / (ended[0] - began[0]), "samples_per_cpu_s": made / (ended[1] - began[1]),
        "later_per_s": given["rows"] * (given["epochs"] - 1) / later[0] if given["epochs"] > 1 else None,
        "later_per_cpu_s": given["rows"] * (given["epochs"] - 1) / later[1] if given["epochs"] > 1 else None,
        "peak_mb": peak, "loss": lost, "steps": len(clock.times),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
