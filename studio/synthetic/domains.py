"""The demo's four domains: handwriting, textiles, commands and helpdesk.

Handwriting is real (the UCI optical digits that scikit-learn carries, Alpaydin and Kaynak 1998, CC BY 4.0);
the others are rendered. Test pictures are fresh, test digits are other images, test voices are other voices.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

from studio.synthetic import pictures, voices
from studio.synthetic.general import TEENS, TENS, UNITS, Row, row

NAMES = ("handwriting", "textiles", "commands", "helpdesk")
HELP = {
    "what": ("what is wrong here", "which defect is it", "what is the defect"),
    "where": ("where is the defect", "at which place is it", "where is it"),
    "do": ("what should we do with it", "what do we do here", "what should we do"),
}
ACTION = {
    "hole": "weave it again",
    "stain": "wash it",
    "misprint": "print it again",
    "loose thread": "cut the thread",
}


def handwriting(split: str, random: Random) -> list[tuple[Image.Image, str]]:
    """Return real digits [32 x 32] with their sentences; a fixed shuffle splits off 400 for tests.

    A copy of an image never stands on both sides.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.images))
    picked = order[400:] if split == "train" else order[:400]
    test = {digits.images[i].tobytes() for i in order[:400]}
    made = []
    for index in picked:
        if split == "train" and digits.images[index].tobytes() in test:
            continue
        ink = Image.fromarray((digits.images[index] / 16 * 255).astype(np.uint8))
        figure = int(digits.target[index])
        parity = "even" if figure % 2 == 0 else "odd"
        made.append(
            (
                ink.resize((32, 32), Image.Resampling.BICUBIC),
                f"This is the digit {figure}, an {parity} number.",
            )
        )
    random.shuffle(made)
    return made


def command(random: Random) -> tuple[str, str]:
    """Return a spoken machine command and its structured form."""
    verb = random.choice(("set", "start", "stop", "raise", "lower", "open", "close"))
    machine = (
        "valve" if verb in ("open", "close") else random.choice(("pump", "motor", "fan", "heater", "lamp"))
    )
    number = random.randint(1, 9)
    said, meant = f"{verb} {machine} {UNITS[number]}", f"{machine} {number}"
    if verb in ("set", "raise", "lower"):
        value = random.randint(10, 99)
        ten, unit = divmod(value, 10)
        word = TEENS[unit] if ten == 1 else TENS[ten - 2] + (f" {UNITS[unit]}" if unit else "")
        return f"{said} {'to' if verb == 'set' else 'by'} {word}", f"{verb}({meant}, {value})"
    return said, f"{verb}({meant})"


def help_with(defect: str, place: str, random: Random) -> tuple[str, str, str]:
    """Return a spoken question about a defect, the answer, and what is asked: what, where, or do."""
    asked = random.choice(sorted(HELP))
    said = random.choice(HELP[asked])
    answers = {"what": f"It is a {defect}.", "where": f"Look at the {place}."}
    return said, answers.get(asked) or f"Please {ACTION[defect]}.", asked


def make(folder: Path, domain: str, split: str, count: int, seed: int, tick: Callable[[], None]) -> list[Row]:
    """Render ``count`` rows of a split into ``folder`` (of digits, all there are at most) and return them."""
    random = Random(f"{seed}/{domain}/{split}")
    (folder / split).mkdir(parents=True, exist_ok=True)
    variants = voices.TRAIN_VARIANTS if split == "train" else voices.TEST_VARIANTS
    digits = handwriting(split, random)[:count] if domain == "handwriting" else []
    rows: list[Row] = []
    for index in range(len(digits) if domain == "handwriting" else count):
        parts: list[dict[str, str]] = []
        groups: dict[str, str] = {}
        if domain == "handwriting":
            picture, answer = digits[index]
            picture.save(folder / split / f"{index}.png")
            parts.append({"type": "image", "path": f"{split}/{index}.png"})
            parts.append({"type": "text", "text": "Read this handwriting."})
        if domain in ("textiles", "helpdesk"):
            defects = (*pictures.DEFECTS, None) if domain == "textiles" else pictures.DEFECTS
            defect, place = random.choice(defects), random.choice(pictures.PLACES)
            pictures.cloth(defect, place, random).save(folder / split / f"{index}.jpg", quality=88)
            parts.append({"type": "image", "path": f"{split}/{index}.jpg"})
            groups["defect"] = defect or "none"
        if domain == "textiles":
            answer = f"defect: {defect}, place: {place}" if defect else "defect: none"
            parts.append({"type": "text", "text": "Inspect this cloth."})
        if domain == "commands":
            said, answer = command(random)
        if domain == "helpdesk":
            said, answer, groups["asked"] = help_with(str(defect), place, random)
        if domain in ("commands", "helpdesk"):
            wave, groups["voice"] = voices.speak(said, variants, random)
            groups["said"] = said
            (folder / split / f"{index}.ogg").write_bytes(voices.compressed(voices.room(wave, random), 0.95))
            parts.append({"type": "audio", "path": f"{split}/{index}.ogg"})
        if domain == "commands":
            parts.append({"type": "text", "text": "Write the command."})
        rows.append(row(parts, answer, **groups))
        tick()
    return rows
