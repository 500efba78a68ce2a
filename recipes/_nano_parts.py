"""Parts of the recipe `nano`: batches of encoded samples, throw-away losses, stages kept as files."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors.torch import load_file
from safetensors.torch import save as serialise
from torch import Tensor
from torch.nn import functional

from studio.families.qwen_omni import FAMILY
from studio.files import atomic_folder, atomic_write
from studio.log import Log
from studio.synthetic import general
from studio.types import Batch, Sample

BATCH = {"picture": 32, "words": 16, "sound": 16, "both": 16, "text": 24}
BESIDE = ("said", "facts", "labels")  # what a batch carries for losses, not for the model


def blur(batch: Batch, random: Random) -> Batch:
    """Return the batch with its sounds as other voices and worse lines would give them.

    The mel axis [C] is stretched by up to an eighth, as vocal tracts differ (Jaitly and Hinton 2013), and two
    bands of each axis are silenced (SpecAugment, Park et al. 2019). Lengths stay, and so do token counts.
    """
    sounds = batch["input_features"].clone()
    count, bands, frames = sounds.shape
    for row in range(count):
        warped = round(bands * random.uniform(0.88, 1.12))
        wide = functional.interpolate(sounds[row].T[None], size=warped, mode="linear", align_corners=False)[
            0
        ].T
        sounds[row, : min(bands, warped)] = wide[:bands]
        if warped < bands:
            sounds[row, warped:] = wide[-1]
        floor = sounds[row].min()
        for _ in range(2):
            low, length = random.randrange(bands), random.randint(0, bands // 9)
            sounds[row, low : low + length] = floor
            start, span = random.randrange(frames), random.randint(0, 12)
            sounds[row, :, start : start + span] = floor
    return {**batch, "input_features": sounds}


def keep(file: Path, *modules: torch.nn.Module) -> Path:
    """Write the modules' weights into one file, whole or not at all, so that a stage is never done twice."""
    held = torch.nn.ModuleList(modules).state_dict()
    return atomic_write(file, serialise({name: value.contiguous() for name, value in held.items()}))


def restore(file: Path, *modules: torch.nn.Module) -> None:
    """Read weights that `keep` wrote back into the modules."""
    torch.nn.ModuleList(modules).load_state_dict(load_file(file))


def encode(processor: Any, samples: list[Sample], log: Log) -> dict[str, list[Batch]]:
    """Encode every sample once, by kind; media in half precision, what was said as token ids."""
    pools: dict[str, list[Batch]] = {}
    log.stage("encode", len(samples))
    for sample in samples:
        item = FAMILY.encode(processor, sample, True)
        for key in ("pixel_values", "input_features"):
            if key in item:
                item[key] = item[key].half()
        if "said" in sample.groups:
            item["said"] = processor.tokenizer(" " + sample.groups["said"], return_tensors="pt").input_ids[0]
        if sample.groups["kind"] == "picture":
            known = [sample.groups.get(fact) for fact in general.FACTS]
            values = zip(known, general.FACTS.values(), strict=True)
            item["facts"] = torch.tensor([allowed.index(v) if v else -1 for v, allowed in values])
        pools.setdefault(sample.groups["kind"], []).append(item)
        log.advance(1)
    for kind, pool in pools.items():
        pool.sort(key=lambda item: item["input_ids"].shape[0])
        pools[kind] = pool
    return pools


def batches(
    processor: Any, pools: dict[str, list[Batch]], share: dict[str, float], seed: int, steps: int
) -> Iterator[tuple[str, Batch]]:
    """Yield ``steps`` batches of one kind each: neighbours in length, kinds drawn by their share."""
    random = Random(seed)
    waiting: dict[str, list[int]] = {}
    kinds = [kind for kind in share if pools.get(kind)]
    for _ in range(steps):
        kind = random.choices(kinds, [share[k] for k in kinds])[0]
        pool, width = pools[kind], BATCH[kind]
        if not waiting.get(kind):
            shift = random.randrange(width)
            waiting[kind] = list(range(-shift, len(pool), width))
            random.shuffle(waiting[kind])
        start = waiting[kind].pop()
        items = pool[max(0, start) : start + width] or pool[:width]
        yield kind, collate(processor, items)


def collate(processor: Any, items: list[Batch]) -> Batch:
    """Join encoded samples, back in single precision, and the ids of what was said padded by -1."""
    plain = [
        {k: v.float() if v.dtype == torch.half else v for k, v in item.items() if k not in ("said", "facts")}
        for item in items
    ]
    batch = FAMILY.collate(processor, plain, "right")
    if "facts" in items[0]:
        batch["facts"] = torch.stack([item["facts"] for item in items])
    if "said" in items[0]:
        batch["said"] = torch.nn.utils.rnn.pad_sequence(
            [item["said"] for item in items], batch_first=True, padding_value=-1
        )
    return batch


def looked(model: Any, batch: Batch) -> Any:
    """Return what the eyes make of the pictures, in the form that the model takes in their stead."""
    return model.get_image_features(batch["pixel_values"], batch["image_grid_thw"], return_dict=True)


def heard(model: Any, batch: Batch) -> Tensor:
    """Return what the ears make of the clips, all frames of all clips in one row of rows [frames, hidden]."""
    found = model.get_audio_features(
        batch["input_features"], batch["feature_attention_mask"], return_dict=True
    )
    return found.last_hidden_state


class Namer:
    """The throw-away head over the eyes' output of one picture a sample: a class for each known fact."""

    def __init__(self, model: Any, batch: Batch) -> None:
        """Size the head by the eyes' output for a batch."""
        self.sizes = [len(values) for values in general.FACTS.values()]
        self.head = torch.nn.Linear(self.rows(looked(model, batch)).shape[1], sum(self.sizes))

    @staticmethod
    def rows(found: Any) -> Tensor:
        """Return the eyes' output as rows [B, tokens x hidden + hidden]: each token, and their mean.

        What and how many do not depend on where; without the mean, each place is learnt by itself.
        """
        tokens = torch.stack(list(found.pooler_output))
        return torch.cat([tokens.flatten(1), tokens.mean(1) * tokens.shape[1] ** 0.5], 1)

    def loss(self, found: Any, batch: Batch) -> Tensor:
        """Return the mean cross-entropy over the kinds of facts that the batch knows."""
        columns = zip(self.head(self.rows(found)).split(self.sizes, 1), batch["facts"].T, strict=True)
        known = [functional.cross_entropy(r, f, ignore_index=-1) for r, f in columns if (f >= 0).any()]
        return torch.stack(known).mean()


class Listener:
    """The throw-away CTC head over the audio tower's output; the padding id serves as the blank."""

    def __init__(self, processor: Any, head: torch.nn.Linear) -> None:
        """Listen through ``head``, a linear layer from the tower's output to the vocabulary."""
        self.blank = processor.tokenizer.pad_token_id
        self.head = head

    def loss(self, model: Any, batch: Batch) -> Tensor:
        """Return the mean CTC loss per clip of what was said [B, words]."""
        frames = heard(model, batch)
        lengths = (batch["feature_attention_mask"].sum(-1) - 1) // 2 + 1
        lengths = (lengths - 2) // 2 + 1
        rows = torch.nn.utils.rnn.pad_sequence(list(frames.split(lengths.tolist())))
        scores = self.head(rows).float().log_softmax(-1)
        said = batch["said"]
        return functional.ctc_loss(
            scores, said.clamp(min=0), lengths, (said >= 0).sum(-1), blank=self.blank, zero_infinity=True
        )


def answer_loss(model: Any, batch: Batch) -> Tensor:
    """Return the mean cross-entropy of the answers' tokens; other positions never reach the vocabulary."""
    labels, inputs = batch["labels"], {key: value for key, value in batch.items() if key not in BESIDE}
    hidden = model.model(**inputs, use_cache=False).last_hidden_state[:, :-1]
    wanted = labels[:, 1:]
    kept = wanted >= 0
    return functional.cross_entropy(model.lm_head(hidden[kept]).float(), wanted[kept])


class Teacher:
    """Muon for the matrices of the layers, AdamW for everything else, one schedule; steps in bfloat16.

    With Muon (Jordan et al. 2024) the ears' loss was 0.5 after 900 steps where AdamW's was 2.7. Its rate is
    scaled to AdamW's size of update (Liu et al. 2025).
    """

    def __init__(self, layers: list[Any], rest: list[Any], lr: float, steps: int) -> None:
        """Train ``layers`` (modules) and ``rest`` (modules that Muon is not for: heads, embeddings).

        Warms up over 200 steps, a tenth of a short run, then follows a cosine to a hundredth.
        """
        inner = [m.weight for layer in layers for m in layer.modules() if isinstance(m, torch.nn.Linear)]
        known = {id(weight) for weight in inner}
        every = {id(p): p for module in (*layers, *rest) for p in module.parameters()}
        other = [weight for weight in every.values() if id(weight) not in known]
        self.trained = list(every.values())
        self.optimisers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(inner, lr=2 * lr, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(other, lr=lr, betas=(0.9, 0.98), weight_decay=0.02, fused=True),
        ]
        warm = max(1, min(200, steps // 10))

        def factor(step: int) -> float:
            if step < warm:
                return (step + 1) / warm
            return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))

        self.schedules = [torch.optim.lr_scheduler.LambdaLR(each, factor) for each in self.optimisers]

    def follow(self, stream: Iterable[tuple[str, Batch]], loss: Callable[[Batch], Tensor], log: Log) -> None:
        """Take a step for each batch, down its loss."""
        for _, batch in stream:
            with half():
                value = loss(batch)
            value.backward()
            self.step()
            log.advance(1, loss=float(value.detach()))

    def step(self) -> None:
        """Take one clipped step along the gradients that have come together, and forget them."""
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        for optimiser, schedule in zip(self.optimisers, self.schedules, strict=True):
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            schedule.step()


def half() -> Any:
    """Return a context in which products of matrices are taken in bfloat16; the weights stay float32."""
    return torch.autocast("cpu", torch.bfloat16)


def save(model: Any, processor: Any, folder: Path) -> None:
    """Write model (bfloat16) and processor as one folder, whole or not at all."""
    with atomic_folder(folder) as fresh:
        state = {name: value.to(torch.bfloat16) for name, value in model.state_dict().items()}
        model.save_pretrained(fresh, state_dict=state)
        settings = json.loads((fresh / "config.json").read_text())
        settings["dtype"] = "bfloat16"
        (fresh / "config.json").write_text(json.dumps(settings, indent=2) + "\n")
        processor.save_pretrained(fresh)
