"""Sets with planted near duplicates: genuine texts, pictures and sounds, and copies of some of them.

The originals are unlike each other by their making: docstrings of the standard library, patches of two
photographs, shipped pictures of cloth and handwriting, and shipped commands of several voices.
"""

from __future__ import annotations

import ast
import json
import random
import sysconfig
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from studio.assets import asset
from studio.data.steps._texts import folded

MODULES = (
    "argparse", "shutil", "pathlib", "tarfile", "zipfile", "socket", "threading", "subprocess", "random",
    "statistics", "textwrap", "datetime", "calendar", "configparser", "difflib", "doctest", "ftplib",
    "imaplib", "inspect", "locale", "mailbox", "optparse", "pickle", "pickletools", "platform", "smtplib",
    "tempfile", "traceback", "typing", "turtle", "uuid", "weakref", "webbrowser", "fractions", "heapq",
    "ipaddress", "gettext", "functools", "codecs", "collections/__init__", "email/message",
    "logging/__init__",
    "http/client", "http/cookiejar", "urllib/request", "urllib/parse", "unittest/case", "unittest/mock",
)  # fmt: skip
SYNONYMS = {
    "return": "give back", "returns": "gives back", "the": "that", "a": "one", "file": "document",
    "if": "whenever", "value": "quantity", "given": "supplied", "specified": "named", "all": "every",
    "create": "make", "object": "thing", "list": "sequence", "default": "usual setting", "error": "failure",
    "raise": "throw", "raised": "thrown", "should": "ought to", "must": "has to", "used": "employed",
    "string": "text", "method": "procedure", "function": "routine", "name": "label", "number": "count",
    "new": "fresh", "get": "fetch", "set": "assign", "is": "happens to be", "are": "happen to be",
}  # fmt: skip


def docstrings(count: int) -> list[tuple[str, str]]:
    """Return so many pairs of a first sentence and what follows, from docstrings, no two of them equal."""
    found: dict[str, tuple[str, str]] = {}
    for module in MODULES:
        file = Path(sysconfig.get_paths()["stdlib"], f"{module}.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                first, _, rest = (ast.get_docstring(node) or "").partition("\n\n")
                first, rest = " ".join(first.split()), " ".join(rest.split("\n\n")[0].split())
                if 40 <= len(first) <= 300 and 60 <= len(rest) <= 500:
                    found.setdefault(folded(first), (first, rest))
    return sorted(found.values(), key=lambda pair: folded(pair[0])[::-1])[:count]


def _typos(text: str, draw: random.Random) -> str:
    """Swap two neighbouring letters, once in 100."""
    letters = list(text)
    for _ in range(max(1, len(letters) // 100)):
        at = draw.randrange(len(letters) - 1)
        if not any(letter.isdigit() for letter in letters[at : at + 2]):
            letters[at], letters[at + 1] = letters[at + 1], letters[at]
    return "".join(letters)


def _inserted(text: str, draw: random.Random) -> str:
    words = text.split(" ")
    words.insert(draw.randrange(len(words)), draw.choice(("really", "just", "also", "simply")))
    return " ".join(words)


def _paraphrase(text: str, draw: random.Random) -> str:
    words = [SYNONYMS.get(word.lower(), word) for word in text.split(" ")]
    half = len(words) // 2
    return " ".join([*words[half:], *words[:half]])


TEXT_EDITS: dict[str, Callable[[str, random.Random], str]] = {
    "case and marks": lambda text, draw: text.upper().replace(".", "!").replace(",", ";"),
    "white space": lambda text, draw: text.replace(" ", "  ") + " ",
    "typos": _typos,
    "a word more": _inserted,
    "paraphrase": _paraphrase,
}


def pictures(photos: int = 48, cloth: int = 100, digits: int = 100) -> list[Any]:
    """Return pictures as Pillow has them: patches of photographs, cloth, digits."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    made = []
    for photo in load_sample_images().images:
        for top in range(0, 400, 105):
            for left in range(0, 600, 105):
                patch = photo[top : top + 105, left : left + 105]
                if len(made) < photos and patch.mean(2).std() > 12:  # else it is sky and nothing
                    made.append(Image.fromarray(patch))
    for domain, count in (("textiles", cloth), ("handwriting", digits)):
        files = sorted(asset(f"data/{domain}/train").iterdir(), key=lambda file: int(file.stem))
        made += [Image.open(file).convert("RGB") for file in files[:count]]
    return made


def _cut(share: float) -> Callable[[Any, Any, Path], Path]:
    def cut(picture: Any, draw: Any, to: Path) -> Path:
        width, height = picture.size
        wide, high = round(width * share), round(height * share)
        left, top = (int(draw.integers(0, room + 1)) for room in (width - wide, height - high))
        picture.crop((left, top, left + wide, top + high)).save(to.with_suffix(".png"))
        return to.with_suffix(".png")

    return cut


def _with(make: Callable[[Any, Any], Any], suffix: str = ".png", **options: Any) -> Callable[..., Path]:
    def edit(picture: Any, draw: Any, to: Path) -> Path:
        make(picture, draw).save(to.with_suffix(suffix), **options)
        return to.with_suffix(suffix)

    return edit


def _noised(picture: Any, draw: Any) -> Any:
    from PIL import Image

    pixels = np.asarray(picture, np.float32)
    return Image.fromarray(np.clip(pixels + draw.normal(0, 8, pixels.shape), 0, 255).astype(np.uint8))


def _marked(picture: Any, draw: Any) -> Any:
    from PIL import ImageDraw

    made = picture.copy()
    width, height = made.size
    ImageDraw.Draw(made).rectangle((width * 0.86, height * 0.92, width * 0.97, height * 0.97), fill="white")
    return made


def _enhanced(kind: str, factor: float) -> Callable[[Any, Any], Any]:
    def enhance(picture: Any, draw: Any) -> Any:
        from PIL import ImageEnhance

        return getattr(ImageEnhance, kind)(picture).enhance(factor)

    return enhance


def _resized(factor: float) -> Callable[[Any, Any], Any]:
    return lambda picture, draw: picture.resize([round(side * factor) for side in picture.size])


def _blurred(picture: Any, draw: Any) -> Any:
    from PIL import ImageFilter

    return picture.filter(ImageFilter.GaussianBlur(0.8))


PICTURE_EDITS: dict[str, Callable[[Any, Any, Path], Path]] = {
    "JPEG 50": _with(lambda picture, draw: picture, ".jpg", quality=50),
    "WebP 60": _with(lambda picture, draw: picture, ".webp", quality=60),
    "half the size": _with(_resized(0.5)),
    "twice the size": _with(_resized(2.0)),
    "brighter": _with(_enhanced("Brightness", 1.2)),
    "less contrast": _with(_enhanced("Contrast", 0.75)),
    "grey": _with(lambda picture, draw: picture.convert("L")),
    "noise": _with(_noised),
    "blur": _with(_blurred),
    "a mark": _with(_marked),
    "crop to 95 %": _cut(0.95),
    "crop to 90 %": _cut(0.90),
    "crop to 80 %": _cut(0.80),
}


def sounds(count: int = 150) -> list[tuple[Any, int]]:
    """Return waves of shipped commands with their rate, no voice saying the same twice."""
    import soundfile

    seen, made = set(), []
    with open(asset("data/commands/train.jsonl"), encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            said = row["groups"]["voice"], row["groups"]["said"]
            if said not in seen and len(made) < count:
                seen.add(said)
                wave = asset("data/commands") / row["messages"][0]["content"][0]["path"]
                made.append(soundfile.read(wave, dtype="float32"))
    return made


def _saved(
    suffix: str, make: Callable[[Any, Any], Any] | None = None, rate: float = 1.0
) -> Callable[..., Path]:
    def save(sound: tuple[Any, int], draw: Any, to: Path) -> Path:
        import soundfile

        wave, own = sound
        made = make(wave, draw) if make else wave
        soundfile.write(to.with_suffix(suffix), np.clip(made, -1, 1), round(own * rate))
        return to.with_suffix(suffix)

    return save


def _faster(factor: float) -> Callable[[Any, Any], Any]:
    def stretch(wave: Any, draw: Any) -> Any:
        at = np.arange(0, len(wave) - 1, factor)
        return np.interp(at, np.arange(len(wave)), wave).astype(np.float32)

    return stretch


def _noise(decibels: float) -> Callable[[Any, Any], Any]:
    def add(wave: Any, draw: Any) -> Any:
        power = float(np.mean(wave**2)) / 10 ** (decibels / 10)
        return wave + draw.normal(0, power**0.5, len(wave)).astype(np.float32)

    return add


SOUND_EDITS: dict[str, Callable[[Any, Any, Path], Path]] = {
    "OGG": _saved(".ogg"),
    "MP3": _saved(".mp3"),
    "6 dB less": _saved(".wav", lambda wave, draw: wave / 2),
    "noise 30 dB": _saved(".wav", _noise(30)),
    "noise 20 dB": _saved(".wav", _noise(20)),
    "50 ms before": _saved(".wav", lambda wave, draw: np.pad(wave, (800, 0))),
    "speed 0.97": _saved(".wav", _faster(0.97)),
    "speed 0.99": _saved(".wav", _faster(0.99)),
    "speed 1.01": _saved(".wav", _faster(1.01)),
    "speed 1.03": _saved(".wav", _faster(1.03)),
    "noise 10 dB": _saved(".wav", _noise(10)),
}

#: What is no re-encoding and no small edit: measured, and told, but nothing is promised.
HARD = ("paraphrase", "crop to 90 %", "crop to 80 %", "noise 10 dB")


def plant_texts(folder: Path, count: int, seed: int = 0) -> dict[int, str]:
    """Write train.jsonl: texts, then an edited copy of each; return the kind of edit by line."""
    draw = random.Random(seed)
    rows, kinds = docstrings(count), {}
    kind = sorted(TEXT_EDITS)
    copies = []
    for number, (asked, answer) in enumerate(rows):
        name = kind[number % len(kind)]
        copies.append((TEXT_EDITS[name](asked, draw), TEXT_EDITS[name](answer, draw)))
        kinds[len(rows) + number + 1] = name
    write(folder, ([asked, answer] for asked, answer in [*rows, *copies]))
    return kinds


def plant_media(
    folder: Path,
    things: list[Any],
    edits: dict[str, Callable[[Any, Any, Path], Path]],
    kind: str,
    seed: int = 0,
) -> dict[int, str]:
    """Write train.jsonl: media, then a copy of each of every kind of edit; return the kinds by line."""
    draw = np.random.default_rng(seed)
    media = folder / "media"
    media.mkdir(parents=True)
    keep = edits_of_original(kind)
    files = [keep(thing, draw, media / f"{number}") for number, thing in enumerate(things)]
    kinds = {}
    for name, edit in edits.items():
        for number, thing in enumerate(things):
            files.append(edit(thing, draw, media / f"{name.replace(' ', '-')}-{number}"))
            kinds[len(files)] = name
    medium = "image" if kind == "image" else "audio"
    write(
        folder,
        (
            [[{"type": medium, "path": f"media/{file.name}"}, {"type": "text", "text": "What is it?"}], "It."]
            for file in files
        ),
    )
    return kinds


def edits_of_original(kind: str) -> Callable[[Any, Any, Path], Path]:
    """Return what writes an original unchanged."""
    return _with(lambda picture, draw: picture) if kind == "image" else _saved(".wav")


def write(folder: Path, rows: Iterable[list[Any]]) -> None:
    """Write train.jsonl: what the user says and what the assistant answers, row by row."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "train.jsonl", "w", encoding="utf-8") as file:
        for asked, answer in rows:
            messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
            file.write(json.dumps({"messages": messages}) + "\n")
