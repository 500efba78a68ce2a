"""The same cloth in another colour, the same command in another voice: sets of rows that differ in one thing.

Everything else is drawn once for a set: defect, place and weave, or sentence, speed, pitch and room. Rows
carry their set's name in the group ``pair``, and what differs in the group that is varied.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

from studio.errors import ConfigError, unknown
from studio.synthetic import domains, pictures, voices
from studio.synthetic.general import Row, row

#: What can be varied in a domain, and its sides; handwriting is real and cannot be written again.
VARIED: dict[str, dict[str, tuple[str, ...]]] = {
    "textiles": {"colour": tuple(pictures.COLOURS)},
    "commands": {"accent": voices.ACCENTS, "speaker": voices.TEST_VARIANTS},
    "helpdesk": {
        "colour": tuple(pictures.COLOURS),
        "accent": voices.ACCENTS,
        "speaker": voices.TEST_VARIANTS,
    },
}


def sides_of(domain: str, vary: str, sides: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """Return what is varied (the first there is, if ``vary`` is empty) and its sides (all, if none is named).

    Raises:
        ConfigError: a domain, a group or a side that cannot be rendered, or fewer than two different sides.
    """
    if domain not in VARIED:
        raise ConfigError(unknown("domain to render again", domain, VARIED))
    vary = vary or next(iter(VARIED[domain]))
    if vary not in VARIED[domain]:
        raise ConfigError(f"{domain}: {unknown('group to vary', vary, VARIED[domain])}")
    known = VARIED[domain][vary]
    if wrong := [side for side in sides if side not in known]:
        raise ConfigError(unknown(vary, wrong[0], known))
    if sides and len(set(sides)) < 2:
        raise ConfigError(f"sides must name at least two of: {', '.join(known)}")
    return vary, tuple(dict.fromkeys(sides)) or known


def make(
    folder: Path,
    domain: str,
    vary: str,
    sides: Sequence[str],
    split: str,
    count: int,
    seed: int,
    tick: Callable[[], None],
) -> list[Row]:
    """Render ``count`` sets of rows into ``folder / split``, one row a side, and return them set by set.

    Raises `TriptychError` when speech is to be rendered and espeak-ng is not installed.
    """
    (folder / split).mkdir(parents=True, exist_ok=True)
    rows = []
    for index in range(count):
        for side in sides:
            random = Random(f"{seed}/{domain}/{vary}/{index}")  # of the set: each side draws the same
            rows.append(
                _row(folder, domain, vary, side, f"{split}/{index}-{sides.index(side)}", index, random)
            )
            tick()
    return rows


def _row(folder: Path, domain: str, vary: str, side: str, name: str, index: int, random: Random) -> Row:
    parts: list[dict[str, str]] = []
    groups = {"pair": str(index)}
    variants = voices.TRAIN_VARIANTS if name.startswith("train/") else voices.TEST_VARIANTS
    facts = {"speaker": random.choice(variants), "accent": random.choice(voices.ACCENTS)}
    facts |= {vary: side}
    if domain in ("textiles", "helpdesk"):
        defects = (*pictures.DEFECTS, None) if domain == "textiles" else pictures.DEFECTS
        defect, place = random.choice(defects), random.choice(pictures.PLACES)
        colour = pictures.COLOURS[side] if vary == "colour" else None
        cloth = pictures.cloth(defect, place, Random(random.getrandbits(32)), colour=colour)
        cloth.save(folder / f"{name}.jpg", quality=88)
        parts.append({"type": "image", "path": f"{name}.jpg"})
        groups["defect"] = defect or "none"
    if domain == "textiles":
        answer = f"defect: {defect}, place: {place}" if defect else "defect: none"
        parts.append({"type": "text", "text": "Inspect this cloth."})
    else:
        if domain == "commands":
            said, answer = domains.command(random)
        else:
            said, answer, groups["asked"] = domains.help_with(str(defect), place, random)
        speed, pitch = random.randint(135, 190), random.randint(30, 70)
        wave = voices.say(said, f"{facts['accent']}+{facts['speaker']}", speed, pitch)
        heard = voices.room(wave, Random(random.getrandbits(32)))
        (folder / f"{name}.ogg").write_bytes(voices.compressed(heard, 0.95))
        parts.append({"type": "audio", "path": f"{name}.ogg"})
        groups |= {"said": said, "accent": facts["accent"], "speaker": facts["speaker"]}
    if domain == "commands":
        parts.append({"type": "text", "text": "Write the command."})
    return row(parts, answer, **groups | {vary: side})
