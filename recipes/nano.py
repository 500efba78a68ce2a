"""Train nano-omni, the shipped base, from nothing: render a mixture, listen, look, then learn everything.

A real Qwen2.5-Omni thinker, only small. Next-token loss alone leaves the audio tower on a plateau, so it is
first trained with CTC (Graves et al. 2006) on a throw-away linear head, while eyes and language learn beside
it; the last stage keeps that loss beside the answers'. A seed gives the same weights again, whichever of the
two is faster. A finished stage is kept and not repeated. Needs espeak-ng.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors.torch import load_file
from safetensors.torch import save as serialise
from torch import Tensor
from torch.nn import functional

from studio.data import load_data
from studio.families import _omni_build
from studio.families.qwen_omni import FAMILY
from studio.files import atomic_folder, atomic_write
from studio.log import Log, PlainLog
from studio.synthetic import general
from studio.types import Batch, Run, Sample

SIZE = _omni_build.Size(
    vocabulary=1024, hidden=256, layers=4, heads=4, kv_heads=2, inner=704, vision=192, vision_layers=3,
    vision_inner=512, audio=192, audio_layers=4, audio_inner=768, tower_heads=4, window=200,
)  # fmt: skip
BATCH = {"picture": 32, "words": 16, "sound": 16, "both": 16, "text": 24}
BESIDE = ("said", "facts", "labels")  # what a batch carries for losses, not for the model
LOOK = {"picture": 0.75, "text": 0.25}
LEARN = {"picture": 0.2, "words": 0.45, "sound": 0.04, "both": 0.25, "text": 0.06}

CARD = """---
library_name: transformers
license: apache-2.0
tags: [image-text-to-text, audio-text-to-text, triptych]
---
# nano-omni

A Qwen2.5-Omni thinker of {millions} million parameters (picture, sound and text in, text out), trained from
random weights on rendered data. It makes Triptych's first command work offline and its tests real; it knows
nothing of the world.

- Made by `triptych run nano seed={seed}` on {date}: {minutes} minutes on 2 CPU cores, rendering
  included; torch {torch}.
- Data: {pictures} rendered pictures with written questions (shape, colour, place, count, texture, odd spot,
  printed figure or letter, description), {clips} clips of one to four spoken words, {both} pictures with
  spoken questions, sound classes and short text instructions. The voices are espeak-ng's, six accents and 38
  variants; the test has eight other variants. No picture, sentence pattern or answer format of the demo's
  domains is in it.
- Training: {listen_steps} steps of the audio tower with CTC and, beside it, {look_steps} steps of the rest on
  pictures and texts; then {learn_steps} steps of everything. Peak learning rate {lr}.

Exact match on its own held-out test set, greedy decoding, 95 % Wilson intervals:

| kind | accuracy, % | n | interval |
|---|---|---|---|
{scores}
Pictures are scaled to 64 x 64 pixels; sounds may last 8 seconds; anything longer is an error, never cut.
"""


@dataclass(frozen=True, kw_only=True)
class Config:
    """What decides the shipped base; the defaults are how it was made."""

    output: Path = field(
        default=Path("runs/nano"), metadata={"help": "folder for the data, the model and the card"}
    )
    seed: int = field(default=0, metadata={"help": "seed of weights, data and order"})
    pictures: int = field(default=16000, metadata={"help": "training pictures with a written question"})
    clips: int = field(default=12000, metadata={"help": "training clips of spoken words"})
    both: int = field(default=4000, metadata={"help": "training pictures with a spoken question"})
    test: int = field(default=600, metadata={"help": "held-out samples of pictures and of words"})
    listen_steps: int = field(default=7000, metadata={"help": "steps of the audio tower alone, with CTC"})
    strain_steps: int = field(default=2500, metadata={"help": "steps of the audio tower on blurred clips"})
    look_steps: int = field(default=2500, metadata={"help": "steps of eyes and language, beside those"})
    recognise_steps: int = field(
        default=1800, metadata={"help": "steps of the eyes alone, naming what is known"}
    )
    learn_steps: int = field(default=2500, metadata={"help": "steps of the whole model after both"})
    lr: float = field(
        default=1e-3, metadata={"help": "peak learning rate, warmed up over 200 steps, then cosine"}
    )
    beside: float = field(default=0.3, metadata={"help": "weight of the throw-away losses in the last stage"})
    tiny: bool = field(default=False, metadata={"help": "the family's tiny size instead of nano-omni's"})
    threads: int = field(
        default=1, metadata={"help": "torch threads; the weights repeat for the same number"}
    )
    workers: int = field(default=2, metadata={"help": "processes that render the data"})
    save_every: int = field(default=500, metadata={"help": "steps between snapshots in output/snapshot"})


PRESETS = {
    "smoke": {
        "tiny": True, "pictures": 24, "clips": 24, "both": 8, "test": 8,
        "listen_steps": 3, "strain_steps": 3, "look_steps": 3, "recognise_steps": 3, "learn_steps": 6,
        "save_every": 6, "output": "runs/nano-smoke",
    },
}  # fmt: skip


def run(config: Config, log: Log) -> Run:
    """Render, train, measure and save the base; the model stands in ``output/model``."""
    torch.set_num_threads(config.threads)
    began = time.time()
    config.output.mkdir(parents=True, exist_ok=True)
    train, test = (render(config, split, log) for split in ("train", "test"))
    size = _omni_build.TINY if config.tiny else SIZE
    blank = _omni_build.build(config.output / "blank", size, general.corpus(), config.seed)

    # The ears and the rest share no weight yet, so they learn at the same time, each in one process.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context) as other:
        heard = other.submit(listen, config, blank, train)
        model, processor = FAMILY.load(blank)
        pools = encode(processor, [s for s in train if s.groups["kind"] in LOOK], log)
        look(config, model, processor, pools, log)
        recognise(config, model, processor, pools, log)
        # What the last stage needs as well is encoded while the ears may still be at it.
        pools |= encode(processor, [s for s in train if s.groups["kind"] not in LOOK], log)
        log.say("waiting for the ears")
        head = torch.nn.Linear(size.hidden, len(processor.tokenizer))
        restore(heard.result(), model.model.audio_tower, head)

    losses = learn(config, model, processor, pools, head, log)
    atomic_write(config.output / "losses.json", json.dumps(losses))
    model.eval()
    scores = measure(model, processor, test, log)
    save(model, processor, config.output / "model")
    report = {
        "recipe": "nano", "date": time.strftime("%Y-%m-%d"),
        "config": {key: str(v) if isinstance(v, Path) else v for key, v in asdict(config).items()},
        "parameters": sum(p.numel() for p in model.parameters()), "torch": torch.__version__,
        "seconds": round(time.time() - began), "scores": scores,
    }  # fmt: skip
    atomic_write(config.output / "run.json", json.dumps(report, indent=2) + "\n")
    atomic_write(config.output / "model" / "README.md", card(report))
    for name, score in scores.items():
        log.say(
            f"{name}: {score['value']:.3f}  n={score['n']}  95 % [{score['low']:.3f}, {score['high']:.3f}]"
        )
    return Run(folder=config.output, metrics={name: score["value"] for name, score in scores.items()})


def listen(config: Config, blank: Path, train: list[Sample]) -> Path:
    """Train the audio tower alone by CTC, in a process of its own, and return the file of its weights.

    Next-token loss would teach the language model to guess long before it hears anything.
    """
    file = config.output / f"listen-{config.listen_steps}-{config.strain_steps}.safetensors"
    if file.exists():
        return file
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    with (config.output / "listen.log").open("w", encoding="utf-8") as stream:
        log = PlainLog(stream, every=20)
        model, processor = FAMILY.load(blank)
        pools = encode(processor, [s for s in train if s.groups["kind"] == "words"], log)
        head = torch.nn.Linear(model.config.text_config.hidden_size, len(processor.tokenizer))
        listener, ears = Listener(processor, head), model.model.audio_tower
        trained = [*ears.parameters(), *head.parameters()]
        optimiser, schedule = optimise(trained, config.lr, config.listen_steps)
        log.stage("listen", config.listen_steps, "steps")
        for _, batch in batches(processor, pools, {"words": 1.0}, config.seed, config.listen_steps):
            log.advance(1, ctc=update(listener.loss(model, batch), trained, optimiser, schedule))
        keep(file.with_stem(f"listen-{config.listen_steps}"), ears, head)
        # Then voices it does not know: after clean sounds alone, one word in eight of a new voice is lost.
        random = Random(config.seed)
        optimiser, schedule = optimise(trained, config.lr, config.strain_steps)
        log.stage("strain", config.strain_steps, "steps")
        for _, batch in batches(processor, pools, {"words": 1.0}, config.seed + 4, config.strain_steps):
            loss = listener.loss(model, blur(batch, random))
            log.advance(1, ctc=update(loss, trained, optimiser, schedule))
    return keep(file, ears, head)


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


def look(config: Config, model: Any, processor: Any, pools: dict[str, list[Batch]], log: Log) -> None:
    """Train eyes and language on pictures and short texts; repeating texts prepares for dictation."""
    file = config.output / f"look-{config.look_steps}.safetensors"
    rest = torch.nn.ModuleDict({"visual": model.model.visual, "language": model.model.language_model})
    if file.exists():
        return restore(file, rest)
    torch.manual_seed(config.seed)
    trained = list(rest.parameters())
    optimiser, schedule = optimise(trained, config.lr, config.look_steps)
    log.stage("look", config.look_steps, "steps")
    model.train()
    for kind, batch in batches(processor, pools, LOOK, config.seed + 1, config.look_steps):
        log.advance(1, **{kind: update(answer_loss(model, batch), trained, optimiser, schedule)})
    keep(file, rest)


def recognise(config: Config, model: Any, processor: Any, pools: dict[str, list[Batch]], log: Log) -> None:
    """Train the eyes alone to name all that is known of a picture, through a throw-away linear head.

    Answers alone leave the eyes on a plateau as well: after 2,500 steps only 20 % were right.
    """
    file = config.output / f"recognise-{config.look_steps}-{config.recognise_steps}.safetensors"
    eyes = model.model.visual
    if file.exists():
        return restore(file, eyes)
    torch.manual_seed(config.seed)
    namer = Namer(model, collate(processor, pools["picture"][:1]))
    trained = [*eyes.parameters(), *namer.head.parameters()]
    optimiser, schedule = optimise(trained, config.lr, config.recognise_steps)
    log.stage("recognise", config.recognise_steps, "steps")
    for _, batch in batches(processor, pools, {"picture": 1.0}, config.seed + 3, config.recognise_steps):
        loss = namer.loss(looked(model, batch), batch)
        log.advance(1, loss=update(loss, trained, optimiser, schedule))
    keep(file, eyes)


def learn(
    config: Config, model: Any, processor: Any, pools: dict[str, list[Batch]], head: torch.nn.Linear, log: Log
) -> list[float]:
    """Train everything on everything, the two throw-away losses beside the answers'; return the losses."""
    torch.set_num_threads(2 * config.threads)  # both cores are free now
    torch.manual_seed(config.seed)
    random, losses = Random(config.seed), []
    listener, namer = Listener(processor, head), Namer(model, collate(processor, pools["picture"][:1]))
    trained = [*model.parameters(), *head.parameters(), *namer.head.parameters()]
    optimiser, schedule = optimise(trained, config.lr, config.learn_steps)
    log.stage("learn", config.learn_steps, "steps")
    model.train()
    for step, (kind, batch) in enumerate(
        batches(processor, pools, LEARN, config.seed + 2, config.learn_steps), 1
    ):
        beside = torch.zeros(())
        if "said" in batch:
            batch = blur(batch, random)
            beside = listener.loss(model, batch)
        if "facts" in batch:
            found = looked(model, batch)
            beside = namer.loss(found, batch)
            batch = {**batch, "mm_encoder_outputs": {"image": found}}
            del batch["pixel_values"]
        answers = answer_loss(model, batch)
        losses.append(round(update(answers + config.beside * beside, trained, optimiser, schedule), 5))
        log.advance(1, **{kind: float(answers.detach())})
        if step % config.save_every == 0:
            save(model, processor, config.output / "snapshot")
    return losses


def keep(file: Path, *modules: torch.nn.Module) -> Path:
    """Write the modules' weights into one file, whole or not at all, so that a stage is never done twice."""
    held = torch.nn.ModuleList(modules).state_dict()
    return atomic_write(file, serialise({name: value.contiguous() for name, value in held.items()}))


def restore(file: Path, *modules: torch.nn.Module) -> None:
    """Read weights that `keep` wrote back into the modules."""
    torch.nn.ModuleList(modules).load_state_dict(load_file(file))


def card(report: dict[str, Any]) -> str:
    """Return the model card: what it is, how it was made, and its accuracy on the held-out general set."""
    scores = "".join(
        f"| {name} | {100 * score['value']:.1f} | {score['n']} "
        f"| {100 * score['low']:.1f} to {100 * score['high']:.1f} |\n"
        for name, score in report["scores"].items()
    )
    told = {"millions": f"{report['parameters'] / 1e6:.1f}", "minutes": f"{report['seconds'] / 60:.0f}"}
    return CARD.format(**report["config"], **told, date=report["date"], torch=report["torch"], scores=scores)


def render(config: Config, split: str, log: Log) -> list[Sample]:
    """Render a split of the mixture once, and read it like any data set."""
    few = config.test
    counts = {
        "train": {"picture": config.pictures, "words": config.clips, "sound": config.clips // 20,
                  "both": config.both, "text": config.clips // 4},
        "test": {"picture": few, "words": few, "sound": few // 6, "both": few // 2, "text": few // 6},
    }[split]  # fmt: skip
    stamp = json.dumps([config.seed, counts])
    folder = config.output / "data"
    marker = folder / f"{split}.made"
    if not (marker.exists() and marker.read_text() == stamp):
        log.stage(f"render {split}", sum(counts.values()))
        jobs = [(kind, index) for kind, count in counts.items() for index in range(count)]
        make = partial(general.make, folder, split, config.seed)
        rows = []
        with ProcessPoolExecutor(config.workers, multiprocessing.get_context("spawn")) as pool:
            for made in pool.map(make, jobs, chunksize=64):
                rows.append(made)
                log.advance(1)
        atomic_write(folder / f"{split}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        atomic_write(marker, stamp)
    return load_data(folder / f"{split}.jsonl")


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


class Namer:
    """The throw-away head over the eyes' output of one picture a sample: a class for each known fact."""

    def __init__(self, model: Any, batch: Batch) -> None:
        """Size the head by the eyes' output for a batch."""
        self.sizes = [len(values) for values in general.FACTS.values()]
        self.head = torch.nn.Linear(self.rows(looked(model, batch)).shape[1], sum(self.sizes))

    @staticmethod
    def rows(found: Any) -> Tensor:
        """Return the eyes' output as rows [B, tokens x hidden]."""
        return torch.stack(list(found.pooler_output)).flatten(1)

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
        found = model.get_audio_features(
            batch["input_features"], batch["feature_attention_mask"], return_dict=True
        )
        frames = found.last_hidden_state
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


def optimise(parameters: list[Tensor], lr: float, steps: int) -> tuple[torch.optim.Optimizer, Any]:
    """Return AdamW with a warm-up of 200 steps (a tenth of a short run) and a cosine to a hundredth."""
    optimiser = torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.98), weight_decay=0.02, fused=True)
    warm = max(1, min(200, steps // 10))

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))

    return optimiser, torch.optim.lr_scheduler.LambdaLR(optimiser, factor)


def update(loss: Tensor, parameters: list[Tensor], optimiser: torch.optim.Optimizer, schedule: Any) -> float:
    """Take one clipped step and return the loss."""
    loss.backward()
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    schedule.step()
    return float(loss.detach())


def save(model: Any, processor: Any, folder: Path) -> None:
    """Write model (bfloat16) and processor as one folder, whole or not at all."""
    with atomic_folder(folder) as fresh:
        state = {name: value.to(torch.bfloat16) for name, value in model.state_dict().items()}
        model.save_pretrained(fresh, state_dict=state)
        settings = json.loads((fresh / "config.json").read_text())
        settings["dtype"] = "bfloat16"
        (fresh / "config.json").write_text(json.dumps(settings, indent=2) + "\n")
        processor.save_pretrained(fresh)


def measure(model: Any, processor: Any, test: list[Sample], log: Log) -> dict[str, dict[str, float]]:
    """Return accuracy by kind and by picture task, each with its n and Wilson interval."""
    from studio.generate import answers
    from studio.scores import measure as score
    from studio.types import Loaded

    given = answers(Loaded(model, processor), FAMILY, test, max_new_tokens=24, batch_size=32, log=log)
    groups: dict[str, list[tuple[str, str]]] = {}
    for sample, answer in zip(test, given, strict=True):
        groups.setdefault(sample.groups["kind"], []).append((answer, sample.answer))
        if sample.groups["kind"] == "picture":
            groups.setdefault(f"picture/{sample.groups['task']}", []).append((answer, sample.answer))
    scores = {}
    for name, pairs in sorted(groups.items()):
        said, meant = zip(*pairs, strict=True)
        result = score("exact_match", said, meant)
        scores[name] = {"value": result.value, "n": result.n, "low": result.low, "high": result.high}
    return scores
