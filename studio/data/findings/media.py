"""What is found in one picture or sound, from its facts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from studio.data.findings import kinds
from studio.data.findings.kinds import Kind
from studio.media_facts import Facts, suffixes

Found = tuple[Kind, str]

#: A picture with a shorter side is odd, in pixels.
SMALL_SIDE = 8
#: Nothing is heard below this magnitude: -60 dB of full scale.
SILENT = 1e-3
#: Clipped is a sound with at least so many samples, and so large a share of them, cut off at full scale.
CLIPPED = (10, 5e-4)
#: Colour modes that are not made for screens.
PRINT = ("CMYK", "LAB")

_UNUSABLE = {
    "missing": kinds.MISSING,
    "not_a_file": kinds.NOT_A_FILE,
    "empty_file": kinds.EMPTY_FILE,
    "truncated": kinds.TRUNCATED,
    "wrong_type": kinds.WRONG_TYPE,
    "bomb": kinds.BOMB,
}


def findings_of(path: Path, picture: bool, facts: Facts, rate: int = 0) -> Iterator[Found]:
    """Yield what is remarkable about one medium; ``rate`` is the one that sounds should have (0: any)."""
    if facts.trouble:
        yield _UNUSABLE[facts.trouble], facts.sentence
        return
    right = suffixes(facts.form)
    if right and path.suffix.lower() not in right:
        yield kinds.EXTENSION, f"'{path}' is {facts.form}; its name should end in {right[0]}"
    yield from _picture(path, facts) if picture else _sound(path, facts, rate)


def _picture(path: Path, facts: Facts) -> Iterator[Found]:
    size = f"{facts.width} x {facts.height} pixels"
    if facts.mode in PRINT:
        yield kinds.CMYK, f"picture '{path}' is stored as {facts.mode}, models see RGB"
    if facts.orientation not in (0, 1):
        yield kinds.ROTATION, f"picture '{path}' is stored turned, with EXIF orientation {facts.orientation}"
    if facts.moving:
        yield kinds.ANIMATION, f"picture '{path}' has several frames, only the first is seen"
    if min(facts.width, facts.height) < SMALL_SIDE:
        yield kinds.TINY, f"picture '{path}' has only {size}"
    elif facts.blank:
        yield kinds.BLANK, f"picture '{path}' has one colour on all its {size}"


def _sound(path: Path, facts: Facts, rate: int) -> Iterator[Found]:
    if facts.channels > 1:
        yield kinds.CHANNELS, f"sound '{path}' has {facts.channels} channels, models hear one"
    if rate and facts.rate != rate:
        yield kinds.RATE, f"sound '{path}' has {facts.rate} samples per second, wanted are {rate}"
    if facts.peak < SILENT:
        yield kinds.SILENCE, f"sound '{path}' is silent throughout its {facts.seconds:.2f} s"
    elif facts.clipped >= CLIPPED[0] and facts.clipped >= CLIPPED[1] * facts.frames:
        share = facts.clipped / facts.frames
        yield kinds.CLIPPING, f"sound '{path}' is cut off at full scale in {share:.1%} of its samples"


def usual_rate(facts: Iterable[Facts]) -> int:
    """Return the rate that most sounds have; 0 without sounds, or where no rate has the majority."""
    return most_usual(Counter(one.rate for one in facts if one.rate))


def most_usual(count: Counter[int]) -> int:
    """Return the rate that most of the counted sounds have, or 0."""
    if not count:
        return 0
    rate, often = count.most_common(1)[0]
    return rate if 2 * often > sum(count.values()) else 0
