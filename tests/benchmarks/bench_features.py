"""Frozen towers: the recipe sft against transformers' Trainer, same model, rows, order, LoRA and precision.

    python tests/benchmarks/bench_features.py [whisper smolvlm pictures sounds] [--rows 16] [--epochs 3]

*whisper* has the shapes of whisper-tiny, *smolvlm* the vision tower of SmolVLM-256M (93M parameters, pictures
of 512 x 512) before a small language model; both are random. *pictures* and *sounds* are nano-omni on the
shipped handwriting and commands. Only the language model learns, by LoRA. The Trainer's collator runs the
processor on every batch, as the usual multimodal scripts do, or with ``--encoded`` only pads rows encoded
beforehand; and it gets the batches that ours draws. The two take turns, ``--runs`` times; ours finds the
features of the first turn in the second. An epoch is timed from the end of the step before it; *first* has
the making of features in it. Wall seconds want a quiet machine; CPU seconds stand beside them. ``--json``
writes all of it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from PIL import Image as Pictures

from recipes import sft
from studio.assets import find_data, find_model
from studio.config import from_dict
from studio.data import load_data, write_jsonl
from studio.families import _smolvlm_build, _whisper_build, detect
from studio.families._save import save_pretrained
from studio.log import QuietLog
from studio.training.batches import epoch_batches, steps_per_epoch
from studio.training.seed import set_seed
from studio.training.towers import choose_trainable, tower_rules, train_mode
from studio.training.tracking import read_metrics
from studio.types import Image, Loaded, Sample, Sound, Text, Turn

RATE, SEED = 1e-3, 0
LORA = {"r": 16, "alpha": 32.0, "dropout": 0.0}
Moment = tuple[float, float]


def now() -> Moment:
    """Return wall and CPU seconds."""
    return time.monotonic(), time.process_time()


class Clock(QuietLog):
    """Notes the time when features are begun or the loop is, and at the end of every step."""

    def __init__(self) -> None:
        self.began: Moment | None = None
        self.times: list[Moment] = []
        self.training = False

    def stage(self, name: str, total: int, unit: str = "samples") -> None:
        self.training = name == "training"
        if self.began is None and (self.training or name.startswith("features")):
            self.began = now()

    def advance(self, n: int = 1, **figures: float) -> None:
        if self.training and n:
            self.times.append(now())


def whisper(folder: Path) -> Path:
    """Write a random Whisper of whisper-tiny's shapes: 4 + 4 layers of 384, 80 x 3000 frames."""
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    loaded = detect(_whisper_build.build(folder / "small", SEED)).load(folder / "small")
    settings = loaded.model.config.to_dict() | {
        "vocab_size": 51865, "d_model": 384, "encoder_layers": 4, "decoder_layers": 4,
        "encoder_attention_heads": 6, "decoder_attention_heads": 6, "encoder_ffn_dim": 1536,
        "decoder_ffn_dim": 1536,
    }  # fmt: skip
    torch.manual_seed(SEED)
    model = WhisperForConditionalGeneration(WhisperConfig(**settings))
    model.generation_config = loaded.model.generation_config
    save_pretrained(Loaded(model, loaded.processor), folder / "model")
    return folder / "model"


def smolvlm(folder: Path) -> Path:
    """Write a random SmolVLM: the vision tower of the 256M (12 layers of 768), 4 layers of 256 behind it."""
    from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration

    loaded = detect(_smolvlm_build.build(folder / "small", SEED)).load(folder / "small")
    side, patch, shuffle = 512, 16, 4
    processor = loaded.processor
    processor.image_seq_len = (side // patch // shuffle) ** 2
    processor.image_processor.size = processor.image_processor.max_image_size = {"longest_edge": side}
    settings = loaded.model.config.to_dict()
    settings["vision_config"] |= {
        "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
        "image_size": side, "patch_size": patch,
    }  # fmt: skip
    settings["text_config"] |= {
        "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 64,
    }  # fmt: skip
    settings["scale_factor"] = shuffle
    torch.manual_seed(SEED)
    model = SmolVLMForConditionalGeneration(SmolVLMConfig(**settings))
    model.generation_config = loaded.model.generation_config
    save_pretrained(Loaded(model, processor), folder / "model")
    return folder / "model"


def made_up(folder: Path, kind: str, rows: int) -> Path:
    """Write rows with a picture of 512 x 512, or a sound of 2 to 6 s."""
    draw = np.random.default_rng(SEED)
    folder.mkdir(parents=True)
    samples = []
    for i in range(rows):
        if kind == "smolvlm":
            path = folder / f"{i}.png"
            Pictures.fromarray(draw.integers(0, 256, (512, 512, 3), dtype=np.uint8)).save(path)
            parts: tuple[Any, ...] = (Image(path=path), Text(text="which digit is this?"))
        else:
            path = folder / f"{i}.wav"
            wave = draw.normal(0, 0.1, int(16000 * draw.uniform(2, 6))).clip(-1, 1)
            soundfile.write(path, wave.astype(np.float32), 16000)
            parts = (Sound(path=path),)
        answer = Turn(role="assistant", parts=(Text(text=f"the digit {i % 10} is {('even', 'odd')[i % 2]}"),))
        samples.append(Sample(turns=(Turn(role="user", parts=parts), answer)))
    write_jsonl(folder / "train.jsonl", samples)
    return folder


def shipped(folder: Path, name: str, rows: int) -> Path:
    """Copy the first rows of a shipped data set."""
    folder.mkdir(parents=True)
    samples = []
    for number, sample in enumerate(load_data(find_data(name), split="train")[:rows]):
        turns = []
        for turn in sample.turns:
            parts = [
                part
                if isinstance(part, Text)
                else replace(part, path=Path(shutil.copy(part.path, folder / f"{number}{part.path.suffix}")))
                for part in turn.parts
            ]
            turns.append(replace(turn, parts=tuple(parts)))
        samples.append(replace(sample, turns=tuple(turns)))
    write_jsonl(folder / "train.jsonl", samples)
    return folder


def ours(model: Path, data: Path, epochs: int, batch: int, output: Path) -> tuple[list[Moment], float, float]:
    """Return the moments of the beginning and of each epoch's end, the last loss, and the wait share."""
    clock = Clock()
    settings = {
        "model": str(model), "data": str(data), "output": str(output), "epochs": epochs, "lr": RATE,
        "batch_size": batch, "adapter": LORA, "optimiser": {"warmup": 0}, "schedule": "constant",
        "save_every": 10_000, "seed": SEED, "precision": "fp32",
    }  # fmt: skip
    sft.run(from_dict(sft.Config, settings), clock)
    rows = [row for row in read_metrics(output) if "loss" in row]
    each = len(clock.times) // epochs
    assert clock.began is not None
    return (
        [clock.began, *clock.times[each - 1 :: each]],
        rows[-1]["loss"],
        rows[-1]["waited"] / rows[-1]["seconds"],
    )


def peer(
    model: Path, data: Path, epochs: int, batch: int, output: Path, encoded: bool
) -> tuple[list[Moment], float]:
    """Return the same of transformers' Trainer with the same LoRA, on the same rows in the same order."""
    from torch.utils.data import SequentialSampler
    from transformers import Trainer, TrainerCallback, TrainingArguments

    times: list[Moment] = []

    class Times(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            times.append(now())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(now())

    class InOrder(Trainer):
        def _get_train_sampler(self, dataset: Any = None) -> Any:
            return SequentialSampler(dataset or self.train_dataset)

    family = detect(model)
    samples = load_data(data, split="train")
    set_seed(SEED)
    loaded = family.load(model)
    adapted = choose_trainable(
        loaded.model, family, tower_rules(family, "lora", {}), method="lora", **LORA, steps=1, seed=SEED
    )
    train_mode(adapted)
    items = [family.encode(loaded.processor, sample, True) for sample in samples]
    lengths = [
        max(len(item[key]) for key in ("input_ids", "decoder_input_ids") if key in item) for item in items
    ]
    batches = [rows for epoch in range(epochs) for rows in epoch_batches(lengths, batch, SEED, epoch)]
    order = [row for rows in batches for row in rows]

    def collate(rows: list[Any]) -> Any:
        made = [family.encode(loaded.processor, r, True) if isinstance(r, Sample) else r for r in rows]
        return family.collate(loaded.processor, made, "right")

    trainer = InOrder(
        model=adapted,
        args=TrainingArguments(
            output_dir=str(output), num_train_epochs=1, per_device_train_batch_size=batch, learning_rate=RATE,
            lr_scheduler_type="constant", weight_decay=0.0, max_grad_norm=1.0, use_cpu=True, report_to=[],
            save_strategy="no", logging_steps=1, disable_tqdm=True, remove_unused_columns=False,
            dataloader_num_workers=0, seed=SEED,
        ),
        train_dataset=[(items if encoded else samples)[row] for row in order],
        data_collator=collate,
        callbacks=[Times()],
    )  # fmt: skip
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    each = steps_per_epoch(len(samples), batch)
    return times[::each], float(losses[-1])


def seconds(moments: list[Moment], kind: int) -> list[float]:
    """Return the seconds of each epoch: wall (0) or CPU (1)."""
    return [later[kind] - before[kind] for before, later in pairwise(moments)]


def measure(name: str, folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Let the two take turns; return the seconds of ours and of the peer, the ratios and the losses."""
    makers: dict[str, Callable[[Path], Path]] = {"whisper": whisper, "smolvlm": smolvlm}
    if name in makers:
        model, data = makers[name](folder), made_up(folder / "data", name, given.rows)
    else:
        source = {"pictures": "handwriting", "sounds": "commands"}[name]
        model, data = find_model("nano-omni"), shipped(folder / "data", source, given.rows)
    mine, theirs, lost, other, waits = [], [], 0.0, 0.0, []
    for turn in range(given.runs):
        moments, lost, wait = ours(model, data, given.epochs, given.batch, folder / f"ours-{turn}")
        mine.append(moments)
        waits.append(wait)
        moments, other = peer(model, data, given.epochs, given.batch, folder / f"peer-{turn}", given.encoded)
        theirs.append(moments)
    row: dict[str, Any] = {"model": name, "rows": given.rows, "losses": [lost, other], "wait": waits[-1]}
    for kind, unit in enumerate(("wall", "cpu")):
        own, their = ([seconds(moments, kind) for moments in side] for side in (mine, theirs))
        later = statistics.median(each for epochs in own for each in epochs[1:])
        peers = statistics.median(each for epochs in their for each in epochs)
        row[unit] = {
            "first": own[0][0], "later": later, "trainer": peers, "ratio": peers / later,
            "all": sum(map(sum, their)) / sum(map(sum, own)),
        }  # fmt: skip
    return row


def main() -> None:
    """Measure and print one row for each model."""
    names = ("whisper", "smolvlm", "pictures", "sounds")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", nargs="*", choices=(*names, []), default=list(names))
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--encoded", action="store_true", help="the Trainer's rows are encoded beforehand")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(given.threads)
    os.environ["OMP_NUM_THREADS"] = str(given.threads)  # which the recipe goes by
    print(
        "| model | first epoch, s | later, s | Trainer, s | ratio | in CPU s | all epochs | wait | losses |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    found = []
    for name in given.models or names:
        with tempfile.TemporaryDirectory() as place, open(os.devnull, "w") as nowhere:
            os.environ["TRIPTYCH_CACHE"] = str(Path(place) / "cache")
            with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
                row = measure(name, Path(place), given)
        found.append(row)
        wall = row["wall"]
        print(
            f"| {name} | {wall['first']:.2f} | {wall['later']:.2f} | {wall['trainer']:.2f} "
            f"| {wall['ratio']:.1f} | {row['cpu']['ratio']:.1f} | {wall['all']:.1f} | {row['wait']:.1%} "
            f"| {row['losses'][0]:.4f}, {row['losses'][1]:.4f} |",
            flush=True,
        )
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
