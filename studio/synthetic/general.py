"""The general mixture that nano-omni learns from: pictures, words, sounds, spoken questions, short texts.

It shares no picture, no sentence pattern and no answer format with the demo's domains; test voices are
never train voices. Rows are dictionaries in the JSONL schema of `studio.data`, with the task as a group.
"""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

from studio.synthetic import pictures, voices

UNITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEENS = (
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
)
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
MACHINES = ("pump", "valve", "motor", "fan", "heater", "lamp", "belt", "door")
VERBS = ("set", "start", "stop", "open", "close", "raise", "lower", "turn", "send", "check")
SMALL = tuple(
    [
        "what",
        "where",
        "which",
        "how",
        "many",
        "is",
        "it",
        "the",
        "this",
        "to",
        "by",
        "at",
        "on",
        "off",
        "do",
        "we",
        "with",
        "here",
        "are",
        "there",
        "wrong",
        "should",
        "place",
        "kind",
        "shape",
        "colour",
        "yes",
        "no",
    ]
)
PLACE_WORDS = ("top", "bottom", "left", "right", "middle")
CLOTH_WORDS = ("hole", "stain", "thread", "cloth", "carpet", "repair", "defect")
OPPOSITES = (
    ("hot", "cold"),
    ("big", "small"),
    ("up", "down"),
    ("fast", "slow"),
    ("wet", "dry"),
    ("new", "old"),
    ("left", "right"),
    ("top", "bottom"),
    ("open", "closed"),
    ("black", "white"),
)
WORDS = tuple(
    dict.fromkeys(
        (
            *UNITS,
            *TEENS,
            *TENS,
            *MACHINES,
            *VERBS,
            *SMALL,
            *PLACE_WORDS,
            *CLOTH_WORDS,
            *pictures.COLOURS,
            *pictures.SHAPES,
        )
    )
)
ENGLISH = tuple(
    [
        "an",
        "a",
        "of",
        "and",
        "odd",
        "even",
        "number",
        "digit",
        "none",
        "please",
        "look",
        "again",
        "wash",
        "print",
        "weave",
        "cut",
        "loose",
        "misprint",
        "call",
        "item",
        "good",
        "bad",
        "value",
        "result",
        "answer",
        "true",
        "false",
        "picture",
        "sound",
        "inspect",
        "write",
        "read",
        "command",
        "handwriting",
    ]
)
ASK = {
    "shape": ("what shape is it", "which shape is this", "name the shape"),
    "colour": ("what colour is the shape", "which colour is it", "name the colour"),
    "place": ("where is the shape", "where is it", "at which place is it"),
    "count": ("how many shapes are there", "how many are there", "count the shapes"),
    "texture": ("what texture is this", "which pattern is it", "name the pattern"),
    "spot": ("where is the odd spot", "where is the spot", "at which place is the spot"),
    "glyph": ("which letter or figure is this", "read the sign", "what is printed here"),
    "describe": ("describe the picture", "say what you see", "what is in the picture"),
    "words": ("what was said?", "write down the words.", "listen and repeat."),
    "sound": ("what sound is this?", "which sound is it?", "name the sound."),
}
PICTURE_TASKS = ("shape", "colour", "place", "count", "texture", "spot", "glyph", "describe")
SPOKEN_TASKS = ("shape", "colour", "place", "count")
#: Without I and O, which nobody tells from 1 and 0 when they are printed small and blurred.
GLYPHS = "ABCDEFGHJKLMNPQRSTUVWXYZ0123456789"
#: What may be known of a picture; rows carry it in their groups.
FACTS: dict[str, tuple[str, ...]] = {
    "shape": pictures.SHAPES, "colour": tuple(pictures.COLOURS), "background": tuple(pictures.COLOURS),
    "place": pictures.PLACES, "count": UNITS[1:7], "texture": pictures.TEXTURES, "glyph": tuple(GLYPHS),
}  # fmt: skip
Row = dict[str, Any]


def row(question: list[dict[str, str]], answer: str, **groups: str) -> Row:
    """Return one JSONL row: a user's turn of typed parts and the assistant's answer."""
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": messages, "groups": groups}


def picture_of(task: str, random: Random) -> tuple[Any, str, dict[str, str]]:
    """Return a picture for the task, the answer to its question, and all that is known of it."""
    if task == "glyph":
        letter = random.choice(GLYPHS)
        return pictures.glyph(letter, random), letter, {"glyph": letter}
    if task == "count":
        made, counted = pictures.group(random)
        facts = {**counted, "count": UNITS[int(counted["count"])]}
        return made, facts["count"], facts
    if task in ("texture", "spot"):
        made, facts = pictures.surface(random) if task == "texture" else pictures.spot(random)
        return made, facts["texture" if task == "texture" else "place"], facts
    made, facts = pictures.scene(random)
    whole = f"a {facts['colour']} {facts['shape']} at the {facts['place']} on {facts['background']}"
    return made, whole if task == "describe" else facts[task], facts


def text_row(random: Random) -> Row:
    """Return a short text instruction with its answer; most ask to repeat two to sixteen words."""
    kind = "repeat" if random.random() < 0.6 else random.choice(("after", "opposite", "sum", "last"))
    words = random.choices(WORDS, k=random.randint(2, 16) if kind == "repeat" else random.randint(1, 4))
    if kind == "repeat":
        asked, answer = f"repeat: {' '.join(words)}", " ".join(words)
    elif kind == "last":
        asked, answer = f"last word of: {' '.join(words)}", words[-1]
    elif kind == "after":
        number = random.randint(0, 8)
        asked, answer = f"which number comes after {UNITS[number]}?", UNITS[number + 1]
    elif kind == "sum":
        first = random.randint(0, 9)
        second = random.randint(0, 9 - first)
        asked, answer = f"what is {UNITS[first]} plus {UNITS[second]}?", UNITS[first + second]
    else:
        pair = random.choice(OPPOSITES)
        one, other = pair if random.random() < 0.5 else pair[::-1]
        asked, answer = f"opposite of {one}?", other
    return row([{"type": "text", "text": asked}], answer, kind="text", task=kind)


def spoken(random: Random) -> str:
    """Return one to four words to speak, numbers like "forty five" among them."""
    picked = random.choices(WORDS, k=random.randint(1, 4))
    if random.random() < 0.25:
        picked[-1:] = [random.choice(TENS), random.choice(UNITS[1:])]
    return " ".join(picked)


def make(folder: Path, split: str, seed: int, job: tuple[str, int]) -> Row:
    """Render one row of the mixture into ``folder/split`` and return it.

    ``job`` is a kind ("picture", "words", "sound", "both": a picture with a spoken question, "text") and an
    index; with the seed and the split they fix the row. The split "test" has the test voices.
    """
    kind, index = job
    random = Random(f"{seed}/{split}/{kind}/{index}")
    if kind == "text":
        return text_row(random)
    (folder / split).mkdir(parents=True, exist_ok=True)
    variants = voices.TEST_VARIANTS if split == "test" else voices.TRAIN_VARIANTS
    parts: list[dict[str, str]] = []
    groups = {"kind": kind, "task": kind}
    if kind in ("picture", "both"):
        groups["task"] = random.choice(PICTURE_TASKS if kind == "picture" else SPOKEN_TASKS)
        picture, answer, facts = picture_of(groups["task"], random)
        groups |= facts
        picture.save(folder / split / f"{kind}-{index}.png")
        parts.append({"type": "image", "path": f"{split}/{kind}-{index}.png"})
    if kind != "picture":
        if kind == "sound":
            answer = random.choice(voices.SOUNDS)
            wave = voices.sound(answer, random)
        else:
            groups["said"] = spoken(random) if kind == "words" else random.choice(ASK[groups["task"]])
            answer = groups["said"] if kind == "words" else answer
            wave, groups["voice"] = voices.speak(groups["said"], variants, random)
        (folder / split / f"{kind}-{index}.ogg").write_bytes(voices.compressed(voices.room(wave, random)))
        parts.append({"type": "audio", "path": f"{split}/{kind}-{index}.ogg"})
    if kind != "both":
        parts.append({"type": "text", "text": random.choice(ASK[groups["task"]])})
    return row(parts, answer, **groups)


def corpus() -> list[str]:
    """Return the texts that the tokenizer is trained on: every word and phrase, often used ones repeated."""
    texts = [f" {word}" for word in WORDS] * 8 + list(WORDS) * 8
    texts += [question for asked in ASK.values() for question in asked for _ in range(6)]
    texts += [f"{first} {second}" for first in TENS for second in UNITS[1:]]
    texts += [word for pair in OPPOSITES for word in (*pair, f" {pair[0]}", f" {pair[1]}")] * 6
    texts += [*pictures.TEXTURES, *pictures.PLACES, *voices.SOUNDS] * 6
    texts += ["user", "assistant", "system"] * 20
    # Words of ordinary English that a fine-tune is likely to answer with; the base never sees them used.
    texts += [
        form for word in ENGLISH for form in (word, f" {word}", f" {word.capitalize()}", word.capitalize())
    ] * 4
    random = Random(0)
    texts += [text_row(random)["messages"][0]["content"][0]["text"] for _ in range(400)]
    return texts
