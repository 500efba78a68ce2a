"""Explain an answer: which regions of the picture, spans of the sound and words of the prompt it rests on."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from apps.choices import one_base, read_choices
from studio.errors import ConfigError, DataError

if TYPE_CHECKING:
    from studio.types import Sample

EXAMPLE = (
    "triptych explain runs/textiles --data textiles --row 2 --out runs/why\n"
    "triptych explain runs/merged --against runs/textiles --image cloth.jpg --text 'Inspect this cloth.' "
    "--out runs/why\n"
    "triptych explain runs/commands --data commands --method gradients --check --out runs/why"
)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "variant",
        metavar="VARIANT",
        help="a model, MODEL+ADAPTER, or an adapter or run alone; NAME= in front names it",
    )
    parser.add_argument("--against", metavar="V", help="explain where VARIANT parts from this one")
    asked = parser.add_argument_group("the question: either files and text, or a row")
    asked.add_argument("--image", type=Path, metavar="F", help="a picture")
    asked.add_argument("--sound", type=Path, metavar="F", help="a recording")
    asked.add_argument("--text", default="", metavar="T", help="what is asked")
    asked.add_argument("--data", metavar="D", help="rows: a .jsonl file, a folder or a shipped name")
    asked.add_argument("--row", type=int, metavar="N", help="which row of the data (1)")
    asked.add_argument("--split", default="test", metavar="S", help="which .jsonl of a folder (%(default)s)")
    parser.add_argument(
        "--answer", metavar="A", help="the answer to explain (what VARIANT says); 'reference': the row's own"
    )
    parser.add_argument(
        "--method",
        default="shapley",
        metavar="M",
        help="shapley (sampled), occlusion (one part at a time) or gradients (integrated) (%(default)s)",
    )
    parser.add_argument(
        "--grid", type=int, default=6, metavar="N", help="rows and columns of a picture (%(default)s)"
    )
    parser.add_argument("--spans", type=int, default=12, metavar="N", help="spans of a sound (%(default)s)")
    parser.add_argument(
        "--fill",
        default="blur",
        metavar="F",
        help="what stands for a region: blur, mean or grey (%(default)s)",
    )
    parser.add_argument(
        "--budget", type=int, default=600, metavar="N", help="most forward passes (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the orders (%(default)s)")
    parser.add_argument(
        "--batch-size", type=int, default=16, metavar="N", help="passes at a time (%(default)s)"
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="also delete and insert the parts in order, against random orders",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder for explanation.png and explanation.json",
    )


def run(options: argparse.Namespace) -> int:
    """Explain one answer, say in words what was found, and write the picture and the figures."""
    choices = read_choices([options.variant, *([options.against] if options.against else [])])
    base, variants = one_base(choices)
    sample = _sample(options)

    from studio.data import check_modalities
    from studio.explain import explain
    from studio.explain_curves import curves
    from studio.explain_picture import picture
    from studio.explain_words import record
    from studio.families import detect
    from studio.files import atomic_write
    from studio.log import best_log
    from studio.training.threads import set_threads
    from studio.variants import Engine

    set_threads()
    check_modalities([sample], detect(base))
    engine, log = Engine(base, variants), best_log()
    found = explain(
        engine,
        choices[0].name,
        sample,
        against=choices[1].name if options.against else "",
        answer=_answer(options, sample),
        method=options.method,
        grid=options.grid,
        spans=options.spans,
        fill=options.fill,
        budget=options.budget,
        batch_size=options.batch_size,
        seed=options.seed,
        log=log,
    )
    told = record(found)
    if options.check:
        checked = curves(
            engine,
            found,
            sample,
            fill=options.fill,
            seed=options.seed,
            batch_size=options.batch_size,
            log=log,
        )
        told["curves"] = asdict(checked)
    drawn = picture(found, sample)
    options.out.mkdir(parents=True, exist_ok=True)
    atomic_write(options.out / "explanation.png", drawn)
    atomic_write(options.out / "explanation.json", json.dumps(told, indent=2, ensure_ascii=False))
    print(f"answer: {found.answer}")
    print("\n".join(told["in_words"]))
    share = abs(found.delta) / max(abs(found.value - found.empty), 1e-9)
    print(
        f"completeness: the weights add up to {found.delta:+.4f} nats ({share:.1%}) of what there is to share"
    )
    if options.check:
        print(
            f"deletion {checked.deletion:.3f} (random {checked.random_deletion:.3f}), "
            f"insertion {checked.insertion:.3f} (random {checked.random_insertion:.3f})"
        )
    print(f"written to {options.out / 'explanation.png'}")
    return 0


def _sample(options: argparse.Namespace) -> Sample:
    """Return the question that the options ask.

    Raises:
        ConfigError: none, or two.
        DataError: there is no such row.
    """
    from studio.types import Image, Part, Sample, Sound, Text, Turn

    own = options.image or options.sound or options.text
    if bool(own) == bool(options.data):
        raise ConfigError("ask with --image, --sound and --text, or with --data and --row: one of the two")
    if not options.data:
        if options.row is not None:
            raise ConfigError("--row is for --data; a question of its own has no rows")
        parts: list[Part] = [Image(path=options.image.absolute())] if options.image else []
        parts += [Sound(path=options.sound.absolute())] if options.sound else []
        parts += [Text(text=options.text)] if options.text else []
        return Sample(turns=(Turn(role="user", parts=tuple(parts)),))

    from studio.assets import find_data
    from studio.data import load_data

    rows = load_data(find_data(options.data), split=options.split)
    row = 1 if options.row is None else options.row
    if not 1 <= row <= len(rows):
        raise DataError(f"--row is {row}; {options.data} has rows 1 to {len(rows)}")
    return rows[row - 1]


def _answer(options: argparse.Namespace, sample: Sample) -> str | None:
    """Return the answer that is meant, None: the variant's own."""
    if options.answer != "reference":
        return str(options.answer) if options.answer is not None else None
    if not sample.answer:
        raise DataError("--answer reference: this question has no reference answer")
    return sample.answer
