"""Train nano-omni, the shipped base, from nothing: render a mixture, listen and look, then learn everything.

A real Qwen2.5-Omni thinker, only small. Next-token loss alone leaves both towers on a plateau, so the ears
are first trained with CTC (Graves et al. 2006) and the eyes by naming what is known of a picture, each
through a throw-away linear head; the last stage keeps those losses beside the answers'. Ears and eyes learn
in a process each. A seed gives the same weights again; a finished stage is kept and not repeated.
Needs espeak-ng.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import torch

from recipes._nano_card import card
from recipes._nano_parts import (
    Listener,
    Namer,
    Teacher,
    answer_loss,
    batches,
    blur,
    collate,
    encode,
    half,
    heard,
    keep,
    looked,
    restore,
    save,
)
from studio.config import to_dict
from studio.data import load_data
from studio.families import _omni_build
from studio.families.qwen_omni import FAMILY
from studio.files import atomic_write, sha256_file
from studio.generate import answers
from studio.log import Log, PlainLog
from studio.runs import new_record, write_run
from studio.scores import measure as score
from studio.synthetic import general
from studio.types import Batch, Loaded, Run, Sample, Score

SIZE = _omni_build.Size(
    vocabulary=1024, hidden=256, layers=4, heads=4, kv_heads=2, inner=704, vision=192, vision_layers=3,
    vision_inner=512, audio=192, audio_layers=4, audio_inner=768, tower_heads=4, window=200, spread=0.06,
)  # fmt: skip
Pools = dict[str, list[Batch]]
#: Settings that do not change the weights.
APART = ("output", "workers", "save_every")
#: Settings that only the last stage knows.
LATE = ("learn_steps", "beside", "test")
#: The kinds of the three batches of a step in the last stage, by their share.
LEARN = ({"picture": 1.0}, {"words": 1.0}, {"both": 0.6, "text": 0.25, "sound": 0.15})


@dataclass(frozen=True, kw_only=True)
class Config:
    """What decides the shipped base; the defaults are how it was made."""

    output: Path = field(
        default=Path("runs/nano"), metadata={"help": "folder for the data, the model and the card"}
    )
    seed: int = field(default=0, metadata={"help": "seed of weights, data and order"})
    pictures: int = field(default=40000, metadata={"help": "training pictures with a written question"})
    clips: int = field(default=12000, metadata={"help": "training clips of spoken words"})
    texts: int = field(default=12000, metadata={"help": "training texts with a short instruction"})
    both: int = field(default=4000, metadata={"help": "training pictures with a spoken question"})
    test: int = field(default=600, metadata={"help": "held-out samples of pictures and of words"})
    listen_steps: int = field(default=1500, metadata={"help": "steps of the audio tower alone, with CTC"})
    strain_steps: int = field(default=3500, metadata={"help": "steps of the audio tower on blurred clips"})
    read_steps: int = field(default=600, metadata={"help": "steps of the language model alone, on texts"})
    recognise_steps: int = field(
        default=4000, metadata={"help": "steps of the eyes alone, naming what is known"}
    )
    learn_steps: int = field(default=1800, metadata={"help": "steps of the whole model after both"})
    lr: float = field(
        default=1e-3, metadata={"help": "AdamW's peak learning rate, Muon's is twice that; cosine"}
    )
    beside: float = field(default=0.3, metadata={"help": "weight of the throw-away losses in the last stage"})
    tiny: bool = field(default=False, metadata={"help": "the family's tiny size instead of nano-omni's"})
    threads: int = field(
        default=1, metadata={"help": "torch threads; the weights repeat for the same number"}
    )
    workers: int = field(default=2, metadata={"help": "processes that render the data"})
    save_every: int = field(default=300, metadata={"help": "steps between snapshots in output/snapshot"})


PRESETS = {
    "smoke": {
        "tiny": True, "pictures": 24, "clips": 24, "texts": 24, "both": 8, "test": 8,
        "listen_steps": 3, "strain_steps": 3, "read_steps": 3, "recognise_steps": 3, "learn_steps": 6,
        "save_every": 6, "output": "runs/nano-smoke",
    },
}  # fmt: skip


def run(config: Config, log: Log) -> Run:
    """Render, train, measure and save the base; the model stands in ``output/model``."""
    torch.set_num_threads(config.threads)
    config.output.mkdir(parents=True, exist_ok=True)
    with spent(config.output / "seconds.json") as earlier:
        return make(config, log, earlier)


@contextmanager
def spent(file: Path) -> Iterator[float]:
    """Yield the seconds that runs into the same folder took before, and add this one's, however it ends."""
    began = time.monotonic()
    earlier = float(json.loads(file.read_text())) if file.exists() else 0.0
    try:
        yield earlier
    finally:
        atomic_write(file, json.dumps(earlier + time.monotonic() - began))


def make(config: Config, log: Log, earlier: float) -> Run:
    """Do the work of `run`, on which earlier runs into the folder spent ``earlier`` seconds."""
    began = time.monotonic()
    train, test = (render(config, split, log) for split in ("train", "test"))
    rendered = time.monotonic() - began
    data = sha256_file(config.output / "data" / "train.jsonl")
    record = new_record("nano", to_dict(config), {"data": data}, apart=APART)
    early = new_record("nano", to_dict(config), {"data": data}, apart=(*APART, *LATE))
    stage = config.output / f"stage-{early.fingerprint[:12]}"
    size = _omni_build.TINY if config.tiny else SIZE
    blank = _omni_build.build(config.output / "blank", size, general.corpus(), config.seed)

    # The ears and the rest share no weight yet, so they learn at the same time, each in one process.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context) as other:
        ears = other.submit(listen, config, blank, train, stage)
        model, processor = FAMILY.load(blank)
        pools = encode(processor, train, log)
        read(config, model, processor, pools, stage, log)
        recognise(config, model, processor, pools, stage, log)
        log.say("waiting for the ears")
        head = torch.nn.Linear(size.hidden, len(processor.tokenizer))
        restore(ears.result(), model.model.audio_tower, head)

    settle(model, processor, pools, head)
    losses = learn(config, model, processor, pools, head, log)
    atomic_write(config.output / "losses.json", json.dumps(losses))
    model.eval()
    scores = measure(model, processor, test, log)
    save(model, processor, config.output / "model")
    metrics = {name: score.value for name, score in scores.items()}
    timings = {"render": rendered, "train": time.monotonic() - began - rendered, "before": earlier}
    record = replace(record, state="finished", metrics=metrics, timings=timings)
    write_run(config.output, record)
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    atomic_write(config.output / "model" / "README.md", card(record, millions, scores))
    for name, s in scores.items():
        log.say(f"{name}: {s.value:.3f}  n={s.n}  95 % [{s.low:.3f}, {s.high:.3f}]")
    return Run(folder=config.output, metrics=metrics)


def listen(config: Config, blank: Path, train: list[Sample], stage: Path) -> Path:
    """Train the audio tower alone by CTC, in a process of its own, and return the file of its weights.

    Next-token loss would teach the language model to guess long before it hears anything.
    """
    file = stage.with_name(f"{stage.name}-listen.safetensors")
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
        teacher = Teacher([ears], [head], config.lr, config.listen_steps)
        log.stage("listen", config.listen_steps, "steps")
        stream = batches(processor, pools, {"words": 1.0}, config.seed, config.listen_steps)
        teacher.follow(stream, lambda batch: listener.loss(model, batch), log)
        # Then voices it does not know: after clean sounds alone, one word in eight of a new voice is lost.
        random = Random(config.seed)
        teacher = Teacher([ears], [head], config.lr, config.strain_steps)
        log.stage("strain", config.strain_steps, "steps")
        stream = batches(processor, pools, {"words": 1.0}, config.seed + 4, config.strain_steps)
        teacher.follow(stream, lambda batch: listener.loss(model, blur(batch, random)), log)
    return keep(file, ears, head)


def read(config: Config, model: Any, processor: Any, pools: Pools, stage: Path, log: Log) -> None:
    """Train the language model alone to repeat words and follow short instructions.

    Looking a word up by its place is what writing down speech and describing pictures are made of.
    """
    file = stage.with_name(f"{stage.name}-read.safetensors")
    language = model.model.language_model
    if file.exists():
        return restore(file, language)
    teacher = Teacher([language], [], config.lr, config.read_steps)
    log.stage("read", config.read_steps, "steps")
    stream = batches(processor, pools, {"text": 1.0}, config.seed + 1, config.read_steps)
    teacher.follow(stream, lambda batch: answer_loss(model, batch), log)
    keep(file, language)


def recognise(config: Config, model: Any, processor: Any, pools: Pools, stage: Path, log: Log) -> None:
    """Train the eyes alone to name all that is known of a picture, through a throw-away linear head.

    Answers alone leave the eyes on a plateau: after 2,500 steps 20 % of them were right, by guessing.
    """
    file = stage.with_name(f"{stage.name}-recognise.safetensors")
    eyes = model.model.visual
    if file.exists():
        return restore(file, eyes)
    torch.manual_seed(config.seed)
    namer = Namer(model, collate(processor, pools["picture"][:1]))
    teacher = Teacher([eyes], [namer.head], config.lr, config.recognise_steps)
    log.stage("recognise", config.recognise_steps, "steps")
    stream = batches(processor, pools, {"picture": 1.0}, config.seed + 3, config.recognise_steps)
    teacher.follow(stream, lambda batch: namer.loss(looked(model, batch), batch), log)
    keep(file, eyes)


def settle(model: Any, processor: Any, pools: Pools, head: torch.nn.Linear) -> None:
    """Give what ears and eyes say the size of a word's embedding, and the ears' words their place among them.

    Ten times larger, they would drown what the language model's layers note beside them. The ears' last layer
    is turned so that a word's score under ``head`` is its product with the embedding: the language model then
    hears nearly the words that it has learnt to repeat, between blanks.
    """
    listener = Listener(processor, head)
    known = sorted({int(i) for item in pools["words"] for i in item["said"]} | {listener.blank})
    with torch.no_grad():
        words = model.get_input_embeddings().weight
        ears, eyes = model.model.audio_tower.proj, model.model.visual.merger.mlp[2]
        scores, offset = head.weight[known], head.bias[known]  # a constant for all words changes no choice
        inverse = torch.linalg.pinv(words[known])
        turn = inverse @ (scores - scores.mean(0))
        ears.bias.copy_(turn @ ears.bias + inverse @ (offset - offset.mean()))
        ears.weight.copy_(turn @ ears.weight)
        factor = words.std() / heard(model, collate(processor, pools["words"][-64:])).std()
        ears.weight.mul_(factor), ears.bias.mul_(factor)
        head.weight.copy_(words / factor), head.bias.fill_(-20.0)  # no clip has other tokens
        head.bias[known] = 0.0
        found = looked(model, collate(processor, pools["picture"][-64:]))
        factor = words.std() / torch.cat(list(found.pooler_output)).std()
        eyes.weight.mul_(factor), eyes.bias.mul_(factor)


def learn(
    config: Config, model: Any, processor: Any, pools: Pools, head: torch.nn.Linear, log: Log
) -> list[dict[str, float]]:
    """Train everything on everything, the two throw-away losses beside the answers'; return the losses.

    A step is a batch of pictures, one of words and one of another kind: gradients of one kind at a time made
    the language model forget the others.
    """
    torch.set_num_threads(2 * config.threads)  # both cores are free now
    torch.manual_seed(config.seed)
    random, losses = Random(config.seed), []
    listener, namer = Listener(processor, head), Namer(model, collate(processor, pools["picture"][:1]))
    parts = [model.model.audio_tower, model.model.visual, model.model.language_model]
    # Half the rate of the stages before: the whole one undid what the language model had read.
    teacher = Teacher(parts, [model, head, namer.head], config.lr / 2, config.learn_steps)
    streams = [
        batches(processor, pools, share, config.seed + 2 + number, config.learn_steps)
        for number, share in enumerate(LEARN)
    ]
    log.stage("learn", config.learn_steps, "steps")
    model.train()
    for step, three in enumerate(zip(*streams, strict=True), 1):
        told: dict[str, float] = {}
        for kind, batch in three:
            if "said" in batch:
                batch = blur(batch, random)
            beside = torch.zeros(())
            with half():
                if "said" in batch:
                    beside = listener.loss(model, batch)
                if "facts" in batch:
                    found = looked(model, batch)
                    beside = namer.loss(found, batch)
                    batch = {**batch, "mm_encoder_outputs": {"image": found}}
                    del batch["pixel_values"]
                answers = answer_loss(model, batch)
            ((answers + config.beside * beside) / len(three)).backward()
            told[kind] = round(float(answers.detach()), 5)
        teacher.step()
        losses.append(told)
        log.advance(1, **told)
        if step % config.save_every == 0:
            save(model, processor, config.output / "snapshot")
    return losses


def render(config: Config, split: str, log: Log) -> list[Sample]:
    """Render a split of the mixture, each kind once, and read it like any data set."""
    few = config.test
    counts = {
        "train": {"picture": config.pictures, "words": config.clips, "sound": config.clips // 20,
                  "both": config.both, "text": config.texts},
        "test": {"picture": few, "words": few, "sound": few // 6, "both": few // 2, "text": few // 6},
    }[split]  # fmt: skip
    folder = config.output / "data"
    made = {kind: folder / f"{split}-{kind}-{config.seed}-{count}.jsonl" for kind, count in counts.items()}
    log.stage(f"render {split}", sum(counts.values()))
    with ProcessPoolExecutor(config.workers, multiprocessing.get_context("spawn")) as pool:
        for kind, count in counts.items():
            if made[kind].exists():
                log.advance(count)
                continue
            rows = []
            make = partial(general.make, folder, split, config.seed)
            for row in pool.map(make, [(kind, index) for index in range(count)], chunksize=64):
                rows.append(json.dumps(row) + "\n")
                log.advance(1)
            atomic_write(made[kind], "".join(rows))
    atomic_write(folder / f"{split}.jsonl", "".join(file.read_text() for file in made.values()))
    return load_data(folder / f"{split}.jsonl")


def measure(model: Any, processor: Any, test: list[Sample], log: Log) -> dict[str, Score]:
    """Return exact match by kind and by picture task, and the spoken words' share that is right."""
    log.stage("measure", len(test))
    given = answers(Loaded(model, processor), FAMILY, test, max_new_tokens=24, batch_size=32, log=log)
    groups: dict[str, list[tuple[str, str]]] = {}
    for sample, answer in zip(test, given, strict=True):
        kind = sample.groups["kind"]
        groups.setdefault(kind, []).append((answer, sample.answer))
        if kind == "picture":
            groups.setdefault(f"picture/{sample.groups['task']}", []).append((answer, sample.answer))
    scores = {}
    for name, pairs in sorted(groups.items()):
        said, meant = zip(*pairs, strict=True)
        scores[name] = score("exact_match", said, meant)
        if name == "words":
            wrong = score("wer", said, meant)
            right = {"value": 1 - wrong.value, "low": 1 - wrong.high, "high": 1 - wrong.low}
            scores["words/each"] = replace(wrong, name="words", higher_is_better=True, **right)
    return scores
