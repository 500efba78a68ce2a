"""Fine-tuning speed: the recipe sft against transformers' Trainer with PEFT, same model, data and LoRA.

    python tests/benchmarks/bench_sft.py [--steps 20] [--threads 1]

A random model of nano-omni's size learns from pictures, from sounds, and from both. The Trainer runs twice:
*encoded* gets the samples encoded beforehand, as ours does for itself; *in the collator* runs the processor
on every batch, as the usual multimodal scripts do. Seconds are CPU seconds of this process from the third
step to the last, so another program on the machine disturbs them little. The losses of the first step stand
beside them: the same random model, each on a first batch of its own. (That both compute the same loss on the
same batch is a test: `test_loss_equals_the_model_s_own_loss`.)
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from PIL import Image as Pictures

from recipes import sft
from studio.config import from_dict
from studio.data import load_data, write_jsonl
from studio.families import _omni_build
from studio.families.qwen_omni import FAMILY
from studio.log import QuietLog
from studio.training.tracking import read_metrics
from studio.types import Image, Sample, Sound, Text, Turn

SIZE = _omni_build.Size(
    vocabulary=768, hidden=256, layers=4, heads=4, kv_heads=2, inner=704, vision=192, vision_layers=3,
    vision_inner=512, audio=192, audio_layers=4, audio_inner=768, tower_heads=4, window=200,
)  # fmt: skip
BATCH, RANK, RATE, SKIPPED = 16, 16, 1e-3, 2


class Clock(QuietLog):
    """Notes the CPU time at the end of every step."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.training = False

    def stage(self, name: str, total: int, unit: str = "samples") -> None:
        self.training = name == "training"

    def advance(self, n: int = 1, **figures: float) -> None:
        if self.training:
            self.times.append(time.process_time())


def rate(times: list[float]) -> float:
    """Return samples per CPU second, the first steps left out."""
    return BATCH * (len(times) - 1 - SKIPPED) / (times[-1] - times[SKIPPED])


def make_data(folder: Path, kind: str, count: int) -> Path:
    """Write rows with a 64-pixel picture, 1 to 2.5 s of sound, or both."""
    draw = np.random.default_rng(0)
    folder.mkdir()
    samples = []
    for i in range(count):
        parts: list[Any] = []
        if kind != "sound":
            picture = folder / f"{i}.png"
            Pictures.fromarray(draw.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(picture)
            parts.append(Image(path=picture))
        if kind != "picture":
            sound = folder / f"{i}.wav"
            wave = draw.normal(0, 0.1, int(16000 * draw.uniform(1, 2.5))).clip(-1, 1)
            soundfile.write(sound, wave.astype(np.float32), 16000)
            parts.append(Sound(path=sound))
        parts.append(Text(text="which digit is this, and is it even?"))
        answer = Turn(role="assistant", parts=(Text(text=f"the digit {i % 10} is {('even', 'odd')[i % 2]}"),))
        samples.append(Sample(turns=(Turn(role="user", parts=tuple(parts)), answer)))
    write_jsonl(folder / "train.jsonl", samples)
    return folder


def ours(model: Path, data: Path, steps: int, output: Path) -> tuple[float, float]:
    """Return samples per CPU second and the first loss of the recipe."""
    clock = Clock()
    settings = {
        "model": str(model), "data": str(data), "output": str(output), "max_steps": steps, "lr": RATE,
        "batch_size": BATCH, "adapter": {"r": RANK, "alpha": 2 * RANK}, "optimiser": {"warmup": 0},
    }  # fmt: skip
    sft.run(from_dict(sft.Config, settings), clock)
    return rate(clock.times), read_metrics(output)[0]["loss"]


def peer(
    model: Path, data: Path, steps: int, output: Path, first: Callable[[Any, list[Sample]], list[Any]]
) -> tuple[float, float]:
    """Return the same of transformers' Trainer; ``first`` prepares the samples before it starts."""
    from peft import LoraConfig, get_peft_model
    from transformers import Trainer, TrainerCallback, TrainingArguments

    times: list[float] = []

    class Times(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(time.process_time())

    thinker, processor = FAMILY.load(model)
    prepared = first(processor, load_data(data, split="train"))

    def collate(rows: list[Any]) -> Any:
        items = [FAMILY.encode(processor, r, True) if isinstance(r, Sample) else r for r in rows]
        return FAMILY.collate(processor, items, "right")

    trainer = Trainer(
        model=get_peft_model(
            thinker, LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=FAMILY.lora_targets["llm"])
        ),
        args=TrainingArguments(
            output_dir=str(output), max_steps=steps, per_device_train_batch_size=BATCH, learning_rate=RATE,
            lr_scheduler_type="cosine", use_cpu=True, report_to=[], save_strategy="no", logging_steps=1,
            disable_tqdm=True, remove_unused_columns=False, dataloader_num_workers=0, seed=0,
        ),
        train_dataset=prepared,
        data_collator=collate,
        callbacks=[Times()],
    )  # fmt: skip
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    return rate(times), float(losses[0])


def encoded(processor: Any, samples: list[Sample]) -> list[Any]:
    """Encode everything beforehand."""
    return [FAMILY.encode(processor, sample, True) for sample in samples]


def main() -> None:
    """Measure and print one row for each kind of data."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(given.threads)
    os.environ["OMP_NUM_THREADS"] = str(given.threads)  # which the recipe goes by
    texts = ("the digit 0123456789 is even or odd", "which digit is this, and is it even?")
    print(
        "| data | ours, samples/CPU s | Trainer, encoded | ratio | in the collator | ratio | first losses |"
    )
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name, open(os.devnull, "w") as nowhere:
        folder = Path(name)
        model = _omni_build.build(folder / "model", SIZE, texts, 0)
        for kind in ("picture", "sound", "both"):
            data = make_data(folder / kind, kind, 64)
            with contextlib.redirect_stdout(nowhere):
                mine, loss = ours(model, data, given.steps, folder / f"ours-{kind}")
                fast, other = peer(model, data, given.steps, folder / "a", encoded)
                slow, _ = peer(model, data, given.steps, folder / "b", lambda _, samples: samples)
            print(
                f"| {kind} | {mine:.1f} | {fast:.1f} | {mine / fast:.2f} | {slow:.1f} | {mine / slow:.2f} "
                f"| {loss:.3f}, {other:.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
