"""Two more domains for the retention benchmark: real human speech, and tanks to be read.

    python tests/benchmarks/retention_domains.py FOLDER

`languages` is Debian's package klettres-data (GPL; letters and syllables that people speak, one or two people
a language): which language is it? Test clips are other letters and syllables of the same speakers, so the
voice helps. `tanks` are rendered: how full, and of what? Neither is shipped: this file makes them again.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from random import Random

from PIL import Image, ImageDraw

SOURCE = Path("/usr/share/klettres")
LANGUAGES = {
    "es": "Spanish", "hu": "Hungarian", "it": "Italian", "lt": "Lithuanian", "ml": "Malayalam",
    "nds": "Low Saxon", "pt_BR": "Portuguese", "ru": "Russian",
}  # fmt: skip
LIQUIDS = {
    "water": (60, 130, 230),
    "oil": (120, 70, 20),
    "fuel": (235, 200, 40),
    "coolant": (40, 170, 80),
}
MOST, HELD_OUT = 120, 0.25  # clips of one language, share of its clips in the test set


def languages(folder: Path, seed: int = 0) -> None:
    """Write real spoken letters and syllables with the language as answer.

    Raises:
        SystemExit: if Debian's klettres-data is not installed.
    """
    if not SOURCE.is_dir():
        raise SystemExit("the domain 'languages' needs Debian's package klettres-data: apt-get install it")
    import soundfile

    random = Random(f"{seed}/languages")
    rows: dict[str, list[dict[str, object]]] = {"train": [], "test": []}
    for code, language in LANGUAGES.items():
        clips = sorted(f for kind in ("alpha", "syllab") for f in (SOURCE / code / kind).glob("*.ogg"))
        random.shuffle(clips)
        clips = clips[:MOST]
        held_out = round(len(clips) * HELD_OUT)
        for at, clip in enumerate(clips):
            split = "test" if at < held_out else "train"
            data, rate = soundfile.read(clip, dtype="float32", always_2d=True)
            name = f"{split}/{code}-{clip.parent.name}-{clip.stem}.ogg"
            (folder / split).mkdir(parents=True, exist_ok=True)
            soundfile.write(folder / name, data.mean(axis=1), rate)
            question = [{"type": "audio", "path": name}, {"type": "text", "text": "Which language?"}]
            rows[split].append(_row(question, f"language: {language}", {"language": language}))
    _write(folder, rows, random)


def tanks(folder: Path, train: int = 1200, test: int = 250, seed: int = 0) -> None:
    """Write pictures of a glass tank [64 x 64]: how full it is, from 0 to 100 in steps of 20, and of what."""
    rows: dict[str, list[dict[str, object]]] = {"train": [], "test": []}
    for split, count in (("train", train), ("test", test)):
        random = Random(f"{seed}/tanks/{split}")
        (folder / split).mkdir(parents=True, exist_ok=True)
        for at in range(count):
            level, liquid = 20 * random.randint(0, 5), random.choice(list(LIQUIDS))
            _tank(level, liquid, random).save(folder / split / f"{at}.png")
            question = [
                {"type": "image", "path": f"{split}/{at}.png"},
                {"type": "text", "text": "Check the tank."},
            ]
            answer = f"{level} percent of {liquid}" if level else "the tank is empty"
            rows[split].append(_row(question, answer, {"liquid": liquid if level else "none"}))
    _write(folder, rows, Random(seed))


def _tank(level: int, liquid: str, random: Random) -> Image.Image:
    wall = tuple(random.randint(150, 255) for _ in range(3))
    picture = Image.new("RGB", (64, 64), wall)
    draw = ImageDraw.Draw(picture)
    left, top = random.randint(6, 22), random.randint(4, 10)
    right, bottom = left + random.randint(24, 36), top + 50
    draw.rectangle([left, top, right, bottom], fill=(245, 250, 255), outline=(30, 30, 30), width=2)
    surface = bottom - 2 - round(46 * level / 100) + random.randint(-1, 1)
    if level:
        colour = tuple(min(max(c + random.randint(-18, 18), 0), 255) for c in LIQUIDS[liquid])
        draw.rectangle([left + 2, max(surface, top + 2), right - 2, bottom - 2], fill=colour)
    for tick in range(1, 5):
        y = bottom - 2 - round(46 * tick / 5)
        draw.line([right - 7, y, right - 2, y], fill=(60, 60, 60))
    return picture


def _row(question: list[dict[str, str]], answer: str, groups: dict[str, str]) -> dict[str, object]:
    said = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": said, "groups": groups}


def _write(folder: Path, rows: dict[str, list[dict[str, object]]], random: Random) -> None:
    for split, made in rows.items():
        random.shuffle(made)
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))


if __name__ == "__main__":
    target = Path(sys.argv[1])
    languages(target / "languages")
    tanks(target / "tanks")
